"""Pictures: fan charts of forecasts, loss curves, calibration.

Draws on its own figure and canvas, so that no back end, style or open figure of the caller is touched.
matplotlib is an extra and is imported when the first picture is asked for.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinytsm.errors import InputError
from tinytsm.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tinytsm.frames import Forecast

SUFFIXES = (".png", ".svg", ".pdf")
# more panels than this are too small to read
MAX_PANELS = 12
_DPI = 150
_HISTORY, _MEDIAN, _GRID, _TEXT = "#30343b", "#1f6fb4", "#e4e6ea", "#5a606b"
_MARK = "#c8371b"
_COLORS = (_MEDIAN, "#c4541d", "#2f8f5b", "#7a4fa3", "#b08900")
# opacity of nested bands by how many there are, widest first
_ALPHAS: dict[int, tuple[float, ...]] = {
    0: (),
    1: (0.28,),
    2: (0.2, 0.26),
    3: (0.17, 0.22, 0.26),
    4: (0.15, 0.2, 0.24, 0.28),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """One series and its forecast.

    past: (T,), dates or numbers; values: (T,), NaN leaves a hole in the line.
    future: (H,); median: (H,); quantiles: (H, Q) at `levels` (Q,). A future that begins inside the past is drawn over
    it, and NaN leaves a hole in the band: forecasts of the past, filled gaps.
    marks: (T,) bool, values to point out.
    starts: (H,) bool, where a forecast of its own begins among several.
    """

    title: str
    past: Any
    values: np.ndarray
    future: Any
    median: np.ndarray
    quantiles: np.ndarray
    levels: Sequence[float]
    marks: np.ndarray | None = None
    starts: np.ndarray | None = None


def panel(forecast: "Forecast", levels: Sequence[float]) -> Panel:
    """The panel of a forecast made by `tinytsm.frames.forecast_series` at these levels."""
    return Panel(
        title=forecast.series.name,
        past=forecast.series.timeline.grid,
        values=forecast.series.values,
        future=forecast.index,
        median=forecast.median,
        quantiles=forecast.quantiles,
        levels=levels,
    )


def require_matplotlib() -> None:
    """Raise InputError, with the command that helps, where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError("drawing needs matplotlib; run: pip install 'tinytsm[plot]'") from None


def fan_chart(path: str | Path, panels: Sequence[Panel], *, last: int | None = None) -> int:
    """Draw history, median and nested bands, one panel per series; returns how many panels were drawn.

    last: steps of history to show (None: all). Series beyond MAX_PANELS are left out, and the picture says so.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    if not panels:
        raise InputError("nothing to draw: no series")
    shown = panels[:MAX_PANELS]
    columns = 1 if len(shown) <= 2 else 2 if len(shown) <= 8 else 3
    rows = math.ceil(len(shown) / columns)
    size = (
        (9.6, 4.6)
        if len(shown) == 1
        else (5.8 * columns + (3.4 if columns == 1 else 0), 2.9 * rows + 0.6)
    )
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, one in zip(grid, shown, strict=False):
        _draw_panel(axes, one, last)
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    # one legend serves all panels; they share their levels
    handles = _legend_handles(shown[0].levels)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        labelcolor=_TEXT,
        fontsize=8.5,
    )
    if len(shown) < len(panels):
        figure.suptitle(
            f"the first {len(shown)} of {len(panels):,} series", fontsize=9, color=_TEXT
        )
    save(figure, Path(path))
    return len(shown)


def _draw_panel(axes: "Axes", one: Panel, last: int | None) -> None:
    past, values = _axis_values(one.past), np.asarray(one.values, dtype=np.float64)
    if last is not None:
        past, values = past[-last:], values[-last:]
    future, median, quantiles = _axis_values(one.future), one.median, one.quantiles
    within = len(future) > 0 and future[0] <= past[-1]
    if within:
        shown = future >= past[0]
        future, median, quantiles = future[shown], median[shown], quantiles[shown]
        # of forecasts of one step there would be nothing but holes
        if one.starts is not None and not one.starts.all():
            first = np.flatnonzero(one.starts[shown])
            for at in future[first]:
                axes.axvline(at, color=_TEXT, linewidth=0.6, linestyle=(0, (1, 3)), zorder=2)
            # a hole, because the next forecast knows more
            future = np.insert(future, first, future[first])
            median = np.insert(median, first, np.nan)
            quantiles = np.insert(quantiles, first, np.nan, axis=0)

    seen = np.flatnonzero(~np.isnan(values))
    # from the newest value, so that no gap opens where the forecast starts; a hole before it stays a hole
    joined = not within and len(seen) > 0 and seen[-1] == len(values) - 1
    start, anchor = (past[-1:], values[-1:]) if joined else (future[:0], values[:0])
    x = np.concatenate([start, future])
    nested = bands(one.levels)
    for (low, high, _), alpha in zip(nested, _ALPHAS[len(nested)], strict=True):
        axes.fill_between(
            x,
            np.concatenate([anchor, quantiles[:, low]]),
            np.concatenate([anchor, quantiles[:, high]]),
            color=_MEDIAN,
            alpha=alpha,
            linewidth=0,
        )
    few = len(values) <= 60
    # a lone value between two holes has no line through it
    alone = (
        np.isnan(np.r_[np.nan, values[:-1]])
        & np.isnan(np.r_[values[1:], np.nan])
        & ~np.isnan(values)
    )
    axes.plot(past, values, color=_HISTORY, linewidth=1.2 if few else 0.9, zorder=3)
    axes.plot(past[alone], values[alone], ".", color=_HISTORY, markersize=3, zorder=3)
    axes.plot(
        x,
        np.concatenate([anchor, median]),
        color=_MEDIAN,
        linewidth=1.5,
        zorder=4,
    )
    if len(future) == 1 and not joined:
        axes.plot(x, median, "o", color=_MEDIAN, markersize=3, zorder=4)
    if one.marks is not None:
        marks = one.marks if last is None else one.marks[-last:]
        axes.plot(past[marks], values[marks], "o", color=_MARK, markersize=4.5, zorder=5)
    if not within:
        axes.axvline(past[-1], color=_TEXT, linewidth=0.8, linestyle=(0, (3, 3)), zorder=2)
    _title(axes, one.title if len(one.title) <= 60 else one.title[:57] + "...")
    _dress(axes)
    axes.margins(x=0.01)
    if past.dtype.kind == "M":
        from matplotlib import dates

        locator = dates.AutoDateLocator(minticks=3, maxticks=7)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def _legend_handles(levels: Sequence[float]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    nested = bands(levels)
    # inner bands lie on outer ones, so that what is seen is darker than the band alone
    seen = 1 - np.cumprod(1 - np.array(_ALPHAS[len(nested)]))
    return [
        Line2D([], [], color=_HISTORY, linewidth=1.2, label="history"),
        Line2D([], [], color=_MEDIAN, linewidth=1.5, label="median"),
        *(
            Patch(color=_MEDIAN, alpha=float(alpha), linewidth=0, label=name)
            for (_, _, name), alpha in zip(nested, seen, strict=True)
        ),
    ]


def bands(levels: Sequence[float]) -> list[tuple[int, int, str]]:
    """Up to four (lower, upper, label) pairs of level positions around the median, widest first."""
    order = np.argsort(levels)
    pairs = []
    for low, high in zip(order, order[::-1], strict=True):
        if levels[low] < 0.5 < levels[high] and math.isclose(levels[low] + levels[high], 1):
            pairs.append((int(low), int(high), f"{100 * (levels[high] - levels[low]):.3g} %"))
    if not pairs and len(levels) > 1 and levels[order[0]] < levels[order[-1]]:
        low, high = int(order[0]), int(order[-1])
        pairs = [(low, high, f"{levels[low]:g} to {levels[high]:g}")]
    # every pair would blur; the widest and the narrowest frame the rest
    keep = np.unique(np.linspace(0, len(pairs) - 1, min(4, len(pairs))).round().astype(int))
    return [pairs[i] for i in keep]


def _axis_values(index: Any) -> np.ndarray:
    """Numbers or wall-clock dates, as matplotlib draws them."""
    # a time zone would shift the labels to UTC
    if getattr(index, "tz", None) is not None:
        index = index.tz_localize(None)
    return np.asarray(index)


def _title(axes: "Axes", text: str) -> None:
    # names are the user's: between two dollars matplotlib would read a formula
    axes.set_title(text, loc="left", fontsize=10, parse_math=False)


def _dress(axes: "Axes") -> None:
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b9bec7")
    axes.tick_params(colors=_TEXT, labelsize=8.5, length=3)


def loss_curve(log: str | Path, path: str | Path, *, title: str = "training loss") -> None:
    """Draw a trainer's log: loss against step (log axis), raw and smoothed, with the learning rate below.

    log: CSV with the columns step and loss; lr and tokens are used where they are there. Lines cut short by a
        crash and losses that are not finite are skipped.
    Raises InputError where the log is absent, or holds no step with a finite loss.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    steps, losses, rates, tokens = _read_log(Path(log))
    has_rates = bool(np.isfinite(rates).any())
    figure = Figure(
        figsize=(8, 4.8 if has_rates else 4), dpi=_DPI, layout="constrained", facecolor="white"
    )
    ratios = [4, 1] if has_rates else [1]
    grid = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios).ravel()
    axes, smoothed = grid[0], smooth(losses)
    axes.plot(steps, losses, color=_MEDIAN, alpha=0.25, linewidth=0.7, label="each log line")
    axes.plot(steps, smoothed, color=_MEDIAN, linewidth=1.6, label="smoothed")
    axes.set_xscale("log")
    # the start may tower over all that follows
    low, high = losses.min(), min(smoothed.max(), 5 * np.median(losses))
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - pad, high + pad)
    axes.set_ylabel("loss", color=_TEXT)
    seen = f", {_short_number(tokens[-1])} tokens" if np.isfinite(tokens[-1]) else ""
    _title(axes, f"{title}: {smoothed[-1]:.4g} after {int(steps[-1]):,} steps{seen}")
    axes.legend(frameon=False, fontsize=8.5, labelcolor=_TEXT)
    if has_rates:
        grid[1].plot(steps, rates, color=_HISTORY, linewidth=1)
        grid[1].set_ylabel("lr", color=_TEXT)
        grid[1].set_ylim(bottom=0)
        grid[1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        grid[1].yaxis.get_offset_text().set(fontsize=8, color=_TEXT)
    for one in grid:
        _dress(one)
        one.margins(x=0.01)
    grid[-1].set_xlabel("step", color=_TEXT)
    save(figure, Path(path))


def calibration_chart(
    path: str | Path, groups: Mapping[str, Mapping[str, Any]], *, title: str
) -> None:
    """Draw coverage against level, and the histogram of where labels fall between levels, overall and by group.

    groups: "calibration" of a results file's summary; that of the model is drawn, or of seasonal naive alone.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    curves = {
        group: scores.get("model", scores.get("seasonal_naive"))
        for group, of_group in groups.items()
        if (scores := of_group["scores"])
    }
    if "all" not in curves:
        raise InputError("nothing to draw: no task with a scored label")
    figure = Figure(figsize=(9.6, 4.6), dpi=_DPI, layout="constrained", facecolor="white")
    coverage, histogram = figure.subplots(1, 2)
    coverage.plot([0, 1], [0, 1], color=_TEXT, linewidth=0.8, linestyle=(0, (3, 3)))
    for group, scores in curves.items():
        levels = sorted(scores["coverage"], key=float)
        whole = group == "all"
        coverage.plot(
            [float(level) for level in levels],
            [scores["coverage"][level] for level in levels],
            color=_MEDIAN if whole else _HISTORY,
            alpha=1.0 if whole else 0.18,
            linewidth=1.8 if whole else 0.9,
            marker="o" if whole else None,
            markersize=3,
            zorder=3 if whole else 2,
            label="all tasks" if whole else None,
        )
    coverage.plot([], [], color=_HISTORY, alpha=0.4, label="each group")
    coverage.set_xlabel("quantile level", color=_TEXT)
    coverage.set_ylabel("share of labels at or below", color=_TEXT)
    _title(coverage, title)
    coverage.legend(frameon=False, fontsize=8.5, labelcolor=_TEXT)
    shares = curves["all"]["pit"]
    at = (np.arange(len(shares)) + 0.5) / len(shares)
    histogram.bar(at, shares, width=0.92 / len(shares), color=_MEDIAN, alpha=0.75)
    histogram.axhline(1 / len(shares), color=_TEXT, linewidth=0.8, linestyle=(0, (3, 3)))
    histogram.set_xlabel("place of the label in the forecast distribution", color=_TEXT)
    histogram.set_ylabel("share of labels", color=_TEXT)
    for axes in (coverage, histogram):
        _dress(axes)
    save(figure, Path(path))


def regret_chart(path: str | Path, records: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Draw regret by step ahead, and coverage against level, of each process at its longest context.

    records: those of one forecaster, as `tinytsm.study_calibration.study` returns them.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    newest = {record["process"]: record for record in sorted(records, key=lambda r: r["context"])}
    figure = Figure(figsize=(9.6, 4.6), dpi=_DPI, layout="constrained", facecolor="white")
    regret, coverage = figure.subplots(1, 2)
    coverage.plot([0, 1], [0, 1], color=_TEXT, linewidth=0.8, linestyle=(0, (3, 3)))
    for (process, record), color in zip(newest.items(), _COLORS, strict=False):
        percent = 100 * np.array(record["regret_by_step"])
        regret.plot(np.arange(1, len(percent) + 1), percent, color=color, label=process)
        levels = sorted(record["coverage"], key=float)
        shares = [record["coverage"][level] for level in levels]
        coverage.plot(list(map(float, levels)), shares, color=color, marker="o", markersize=3)
    contexts = sorted({record["context"] for record in newest.values()})
    _title(regret, f"{title}, context {', '.join(map(str, contexts))}")
    regret.set_ylim(bottom=0)
    regret.set_xlabel("steps ahead", color=_TEXT)
    regret.set_ylabel("regret, % of the least expected loss", color=_TEXT)
    regret.legend(frameon=False, fontsize=8.5, labelcolor=_TEXT)
    coverage.set_xlabel("quantile level", color=_TEXT)
    coverage.set_ylabel("probability of a label at or below", color=_TEXT)
    for axes in (regret, coverage):
        _dress(axes)
    save(figure, Path(path))


def strategy_chart(path: str | Path, records: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Draw the loss of each strategy and horizon against its time, both relative to one pass.

    records: as `tinytsm.study_sifi.study` returns them, one pass first.
    """
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(7.2, 4.6), dpi=_DPI, layout="constrained", facecolor="white")
    axes = figure.subplots()
    for i, horizon in enumerate(dict.fromkeys(record["horizon"] for record in records)):
        own = [r for r in records if r["horizon"] == horizon and r["loss"] is not None]
        color = _COLORS[i % len(_COLORS)]
        times = [r["seconds"] / max(own[0]["seconds"], 1e-9) for r in own]
        axes.scatter(times, [r["loss"] for r in own], color=color, s=18, label=f"{horizon} steps")
        for record, at in zip(own, times, strict=True):
            axes.annotate(
                record["strategy"],
                (at, record["loss"]),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=7,
                color=_TEXT,
            )
    _title(axes, title)
    axes.set_xscale("log")
    # 2 and 4, not powers of ten
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter())
    axes.tick_params(which="minor", labelsize=8, colors=_TEXT)
    axes.set_xlabel("time, relative to one pass", color=_TEXT)
    axes.set_ylabel("loss, relative to one pass", color=_TEXT)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=_TEXT, title="horizon", title_fontsize=8.5)
    _dress(axes)
    save(figure, Path(path))


def _read_log(log: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    try:
        with log.open(encoding="utf-8", newline="") as file:
            records = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{log} cannot be read ({error.strerror}); check the path") from None
    if records and not {"step", "loss"} <= records[0].keys():
        raise InputError(
            f"{log} needs the columns step and loss, got {', '.join(map(str, records[0]))}"
        )
    table = np.array(
        [[_number(r.get(name)) for name in ("step", "loss", "lr", "tokens")] for r in records]
    ).reshape(-1, 4)
    table = table[np.isfinite(table[:, 1]) & (table[:, 0] >= 1)]
    if not len(table):
        raise InputError(f"{log} holds no step from 1 on with a finite loss; nothing to draw")
    # a resumed run repeats the steps after its checkpoint: the later line is the one that counts
    _, newest = np.unique(table[::-1, 0], return_index=True)
    steps, losses, rates, tokens = table[len(table) - 1 - newest].T
    return steps, losses, rates, tokens


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def smooth(losses: np.ndarray) -> np.ndarray:
    """Mean over a window that grows with the step, as the eye wants on a log axis: the newest tenth, at most 100."""
    total = np.concatenate([[0.0], np.cumsum(losses, dtype=np.float64)])
    stop = np.arange(1, len(losses) + 1)
    start = stop - np.clip(stop // 10, 1, 100)
    return (total[stop] - total[start]) / (stop - start)


def _short_number(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"


def save(figure: "Figure", path: Path, *, dpi: int = _DPI) -> None:
    """Write a figure to .png, .svg or .pdf, atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=dpi))
