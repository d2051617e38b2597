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
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

# Steps in the season that gluonts assumes for a unit of one step; any other unit has no season.
_SEASON = {"s": 3600, "min": 1440, "h": 24, "D": 1, "B": 5, "W": 1, "M": 12, "Q": 4}
_UNIT = {"S": "s", "T": "min", "H": "h", "MS": "M", "ME": "M", "QS": "Q", "QE": "Q"}


def season_length(freq: str) -> int:
    """Steps per season of a pandas frequency such as "15min", "h" or "W-THU": the rule of gluonts' get_seasonality.

    1 where the unit has no season, or where the multiple does not divide it. Raises ValueError for text that is
    no frequency.
    """
    match = re.fullmatch(r"(\d*)([A-Za-z]+)(-[A-Za-z]+)?", freq)
    if match is None or match[1] == "0":
        raise ValueError(f"freq must read like 'h', '15min' or 'W-THU', got {freq!r}")
    season = _SEASON.get(_UNIT.get(match[2], match[2]), 1)
    steps, rest = divmod(season, int(match[1] or 1))
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
    needs_width = any(level != 0.5 for level in levels)
    # the scan over the whole context is spared where only its end matters: long-term tasks ask for 1e5 medians
    if needs_width or len(x) < season or np.isnan(x[-season:]).any():
        x = fill_forward(x)
    if len(x) < season:
        point, width = np.full(horizon, x.mean()), np.zeros(horizon)
    else:
        point = x[len(x) - season + steps % season]
        width = np.zeros(horizon)
        if needs_width and len(x) > season:
            differences = x[season:] - x[:-season]
            width = np.sqrt(np.mean(differences**2) * (1 + steps // season))
    z = np.array([NormalDist().inv_cdf(level) for level in levels])
    return point[:, None] + width[:, None] * z, point


@dataclass(kw_only=True)
class Scores:
    """Running sums of a task's scores: feed it chunks with `update`, read it with `result`.

    levels: the Q quantile levels of every forecast fed, 0.5 among them. Chunks of any size give the same result up
    to the rounding of the sums.
    """

    levels: Sequence[float] = LEVELS
    points: int = 0
    scaled_points: int = 0
    scaled_error: float = 0.0
    absolute_error: float = 0.0
    squared_error: float = 0.0
    absolute_label: float = 0.0
    quantile_loss: Array = field(init=False)
    covered: Array = field(init=False)

    def __post_init__(self) -> None:
        if 0.5 not in self.levels:
            raise ValueError(f"levels must hold 0.5, the median, got {list(self.levels)}")
        self.quantile_loss = np.zeros(len(self.levels))
        self.covered = np.zeros(len(self.levels))

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
        absolute = np.abs(y - q[:, :, self.levels.index(0.5)])
        self.points += int(seen.sum())
        self.absolute_error += float(absolute.sum(where=seen))
        self.squared_error += float(np.square(y - m).sum(where=seen))
        self.absolute_label += float(np.abs(y).sum())
        # level by level, so that no temporary is larger than the labels
        for i, level in enumerate(self.levels):
            below = y <= q[:, :, i]
            loss = 2 * np.abs((y - q[:, :, i]) * (below - level))
            self.quantile_loss[i] += loss.sum(where=seen)
            self.covered[i] += (below & seen).sum()
        if seasonal_errors is not None:
            unit = np.asarray(seasonal_errors, np.float64)
            usable = unit > 0
            scaled = absolute[usable] / unit[usable, None]
            self.scaled_error += float(scaled.sum(where=seen[usable]))
            self.scaled_points += int(seen[usable].sum())

    def result(self) -> dict[str, Any]:
        """The scores of everything fed so far; None for one whose denominator is 0.

        mase: mean absolute error of the median in seasonal errors. crps: mean over levels of the weighted quantile
        loss. mse: of the mean. mae: of the median. coverage: share of labels at or below each level. points:
        labels scored.
        """
        return {
            "mase": _ratio(self.scaled_error, self.scaled_points),
            "crps": _ratio(float(self.quantile_loss.mean()), self.absolute_label),
            "mse": _ratio(self.squared_error, self.points),
            "mae": _ratio(self.absolute_error, self.points),
            "coverage": {
                str(level): _ratio(float(n), self.points)
                for level, n in zip(self.levels, self.covered, strict=True)
            },
            "points": self.points,
        }


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
    return numerator / denominator if denominator else None
