"""Regret and coverage of a model where the best forecast is known.

    tinytsm study calibration --model runs/nano
    tinytsm study calibration --model runs/nano --context 64 512 --count 256 --output study.json --plot study.png

White noise, random walk, AR(1) and a season with noise, at random levels and scales. Regret is the expected quantile
loss, at the levels of CRPS, over that of the forecast that knows the process, less one; both are exact given the path,
so only the paths are random. A part of it is the price of not knowing the process, which falls with the context.
Seasonal naive, told the period, stands beside it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tinytsm import metrics, plot, processes
from tinytsm.errors import InputError
from tinytsm.evaluate import SeasonalNaive, load_model, positive, write_results
from tinytsm.result import Forecaster
from tinytsm.scoreboard import text_table
from tinytsm.study import carry_out, new_parser

_CONTEXTS = (64, 256, 1024)


def study(
    forecasters: dict[str, Callable[[int], Forecaster]],
    *,
    contexts: Sequence[int],
    horizon: int,
    count: int,
    seed: int,
    advance: Callable[[], object] | None = None,
) -> list[dict[str, Any]]:
    """One record per process, context and forecaster.

    forecasters: by name, given the season. count: paths of each process and context; every forecaster sees the same.
    A record has "process", "context", "forecaster", "regret" (mean over paths), "regret_by_step" (horizon), "coverage"
    by level, and "error", the mean distance of coverage from its level. advance: called after each record.
    """
    records = []
    for number, (name, process) in enumerate(processes.PROCESSES.items()):
        for context in contexts:
            rng = np.random.default_rng([seed, number, context])
            paths = process(rng, count=count, length=context, horizon=horizon)
            for who, make in forecasters.items():
                quantiles = _forecast(make, paths, horizon)
                records.append(
                    {"process": name, "context": context, "forecaster": who}
                    | scores(paths, quantiles)
                )
                if advance is not None:
                    advance()
    return records


def scores(paths: processes.Paths, quantiles: np.ndarray) -> dict[str, Any]:
    """Regret and coverage of quantiles (n, H, Q) at the levels of CRPS."""
    levels = metrics.LEVELS
    loss = processes.expected_loss(paths, quantiles, levels).mean(2)
    best = processes.expected_loss(paths, processes.best_quantiles(paths, levels), levels).mean(2)
    coverage = processes.expected_coverage(paths, quantiles).mean((0, 1))
    return {
        "regret": float((loss.mean(1) / best.mean(1)).mean() - 1),
        "regret_by_step": ((loss / best).mean(0) - 1).tolist(),
        "coverage": {str(q): float(c) for q, c in zip(levels, coverage, strict=True)},
        "error": float(np.abs(coverage - levels).mean()),
    }


def _forecast(
    make: Callable[[int], Forecaster], paths: processes.Paths, horizon: int
) -> np.ndarray:
    quantiles = np.empty((*paths.mean.shape, len(metrics.LEVELS)))
    for season in np.unique(paths.season):
        rows = np.flatnonzero(paths.season == season)
        found, _ = make(int(season)).predict_quantiles(
            list(paths.context[rows]), prediction_length=horizon, quantile_levels=[*metrics.LEVELS]
        )
        quantiles[rows] = np.asarray(found)
    return quantiles


def render(records: Sequence[dict[str, Any]]) -> str:
    """The records as a text table."""
    header = ["process", "context", "forecaster", "regret", "80 % covers", "error"]
    rows = [
        [
            r["process"],
            str(r["context"]),
            r["forecaster"],
            f"{100 * r['regret']:.1f} %",
            f"{100 * (r['coverage']['0.9'] - r['coverage']['0.1']):.1f} %",
            f"{r['error']:.3f}",
        ]
        for r in records
    ]
    note = "regret: expected loss over the least possible, less one; error: distance of coverage from its level"
    return f"{text_table(header, rows)}\n{note}"


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("calibration", __doc__ or "")
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="PATH",
        help="a checkpoint, a run, or a shipped model's name",
    )
    add(
        "--context",
        type=positive,
        nargs="+",
        default=list(_CONTEXTS),
        metavar="T",
        help=f"steps of history (default: {' '.join(map(str, _CONTEXTS))})",
    )
    add("--horizon", type=positive, default=96, metavar="H", help="steps to forecast (default: 96)")
    add(
        "--count",
        type=positive,
        default=128,
        metavar="N",
        help="paths per process and context (default: 128)",
    )
    add("--seed", type=int, default=0, metavar="S", help="of the paths (default: 0)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--output", type=Path, metavar="FILE", help="JSON of the records")
    add("--plot", type=Path, metavar="FILE", help="picture of regret and coverage")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command `tinytsm study calibration`. Returns the exit code: 2 for what cannot be used."""
    return carry_out("calibration", _parser().parse_args(argv), _run)


def _run(args: argparse.Namespace) -> int:
    if args.seed < 0:
        raise InputError(f"--seed must be at least 0, got {args.seed}")
    model, _ = load_model(args.model, args.device)
    name = Path(args.model).resolve().name
    settings = {key: getattr(args, key) for key in ("context", "horizon", "count", "seed")}
    print(json.dumps(settings | {"model": args.model}), file=sys.stderr)
    forecasters: dict[str, Callable[[int], Forecaster]] = {
        name: lambda season: model,
        "seasonal naive": lambda season: SeasonalNaive(season_length=season),
    }
    contexts = sorted(set(settings.pop("context")))
    total = len(processes.PROCESSES) * len(contexts) * len(forecasters)
    with tqdm(total=total, unit="record", file=sys.stderr) as bar:
        records = study(forecasters, contexts=contexts, advance=bar.update, **settings)
    document = {"settings": settings | {"context": contexts, "model": name}, "records": records}
    if args.output is not None:
        write_results(args.output, document)
    if args.plot is not None:
        plot.regret_chart(args.plot, [r for r in records if r["forecaster"] == name], title=name)
    print(render(records))
    ours = {r["process"]: r["regret"] for r in records if r["forecaster"] == name}
    print(json.dumps({"regret_at_longest_context": ours}))
    return 0
