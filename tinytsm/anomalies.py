"""Anomaly scores: how unlikely each value was, given only what came before it.

The history is forecast from rolling origins, a few steps at a time, and each value is placed in the distribution that
was forecast for it (our definition):

    z = normal score of the level at which the forecast quantiles, interpolated, reach the value
    probability = 2 (1 - Phi(|z|)), that a value lies at least so far out, on either side

Between the forecast levels z is linear in the value. Beyond the outermost it goes on as a normal's tail would, at the
pace of the last gap or of the whole 80 % band, whichever is slower: one narrow gap must not make an outlier. A value on
the forecast median has z = 0; one inside the central 80 % has |z| < 1.28. Scores are causal: what comes later changes none of them.
"""

import math
from collections.abc import Callable
from itertools import islice
from numbers import Real
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from tinytsm.columns import Layout
from tinytsm.config import QUANTILES
from tinytsm.errors import InputError
from tinytsm.frames import Series
from tinytsm.inputs import check_count
from tinytsm.panel import head_columns, split
from tinytsm.plot import Panel
from tinytsm.result import Forecaster

if TYPE_CHECKING:
    from tinytsm.forecast import TinyTSM

# forecasts at a time, which bounds the memory
_AT_ONCE = 256
# further out than any probability can be written in float64
_MOST = 38.0
BAND = (0.1, 0.9)


class Scored(NamedTuple):
    """One series, step by step: (T,) each, NaN before the first forecast; z is NaN where the value is missing too.

    median and low, high: the forecast and its central 80 %, made before the value was seen.
    """

    z: np.ndarray
    probability: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def anomaly_scores(
    forecaster: Forecaster,
    data: Any,
    *,
    step: int = 8,
    warmup: int = 64,
    threshold: float = 0.001,
    id_column: str | None = "item_id",
    timestamp_column: str | None = "timestamp",
    target: str | list[str] | None = "target",
    freq: str | int | None = None,
) -> pd.DataFrame:
    """Score every value of a frame, read as `predict_df` reads it, or of arrays.

    step: steps between origins: 1 forecasts every value from all before it and is the most sensitive, larger is as
    many times faster. warmup: steps of history before the first score; of a series that is shorter than two, about half
    of it, and two values at least.
    threshold: the probability below which a value is called an anomaly.
    Returns one row per step: id, time stamp, target_name, value, predictions (the median), "0.1" and "0.9" (the 80 %
    band), z, probability, anomaly. Raises InputError, a ValueError.
    """
    if not isinstance(threshold, Real) or not 0 < threshold < 1:
        raise InputError(f"threshold is a probability between 0 and 1, got {threshold!r}")
    series, layout = split(
        data, id_column=id_column, timestamp_column=timestamp_column, target=target, freq=freq
    )
    scored = score(forecaster, series, step=step, warmup=warmup)
    return to_frame(series, scored, layout, threshold=threshold)


def unfloored(model: "TinyTSM") -> "TinyTSM":
    """The model as it scores: zero is no floor unless asked for. Where all quantiles of a slow week are zero, one sale is
    as unlikely as a hundred."""
    return model.with_options(nonnegative=bool(model.options.nonnegative))


def score(
    forecaster: Forecaster,
    series: list[Series],
    *,
    step: int = 8,
    warmup: int = 64,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Scored]:
    """The scores of each series. progress: called with the count of forecasts after each batch."""
    step, warmup = check_count(step, "step"), check_count(warmup, "warmup")
    todo = iter(origins(series, step=step, warmup=warmup))
    quantiles = [np.full((len(one.values), len(QUANTILES)), np.nan) for one in series]
    while batch := list(islice(todo, _AT_ONCE)):
        contexts = [series[i].values[:origin] for i, origin in batch]
        forecast, _ = forecaster.predict_quantiles(
            contexts, prediction_length=step, quantile_levels=list(QUANTILES)
        )
        for (i, origin), q in zip(batch, np.asarray(forecast), strict=True):
            quantiles[i][origin : origin + step] = q[: len(quantiles[i]) - origin]
        progress(len(batch))
    return [_place(one.values, q) for one, q in zip(series, quantiles, strict=True)]


def origins(series: list[Series], *, step: int, warmup: int) -> list[tuple[int, int]]:
    """(position of the series, origin) of every forecast that `score` makes."""
    pairs = []
    for i, one in enumerate(series):
        length, seen = len(one.values), np.flatnonzero(~np.isnan(one.values))
        # one value says nothing of how far another may be
        if len(seen) < 2:
            continue
        least = int(seen[1]) + 1
        first = max(min(warmup, length // 2), least)
        # steps from the warm-up on or back, however long the series is, so that more of it changes no score
        first -= (first - warmup) % step
        pairs += [(i, max(origin, least)) for origin in range(first, length, step)]
    return pairs


def _place(values: np.ndarray, quantiles: np.ndarray) -> Scored:
    z = normal_scores(values, quantiles)
    probability = np.array([math.erfc(abs(one) / math.sqrt(2)) for one in z])
    low, middle, high = (QUANTILES.index(level) for level in (BAND[0], 0.5, BAND[1]))
    return Scored(z, probability, quantiles[:, middle], quantiles[:, low], quantiles[:, high])


def normal_scores(values: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Where values stand in forecast distributions, as normal scores.

    values: (T,). quantiles: (T, Q) at QUANTILES, rising. Returns (T,), within +-38, NaN where either is missing. A
    value that several levels share stands in their middle; one beyond quantiles that all coincide is infinitely far.
    """
    knots = np.array([NormalDist().inv_cdf(level) for level in QUANTILES])
    y = values[:, None]
    below, upto = (quantiles < y).sum(1), (quantiles <= y).sum(1)
    i = np.clip(below, 1, len(knots) - 1)
    rows = np.arange(len(values))
    # halves, because the difference of two large numbers may overflow
    values, quantiles = values / 2, quantiles / 2
    low, high = quantiles[rows, i - 1], quantiles[rows, i]
    pace = (high - low) / (knots[i] - knots[i - 1])  # of the value, in z
    band = (quantiles[:, -1] - quantiles[:, 0]) / (knots[-1] - knots[0])
    lowest, highest = below == 0, below == len(knots)
    pace = np.where(lowest | highest, np.maximum(pace, band), pace)
    start = np.where(highest, high, low)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = np.where(highest, knots[-1], knots[i - 1]) + (values - start) / pace
    shared = upto > below
    z[shared] = (knots[below[shared]] + knots[upto[shared] - 1]) / 2
    missing = np.isnan(values) | np.isnan(quantiles).any(1)
    return np.where(missing, np.nan, np.clip(z, -_MOST, _MOST))


def to_frame(
    series: list[Series], scored: list[Scored], layout: Layout, *, threshold: float
) -> pd.DataFrame:
    """The frame that `anomaly_scores` returns."""
    columns = head_columns(series, layout, [len(one.values) for one in series])
    grids = [one.timeline.grid for one in series]
    columns[layout.stamp_name] = grids[0].append(grids[1:])
    columns["value"] = np.concatenate([one.values for one in series])
    columns["predictions"] = np.concatenate([one.median for one in scored])
    columns[str(BAND[0])] = np.concatenate([one.low for one in scored])
    columns[str(BAND[1])] = np.concatenate([one.high for one in scored])
    columns["z"] = np.concatenate([one.z for one in scored])
    columns["probability"] = np.concatenate([one.probability for one in scored])
    # NaN compares false: what was not scored is no anomaly
    columns["anomaly"] = columns["probability"] < threshold
    return pd.DataFrame(columns)


def panels(series: list[Series], scored: list[Scored], *, threshold: float) -> list[Panel]:
    """Every series with the 80 % band that was forecast for it, and its anomalies marked."""
    return [
        Panel(
            title=one.name,
            past=one.timeline.grid,
            values=one.values,
            future=one.timeline.grid,
            median=place.median,
            quantiles=np.stack((place.low, place.high), 1),
            levels=BAND,
            marks=place.probability < threshold,
        )
        for one, place in zip(series, scored, strict=True)
    ]
