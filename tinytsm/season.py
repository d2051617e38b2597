"""The seasons of a series, found in its own history and taken out of it: seasonal adjustment.

Classical decomposition (Hyndman and Athanasopoulos 2021, section 3.4): the trend is a moving average over one period, a
season the mean at each of its places of what the series is above the trend, without the largest and the smallest. Several seasons come out one after another,
the clearest first, as in MSTL (Bandara, Hyndman and Bergmeir 2021, arXiv 2107.13462). Each is shrunk towards none by as
much of it as noise would leave (James and Stein; Miller and Williams 2003,
doi:10.1016/S0169-2070(02)00077-8). Letters: V variates, T steps, H steps ahead.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tinytsm.kernels.cpu import jit
from tinytsm.period import CALENDAR

# A season counts where its mean square is this many times what noise alone would make of it (the F statistic).
_CLEAR = 5.0
# Newest periods that a season is estimated from, and how many seasons come out.
_CYCLES, _SEASONS = 16, 2
# Smallest season, root mean square over the series' largest deviation: below, it may be rounding.
_LEAST = 1e-6
# Where no value is below this share of the mean, seasons are also sought in the logarithms.
_POSITIVE = 0.3
_LARGEST = float(np.finfo(np.float64).max)


class Adjusted(NamedTuple):
    """A series without its seasons, (V, T), and what brings them back H steps ahead: scale and shift, (V, H) each.

    clear: (V, 1), how clear each variate's seasons are, from 0 where it has none to 1: 1 - 1 / sqrt(F) of the clearest.
    """

    values: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    clear: np.ndarray

    def blend(self, plain: Tensor, adjusted: Tensor) -> Tensor:
        """A forecast of the series and one of `values`, (V, H) or (V, H, Q) each, as one: the clearer the seasons, the
        more of the latter, with the seasons put back. What rises over Q still does."""
        shape = (*self.scale.shape, *(1,) * (plain.ndim - 2))
        scale, shift, clear = (
            torch.from_numpy(x).expand(self.scale.shape).reshape(shape)
            for x in (self.scale, self.shift, self.clear)
        )
        whole = (adjusted * scale + shift).clamp(-_LARGEST, _LARGEST)
        return (1.0 - clear) * plain + clear * whole


def adjust(values: np.ndarray, length: int, period: int = 0) -> Adjusted | None:
    """A series' values without its seasons, None where no variate has a clear one.

    values: (V, T) float64, NaN where missing. length: H. period: one more to try than those of clocks and calendars, 0
    for none. A variate whose seasons are clearer in its logarithms has them divided out, another one subtracted.
    """
    variates, steps = values.shape
    periods = np.unique(np.array([*CALENDAR, period] if period > 1 else CALENDAR))
    scale, shift = np.ones((variates, steps + length)), np.zeros((variates, steps + length))
    # what overflows is cut to the largest number
    with np.errstate(over="ignore"):
        f = np.array([[_find(x, periods, scale[v], shift[v])] for v, x in enumerate(values)])
        if not f.any():
            return None
        rest = (values - shift[:, :steps]) / scale[:, :steps]
    rest = np.clip(rest, -_LARGEST, _LARGEST)
    clear = 1.0 - 1.0 / np.sqrt(np.maximum(f, 1.0))
    return Adjusted(rest, scale[:, steps:].copy(), shift[:, steps:].copy(), clear)


def _find(x: np.ndarray, periods: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> float:
    """Write the seasons of x (T,) into its scale or its shift (T + H,); F of the clearest, 0 where there is none."""
    shown = ~np.isnan(x)
    first = x[shown.argmax()]
    # halves, because the difference of two large numbers may overflow
    half = x / 2 - first / 2
    unit = np.max(np.abs(half), where=shown, initial=0.0)
    if unit == 0.0:
        return 0.0
    season, clear = _seasons(half / unit, periods, len(shift))
    if clear == 0.0:
        return 0.0
    lowest = np.min(x, where=shown, initial=np.inf)
    # of the largest numbers the sum is infinite, and then none is large enough
    if lowest > 0.0 and lowest > _POSITIVE * np.mean(x, where=shown):
        logarithms, clearer = _seasons(np.log(x / first), periods, len(scale))
        if clearer > clear:
            scale[:] = np.exp(logarithms)
            return clearer
    shift[:] = np.clip(season * unit * 2, -_LARGEST, _LARGEST)
    return clear


def _seasons(x: np.ndarray, periods: np.ndarray, total: int) -> tuple[np.ndarray, float]:
    """The seasons' sum at each of `total` steps from the first of x (T,), and F of the clearest, 0 where none is clear."""
    season = np.zeros(total)
    return season, _take_out(x.copy(), periods, season)


@jit()
def _take_out(x: Any, periods: Any, season: Any) -> float:
    """Move seasons from x (T,), NaN where missing, to season (at least T,); F of the first, 0 where there is none."""
    steps = x.shape[0]
    sums, counts = np.zeros(steps + 1), np.zeros(steps + 1)
    best, tried = np.zeros(periods[-1]), np.zeros(periods[-1])
    scratch = np.zeros((3, periods[-1]))
    first, taken = 0.0, 0
    for _ in range(_SEASONS):
        for t in range(steps):
            seen = not np.isnan(x[t])
            sums[t + 1] = sums[t] + (x[t] if seen else 0.0)
            counts[t + 1] = counts[t] + seen
        clear, chosen = _CLEAR, 0
        for period in periods:
            if period == taken:
                continue
            f = _season(x, sums, counts, period, tried, scratch)
            if f > clear:
                clear, chosen = f, period
                best[:period] = tried[:period]
        if chosen == 0:
            break
        for t in range(season.shape[0]):
            value = best[(t - steps) % chosen] * (1.0 - 1.0 / clear)
            season[t] += value
            if t < steps:
                x[t] -= value
        if taken == 0:
            first = clear
        taken = chosen
    return first


@jit()
def _season(x: Any, sums: Any, counts: Any, period: int, season: Any, scratch: Any) -> float:
    """Write what the series is above its trend at each place of a period into season[:period], place 0 being that of the
    first step ahead; its F statistic, 0 where it cannot be told or is too small.

    A place's value is the mean over the newest periods without the largest and the smallest, where there are three or
    more. sums, counts: (T + 1,), of the shown values before each step. scratch: (3, period or more).
    """
    steps = x.shape[0]
    half = period // 2
    start = max(0, steps - (_CYCLES + 1) * period)
    number, least, most = scratch[0], scratch[1], scratch[2]
    for place in range(period):
        season[place], number[place], least[place], most[place] = 0.0, 0.0, np.inf, -np.inf
    square, total, count = 0.0, 0.0, 0
    place = (start + half - steps) % period - 1
    for t in range(start + half, steps - half):
        place = place + 1 if place < period - 1 else 0
        # an even period's average is that of its two nearest placings
        low, high = t - half, t + half
        around = sums[high + 1] - sums[low]
        shown = counts[high + 1] - counts[low]
        if period % 2 == 0:
            around = (around + sums[high] - sums[low + 1]) / 2
            shown = (shown + counts[high] - counts[low + 1]) / 2
        if np.isnan(x[t]) or shown < 0.5 * period:
            continue
        above = x[t] - around / shown
        season[place] += above
        number[place] += 1.0
        least[place] = min(least[place], above)
        most[place] = max(most[place], above)
        square += above * above
        total += above
        count += 1
    free = count - period
    if free < 2 or free < half:
        return 0.0
    explained, middle = 0.0, 0.0
    for place in range(period):
        if number[place] == 0.0:
            return 0.0
        explained += season[place] * season[place] / number[place]
        if number[place] >= 3.0:
            season[place] -= least[place] + most[place]
            number[place] -= 2.0
        season[place] /= number[place]
        middle += season[place] / period
    for place in range(period):
        season[place] -= middle
    rest = max(square - explained, 0.0) / free
    explained = (explained - total * total / count) / (period - 1)
    if explained * (period - 1) < _LEAST * _LEAST * count:
        return 0.0
    return explained / max(rest, 1e-9 * explained)
