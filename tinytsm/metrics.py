"""Forecast scores: seasonal naive, MASE, quantile loss, coverage.

Everything is NumPy in float64, and every score is a ratio of sums, so a task of any size streams through one
`Scores` in constant memory. The definitions are GIFT-Eval's (arXiv:2410.10393), that is those of `gluonts.ev`:
missing labels are masked, a window's seasonal error is taken over its whole context, and the seasonal naive
forecast carries the prediction intervals of Hyndman and Athanasopoulos, Forecasting: Principles and Practice
(3rd ed., section 5.5), which is what published "relative to seasonal naive" figures divide by.

Letters: n forecasts, T steps of context, H steps of horizon, Q quantile levels.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# The ends of the interval that MSIS scores. They enter neither CRPS nor the histogram.
INTERVAL = (0.025, 0.975)

# Steps in the season that gluonts assumes for a unit of one step; any other unit has no season.
_SEASON = {"s": 3600, "min": 1440, "h": 24, "D": 1, "B": 5, "W": 1, "M": 12, "Q": 4}
_UNIT = {"S": "s", "T": "min", "H": "h", "MS": "M", "ME": "M", "QS": "Q", "QE": "Q"}
_UNIT |= dict.fromkeys(("A", "AS", "YS", "YE"), "Y")


def split_freq(freq: str) -> tuple[int, str]:
    """Multiple and unit of a pandas frequency, old or new: "15T" is (15, "min"), "QE-DEC" (1, "Q").

    Units are s, min, h, D, B, W, M, Q, Y; others as they are written. Raises ValueError for text that is no frequency.
    """
    match = re.fullmatch(r"(\d*)([A-Za-z]+)(-[A-Za-z]+)?", freq)
    if match is None or match[1] == "0":
        raise ValueError(f"freq must read like 'h', '15min' or 'W-THU', got {freq!r}")
    return int(match[1] or 1), _UNIT.get(match[2], match[2])


def season_length(freq: str) -> int:
    """Steps per season of a pandas frequency such as "15min", "h" or "W-THU": the rule of gluonts' get_seasonality.

    1 where the unit has no season, or where the multiple does not divide it. Raises ValueError for text that is
    no frequency.
    """
    multiple, unit = split_freq(freq)
    steps, rest = divmod(_SEASON.get(unit, 1), multiple)
    return steps if rest == 0 else 1


def seasonal_error(context: ArrayLike, season: int) -> float:
    """Mean |x_t - x_(t-season)| over a whole context, the unit in which MASE counts.

    context: (T,), NaN where missing; pairs with a missing end are left out. A context no longer than a season is
    differenced at lag 1. NaN where no pair is left.
    """
    x = np.asarray(context, np.float64)
    lag = season if len(x) > season else 1
    differences = np.abs(x[lag:] - x[:-lag])
    observed = ~np.isnan(differences)
    return float(np.mean(differences[observed])) if observed.any() else math.nan


def fill_forward(values: Array) -> Array:
    """The last observed value in place of each missing one; the first observed one before any, 0 if there is none.

    values: (T,). Returns `values` itself where nothing is missing.
    """
    observed = ~np.isnan(values)
    if observed.all():
        return values
    if not observed.any():
        return np.zeros_like(values)
    newest = np.maximum.accumulate(np.where(observed, np.arange(len(values)), -1))
    return values[np.where(newest < 0, observed.argmax(), newest)]


def seasonal_naive(
    context: ArrayLike, *, horizon: int, season: int, levels: Sequence[float] = LEVELS
) -> tuple[Array, Array]:
    """Repeat the last season, with normal intervals that widen by the season.

    context: (T,), NaN where missing, filled forward. Returns quantiles (H, Q) and the point forecast (H,). The
    standard deviation of step h is s sqrt(1 + floor((h - 1) / season)), s the root mean square of the seasonal
    differences of the context. A context shorter than a season forecasts its mean, with no width.
    """
    x = np.asarray(context, np.float64)
    if len(x) == 0:
        raise ValueError("seasonal_naive needs a context of at least one step, got none")
    steps = np.arange(horizon)
    largest, spread = 0.0, np.zeros(horizon)
    needs_width = any(level != 0.5 for level in levels)
    # the scan over the whole context is spared where only its end matters: long-term tasks ask for 1e5 medians
    if needs_width or len(x) < season or np.isnan(x[-season:]).any():
        x = fill_forward(x)
    if len(x) < season:
        point = np.full(horizon, x.mean())
    else:
        point = x[len(x) - season + steps % season]
        if needs_width and len(x) > season:
            differences = x[season:] / 2 - x[:-season] / 2
            # so that the square of the largest number is one
            largest = float(np.abs(differences).max())
            spread = np.sqrt(np.mean((differences / (largest or 1.0)) ** 2) * (1 + steps // season))
    z = np.array([NormalDist().inv_cdf(level) for level in levels])
    # what overflows is cut to the largest number
    with np.errstate(over="ignore"):
        quantiles = point[:, None] + largest * (2 * spread[:, None] * z)
    return np.nan_to_num(quantiles, nan=np.nan), point


@dataclass
class _Mean:
    """A running mean of the values that count."""

    total: float = 0.0
    count: int = 0

    def add(self, values: Array, where: NDArray[np.bool_]) -> None:
        self.total += float(values.sum(where=where))
        self.count += int(where.sum())

    def value(self) -> float | None:
        return _ratio(self.total, self.count)


@dataclass(kw_only=True)
class Scores:
    """Running sums of a task's scores: feed it chunks with `update`, read it with `result`.

    levels: the Q quantile levels of every forecast fed, 0.5 among them; MSIS needs both ends of INTERVAL too.
    Chunks of any size give the same result up to the rounding of the sums.
    """

    levels: Sequence[float] = LEVELS

    def __post_init__(self) -> None:
        if 0.5 not in self.levels:
            raise ValueError(f"levels must hold 0.5, the median, got {list(self.levels)}")
        self._label, self._absolute, self._squared, self._squared_mean = (_Mean() for _ in range(4))
        self._percentage, self._symmetric, self._scaled, self._interval = (
            _Mean() for _ in range(4)
        )
        self._quantile_loss = np.zeros(len(self.levels))
        self._covered = np.zeros(len(self.levels))
        self._inner = np.array([level not in INTERVAL for level in self.levels])
        # labels by how many quantiles lie below them, and by how many do not lie above
        bins = len(self.levels) + 1
        self._ranks = np.zeros((bins, bins))

    def update(
        self,
        labels: ArrayLike,
        *,
        quantiles: ArrayLike,
        mean: ArrayLike,
        seasonal_errors: ArrayLike | None = None,
    ) -> None:
        """Add n forecasts.

        labels: (n, H), NaN where missing. quantiles: (n, H, Q). mean: (n, H). seasonal_errors: (n,), 0 or NaN for a
        forecast that MASE leaves out; None where MASE is not wanted. Raises ValueError for shapes that do not fit
        or a forecast that is not finite: a masked failure would read as a good score.
        """
        y = np.asarray(labels, np.float64)
        q = np.asarray(quantiles, np.float64)
        m = np.asarray(mean, np.float64)
        wanted = (*y.shape, len(self.levels))
        if q.shape != wanted or m.shape != y.shape:
            raise ValueError(
                f"forecasts must be quantiles {wanted} and mean {y.shape}, got {q.shape} and {m.shape}"
            )
        if not (np.isfinite(q).all() and np.isfinite(m).all()):
            raise ValueError("forecasts must be finite, got NaN or infinity")
        seen = ~np.isnan(y)
        y = np.where(seen, y, 0.0)
        median = q[:, :, self.levels.index(0.5)]
        absolute, size = np.abs(y - median), np.abs(y)
        both = size + np.abs(median)
        self._label.add(size, seen)
        self._absolute.add(absolute, seen)
        # of the largest values it is infinite, and then no score
        with np.errstate(over="ignore"):
            self._squared.add(np.square(absolute), seen)
            self._squared_mean.add(np.square(y - m), seen)
        self._percentage.add(*_quotient(absolute, size, seen))
        self._symmetric.add(*_quotient(2 * absolute, both, seen))
        self._add_levels(y, q, seen)
        if seasonal_errors is not None:
            unit = np.asarray(seasonal_errors, np.float64)
            scored = seen & (unit > 0)[:, None]
            self._scaled.add(*_quotient(absolute, unit[:, None], scored))
            if set(INTERVAL) <= set(self.levels):
                low, high = (q[:, :, self.levels.index(end)] for end in INTERVAL)
                self._interval.add(*_quotient(_interval_score(y, low, high), unit[:, None], scored))

    def _add_levels(self, y: Array, q: Array, seen: NDArray[np.bool_]) -> None:
        under, up_to = np.zeros(y.shape, np.int64), np.zeros(y.shape, np.int64)
        # level by level, so that no temporary is larger than the labels
        for i, level in enumerate(self.levels):
            below = y <= q[:, :, i]
            loss = 2 * np.abs((y - q[:, :, i]) * (below - level))
            self._quantile_loss[i] += loss.sum(where=seen)
            self._covered[i] += (below & seen).sum()
            under += ~below
            up_to += y >= q[:, :, i]
        bins = len(self._ranks)
        pairs = (under * bins + up_to)[seen]
        self._ranks += np.bincount(pairs, minlength=bins**2).reshape(bins, bins)

    def result(self) -> dict[str, Any]:
        """The scores of everything fed so far; None for one whose denominator is 0 or that exceeds what a double holds.

        mase: mean absolute error of the median in seasonal errors. crps: mean over levels of the weighted quantile
        loss. mse: of the mean; mse_median: of the median. mae, mape, smape: of the median. msis: mean interval score
        in seasonal errors, None where the levels lack an end of INTERVAL. mean_absolute_label: what mae and the root
        of mse are divided by for ND and NRMSE. coverage: share of labels at or below each level, as gluonts has it. below:
        the same where a label that ties with quantiles, as counts of zero do, is shared out among the bins between
        levels that it touches, by their width: a level is what it should be, however many tie. pit: share of labels
        between one level and the next, from below the lowest to above the highest, ties shared out evenly. points:
        labels scored.
        """
        points = self._label.count
        return {
            "mase": self._scaled.value(),
            "crps": _ratio(float(self._quantile_loss[self._inner].mean()), self._label.total),
            "mse": self._squared_mean.value(),
            "mse_median": self._squared.value(),
            "mae": self._absolute.value(),
            "mape": self._percentage.value(),
            "smape": self._symmetric.value(),
            "msis": self._interval.value(),
            "mean_absolute_label": self._label.value(),
            "coverage": {
                str(level): _ratio(float(n), points)
                for level, n in zip(self.levels, self._covered, strict=True)
            },
            "below": self._below(points),
            "pit": self._pit(points),
            "points": points,
        }

    def _below(self, points: int) -> dict[str, float | None]:
        """Share of labels below each level, ties shared out."""
        rising = sorted(self.levels)
        widths = np.diff([0.0, *rising, 1.0])
        shares = np.cumsum(_spread_ties(self._ranks, widths))
        return {
            str(level): _ratio(float(shares[rising.index(level)]), points) for level in self.levels
        }

    def _pit(self, points: int) -> list[float | None]:
        """Share of labels in each bin between inner levels, ties shared out evenly."""
        # the inner bin that each bin is a part of: quantiles rise with their level
        inner = np.cumsum([0, *(level not in INTERVAL for level in sorted(self.levels))])
        ranks = np.zeros((inner[-1] + 1, inner[-1] + 1))
        np.add.at(ranks, (inner[:, None], inner), self._ranks)
        return [_ratio(share, points) for share in _spread_ties(ranks, np.ones(len(ranks)))]


def _quotient(
    numerator: Array, denominator: Array, seen: NDArray[np.bool_]
) -> tuple[Array, NDArray[np.bool_]]:
    """Quotients, and where they count: a denominator of 0 leaves the label out, as gluonts' masked arrays do."""
    usable = seen & (denominator > 0)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=usable), usable


def _interval_score(y: Array, low: Array, high: Array) -> Array:
    """Width plus what labels outside miss by, dearer the rarer they should be (Gneiting and Raftery 2007, eq. 43)."""
    price = 1 / INTERVAL[0]
    return high - low + price * (np.maximum(low - y, 0) + np.maximum(y - high, 0))


def _spread_ties(ranks: Array, widths: Array) -> list[float]:
    """Labels per bin. ranks: (bins, bins), labels by the first and the last bin that they touch. widths: (bins,), by which
    the labels that touch several are shared out."""
    shares = np.zeros(len(ranks))
    for first, last in zip(*np.nonzero(ranks), strict=True):
        touched = widths[first : last + 1]
        shares[first : last + 1] += ranks[first, last] * touched / touched.sum()
    return shares.tolist()


def relative(value: float | None, reference: float | None) -> float | None:
    """value / reference, None where either is missing or the reference is 0."""
    return None if value is None or reference is None else _ratio(value, reference)


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Of the values that are not None; 0 if one of them is 0, None if none is left."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return 0.0 if 0.0 in known else math.exp(math.fsum(map(math.log, known)) / len(known))


def _ratio(numerator: float, denominator: float) -> float | None:
    ratio = numerator / denominator if denominator else math.nan
    return ratio if math.isfinite(ratio) else None
