"""Every figure that a machine with a GPU can give, in one command and under ten minutes.

    python -m bench.gpu                                   everything
    python -m bench.gpu --section kernels --minutes 5     a part: kernels, step or memory
    TINYTSM_BENCH_TINY=1 python -m bench.gpu --device cpu  the same way through, small, without a GPU

Each part is a process of its own with its share of the time; a part that fails, is missing a package or runs out of
time costs nothing but itself, and what it had measured is on disk. Last come the tables and plots of all that there
is. It needs torch; pytest and pytest-benchmark for most parts, matplotlib for the plots. Nothing is downloaded.
The exit code is 1 if a part failed. One line of JSON comes last.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import record, timebox, verify
from bench.record import ROOT, TINY

SECTIONS = ("kernels", "step", "memory")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A process: its section, its share of the time, its modules, and its command after the interpreter."""

    name: str
    section: str
    minutes: float
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    # of these only the files that are there; without any, there is nothing to run
    files: tuple[str, ...] = ()


def _pytest(name: str, section: str, minutes: float, *files: str, save: bool = True) -> Part:
    flags: tuple[str, ...] = ("-q", "-p", "no:cacheprovider")
    if save:
        flags += ("--benchmark-only", "--benchmark-columns=median")
    return Part(
        name=name,
        section=section,
        minutes=minutes,
        command=("-m", "pytest", *flags),
        needs=("pytest", "pytest_benchmark") if save else ("pytest",),
        files=files,
    )


PARTS = (
    *(_pytest(f"tests of {op}", "kernels", 2.0, f"tests/test_{op}.py", save=False) for op in verify.OPS),
    _pytest("attention", "kernels", 2.5, "bench/bench_attention.py"),
    _pytest("kernels", "kernels", 3.0, "bench/bench_kernels.py"),
    Part(
        name="breakdown", section="step", minutes=1.5,
        command=("-m", "bench.step", "breakdown"), needs=("numba",),
    ),
    _pytest("train", "step", 3.0, "bench/bench_train.py"),
    _pytest("forecast", "step", 1.5, "bench/bench_forecast.py"),
    Part(
        name="memory", section="memory", minutes=2.0,
        command=("-m", "bench.step", "memory"), needs=("numba",),
    ),
    _pytest("other gpu tests", "memory", 1.5, "tests", save=False),
)  # fmt: skip


def _command(part: Part, minutes: float, out: Path) -> list[str]:
    command = [*part.command, *(f for f in part.files if (ROOT / f).exists())]
    if part.files and not part.command[-1].startswith("--benchmark"):
        if part.files != ("tests",):
            return [*command, "-x"]
        # an op's tests run whole, in a part of their own; of all others only those that want a GPU
        ops = (f"--ignore=tests/test_{op}.py" for op in verify.OPS)
        return [*command, "-m", "gpu", *ops]
    if part.files:
        return [*command, "--save", str(out), "--minutes", f"{0.9 * minutes:.2f}"]
    return [*command, "--out", str(out), "--minutes", f"{0.8 * minutes:.2f}"]


def run_part(part: Part, *, minutes: float, out: Path, env: dict[str, str]) -> dict[str, Any]:
    """Run one part, its output to a log beside the results; returns its row of the summary."""
    row: dict[str, Any] = {"part": part.name, "section": part.section, "seconds": 0.0}
    if missing := [name for name in part.needs if find_spec(name) is None]:
        return row | {"outcome": "skipped", "why": f"not installed: {', '.join(missing)}"}
    if part.files and not any((ROOT / file).exists() for file in part.files):
        return row | {"outcome": "skipped", "why": f"no {', '.join(part.files)} here"}
    if minutes <= 0:
        return row | {"outcome": "skipped", "why": "the time box is spent"}
    log = out / "logs" / f"{part.name.replace(' ', '-')}.log"
    # an earlier run's does not count
    log.unlink(missing_ok=True)
    began = time.monotonic()
    process = timebox.start(_command(part, minutes, out), log=log, env=env)
    code = timebox.finish(process, 60 * minutes)
    text = log.read_text(errors="replace")
    outcome = verify.verdict(code, text if part.files else None)
    row |= {"outcome": outcome, "seconds": round(time.monotonic() - began, 1)}
    lines = text.strip().splitlines()
    if row["outcome"] != "passed" and lines:
        row["why"] = lines[-1][:200]
    return row


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--minutes", type=float, default=9.5, help="of all parts together")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="folder of results")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    deadline = time.monotonic() + 60 * args.minutes
    device = record.pick_device(args.device)
    out = args.out or record.default_folder()
    folder = (out / record.slug(record.machine(device))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = folder / "verdicts.json"
    known: dict[str, str] = {}
    env = {
        **timebox.environment(),
        "TINYTSM_BENCH_DEVICE": device.type,
        verify.VERDICTS: str(verdicts),
    }
    chosen = [part for part in PARTS if part.section in args.section]
    # one section alone gets more of the time than it would have among others
    roomier = max(1.0, args.minutes / sum(part.minutes for part in chosen))

    def run(part: Part) -> dict[str, Any]:
        # some stays for tables and plots
        left = (deadline - time.monotonic()) / 60 - 0.5
        minutes = min(roomier * part.minutes, left)
        return run_part(part, minutes=minutes, out=out.resolve(), env=env)

    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print(f"{row['part']}: {row['outcome']} {row.get('why', '')}".strip(), file=sys.stderr)
        summary = {"device": device.type, "tiny": TINY, "commit": record.commit(), "parts": rows}
        record.write_json(summary, folder / "parts.json")

    tests = [part for part in chosen if part.name.startswith("tests of ")]
    # they compile more than they run, and are not timed: all at once
    with ThreadPoolExecutor(max(1, len(tests))) as pool:
        for part, row in zip(tests, pool.map(run, tests), strict=True):
            keep(row)
            known[part.name.removeprefix("tests of ")] = row["outcome"]
    record.write_json(known, verdicts)
    for part in chosen:
        if part not in tests:
            keep(run(part))
    command = [sys.executable, "-m", "bench.report", "--results", str(out)]
    code = subprocess.run(command, check=False, cwd=ROOT, env=env).returncode
    failed = [row["part"] for row in rows if row["outcome"] in ("failed", "out of time")]
    print(json.dumps({"results": str(folder), "failed": failed, "report": code}))
    return 1 if failed or code else 0


if __name__ == "__main__":
    sys.exit(main())
