"""Rebuild every table that is made from results: those of the pages, and one report per machine.

    python -m bench.report                    README.md, docs, bench/results/*/report.md and their plots
    python -m bench.report --check            write nothing; exit code 1 where a text would change
    python -m bench.report --accept results.json --name nano-hour --preset nano \
        --label "nano, one hour of CPU" --trained "19.3 M made-up patches"

The last takes a results file of `tinytsm evaluate` (gift or ltsf tasks) or of `tinytsm study strategies` into
bench/results/accuracy, ltsf or strategies. On a page a table stands between `<!-- bench:NAME -->` and
`<!-- /bench:NAME -->`; what stands there is replaced, all else is left alone.
"""

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import record, tables
from bench.record import ROOT

# Pages with marked tables.
PAGES = tuple(ROOT / name for name in ("README.md", "docs/forecasting.md", "docs/benchmarks.md"))
# Sections with one document per model instead of one per machine.
BY_MODEL = ("accuracy", "ltsf", "strategies")
# Name of a marked table to the section that it is made from, its function, and what measures it.
TABLES: dict[str, tuple[str, Callable[[Sequence[Any]], str], str]] = {
    "training": ("train", tables.training, "make bench-cpu"),
    "generator": ("synth", tables.generator, "make bench-cpu"),
    "forecasting": ("forecast", tables.forecasting, "make bench-cpu"),
    "peers": ("peers", tables.peers, "python -m bench.peers"),
    "accuracy": ("accuracy", tables.accuracy, "tinytsm evaluate --kinds gift"),
    "ltsf": ("ltsf", tables.ltsf, "tinytsm evaluate --kinds ltsf"),
    "strategies": ("strategies", tables.strategies, "tinytsm study strategies"),
}
_MARKED = re.compile(r"(<!-- bench:(\w+) -->\n)(.*?)(<!-- /bench:\2 -->)", re.DOTALL)


def documents(results: Path, section: str) -> list[dict[str, Any]]:
    """What is committed of a section."""
    if section in BY_MODEL:
        return record.by_model(results, section)
    return record.read_all(results, section)


def marked(text: str, results: Path) -> str:
    """A page with every marked table rebuilt. Raises ValueError for a marker that names no table."""

    def rebuilt(match: re.Match[str]) -> str:
        opening, name, _, closing = match.groups()
        if name not in TABLES:
            raise ValueError(f"a page marks a table {name!r}; there are {', '.join(TABLES)}")
        section, build, command = TABLES[name]
        found = documents(results, section)
        body = build(found) if found else f"Not measured yet: `{command}`."
        return f"{opening}\n{body}\n\n{closing}"

    return _MARKED.sub(rebuilt, text)


def machine_report(folder: Path) -> str | None:
    """All sections of one machine as one page, or None if there are none."""
    parts, named = [], None
    for section, (title, build) in tables.SECTIONS.items():
        found = [d for d in record.read_all(folder.parent, section) if _folder(d) == folder.name]
        if found:
            named = found[0]["machine"]["device"]
            parts.append(f"## {title}\n\n{build(found)}\n")
    if named is None:
        return None
    head = f"# {named}\n\nMade by `python -m bench.report` from the JSON files beside it.\n"
    return "\n".join([head, *parts])


def _folder(document: Any) -> str:
    return record.slug(document["machine"])


def outputs(results: Path) -> dict[Path, str]:
    """Every text that follows from the results, by path."""
    texts: dict[Path, str] = {}
    # other folders hold trials
    if results.resolve() == record.RESULTS:
        texts |= {page: marked(page.read_text(), results) for page in PAGES}
    for folder in sorted(p for p in results.glob("*") if p.is_dir() and p.name not in BY_MODEL):
        page = machine_report(folder)
        if page is not None:
            texts[folder / "report.md"] = page
    return texts


def accept(
    source: Path, results: Path, *, name: str, preset: str, label: str, trained: str
) -> Path:
    """Keep a results file, without the paths of the machine that made it, and of a study's without single tasks."""
    import torch

    from tinytsm.config import PRESETS
    from tinytsm.model import Model

    document = json.loads(source.read_text())
    for key in ("model_path", "pack", "device", "chunk"):
        document["settings"].pop(key, None)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Model(PRESETS[preset]).parameters())
    head = {"label": label, "trained": trained, "parameters": parameters}
    if "records" in document:
        section = "strategies"
        document.pop("tasks")
    else:
        section = "accuracy" if "gift" in document["summary"] else "ltsf"
    path = results / section / f"{name}.json"
    record.write_json(head | document, path)
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="only tell whether a text differs")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of results")
    parser.add_argument("--no-plots", action="store_true", help="texts only")
    parser.add_argument("--accept", type=Path, metavar="FILE", help="a results file to take in")
    for flag in ("name", "preset", "label", "trained"):
        parser.add_argument(f"--{flag}", help=f"with --accept: its {flag}")
    args = parser.parse_args(argv)
    if args.accept is not None:
        about = {flag: getattr(args, flag) for flag in ("name", "preset", "label", "trained")}
        if absent := [f"--{flag}" for flag, value in about.items() if value is None]:
            parser.error(f"--accept needs {', '.join(absent)} as well")
        print(f"kept {accept(args.accept, args.results, **about)}", file=sys.stderr)
    differing = []
    for path, text in outputs(args.results).items():
        old = path.read_text() if path.exists() else ""
        if old == text:
            continue
        differing.append(str(path))
        if args.check:
            diff = difflib.unified_diff(
                old.splitlines(), text.splitlines(), "is", "wanted", lineterm=""
            )
            print(f"{path} differs from the results; run: python -m bench.report", *diff, sep="\n")
        else:
            record.write_text(text, path)
    drawn = [] if args.check or args.no_plots else _draw(args.results)
    print(json.dumps({"changed": differing, "plots": drawn}))
    return 1 if args.check and differing else 0


def _draw(results: Path) -> list[str]:
    try:
        from bench import plots
    except ImportError as error:
        print(f"no plots: {error}; run: pip install 'tinytsm[plot]'", file=sys.stderr)
        return []
    return [str(path) for path in plots.draw(results)]


if __name__ == "__main__":
    sys.exit(main())
