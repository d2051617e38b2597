"""Frames to series, forecasts to frames.

A table is *long* (id, time stamp, one or more target columns) or *wide* (one time stamp column, each number column
a series). `infer_layout` tells which, `split_frame` turns it into regular series, `forecast_series` asks the model
and `to_frame` gives the columns that Chronos users know. `predict_frame` is all of it in one call.
Nothing here prints: what a person should hear comes back as notes, one line each.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tinytsm.columns import (
    Layout,
    doubt_marks,
    infer_layout,
    levels_as_columns,
    numbers,
    place,
)
from tinytsm.config import QUANTILES
from tinytsm.covariates import FUTURE, check_roles, encode, go_on, shared_columns
from tinytsm.errors import DataWarning, Doubt, InputError
from tinytsm.grids import grid_notes, lay_out_all, onto_grid, until_newest
from tinytsm.inputs import check_count, check_fill, check_horizon, check_levels
from tinytsm.result import Forecaster, InformedForecaster
from tinytsm.stamps import parse_stamps
from tinytsm.timeline import Timeline, parse_freq


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One regular series.

    item: the id as the table has it; in a wide table the column's name.
    values: (T,) float64 on `timeline.grid`, NaN where missing.
    known: its covariates, (T, C), or (T + H, C) where the H steps to come are known; None where there are none.
    """

    item: Any
    target: str
    timeline: Timeline
    values: np.ndarray
    known: np.ndarray | None = None

    @property
    def name(self) -> str:
        """Words for messages and titles."""
        return str(self.item) if self.item == self.target else f"{self.item} {self.target}"

    def window(
        self, origin: int, horizon: int, *, context_length: int | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What a forecast from step `origin` on may see: the newest `context_length` steps before it (None: all), and the
        covariates of these and of the horizon, None where there are none."""
        context = newest_steps(self.values[:origin], context_length)
        known = self.known
        return context, None if known is None else known[origin - len(context) : origin + horizon]


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """What the model says of one series. index, median, mean: (H,), quantiles: (H, Q).

    weight: of its covariates, from 0 to 1, as `tinytsm.exogenous` settles it.
    """

    series: Series
    index: pd.Index
    median: np.ndarray
    mean: np.ndarray
    quantiles: np.ndarray
    weight: float


def check_quantiles(levels: Any) -> tuple[float, ...]:
    """Quantile levels as floats inside (0, 1), no level twice, because each names a column. Raises InputError."""
    checked = check_levels(levels)
    for level in checked:
        if checked.count(level) > 1:
            raise InputError(f"quantile level {level:g} is given twice; give it once")
    return checked


def read_frame(
    df: pd.DataFrame,
    *,
    id_column: str | None,
    timestamp_column: str | None,
    target: str | Sequence[str] | None,
    freq: str | int | None,
    fill: float | None = None,
    covariates: Sequence[str] = (),
    future_df: pd.DataFrame | None = None,
    horizon: int = 0,
) -> tuple[list[Series], Layout, list[str]]:
    """The series of a table, its layout, and notes on what was guessed; columns are named as `predict_frame` says.

    covariates: columns to keep beside each series; with `future_df` those that it shares with the table, known for
    `horizon` more steps. horizon: steps that will be forecast, 0 where none are. Raises InputError for what is wrong with
    either.
    """
    for name, table in (("df", df), ("future_df", future_df)):
        if table is not None and not isinstance(table, pd.DataFrame):
            raise InputError(
                f"{name} must be a pandas DataFrame, got {type(table).__name__}; give one (polars: to_pandas()), or "
                "arrays and single columns to forecast"
            )
    df = levels_as_columns(df, id_column, timestamp_column)
    names = (covariates,) if isinstance(covariates, str) else tuple(covariates)
    future: pd.DataFrame | None = None
    unused: list[str] = []
    if future_df is not None:
        future = levels_as_columns(future_df, id_column, timestamp_column)
        names, unused = shared_columns(future, df)
    layout, notes = infer_layout(
        df,
        id_column=id_column,
        timestamp_column=timestamp_column,
        target=target,
        covariates=names,
    )
    if "tinytsm.note" in df.attrs:
        notes.insert(0, df.attrs["tinytsm.note"])
    if future is not None:
        check_roles(future, layout)
        if unused:
            listed = ", ".join(unused)
            notes.append(Doubt(f"columns that the history does not have are not used: {listed}"))
        if not layout.covariates:
            notes.append(Doubt("the future has no column of the history but ids and time stamps"))
    elif missed := [name for name in names if name not in layout.covariates]:
        raise InputError(f"column {missed[0]!r} has another role and cannot be a covariate too")
    past, coming = None, None
    if layout.covariates:
        past, coming, of_kinds = encode(df, layout.covariates, future)
        notes += of_kinds
    series, more = split_frame(df, layout, freq=freq, fill=fill, covariates=past)
    if future is not None and coming is not None:
        series = go_on(series, future, coming, df, layout, horizon=horizon)
    if horizon and (tail := min(_missing_tail(one.values) for one in series)) > 1:
        more.append(
            Doubt(
                f"the newest {tail} steps of every series are empty, and forecasts begin after them; leave out rows of the "
                f"future, or give them as {FUTURE}"
            )
        )
    return series, layout, notes + more


def warn_of_doubts(notes: Sequence[str]) -> None:
    """Issue a DataWarning for each note that is a Doubt, at the line that called the package."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("tinytsm."):
        level, frame = level + 1, frame.f_back
    for note in notes:
        if isinstance(note, Doubt):
            warnings.warn(note, DataWarning, stacklevel=level)


def split_frame(
    df: pd.DataFrame,
    layout: Layout,
    *,
    freq: str | int | None = None,
    fill: float | None = None,
    covariates: np.ndarray | None = None,
) -> tuple[list[Series], list[str]]:
    """Cut a table into regular series, in order of first appearance; returns them and notes.

    freq: the step of all series, or None to infer it for each; a series too short to tell takes the step that most
        others have. Gaps become NaN; stamps between two steps move to the nearer one, where several meet
        their mean counts.
    fill: the value of steps without a row, from a series' first to the newest of the table; None: they are gaps.
    covariates: (rows, C) beside the table's rows, cut and laid on the grid like the targets.
    Raises InputError that names column and row for text, infinities, bad or repeated stamps and empty series.
    """
    if df.empty:
        raise InputError("the table has no rows; add at least one")
    if freq is not None:
        parse_freq(freq)
    fill = None if fill is None else check_fill(fill)
    notes: list[str] = []
    stamps: pd.Index | None = None
    if layout.timestamp_column is not None:
        stamps, note = parse_stamps(df[layout.timestamp_column], lambda row: place(df, row))
        notes += [note] if note else []
    columns = {target: numbers(df, target) for target in layout.targets}
    for target, column in columns.items():
        notes += doubt_marks(df, target, column)
    items, rows_of = _groups(df, layout.id_column)
    timelines, of_steps = lay_out_all(
        df, str(layout.timestamp_column), items, rows_of, stamps, freq=freq
    )
    if fill is not None and stamps is not None:
        timelines = until_newest(timelines, stamps.max())

    series = []
    for item, rows, line in zip(items, rows_of, timelines, strict=True):
        known = None
        if covariates is not None:
            known = np.stack([onto_grid(column, line) for column in covariates[rows].T], 1)
        for target, column in columns.items():
            label = target if layout.id_column is None else item
            values = onto_grid(column[rows], line, np.nan if fill is None else fill)
            one = Series(item=label, target=target, timeline=line, values=values, known=known)
            if np.isnan(values).all():
                raise InputError(
                    f"series {one.name!r}: every value is missing; fill in at least one or leave it out"
                )
            series.append(one)
    return series, notes + of_steps + grid_notes(timelines, stamps, rows_of, fill)


def _missing_tail(values: np.ndarray) -> int:
    return int(np.argmin(np.isnan(values[::-1])))


def _groups(df: pd.DataFrame, id_column: str | None) -> tuple[list[Any], list[np.ndarray]]:
    """Ids in order of first appearance, and the row positions of each."""
    if id_column is None:
        return [None], [np.arange(len(df))]
    ids = df[id_column]
    if ids.isna().any():
        row = int(np.flatnonzero(ids.isna())[0])
        raise InputError(
            f"{place(df, row)}, column {str(id_column)!r}: the id is missing; fill it in"
        )
    try:
        codes, unique = pd.factorize(ids)
    except TypeError:
        raise InputError(
            f"column {str(id_column)!r}: ids must be texts or numbers, got {ids.iloc[0]!r:.40}"
        ) from None
    order = np.argsort(codes, kind="stable")
    return list(unique), np.split(order, np.cumsum(np.bincount(codes))[:-1])


def forecast_series(
    forecaster: Forecaster,
    series: Sequence[Series],
    *,
    prediction_length: int,
    quantile_levels: Sequence[float] = QUANTILES,
    context_length: int | None = None,
    batch_size: int = 256,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Forecast]:
    """Forecast every series; quantiles in the order of `quantile_levels`.

    context_length: use only so many newest steps of each series (None: all). Raises InputError where these are all missing.
    progress: called with the number of series that each batch finished.
    """
    levels = check_quantiles(quantile_levels)
    if context_length is not None:
        context_length = check_count(context_length, "context_length")
    windows = [
        one.window(len(one.values), prediction_length, context_length=context_length)
        for one in series
    ]
    for one, (context, _) in zip(series, windows, strict=True):
        # a series has a value somewhere: what reads it sees to that
        if np.isnan(context).all():
            raise InputError(
                f"series {one.name!r}: its newest {len(context)} steps are all missing; give a longer context"
            )
    asked = levels if 0.5 in levels else (*levels, 0.5)
    forecasts = []
    for start in range(0, len(series), batch_size):
        batch = series[start : start + batch_size]
        quantiles, means, weights = ask(
            forecaster, windows[start : start + batch_size], prediction_length, asked
        )
        for one, own, mean, weight in zip(batch, quantiles, means, weights, strict=True):
            forecasts.append(
                Forecast(
                    series=one,
                    index=one.timeline.future(prediction_length),
                    median=own[:, asked.index(0.5)],
                    mean=mean,
                    quantiles=own[:, : len(levels)],
                    weight=float(weight),
                )
            )
        progress(len(batch))
    return forecasts


def ask(
    forecaster: Forecaster,
    windows: Sequence[tuple[np.ndarray, np.ndarray | None]],
    horizon: int,
    levels: Sequence[float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantiles (n, H, Q), mean (n, H) and the covariates' weights (n,) of what `Series.window` gives, 0 where it has none."""
    quantiles = np.empty((len(windows), horizon, len(levels)))
    mean, weights = np.empty((len(windows), horizon)), np.zeros(len(windows))
    plain = [i for i, (_, known) in enumerate(windows) if known is None]
    if plain:
        contexts = [windows[i][0] for i in plain]
        quantiles[plain], mean[plain] = forecaster.predict_quantiles(
            contexts, horizon, list(levels)
        )
    informed = [i for i, (_, known) in enumerate(windows) if known is not None]
    if informed:
        if not isinstance(forecaster, InformedForecaster):
            raise TypeError(f"{type(forecaster).__name__} takes no covariates")
        contexts, covariates = zip(*(windows[i] for i in informed), strict=True)
        quantiles[informed], mean[informed], weights[informed] = forecaster.predict_with_covariates(
            contexts, covariates, horizon, list(levels)
        )
    return quantiles, mean, weights


def newest_steps(values: np.ndarray, context_length: int | None) -> np.ndarray:
    """The newest `context_length` of values (T,), at least 1; all of them where it is None or more than T."""
    return values if context_length is None else values[-context_length:]


def to_frame(
    forecasts: Sequence[Forecast],
    *,
    quantile_levels: Sequence[float] = QUANTILES,
    id_column: str = "item_id",
    timestamp_column: str = "timestamp",
    mean: bool = False,
) -> pd.DataFrame:
    """Long frame as Chronos-2 gives it: id, time stamp, target_name, predictions (median), one column per quantile; with
    `mean`, a column of it before these."""
    counts = [len(forecast.index) for forecast in forecasts]
    index = forecasts[0].index.append([forecast.index for forecast in forecasts[1:]])
    ids = pd.Index([forecast.series.item for forecast in forecasts])
    quantiles = np.concatenate([forecast.quantiles for forecast in forecasts])
    columns: dict[str, Any] = {
        id_column: ids.repeat(counts),
        timestamp_column: index,
        "target_name": np.repeat([str(forecast.series.target) for forecast in forecasts], counts),
        "predictions": np.concatenate([forecast.median for forecast in forecasts]),
    }
    if mean:
        columns["mean"] = np.concatenate([forecast.mean for forecast in forecasts])
    return pd.DataFrame(columns | {str(q): quantiles[:, i] for i, q in enumerate(quantile_levels)})


def predict_frame(
    forecaster: Forecaster,
    df: pd.DataFrame,
    *,
    prediction_length: int,
    quantile_levels: Sequence[float] = QUANTILES,
    id_column: str | None = "item_id",
    timestamp_column: str | None = "timestamp",
    target: str | Sequence[str] | None = "target",
    freq: str | int | None = None,
    fill: float | None = None,
    context_length: int | None = None,
    future_df: pd.DataFrame | None = None,
    mean: bool = False,
) -> pd.DataFrame:
    """Forecast a long frame, or any table where the columns are not named.

    df: columns id, time stamp (dates, text dates or whole numbers) and one or more targets; rows in any order. Ids and
        stamps may also be index levels.
    id_column, timestamp_column, target: None to let `infer_layout` find them; all three None also takes a wide table.
    fill: the value of steps without a row, such as 0 where no row means no sale; every series then ends with the table.
    future_df: what is known of the coming H steps of each series, as Chronos-2 takes it. The columns that it shares with
        df are covariates: numbers, or texts that name kinds. Columns of df alone are not used, and those of
        future_df alone neither, as a warning says.
    Returns H rows per series in order of first appearance: the id and time stamp columns under their own names,
    target_name, predictions (the median), with `mean` a column of that name, and one per quantile level named like "0.1".
    Raises InputError, a ValueError that names column and row.
    """
    horizon = check_horizon(prediction_length)
    levels = check_quantiles(quantile_levels)
    series, layout, notes = read_frame(
        df,
        id_column=id_column,
        timestamp_column=timestamp_column,
        target=target,
        freq=freq,
        fill=fill,
        future_df=future_df,
        horizon=horizon,
    )
    warn_of_doubts(notes)
    forecasts = forecast_series(
        forecaster,
        series,
        prediction_length=horizon,
        quantile_levels=levels,
        context_length=context_length,
    )
    return to_frame(
        forecasts,
        quantile_levels=levels,
        id_column=layout.id_name,
        timestamp_column=layout.stamp_name,
        mean=mean,
    )
