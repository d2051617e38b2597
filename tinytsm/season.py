"""The seasons of a series, found in its own history and taken out of it: seasonal adjustment.

Classical decomposition (Hyndman and Athanasopoulos 2021, section 3.4): the trend is a moving average over one period, a
season the mean at each of its places of what the series is above the trend, without the largest and the smallest, half
of it that of the newest periods alone. Several seasons come out one after another, the clearest first, as in MSTL
(Bandara, Hyndman and Bergmeir 2021, arXiv 2107.13462). Each is shrunk towards none by as much of it as noise alone
would make (James and Stein; Miller and Williams 2003, doi:10.1016/S0169-2070(02)00077-8). What is left may spread more
at some places of a period than at others, a street by day than by night; that is measured too. And where a series
always was zero, as the sun is by night and a shop on Sundays, it is forecast to be zero again. Letters: V variates, R
rows, T steps, H steps ahead, Q quantiles.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tinytsm.period import CALENDAR
from tinytsm.quantiles import MEDIAN
from tinytsm.rows import LARGEST, alike, deviations

# Newest periods that a season is estimated from.
_CYCLES = 16
# Values of the usual spread that each place's own are counted with.
_USUAL = 4.0
# After so many zeros the next value is another in one case of ten (n + 2; Laplace's rule of succession), so that all quantiles
# from 10 to 90 % are zero. A series that is zero at this share of all other places is idle at any time.
_CERTAIN, _IDLE = 8, 0.5
# Seasons are not divided out where that leaves a series so many times rougher than subtracting them.
_ROUGHER = 1.2
_SMALLEST = float(np.finfo(np.float64).tiny)


class Adjusted(NamedTuple):
    """A series without its seasons, (V, T), and what brings them back H steps ahead: scale and shift, (V, H) each.

    spread: (V, H), how far values at a step's place of the period spread, relative to the mean over all places. clear: (V,
    1), how clear each variate's seasons are, from 0 where it has none to 1: 1 - 1 / sqrt(F) of the clearest. zero: (V, H)
    bool, steps at whose place of the period the series always was zero. leading: (V,), period of the clearest season.
    """

    values: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    spread: np.ndarray
    clear: np.ndarray
    zero: np.ndarray
    leading: np.ndarray

    @property
    def period(self) -> int:
        """That of the clearest season of all variates, in steps."""
        return int(self.leading[self.clear[:, 0].argmax()])

    def blend(
        self,
        plain: tuple[Tensor, Tensor],
        adjusted: tuple[Tensor, Tensor],
        weight: float,
        *,
        zeros: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """A forecast of the series and one of `values` as one: the clearer the seasons, the more of the latter, with the
        seasons put back.

        Each quantiles (V, H, Q), rising, and mean (V, H). weight: of the latter where nothing could be clearer. zeros:
        whether what always was zero is zero. What rises over Q still does.
        """
        # of so few numbers NumPy makes several times the speed of PyTorch; the mean is one number more beside the quantiles
        original, without = (
            np.concatenate((quantiles.numpy(), mean.numpy()[..., None]), -1)
            for quantiles, mean in (plain, adjusted)
        )
        scale, shift, spread, clear = (
            of[..., None] for of in (self.scale, self.shift, self.spread, self.clear)
        )
        share = weight * clear
        middle = without[..., MEDIAN, None]
        with np.errstate(over="ignore"):
            whole = (middle + (without - middle) * spread) * scale + shift
            whole = np.clip(whole, -LARGEST, LARGEST)
        whole = (1.0 - share) * original + share * whole
        if zeros:
            whole[self.zero] = 0.0
        blended = torch.from_numpy(whole)
        return blended[..., :-1], blended[..., -1]


def adjust(
    series: Sequence[np.ndarray], length: int, periods: Sequence[int]
) -> list[Adjusted | None]:
    """The values of each item without its seasons, None where no variate of it has a clear one.

    series: of each item (V, T) float64, NaN where missing. length: H. periods: of each item one more to try than those of
    clocks and calendars, 0 for none. A variate whose seasons are clearer in its logarithms has them divided out, unless
    that leaves it the rougher; another one subtracted. Nothing depends on the items beside.
    """
    found: list[Adjusted | None] = [None] * len(series)
    for chunk in alike({i: values.shape for i, values in enumerate(series)}):
        rows = np.concatenate([series[i] for i in chunk])
        own = np.repeat([periods[i] for i in chunk], len(rows) // len(chunk))
        adjusted = _adjust(rows, length, own)
        for i, *parts in zip(chunk, *(np.split(p, len(chunk)) for p in adjusted), strict=True):
            one = Adjusted(*parts)
            found[i] = one if one.clear.any() else None
    return found


def _adjust(values: np.ndarray, length: int, periods: np.ndarray) -> Adjusted:
    """Rows (R, T) without their seasons, as if they were the variates of one item. periods: (R,)."""
    rows, steps = values.shape
    total = steps + length
    scale, shift, f = np.ones((rows, total)), np.zeros((rows, total)), np.zeros(rows)
    spread, zero = np.ones((rows, length)), np.zeros((rows, length), bool)
    shown = ~np.isnan(values)
    origin, half, largest = deviations(values)
    first, unit = origin[:, None], largest[:, None]
    moving = np.flatnonzero(unit)
    leading = np.zeros(rows, np.int64)
    season, spread[moving], f[moving], leading[moving] = _seasons(
        half[moving] / unit[moving], periods[moving], length
    )
    for period in np.unique(leading[leading > 0]):
        at = np.flatnonzero(leading == period)
        zero[at] = _zero(values[at], period)[:, np.arange(length) % period]
    lowest = np.min(values, axis=1, where=shown, initial=np.inf)
    # what overflows is cut to the largest number, and a season that makes it overflow is not divided out
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        shift[moving] = np.clip(season * unit[moving] * 2, -LARGEST, LARGEST)
        positive = np.flatnonzero((f > 0.0) & (lowest > 0.0))
        ratio = np.clip(values[positive] / first[positive], _SMALLEST, LARGEST)
        found = _seasons(np.log(ratio), periods[positive], length)
        better = found[2] > f[positive]
        positive, factor, wide, clearer, of_ratio = (of[better] for of in (positive, *found))
        factor = np.clip(np.exp(factor), _SMALLEST, LARGEST)
        level = values[positive] / unit[positive]
        divided = _roughness(level / factor[:, :steps])
        subtracted = _roughness(level - shift[positive, :steps] / unit[positive])
    better = divided < _ROUGHER * subtracted
    positive = positive[better]
    scale[positive], shift[positive] = factor[better], 0.0
    spread[positive], f[positive] = wide[better], clearer[better]
    leading[positive] = of_ratio[better]
    with np.errstate(over="ignore"):
        rest = np.clip((values - shift[:, :steps]) / scale[:, :steps], -LARGEST, LARGEST)
    clear = 1.0 - 1.0 / np.sqrt(np.maximum(f, 1.0))
    return Adjusted(rest, scale[:, steps:], shift[:, steps:], spread, clear[:, None], zero, leading)


def _seasons(
    x: np.ndarray, periods: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The sum of the seasons of rows x (R, T), at their steps and H more, (R, T + H); the spread around them at the steps
    ahead, (R, H), by the places of the clearest; F of that one, 0 for none, and its period."""
    # imported where it is used: Numba takes a fifth of a second
    from tinytsm.season_loops import take_out

    rows, steps = x.shape
    season, spread = np.zeros((rows, steps + length)), np.ones((rows, length))
    clear, leading = np.zeros(rows), np.zeros(rows, np.int64)
    tried = np.unique(np.concatenate((CALENDAR, periods[periods > 1])))
    # a shorter series shows too little of a season
    tried = tried[2 * tried + 2 <= steps]
    if len(tried):
        x = x.copy()
        take_out(x, periods, tried, np.isin(tried, CALENDAR), _CYCLES, season, clear, leading)
    for period in np.unique(leading[leading > 0]):
        at = np.flatnonzero(leading == period)
        spread[at] = _spread(x[at], period)[:, np.arange(length) % period]
    return season, spread, clear, leading


def _roughness(rest: np.ndarray) -> np.ndarray:
    """The mean step of rows (R, T) over their mean size, a missing value being no step: (R,)."""
    last = np.maximum.accumulate(np.where(np.isnan(rest), 0, np.arange(rest.shape[1])), axis=1)
    steps = np.abs(np.diff(np.take_along_axis(rest, last, axis=1)))
    return np.nanmean(steps, axis=1) / np.nanmean(np.abs(rest), axis=1)


def _newest(x: np.ndarray, period: int) -> np.ndarray:
    """The newest periods of rows x (R, T) as (R, cycles, period), NaN before the first step."""
    rows, steps = x.shape
    cycles = min(_CYCLES, -(-steps // period))
    newest = np.full((rows, cycles * period), np.nan)
    newest[:, -steps:] = x[:, -cycles * period :]
    return newest.reshape(rows, cycles, period)


def _zero(values: np.ndarray, period: int) -> np.ndarray:
    """Whether rows (R, T) always were zero at each place of a period, and not idle at any other: (R, period) bool, place 0
    being that of the first step ahead."""
    newest = _newest(values, period)
    zeros, known = newest == 0.0, ~np.isnan(newest)
    number = zeros.sum(1)
    always = (number >= _CERTAIN) & (number == known.sum(1))
    others = ~always[:, None]
    idle = (zeros & others).sum((1, 2)) >= _IDLE * (known & others).sum((1, 2))
    return always & ~idle[:, None]


def _spread(rest: np.ndarray, period: int) -> np.ndarray:
    """How far rows without their seasons (R, T) are from their median at each place of a period (R, period), place 0 being
    that of the first step ahead: the mean distance over the newest periods, without the farthest value of each place
    where there are three or more, drawn to that of all places, over the mean of the places."""
    newest = _newest(rest, period).reshape(len(rest), -1)
    known = ~np.isnan(newest)
    # missing values are sorted behind all others; of two middle values the upper one
    middle = np.take_along_axis(np.sort(newest, axis=1), known.sum(1, keepdims=True) // 2, 1)
    away = np.abs(newest - middle, out=np.zeros_like(newest), where=known)
    away, known = (of.reshape(len(rest), -1, period) for of in (away, known))
    number, total = known.sum(1), away.sum(1)
    trimmed = number > 2
    total = np.where(trimmed, total - away.max(1), total)
    number = np.where(trimmed, number - 1, number)
    # where nothing spreads, each value counts as usual
    usual = total.sum(1, keepdims=True) / np.maximum(number.sum(1, keepdims=True), 1)
    spread = np.divide(total, usual, out=number.astype(np.float64), where=usual > 0.0)
    spread = (spread + _USUAL) / (number + _USUAL)
    return spread / spread.mean(1, keepdims=True)
