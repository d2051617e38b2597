"""Score a model on an evaluation pack: tasks, windows, tables.

    tinytsm evaluate --pack data --baselines-only
    tinytsm evaluate --pack data --model runs/nano --kinds gift --output results.json
    tinytsm evaluate --pack data --model runs/nano --kinds gift --max-windows 20
    tinytsm evaluate --pack data --model runs/nano --tasks 'ett*/short' 'etth1/ltsf/*'
    tinytsm evaluate --pack data --model runs/nano --output results.json --resume
    tinytsm evaluate --gift-eval gift --model runs/nano --output results.json --csv all_results.csv
    tinytsm evaluate --compare a.json b.json

A pack is a folder with manifest.json (data sets, tasks, rules) and one Parquet table per data set; baselines.json
(classical models) and published.json (other models' published scores) are shown beside ours where they lie there.
Tasks are named `dataset/short|medium|long` (kind gift: MASE, CRPS) and `dataset/ltsf/HORIZON` (kind ltsf: MSE, MAE
in standardised units). Every variate is forecast on its own. --gift-eval takes the benchmark's own data folder and
--csv writes its results table. docs/evaluation.md tells the protocol and the format of the results.
"""

import argparse
import hashlib
import importlib.metadata
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tinytsm import __version__, compare, gift_eval, metrics, options, plot, scoreboard
from tinytsm.errors import InputError
from tinytsm.files import check_output, write_text
from tinytsm.inputs import blank_as_zeros
from tinytsm.pack import (
    SCORES,
    PackError,
    Task,
    count_windows,
    field_of,
    load_baselines,
    load_published,
    load_tasks,
    read_json,
    read_series,
    windows,
)
from tinytsm.result import Forecaster


@dataclass(frozen=True, kw_only=True)
class SeasonalNaive:
    """The forecaster that every score is divided by."""

    season_length: int

    def predict_quantiles(
        self, inputs: list[np.ndarray], prediction_length: int, quantile_levels: list[float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Forecaster` says: the last season again, with the spread of its own errors."""
        pairs = [
            metrics.seasonal_naive(
                x, horizon=prediction_length, season=self.season_length, levels=quantile_levels
            )
            for x in inputs
        ]
        return np.stack([q for q, _ in pairs]), np.stack([point for _, point in pairs])


def score(
    task: Task,
    forecaster: Forecaster,
    *,
    chunk: int = 1024,
    stride: int = 1,
    max_windows: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """A forecaster's scores on a task (`metrics.Scores.result`; mse and mae alone for ltsf), with counts and seconds.

    Seconds are those of the forecaster alone, by the clock and of all its threads together (cpu_seconds).
    chunk: windows forecast at a time, which bounds the memory. advance: called with the count of windows after each.
    """
    series = read_series(task)
    # long-term scores need the median and the mean only
    levels = (*metrics.LEVELS, *metrics.INTERVAL) if task.kind == "gift" else (0.5,)
    total, forecasts, seconds, cpu_seconds = metrics.Scores(levels=levels), 0, 0.0, 0.0
    pairs = windows(task, series, stride=stride, max_windows=max_windows)
    while batch := list(itertools.islice(pairs, chunk)):
        contexts = [context for context, _ in batch]
        asked = [blank_as_zeros(context) for context in contexts]
        began, cpu_began = time.perf_counter(), time.process_time()
        quantiles, mean = forecaster.predict_quantiles(
            asked, prediction_length=task.horizon, quantile_levels=list(levels)
        )
        seconds += time.perf_counter() - began
        cpu_seconds += time.process_time() - cpu_began
        units = None
        if task.kind == "gift":
            units = [metrics.seasonal_error(x, task.season_length) for x in contexts]
        try:
            total.update(
                np.stack([labels for _, labels in batch]),
                quantiles=np.asarray(quantiles),
                mean=np.asarray(mean),
                seasonal_errors=units,
            )
        except ValueError as error:
            raise ValueError(f"{task.name}: {error}") from error
        forecasts += len(batch)
        if advance is not None:
            advance(len(batch))
    result = total.result()
    if task.kind == "ltsf":
        result = {key: result[key] for key in ("mse", "mae", "points")}
    return result | {
        "forecasts": forecasts,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
    }


def record(
    task: Task,
    *,
    naive: Mapping[str, Any],
    model: Mapping[str, Any] | None = None,
    baselines: Mapping[str, Mapping[str, float | None]] | None = None,
) -> dict[str, Any]:
    """A task's entry in the results: what it is, both forecasters' scores, their ratio, the baselines' ratios."""
    entry: dict[str, Any] = {
        "dataset": task.dataset,
        "base": task.base,
        "kind": task.kind,
        "term": task.term,
        "freq": task.freq,
        "domain": task.domain,
        "season_length": task.season_length,
        "horizon": task.horizon,
        "series": task.series,
        "variates": task.variates,
        "windows": naive["forecasts"],
        "all_windows": task.series * task.windows,
        "seasonal_naive": dict(naive),
        "baselines": {name: dict(scores) for name, scores in (baselines or {}).items()},
    }
    if model is not None:
        entry["model"] = dict(model)
        entry["relative"] = {
            key: metrics.relative(model[key], naive[key]) for key in SCORES[task.kind]
        }
    return entry


def write_results(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a results file by this document in one step, so that a reader or a kill never meets half of one."""
    # NaN is no JSON; a score that is undefined is None
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def versions() -> dict[str, str]:
    """What computed the results."""
    own = {"tinytsm": __version__, "python": platform.python_version()}
    return own | {
        module: importlib.metadata.version(module) for module in ("numba", "numpy", "torch")
    }


def read_results(path: Path, *, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The finished tasks of a results file. Raises PackError if they were scored under other settings, or by others."""
    document = read_json(path)
    old = field_of(document, "settings", path)
    for key, wanted in settings.items():
        if (got := field_of(old, key, path)) != wanted:
            raise PackError(
                f"{path} was made with {key} {got!r}, not {wanted!r}: choose another --output"
            )
    # the file names one set of versions for all of its tasks
    if (got := field_of(document, "versions", path)) != (wanted := versions()):
        raise PackError(f"{path} was made by {got}, not {wanted}: choose another --output")
    return field_of(document, "tasks", path)


def fingerprint(files: Sequence[Path]) -> str:
    """A hash of names and contents, so that scores of two models or packs never mix in one results file."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def load_model(
    path: str | Path, device: str, chosen: options.ForecastOptions | None = None
) -> tuple[Forecaster, list[Path]]:
    """The model of a checkpoint, a run or a name, and the files that make it what it is. Raises PackError."""
    # torch is slow to import and --baselines-only needs none
    from tinytsm import checkpoint
    from tinytsm.forecast import TinyTSM

    try:
        folder = checkpoint.resolve(path)
        model = TinyTSM.from_pretrained(folder, device=device)
    except (OSError, ValueError) as error:
        raise PackError(f"cannot load {path}: {' '.join(str(error).split())}") from error
    changed = {} if chosen is None else asdict(chosen)
    return model.with_options(**changed), checkpoint.forecasting_files(folder)


def positive(text: str) -> int:
    """A flag's value as a count from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    if unknown := set(kinds) - set(SCORES):
        raise argparse.ArgumentTypeError(f"must be of {','.join(SCORES)}, got {unknown.pop()!r}")
    return kinds


def _parser() -> argparse.ArgumentParser:
    manual, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="tinytsm evaluate",
        description=manual,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pack", type=Path, metavar="DIR", help="folder with manifest.json")
    source.add_argument("--gift-eval", type=Path, metavar="DIR", help="GIFT-Eval's data folder")
    source.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A", "B"),
        help="two results files: how much better A is, with an interval",
    )
    add("--model", metavar="PATH", help="checkpoint or run folder, or the name of a shipped model")
    add("--baselines-only", action="store_true", help="seasonal naive alone, without a model")
    add("--tasks", nargs="+", default=[], metavar="GLOB", help="only tasks with such a name")
    add("--kinds", type=_kinds, default=tuple(SCORES), help="gift, ltsf or gift,ltsf (the default)")
    add("--output", type=Path, metavar="FILE", help="JSON of every task, written after each one")
    add("--csv", type=Path, metavar="FILE", help="GIFT-Eval's all_results.csv, with --gift-eval")
    add("--calibration", type=Path, metavar="FILE", help="picture of coverage and histogram")
    add("--resume", action="store_true", help="keep the tasks that --output already holds")
    add("--max-windows", type=positive, metavar="N", help="a sample: at most N windows of a task")
    add("--ltsf-stride", type=positive, default=1, metavar="N", help="ltsf: every N-th window")
    add("--chunk", type=positive, default=1024, metavar="N", help="windows in memory at a time")
    add("--device", default="auto", help="auto, cpu or cuda")
    options.add_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command `tinytsm evaluate`. Returns the exit code: 2 for a pack or model that cannot be used."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.compare is None and (args.model is None) != args.baselines_only:
        parser.error("give either --model PATH or --baselines-only")
    if args.resume and args.output is None:
        parser.error("--resume needs --output FILE")
    if args.csv is not None and args.gift_eval is None:
        parser.error("--csv needs --gift-eval DIR")
    try:
        args.options = options.from_flags(args)
    except ValueError as error:
        parser.error(str(error))
    try:
        return _run(args) if args.compare is None else _compare(*args.compare)
    except (PackError, InputError) as error:
        print(f"tinytsm evaluate: error: {error}", file=sys.stderr)
        return 2


def _source(args: argparse.Namespace) -> tuple[list[Task], list[Path], dict[str, Any], Any]:
    """Tasks, the files that say what they are, and the scores of others: baselines and published models."""
    if args.gift_eval is not None:
        tasks = gift_eval.load_tasks(args.gift_eval, patterns=args.tasks)
        return tasks, gift_eval.state_files(args.gift_eval), {}, None
    tasks = load_tasks(args.pack, patterns=args.tasks, kinds=args.kinds)
    manifest = args.pack / "manifest.json"
    return tasks, [manifest], load_baselines(args.pack), load_published(args.pack)


def _compare(a: Path, b: Path) -> int:
    comparison = compare.compare(*(field_of(read_json(p), "tasks", p, dict) for p in (a, b)))
    print(compare.render(comparison, names=(a.stem, b.stem)))
    print(json.dumps(comparison))
    return 0


def _run(args: argparse.Namespace) -> int:
    tasks, manifests, baselines, published = _source(args)
    # what must agree before a results file is added to
    settings = {
        "manifest": fingerprint(manifests),
        "model": None,
        "ltsf_stride": args.ltsf_stride,
        "max_windows": args.max_windows,
        "options": json.loads(json.dumps(asdict(args.options))),
    }
    for path, suffixes in (
        (args.output, (".json",)),
        (args.csv, (".csv",)),
        (args.calibration, plot.SUFFIXES),
    ):
        if path is not None:
            check_output(path, suffixes)
    if args.calibration is not None:
        plot.require_matplotlib()
    name, forecaster = "seasonal naive", None
    if args.model is not None:
        forecaster, files = load_model(args.model, args.device, args.options)
        name = Path(args.model).resolve().name
        settings["model"] = f"{name} {fingerprint(files)}"
    done: dict[str, Any] = {}
    if args.resume and args.output.exists():
        done = read_results(args.output, settings=settings)
    kinds = {task.kind for task in tasks} | {entry["kind"] for entry in done.values()}
    if args.calibration is not None and "gift" not in kinds:
        raise PackError("--calibration draws gift tasks, got ltsf tasks alone: leave it out")
    where = {
        "model_path": args.model,
        "pack": str(args.pack or args.gift_eval),
        "device": args.device,
    }
    document: dict[str, Any] = {
        "settings": settings | where | {"chunk": args.chunk},
        "versions": versions(),
        "tasks": done,
    }
    print(json.dumps(document["settings"]), file=sys.stderr)
    todo = [task for task in tasks if task.name not in done]
    subset = {"stride": args.ltsf_stride, "max_windows": args.max_windows}
    total = sum(count_windows(task, **subset) for task in todo)
    try:
        with tqdm(total=total, unit="window", file=sys.stderr) as bar:
            for task in todo:
                bar.set_description(task.name)
                options = subset | {"chunk": args.chunk}
                naive = score(task, SeasonalNaive(season_length=task.season_length), **options)
                model = None
                if forecaster is not None:
                    model = score(task, forecaster, advance=bar.update, **options)
                else:
                    bar.update(naive["forecasts"])
                done[task.name] = record(
                    task, naive=naive, model=model, baselines=baselines.get(task.name)
                )
                if args.output is not None:
                    document["summary"] = scoreboard.summarise(done, published)
                    write_results(args.output, document)
                if args.csv is not None:
                    write_text(args.csv, gift_eval.all_results(done, name))
    except KeyboardInterrupt:
        kept = "nothing is kept without --output"
        if args.output is not None:
            kept = f"{args.output} keeps {len(done)} tasks, --resume goes on"
        print(f"interrupted: {kept}", file=sys.stderr)
        return 130
    if args.csv is not None and not todo:
        write_text(args.csv, gift_eval.all_results(done, name))
    summary = scoreboard.summarise(done, published)
    print(scoreboard.render(done, summary, name=name))
    if args.calibration is not None:
        plot.calibration_chart(args.calibration, summary["calibration"], title=name)
    print(json.dumps(summary["headline"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
