"""Fill missing values: each gap is forecast from its left, and from its right backwards, and the two are blended.

Our definition: in a gap of L steps the i-th takes the forward quantiles with weight (L + 1 - i) / (L + 1) and the
backward ones with the rest, level by level, so that each side counts where it is near. A gap at an end has one side
and is forecast from it alone. Either side sees all other gaps as missing.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tinytsm.columns import Layout
from tinytsm.frames import Series, check_quantiles
from tinytsm.panel import head_columns, split
from tinytsm.plot import Panel
from tinytsm.result import Forecaster

_AT_ONCE = 256


class Filled(NamedTuple):
    """One series without holes. values: (T,), the median where it was missing. missing: (T,) bool.

    quantiles: (T, Q), the observed value at every level where there is one.
    """

    values: np.ndarray
    missing: np.ndarray
    quantiles: np.ndarray


class Gap(NamedTuple):
    """Steps start to stop - 1 of series number `series` (its position) are missing."""

    series: int
    start: int
    stop: int


def impute(
    forecaster: Forecaster,
    data: Any,
    *,
    quantile_levels: Sequence[float] = (0.1, 0.9),
    id_column: str | None = "item_id",
    timestamp_column: str | None = "timestamp",
    target: str | list[str] | None = "target",
    freq: str | int | None = None,
) -> pd.DataFrame:
    """Fill the missing values of a frame, read as `predict_df` reads it, or of arrays.

    Missing is what holds no number, and each step of the frequency that has no row.
    Returns one row per step: id, time stamp, target_name, value, imputed (whether the value was missing) and one
    column per quantile level. Raises InputError, a ValueError.
    """
    levels = check_quantiles(quantile_levels)
    series, layout = split(
        data, id_column=id_column, timestamp_column=timestamp_column, target=target, freq=freq
    )
    return to_frame(series, fill(forecaster, series, quantile_levels=levels), layout, levels)


def fill(
    forecaster: Forecaster,
    series: list[Series],
    *,
    quantile_levels: Sequence[float],
    progress: Callable[[int], object] = lambda done: None,
) -> list[Filled]:
    """Every series filled. progress: called with the count of gaps after each batch."""
    # rounded once blended, because a blend of whole numbers is none
    model: Any = forecaster
    integer = hasattr(model, "options") and model.options.integer
    if integer:
        forecaster = model.with_options(integer=False)
    asked = [*quantile_levels, 0.5]
    blended = [np.full((len(one.values), len(asked)), np.nan) for one in series]
    for batch in _batches(gaps(series)):
        forward = _forecast(forecaster, series, batch, asked, backward=False)
        backward = _forecast(forecaster, series, batch, asked, backward=True)
        for gap in batch:
            left, right = forward.get(gap), backward.get(gap)
            if left is None or right is None:
                one = right if left is None else left
            else:
                length = gap.stop - gap.start
                weight = 1 - np.arange(1, length + 1)[:, None] / (length + 1)
                one = weight * left + (1 - weight) * right
            assert one is not None, "split_frame refuses a series without any value"
            blended[gap.series][gap.start : gap.stop] = one
        progress(len(batch))
    filled = []
    for values, q in zip((one.values for one in series), blended, strict=True):
        missing = np.isnan(values)
        # adding zero leaves no negative one
        q = q.round() + 0.0 if integer else q
        q = np.where(missing[:, None], q, values[:, None])
        filled.append(Filled(q[:, -1], missing, q[:, :-1]))
    return filled


def gaps(series: list[Series]) -> list[Gap]:
    """Every run of missing values."""
    found = []
    for i, one in enumerate(series):
        edges = np.diff(np.concatenate(([0], np.isnan(one.values), [0])))
        starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        found += [Gap(i, int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
    return found


def _batches(found: list[Gap]) -> list[list[Gap]]:
    """Gaps of about one length together, because all of a call are forecast equally far."""
    by_size: dict[int, list[Gap]] = {}
    for gap in found:
        by_size.setdefault((gap.stop - gap.start - 1).bit_length(), []).append(gap)
    return [
        group[i : i + _AT_ONCE]
        for group in by_size.values()
        for i in range(0, len(group), _AT_ONCE)
    ]


def _forecast(
    forecaster: Forecaster,
    series: list[Series],
    batch: list[Gap],
    asked: list[float],
    *,
    backward: bool,
) -> dict[Gap, np.ndarray]:
    """(L, Q) of each gap that has a value on the side asked for, in the order of time."""
    contexts = {}
    for gap in batch:
        values = series[gap.series].values
        context = values[gap.stop :][::-1] if backward else values[: gap.start]
        if len(context):
            # a gap is a whole run, so that the nearest value beside it is always there
            contexts[gap] = context
    if not contexts:
        return {}
    # of any gap of its size, so that what fills a gap does not depend on those beside it
    horizon = 1 << max(gap.stop - gap.start - 1 for gap in contexts).bit_length()
    quantiles, _ = forecaster.predict_quantiles(
        list(contexts.values()), prediction_length=horizon, quantile_levels=asked
    )
    result = {}
    for gap, q in zip(contexts, np.asarray(quantiles, np.float64), strict=True):
        q = q[: gap.stop - gap.start]
        result[gap] = q[::-1] if backward else q
    return result


def to_frame(
    series: list[Series], filled: list[Filled], layout: Layout, levels: Sequence[float]
) -> pd.DataFrame:
    """The frame that `impute` returns."""
    columns = head_columns(series, layout, [len(one.values) for one in series])
    grids = [one.timeline.grid for one in series]
    columns[layout.stamp_name] = grids[0].append(grids[1:])
    columns["value"] = np.concatenate([one.values for one in filled])
    columns["imputed"] = np.concatenate([one.missing for one in filled])
    quantiles = np.concatenate([one.quantiles for one in filled])
    return pd.DataFrame(columns | {str(q): quantiles[:, i] for i, q in enumerate(levels)})


def panels(series: list[Series], filled: list[Filled], levels: Sequence[float]) -> list[Panel]:
    """Every series with what was filled in, and its band."""
    drawn = []
    for one, whole in zip(series, filled, strict=True):
        # one step beyond each gap on both sides, so that its line meets the values beside it
        near = np.convolve(whole.missing, (1, 1, 1), "same") > 0
        drawn.append(
            Panel(
                title=one.name,
                past=one.timeline.grid,
                values=one.values,
                future=one.timeline.grid,
                median=np.where(near, whole.values, np.nan),
                quantiles=np.where(near[:, None], whole.quantiles, np.nan),
                levels=levels,
            )
        )
    return drawn
