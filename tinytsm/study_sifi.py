"""Accuracy, calibration and time of the forecasting strategies, by stride and horizon, on any data.

    tinytsm study sifi docs/examples/airline.csv --model runs/nano --horizon 12 36
    tinytsm study sifi DIR --model runs/nano --horizon 96 720 --strides 2 4 8 --output sifi.json --plot sifi.png

DATA is a CSV or Parquet file, or an evaluation pack (a folder with manifest.json). The newest windows of every series are
held out, and forecast by one pass, with the mirrored series, by each stride alone, each averaged with stride 1, and the
strides of the rule. Loss is the mean quantile loss of a series relative to that of one pass, geometric mean over series.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from tinytsm import metrics, plot
from tinytsm.errors import InputError
from tinytsm.evaluate import load_model, positive, write_results
from tinytsm.frames import infer_layout, split_frame
from tinytsm.pack import load_tasks, read_series
from tinytsm.scoreboard import text_table
from tinytsm.study import carry_out, new_parser
from tinytsm.tables import read_table

# What every other strategy is measured against.
PLAIN = "one pass"


class Strategist(Protocol):
    """What the study needs: `tinytsm.TinyTSM` is one."""

    def predict_quantiles(
        self, inputs: Any, prediction_length: int, quantile_levels: Any, **options: Any
    ) -> tuple[Any, Any]:
        """inputs: contexts (T,). Returns quantiles (n, H, Q) and mean (n, H)."""
        ...


def strategies(strides: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Options by name: one pass first, then what changes one thing of it."""
    plain = {"strides": (1,), "symmetry": False, "adjust": False}
    found: dict[str, dict[str, Any]] = {
        PLAIN: plain,
        "mirrored": plain | {"symmetry": True},
        "adjusted": plain | {"adjust": True},
        "rule": plain | {"strides": "auto"},
        "rule, mirrored": plain | {"strides": "auto", "symmetry": True},
        "rule, adjusted": plain | {"strides": "auto", "adjust": True},
    }
    for stride in strides:
        found[f"{stride}"] = plain | {"strides": (stride,)}
        found[f"1 and {stride}"] = plain | {"strides": (1, stride)}
    return found


def held_out(
    series: Sequence[np.ndarray], horizon: int, windows: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Which series, context (T,) and labels (H,) of the newest `windows` windows that leave a context of H or more."""
    for i, x in enumerate(series):
        for back in range(1, windows + 1):
            start = len(x) - back * horizon
            labels = x[max(start, 0) : start + horizon]
            if start >= horizon and not np.isnan(labels).all() and not np.isnan(x[:start]).all():
                yield i, x[:start], labels


def study(
    model: Strategist,
    series: Sequence[np.ndarray],
    *,
    horizons: Sequence[int],
    strides: Sequence[int],
    windows: int,
    advance: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """One record per horizon and strategy; horizons that no series is long enough for are left out.

    A record has "horizon", "strategy", "loss" (relative to one pass), "mae" (of the median, likewise), "coverage" of the
    80 % interval, "seconds" of processor time a forecast, "series" and "forecasts". advance: called after each record.
    """
    levels, records = metrics.LEVELS, []
    for horizon in horizons:
        which, contexts, labels = [], [], []
        for i, context, label in held_out(series, horizon, windows):
            which.append(i)
            contexts.append(context)
            labels.append(label)
        plain: tuple[np.ndarray, np.ndarray] | None = None
        if contexts:
            # Untimed: the first call of a process also loads and compiles
            model.predict_quantiles(
                contexts[:1], horizon, list(levels), **strategies(strides)[PLAIN]
            )
        for name, options in strategies(strides).items():
            if contexts:
                began = time.process_time()
                quantiles, _ = model.predict_quantiles(contexts, horizon, list(levels), **options)
                seconds = (time.process_time() - began) / len(contexts)
                found = losses(np.stack(labels), np.asarray(quantiles), np.array(which))
                plain = plain or found[:2]
                records.append(
                    {
                        "horizon": horizon,
                        "strategy": name,
                        "loss": _ratio(found[0], plain[0]),
                        "mae": _ratio(found[1], plain[1]),
                        "coverage": found[2],
                        "seconds": seconds,
                        "series": len(found[0]),
                        "forecasts": len(contexts),
                    }
                )
            advance()
    return records


def losses(
    labels: np.ndarray, quantiles: np.ndarray, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean quantile loss and absolute error of the median of each series, and what share the 80 % interval covers.

    labels: (n, H), NaN where missing. quantiles: (n, H, Q) at the levels of CRPS. which: (n,) the series of each row.
    """
    levels = np.array(metrics.LEVELS)
    error = labels[..., None] - quantiles
    pinball = np.maximum(levels * error, (levels - 1) * error).mean(-1)
    seen = ~np.isnan(labels)
    middle = np.abs(error[..., len(levels) // 2])

    def by_series(values: np.ndarray) -> np.ndarray:
        return np.array([values[which == i][seen[which == i]].mean() for i in np.unique(which)])

    inside = (labels >= quantiles[..., 0]) & (labels <= quantiles[..., -1])
    return by_series(pinball), by_series(middle), float(inside[seen].mean())


def _ratio(ours: np.ndarray, plain: np.ndarray) -> float | None:
    """Geometric mean of ratios, over the series where neither is 0; None where there is none."""
    both = (ours > 0) & (plain > 0)
    return float(np.exp(np.log(ours[both] / plain[both]).mean())) if both.any() else None


def render(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as a text table."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    header = ["horizon", "strategy", "loss", "MAE", "80 % covers", "ms a forecast", "series"]
    rows = [
        [
            str(r["horizon"]),
            r["strategy"],
            number(r["loss"]),
            number(r["mae"]),
            f"{100 * r['coverage']:.1f} %",
            f"{1000 * r['seconds']:.1f}",
            str(r["series"]),
        ]
        for r in records
    ]
    note = f"loss, MAE: relative to {PLAIN}, geometric mean over series; time: of the processor"
    return f"{text_table(header, rows)}\n{note}"


def load_series(data: Path, *, limit: int) -> list[np.ndarray]:
    """At most `limit` series, evenly spread, of a table or of all gift-like tasks of a pack, each data set once."""
    if data.is_dir():
        tasks = {task.dataset: task for task in load_tasks(data, patterns=[], kinds=("gift",))}
        found = [x for task in tasks.values() for x in read_series(task)]
    else:
        table = read_table(data)
        layout, _ = infer_layout(table)
        found = [one.values for one in split_frame(table, layout)[0]]
    if len(found) > limit:
        found = [found[i] for i in np.linspace(0, len(found) - 1, limit).round().astype(int)]
    return [np.asarray(x, np.float64) for x in found]


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("sifi", __doc__ or "")
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="CSV or Parquet file, or pack folder")
    add(
        "--model",
        required=True,
        metavar="PATH",
        help="a checkpoint, a run, or a shipped model's name",
    )
    add(
        "--horizon",
        type=positive,
        nargs="+",
        default=[96, 720],
        metavar="H",
        help="steps to forecast (default: 96 720)",
    )
    add(
        "--strides",
        type=positive,
        nargs="+",
        default=[2, 4, 8],
        metavar="S",
        help="beside 1 (default: 2 4 8)",
    )
    add(
        "--windows",
        type=positive,
        default=2,
        metavar="N",
        help="held out of every series (default: 2)",
    )
    add(
        "--series",
        type=positive,
        default=64,
        metavar="N",
        help="at most, evenly spread (default: 64)",
    )
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--output", type=Path, metavar="FILE", help="JSON of the records")
    add("--plot", type=Path, metavar="FILE", help="picture of loss and time by strategy")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command `tinytsm study sifi`. Returns the exit code: 2 for what cannot be used."""
    return carry_out("sifi", _parser().parse_args(argv), _run)


def _run(args: argparse.Namespace) -> int:
    strides = sorted(set(args.strides) - {1})
    series = load_series(args.data, limit=args.series)
    model: Any = load_model(args.model, args.device)[0]
    settings = {
        "data": args.data.name,
        "model": Path(args.model).resolve().name,
        "horizons": sorted(set(args.horizon)),
        "strides": strides,
        "windows": args.windows,
    }
    print(json.dumps(settings), file=sys.stderr)
    horizons = settings["horizons"]
    with tqdm(total=len(horizons) * len(strategies(strides)), file=sys.stderr) as bar:
        records = study(
            model,
            series,
            horizons=horizons,
            strides=strides,
            windows=args.windows,
            advance=bar.update,
        )
    if not records:
        raise InputError(
            f"{args.data}: no series is twice as long as the horizon {min(horizons)}; give a shorter --horizon"
        )
    if args.output is not None:
        write_results(args.output, {"settings": settings, "records": records})
    if args.plot is not None:
        plot.strategy_chart(args.plot, records, title=settings["data"])
    print(render(records))
    best = {
        h: min((r for r in records if r["horizon"] == h), key=lambda r: r["loss"] or 9.0)
        for h in {r["horizon"] for r in records}
    }
    print(json.dumps({"best": {str(h): r["strategy"] for h, r in sorted(best.items())}}))
    return 0
