"""One short visit to a machine with a GPU: prove the kernels, time them, train with all the time that is left.

    python -m bench.visit --seconds 580 --plan bench/visit.json       prove, time, then train
    python -m bench.visit --parts proofs timings --seconds 250       look first
    python -m bench.visit --parts training --seconds 500             then train, or go on training

The plan names the runs, which train side by side on the one GPU, and their trainer flags:
{"runs": {"tiny": ["--preset", "tiny", "--lr", "2e-3"]}}; the time is the visit's. A run that was there before goes on,
one that was complete with its learning rate raised again, and may be given other flags. First of all the generator and
the network are compiled while the kernels' tests run; if a test fails or the compiled step is slower than --floor
tokens/s, nothing is trained, since a fix is worth more than a bad run.
Whatever happens, what there is lies under --out: logs, benchmark results and runs; and under --releases a release of each
run's newest checkpoint, made again with each: where that folder outlives the machine, only what came after the last
checkpoint (--save-seconds) can be lost. One line of JSON comes last.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import timebox, verify
from bench.record import write_json
from tinytsm import checkpoint

PARTS = ("proofs", "timings", "training")
_TRAIN = ("-m", "tinytsm.train", "--eval-seconds", "0")
# What the kernels' tests, and the timings, may take; compiling `tiny`, which happens beside the tests, took 153 s once
_PROOF_SECONDS, _TIMING_SECONDS = 230, 165
# Kept for the last checkpoints and the exports, which took 14 and over 11 s; what a start costs at least
_CLOSING_SECONDS, _STARTING_SECONDS = 60, 20
# The largest preset's step by every path
_STEP = "bench_step and tiny"
_PYTEST = ("-m", "pytest", "-q", "-W", "default")


class Visit:
    """Processes with logs and deadlines, and what became of them."""

    def __init__(self, out: Path, seconds: float):
        self.out, self.end = out, time.monotonic() + seconds
        self.rows: dict[str, dict[str, Any]] = {}
        out.mkdir(parents=True, exist_ok=True)
        self.env = timebox.environment()

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def start(self, name: str, *arguments: str) -> subprocess.Popen:
        """Python with these arguments, its output in a log."""
        self.rows[name] = {"outcome": "running", "began": time.monotonic()}
        return timebox.start(arguments, log=self.out / f"{name}.log", env=self.env)

    def test(self, name: str, *arguments: str) -> subprocess.Popen:
        """pytest with these arguments, in a log without an earlier visit's outcome."""
        (self.out / f"{name}.log").unlink(missing_ok=True)
        return self.start(name, *_PYTEST, *arguments)

    def wait(self, name: str, process: subprocess.Popen, seconds: float) -> bool:
        """Whether it ended well within so many seconds from now; a process that did not is killed with its helpers."""
        code = timebox.finish(process, max(1.0, seconds))
        outcome = "out of time" if code is None else "passed" if code == 0 else f"exit {code}"
        row = self.rows[name]
        row |= {"outcome": outcome, "seconds": round(time.monotonic() - row.pop("began"), 1)}
        print(f"{name}: {outcome}, {row['seconds']} s, {self.left:.0f} s left", file=sys.stderr)
        return outcome == "passed"

    def run(self, name: str, *arguments: str, seconds: float) -> bool:
        return self.wait(name, self.start(name, *arguments), min(seconds, self.left))


def prove(visit: Visit, runs: dict[str, list[str]]) -> bool:
    """The ops' tests on the GPU; meanwhile everything is compiled that timings and training need."""
    cores = (os.cpu_count() or 1) // (2 * len(verify.OPS))
    workers = ["-n", str(max(1, cores))] if find_spec("xdist") else []
    files = {op: f"tests/test_{op}.py" for op in verify.OPS}
    # a process for each op: a fault of one on the device says nothing of the others
    proofs = {
        f"tests-{op}": visit.test(
            f"tests-{op}", "-p", "no:benchmark", *workers, "-m", "not gpu", file
        )
        for op, file in files.items()
    }
    # large sizes: some 40 GB together
    at_size = {"graphs": "tests/test_graphs.py"} | files
    for name, file in at_size.items():
        proofs[f"large-{name}"] = visit.test(f"large-{name}", "-m", "gpu", file)
    began = time.monotonic()
    visit.run("generator", "-c", "from tinytsm import data; data.prepare()", seconds=_PROOF_SECONDS)
    for name, flags in runs.items():
        # the last flag of a name counts
        few = ["--steps", "30", "--max-seconds", "0", "--out", str(visit.out / "smoke" / name)]
        proofs[f"smoke-{name}"] = visit.start(f"smoke-{name}", *_TRAIN, *flags, *few)
    proofs["warm-timings"] = visit.start(
        "warm-timings", *_PYTEST, "--benchmark-disable", "-k", _STEP, "bench/bench_train.py"
    )
    good = True
    for name, process in proofs.items():
        left = _PROOF_SECONDS - (time.monotonic() - began)
        passed = visit.wait(name, process, left)
        if passed and name.startswith(("tests-", "large-")):
            outcome = verify.verdict(0, (visit.out / f"{name}.log").read_text(errors="replace"))
            visit.rows[name]["outcome"] = outcome
            passed = outcome == "passed"
        good &= passed or name == "warm-timings"
    # no benchmark need find out again
    verdicts = {}
    for op in verify.OPS:
        found = [visit.rows[f"{part}-{op}"]["outcome"] for part in ("tests", "large")]
        verdicts[op] = next((outcome for outcome in found if outcome != "passed"), "passed")
    write_json(verdicts, visit.out / "verdicts.json")
    visit.env[verify.VERDICTS] = str(visit.out / "verdicts.json")
    return good


def take_times(visit: Visit) -> float:
    """Benchmarks in their boxes; tokens/s of the compiled step, 0 where it was not timed."""
    results = visit.out / "results"
    # an earlier visit's rate is not this one's
    for old in results.glob("*/train.json"):
        old.unlink()
    end = visit.left - _TIMING_SECONDS
    for name, share, selection in (
        ("train", 0.46, _STEP),
        ("attention", 0.18, "causal and 128-64"),
        ("kernels", 0.18, "bench_op and nano and (embed or loss)"),
        ("forecast", 0.08, "tiny"),
    ):
        seconds = share * _TIMING_SECONDS
        flags = ["--benchmark-only", "--benchmark-columns=median"]
        flags += ["--save", str(results), "--minutes", f"{0.8 * seconds / 60:.3f}", "-k", selection]
        visit.run(
            f"bench-{name}",
            *(*_PYTEST, f"bench/bench_{name}.py", *flags),
            seconds=min(1.5 * seconds, visit.left - end),
        )
    flags = ["--preset", "tiny", "--path", "compiled", "--tokens", str(1 << 16)]
    visit.run(
        "breakdown",
        *("-m", "bench.step", "breakdown", *flags, "--out", str(results)),
        seconds=max(visit.left - end, 0.1 * _TIMING_SECONDS),
    )
    rows = [r for p in results.glob("*/train.json") for r in json.loads(p.read_text())["rows"]]
    # a row whose benchmark failed has no rate
    return next((r.get("tokens/s", 0.0) for r in rows if r["rival"] == "shipped compiled"), 0.0)


def _start_training(visit: Visit, name: str, flags: list[str]) -> subprocess.Popen:
    folder = visit.out / name
    going = ["--resume"] if checkpoint.newest(folder) else []
    if going and "--init-from" in flags:
        at = flags.index("--init-from")
        flags = flags[:at] + flags[at + 2 :]
    ends = f"{max(1.0, visit.left - _CLOSING_SECONDS):.0f}"
    arguments = [*_TRAIN, *flags, *going, "--out", str(folder), "--end-in", ends]
    return visit.start(f"train-{name}", *arguments)


class _Releases:
    """A release of each run's newest checkpoint, made beside the training, one at a time."""

    def __init__(self, visit: Visit, folder: Path):
        self.visit, self.folder = visit, folder
        self.made: dict[str, Path] = {}
        self._making: tuple[str, Path, subprocess.Popen] | None = None

    def renew(self, name: str) -> None:
        """Start the release of a run, if there is a newer checkpoint and none is being made."""
        if self._making is not None and self._making[2].poll() is None:
            return
        self._wait()
        found = checkpoint.newest(self.visit.out / name)
        if found is None or found == self.made.get(name):
            return
        target = str(self.folder / name)
        arguments = ("-m", "tinytsm.export", str(found), target, "--dtype", "bfloat16")
        self._making = name, found, self.visit.start(f"export-{name}", *arguments)

    def finish(self, name: str) -> None:
        """The last release of a run."""
        self._wait()
        self.renew(name)
        self._wait()

    def _wait(self) -> None:
        if self._making is None:
            return
        name, found, process = self._making
        if self.visit.wait(f"export-{name}", process, self.visit.left):
            self.made[name] = found
        self._making = None


def train(visit: Visit, runs: dict[str, list[str]], releases: Path) -> None:
    """All runs side by side until the time is over, their releases beside them."""
    made = _Releases(visit, releases)
    processes = {name: _start_training(visit, name, flags) for name, flags in runs.items()}
    while processes and visit.left > 8:
        time.sleep(0.5)
        for name, process in list(processes.items()):
            made.renew(name)
            if (code := process.poll()) is None:
                continue
            visit.wait(f"train-{name}", process, 0)
            del processes[name]
            # what fell over goes on from its last checkpoint; flags that cannot be will not do better
            if code not in (0, 2) and visit.left > _CLOSING_SECONDS + _STARTING_SECONDS:
                processes[name] = _start_training(visit, name, runs[name])
    for name, process in processes.items():
        visit.wait(f"train-{name}", process, 0)
    for name in runs:
        made.finish(name)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.visit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=580, help="of all together (default: 580)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/visit"), help="folder of all there is"
    )
    parser.add_argument(
        "--plan", type=Path, default=Path("bench/visit.json"), help="JSON of the runs"
    )
    parser.add_argument(
        "--releases", type=Path, help="folder of the runs' releases (default: OUT/release)"
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument(
        "--floor", type=float, default=5e5, help="tokens/s below which nothing is trained"
    )
    args = parser.parse_args(argv)
    runs: dict[str, list[str]] = json.loads(args.plan.read_text())["runs"]
    visit = Visit(args.out.resolve(), args.seconds)
    good = "proofs" not in args.parts or prove(visit, runs)
    if "timings" in args.parts:
        rate = take_times(visit)
        good &= rate >= args.floor
        visit.rows["rate"] = {"tokens/s": rate}
    if good and "training" in args.parts:
        train(visit, runs, (args.releases or args.out / "release").resolve())
    write_json(visit.rows, visit.out / "visit.json")
    print(json.dumps({"good": good, "out": str(visit.out)} | visit.rows))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
