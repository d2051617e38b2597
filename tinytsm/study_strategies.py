"""What each forecasting strategy gives and costs on an evaluation pack, all else equal.

    tinytsm study strategies --pack DIR --model nano --output strategies.json
    tinytsm study strategies --pack DIR --model nano --output strategies.json --resume
    tinytsm study strategies --pack DIR --model nano --max-windows 50

Every gift task of the pack is forecast by one pass, and by each strategy with and without: strides by the rule and
fixed ones (SIFI), the mirrored series (symmetry), the series without its seasons (seasonal adjustment), companions
(feature augmentation), and what the efforts are made of. Task by task, so that a busy machine is busy for all of
them. Scores are relative to seasonal naive, geometric means over tasks; cost is time of the processor, relative to
one pass. The table is Markdown.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from tinytsm import evaluate, scoreboard
from tinytsm.evaluate import SeasonalNaive, positive, score, write_results
from tinytsm.metrics import relative
from tinytsm.options import EFFORTS, Strategy
from tinytsm.pack import Task, count_windows, load_published, load_tasks
from tinytsm.result import Forecaster
from tinytsm.study import carry_out, new_parser

# What every other strategy is measured against.
PLAIN = "one pass"
# Groups of tasks that the table shows, as `scoreboard.summarise` names them, and how.
_GROUPS = {"all": "all", "published": "published", "term long": "long term"}


class Strategist(Protocol):
    """What the study needs: `tinytsm.TinyTSM` is one."""

    def with_options(self, **changes: Any) -> Forecaster:
        """The same forecaster with other options (`tinytsm.options.ForecastOptions`)."""
        ...


def strategies() -> dict[str, Strategy]:
    """Strategies by name: one pass first, each alone, and what the efforts add to these."""
    found = {
        PLAIN: Strategy((1,), symmetry=False),
        "symmetry": Strategy((1,), symmetry=True),
        "seasonal adjustment": Strategy((1,), symmetry=False, adjust=True),
        "strides by rule": Strategy(None, symmetry=False),
        "strides 1, 2": Strategy((1, 2), symmetry=False),
        "strides 1, 2, 4": Strategy((1, 2, 4), symmetry=False),
        "companions": Strategy((1,), symmetry=False, augment=True),
        "strides by rule, symmetry": Strategy(None, symmetry=True),
        "strides by rule, adjustment": Strategy(None, symmetry=False, adjust=True),
        "strides by rule, adjustment, symmetry": Strategy(None, symmetry=True, adjust=True),
    }
    others = {name: own for name, own in EFFORTS.items() if own not in found.values()}
    return found | others


def study(
    tasks: Sequence[Task],
    model: Strategist,
    *,
    done: dict[str, dict[str, Any]],
    max_windows: int | None = None,
    advance: Callable[[int], object] = lambda count: None,
    finished: Callable[[], object] = lambda: None,
) -> None:
    """Score every strategy on every task into `done`: strategy to task name to what `evaluate.record` makes.

    What is there already is kept. advance: called with the count of windows after each chunk; finished: after each task.
    """
    warm: set[str] = set()
    for task in tasks:
        naive = None
        for name, strategy in strategies().items():
            records = done.setdefault(name, {})
            if task.name in records:
                continue
            naive = naive or score(
                task, SeasonalNaive(season_length=task.season_length), max_windows=max_windows
            )
            strides = "auto" if strategy.strides is None else strategy.strides
            forecaster = model.with_options(**strategy._asdict() | {"strides": strides})
            if name not in warm:
                # untimed: the first call of a process also loads and compiles what a strategy needs
                score(task, forecaster, max_windows=1)
                warm.add(name)
            scores = score(task, forecaster, max_windows=max_windows, advance=advance)
            records[task.name] = evaluate.record(task, naive=naive, model=scores)
        finished()


def summarise(
    done: Mapping[str, Mapping[str, Any]], published: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One record per strategy, over the tasks that all have.

    A record has "strategy", "effort" (None, or what it is called), "windows" and "all_windows", "groups" (by name: tasks,
    relative mase and crps), "covered" (by the 80 % interval, mean over tasks), "error" (mean distance of coverage from
    its level), "per_second" (forecasts, by the clock), "cpu_seconds", and "cost" (cpu_seconds relative to one pass).
    per_second and cost are None where no time was measured.
    """
    shared = set.intersection(*(set(records) for records in done.values()))
    efforts = {strategy: effort for effort, strategy in EFFORTS.items()}
    rows: list[dict[str, Any]] = []
    for name, strategy in strategies().items():
        results = {task: entry for task, entry in done[name].items() if task in shared}
        summary = scoreboard.summarise(results, published)
        everything = summary["headline"]["gift"]
        calibration = summary["calibration"]["all"]["scores"]["model"]
        coverage = calibration["coverage"]
        own = [entry["model"] for entry in results.values()]
        groups = {
            group: {"tasks": of["tasks"], **of["scores"]["model"]}
            for group, of in summary["gift"].items()
            if group in _GROUPS
        }
        cpu_seconds = sum(scores["cpu_seconds"] for scores in own)
        rows.append(
            {
                "strategy": name,
                "effort": efforts.get(strategy),
                "windows": everything["windows"],
                "all_windows": everything["all_windows"],
                "groups": groups,
                "covered": coverage["0.9"] - coverage["0.1"],
                "error": calibration["error"],
                "per_second": relative(everything["windows"], sum(s["seconds"] for s in own)),
                "cpu_seconds": cpu_seconds,
                "cost": relative(cpu_seconds, rows[0]["cpu_seconds"] if rows else cpu_seconds),
            }
        )
    return rows


def render(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as a Markdown table, with a line on what was scored."""
    groups = records[0]["groups"]
    header = ["strategy", "effort"]
    header += [f"MASE, CRPS: {_GROUPS[group]} ({of['tasks']})" for group, of in groups.items()]
    header += ["80 % covers", "off by", "forecasts/s", "cost"]
    lines = [header, ["---"] * len(header)]
    for r in records:
        lines.append(
            [
                r["strategy"],
                f"`{r['effort']}`" if r["effort"] else "",
                *(f"{_number(of['mase'])}, {_number(of['crps'])}" for of in r["groups"].values()),
                f"{100 * r['covered']:.1f} %",
                _number(r["error"]),
                "-" if r["per_second"] is None else f"{r['per_second']:.0f}",
                "-" if r["cost"] is None else f"{r['cost']:.2f}",
            ]
        )
    windows, every = records[0]["windows"], records[0]["all_windows"]
    scored = (
        f"{windows:,} windows"
        if windows == every
        else f"A SAMPLE: {windows:,} of {every:,} windows"
    )
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return (
        f"{table}\n\n{scored}. Off by: mean distance of coverage from its level. Cost: time of the processor, "
        f"relative to {PLAIN}."
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("strategies", __doc__ or "")
    add = parser.add_argument
    add("--pack", type=Path, required=True, metavar="DIR", help="folder with manifest.json")
    add(
        "--model",
        required=True,
        metavar="PATH",
        help="a checkpoint, a run, or a shipped model's name",
    )
    add("--tasks", nargs="+", default=[], metavar="GLOB", help="only tasks with such a name")
    add("--max-windows", type=positive, metavar="N", help="a sample: at most N windows of a task")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--output", type=Path, metavar="FILE", help="JSON of everything, written after each task")
    add("--resume", action="store_true", help="keep the tasks that --output already holds")
    parser.set_defaults(plot=None)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command `tinytsm study strategies`. Returns the exit code: 2 for what cannot be used."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.resume and args.output is None:
        parser.error("--resume needs --output FILE")
    return carry_out("strategies", args, _run)


def _run(args: argparse.Namespace) -> int:
    tasks = load_tasks(args.pack, patterns=args.tasks, kinds=("gift",))
    published = load_published(args.pack)
    model: Any
    model, files = evaluate.load_model(args.model, args.device)
    # what must agree before a results file is added to
    settings = {
        "manifest": evaluate.fingerprint([args.pack / "manifest.json"]),
        "model": f"{Path(args.model).resolve().name} {evaluate.fingerprint(files)}",
        "max_windows": args.max_windows,
        "strategies": {
            name: own._asdict() | {"strides": own.strides and list(own.strides)}
            for name, own in strategies().items()
        },
    }
    print(json.dumps(settings), file=sys.stderr)
    done: dict[str, dict[str, Any]] = {}
    if args.resume and args.output.exists():
        done = evaluate.read_results(args.output, settings=settings)
    document: dict[str, Any] = {
        "settings": settings,
        "versions": evaluate.versions(),
        "tasks": done,
    }

    def save() -> None:
        if args.output is not None:
            document["records"] = summarise(done, published)
            write_results(args.output, document)

    todo = sum(
        count_windows(task, max_windows=args.max_windows)
        for task in tasks
        for name in strategies()
        if task.name not in done.get(name, {})
    )
    with tqdm(total=todo, unit="forecast", file=sys.stderr) as bar:
        study(
            tasks,
            model,
            done=done,
            max_windows=args.max_windows,
            advance=bar.update,
            finished=save,
        )
    records = summarise(done, published)
    print(render(records))
    print(json.dumps({r["strategy"]: r["groups"]["all"] | {"cost": r["cost"]} for r in records}))
    return 0
