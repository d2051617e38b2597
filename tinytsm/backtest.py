"""Rolling-origin backtest: forecast the past as if it were the future, and score it.

Origins stand `step` steps apart and the last horizon ends at the series' end; the forecast from an origin sees nothing
after it. Scores are those of `tinytsm.metrics`, beside seasonal naive on the same windows.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tinytsm import metrics
from tinytsm.columns import Layout
from tinytsm.config import QUANTILES
from tinytsm.errors import Doubt, InputError
from tinytsm.frames import (
    Series,
    ask,
    check_quantiles,
    newest_steps,
    warn_of_doubts,
)
from tinytsm.inputs import check_count, check_horizon
from tinytsm.panel import head_columns, split
from tinytsm.plot import Panel
from tinytsm.result import Forecaster

# windows forecast at a time, which bounds the memory
_AT_ONCE = 256
# the interval whose coverage is reported
_LOW, _HIGH = 0.1, 0.9
_SCORES = ("mase", "crps", "mae", "mse")
# of frequencies of which gluonts, and so `metrics.season_length`, knows none
_SEASONS = {"D": 7, "SMS-15": 24, "SME-15": 24}


@dataclass(frozen=True, kw_only=True, eq=False)
class Backtest:
    """What a backtest found.

    forecasts: one row per window and step: id, time stamp, target_name, cutoff (the newest stamp that the forecast
    saw), actual, predictions (the median) and one column per quantile level.
    scores: rows TinyTSM, seasonal naive, relative (their ratio); columns mase, crps (weighted quantile loss, mean over
    `metrics.LEVELS`), mae, mse (of the mean), coverage_80 (share of values inside the 80 % interval, ties with its ends in
    part), windows.
    """

    forecasts: pd.DataFrame
    scores: pd.DataFrame


class Window(NamedTuple):
    """Series number `series` (its position), forecast from step `origin` on."""

    series: int
    origin: int


def backtest(
    forecaster: Forecaster,
    data: Any,
    horizon: int,
    *,
    windows: int = 5,
    step: int | None = None,
    season: int | None = None,
    context_length: int | None = None,
    quantile_levels: Sequence[float] = QUANTILES,
    id_column: str | None = "item_id",
    timestamp_column: str | None = "timestamp",
    target: str | list[str] | None = "target",
    freq: str | int | None = None,
    fill: float | None = None,
    covariates: Sequence[str] = (),
) -> Backtest:
    """Backtest on a frame, read as `predict_df` reads it, or on arrays.

    windows: origins per series, at most; as many as leave a step of history. step: steps between origins (None: the
    horizon, so that windows do not overlap). season: steps of the season of MASE and seasonal naive (None: the usual
    one of the frequency, `season_of`). context_length: forecast from only so many newest steps before an origin (None:
    all); MASE's unit and seasonal naive have all of them. covariates: columns of the frame that every forecast knows,
    those of its own steps too, as with `predict_df`'s future_df. A series too short for a window is left out, with a
    DataWarning. Raises InputError, a ValueError, where none leaves a window.
    """
    series, layout = split(
        data, id_column=id_column, timestamp_column=timestamp_column, target=target, freq=freq,
        fill=fill, covariates=covariates,
    )  # fmt: skip
    horizon = check_horizon(horizon)
    planned, notes = plan(
        series, horizon=horizon, windows=windows, step=step, context_length=context_length
    )
    warn_of_doubts(notes)
    return run(
        forecaster,
        series,
        planned,
        horizon=horizon,
        season=season,
        context_length=context_length,
        quantile_levels=quantile_levels,
        layout=layout,
    )


def run(
    forecaster: Forecaster,
    series: list[Series],
    planned: list[Window],
    *,
    horizon: int,
    season: int | None,
    context_length: int | None,
    quantile_levels: Sequence[float],
    layout: Layout,
    progress: Callable[[int], object] = lambda done: None,
) -> Backtest:
    """`backtest` of the windows that `plan` found. progress: called with the count of windows after each batch."""
    levels = check_quantiles(quantile_levels)
    if season is not None:
        season = check_count(season, "season")
    # scores are over levels of their own, whichever the table is to have
    scored = metrics.LEVELS
    asked = tuple(sorted({*levels, *scored}))
    at = [asked.index(level) for level in scored]
    ours, naive = metrics.Scores(levels=scored), metrics.Scores(levels=scored)
    seasons = [season_of(one) if season is None else season for one in series]
    parts: list[np.ndarray] = []
    todo: Iterator[Window] = iter(planned)
    while batch := list(islice(todo, _AT_ONCE)):
        contexts = [series[w.series].values[: w.origin] for w in batch]
        labels = np.stack(
            [series[w.series].values[w.origin : w.origin + horizon] for w in batch]
        )  # (n, H)
        units = [
            metrics.seasonal_error(x, seasons[w.series])
            for x, w in zip(contexts, batch, strict=True)
        ]
        visible = [
            series[w.series].window(w.origin, horizon, context_length=context_length) for w in batch
        ]
        q, mean, _ = ask(forecaster, visible, horizon, asked)
        ours.update(labels, quantiles=q[..., at], mean=mean, seasonal_errors=units)
        pairs = [
            metrics.seasonal_naive(x, horizon=horizon, season=seasons[w.series], levels=scored)
            for x, w in zip(contexts, batch, strict=True)
        ]
        naive.update(
            labels,
            quantiles=np.stack([one for one, _ in pairs]),
            mean=np.stack([point for _, point in pairs]),
            seasonal_errors=units,
        )
        parts.append(q)
        progress(len(batch))
    frame = _frame(series, layout, planned, np.concatenate(parts), asked, levels, horizon)
    return Backtest(forecasts=frame, scores=_score_table(ours, naive, len(planned)))


def plan(
    series: list[Series],
    *,
    horizon: int,
    windows: int,
    step: int | None,
    context_length: int | None,
) -> tuple[list[Window], list[str]]:
    """The windows of every series, oldest first, and notes on series that have none.

    A window has an observed value in its context and one in its horizon. Raises InputError for counts below 1 and where
    no series has a window.
    """
    windows = check_count(windows, "windows")
    step = horizon if step is None else check_count(step, "step")
    if context_length is not None:
        context_length = check_count(context_length, "context_length")
    planned: list[Window] = []
    without: list[Series] = []
    for i, one in enumerate(series):
        seen = ~np.isnan(one.values)
        newest = len(one.values) - horizon
        oldest = max(newest - step * (windows - 1), newest % step)
        origins = range(oldest, newest + 1, step)
        usable = [
            Window(i, origin)
            for origin in origins
            if origin > 0
            and newest_steps(seen[:origin], context_length).any()
            and seen[origin : origin + horizon].any()
        ]
        if not usable:
            without.append(one)
        planned += usable
    if not without:
        return planned, []
    first = without[0]
    why = f"series {first.name!r}: {len(first.values)} steps leave no window of {horizon} steps with values in it and before it"
    if not planned:
        raise InputError(f"{why}; ask for a shorter horizon")
    more = f" (and {len(without) - 1:,} more series)" if len(without) > 1 else ""
    return planned, [Doubt(f"{why}: left out{more}")]


def season_of(one: Series) -> int:
    """The usual season of the series' frequency, 1 where stamps are numbers or the frequency has none.

    As in GIFT-Eval, but days have weeks: beside the mere last day almost any forecast of a week looks good.
    """
    # months and quarters of business days are as long as others
    freq = re.sub("B(?=[MQ])", "", one.timeline.freq)
    if freq in _SEASONS:
        return _SEASONS[freq]
    # some days of the week, W-TUE-FRI
    if freq.startswith("W-") and freq.count("-") > 1:
        return freq.count("-")
    try:
        return metrics.season_length(freq)
    except ValueError:
        return 1


def _frame(
    series: list[Series],
    layout: Layout,
    planned: list[Window],
    quantiles: np.ndarray,
    asked: tuple[float, ...],
    levels: tuple[float, ...],
    horizon: int,
) -> pd.DataFrame:
    grids = [series[w.series].timeline.grid for w in planned]
    shown = [grid[w.origin : w.origin + horizon] for grid, w in zip(grids, planned, strict=True)]
    cutoffs = [grid[w.origin - 1 : w.origin] for grid, w in zip(grids, planned, strict=True)]
    columns = head_columns([series[w.series] for w in planned], layout, [horizon] * len(planned))
    columns[layout.stamp_name] = shown[0].append(shown[1:])
    columns["cutoff"] = cutoffs[0].append(cutoffs[1:]).repeat(horizon)
    columns["actual"] = np.concatenate(
        [series[w.series].values[w.origin : w.origin + horizon] for w in planned]
    )
    flat = quantiles.reshape(-1, len(asked))
    columns["predictions"] = flat[:, asked.index(0.5)]
    return pd.DataFrame(columns | {str(q): flat[:, asked.index(q)] for q in levels})


def panels(series: list[Series], result: Backtest, layout: Layout) -> list[Panel]:
    """Each series that has windows with its forecasts laid over it; of windows that overlap, the newest."""
    names = list(result.forecasts)
    stamp, levels = layout.stamp_name, names[names.index("predictions") + 1 :]
    by_series = result.forecasts.groupby([layout.id_name, "target_name"], sort=False)
    drawn = []
    for one, (_, rows) in zip(series, by_series, strict=True):
        shown, oldest = [], None
        for _, window in reversed(list(rows.groupby("cutoff", sort=False))):
            if oldest is None or window[stamp].iloc[-1] < oldest:
                oldest = window[stamp].iloc[0]
                shown.append(window)
        kept = pd.concat(shown[::-1])
        drawn.append(
            Panel(
                title=one.name,
                past=one.timeline.grid,
                values=one.values,
                future=pd.Index(kept[stamp]),
                median=kept["predictions"].to_numpy(),
                quantiles=kept[levels].to_numpy(),
                levels=[float(c) for c in levels],
                starts=~kept["cutoff"].duplicated().to_numpy(),
            )
        )
    return drawn


def _score_table(ours: metrics.Scores, naive: metrics.Scores, windows: int) -> pd.DataFrame:
    rows = {}
    for name, total in (("TinyTSM", ours), ("seasonal naive", naive)):
        result = total.result()
        inside = result["below"][str(_HIGH)] - result["below"][str(_LOW)]
        rows[name] = {key: result[key] for key in _SCORES} | {
            "coverage_80": inside,
            "windows": windows,
        }
    # a score that there is none of is NaN
    table = pd.DataFrame.from_dict(rows, orient="index").astype(dict.fromkeys(_SCORES, float))
    ratio = [metrics.relative(rows["TinyTSM"][key], rows["seasonal naive"][key]) for key in _SCORES]
    table.loc["relative", list(_SCORES)] = np.array(ratio, np.float64)
    return table.rename_axis("forecaster")
