"""Feeds a pretended trainer for as long as you like: does it ever wait, and does memory stay flat?

    python -m bench.soak --minutes 60                         consume half of what the workers can make
    python -m bench.soak --minutes 10 --load .9 --workers 4 --preset tiny

First the workers run flat out, to learn what they can make. Then a consumer takes batches at `--load` times that pace
and sleeps between them, as a trainer does whose steps take that long on a GPU. Reported: patches per second of one core's
time (a patch is one token of context; its share of the targets beyond the context is made along with it), the share of
a step that the consumer waited, and the memory of the process over time. What sixteen cores would feed is extrapolated
from one core's time, as if threads shared nothing; `pytest bench/bench_synth.py -k threads` measures how nearly they do.
The last line is one JSON document.
"""

import argparse
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinytsm.config import PRESETS, TrainConfig
from tinytsm.data import Feeder, Plan
from tinytsm.synth.mixture import MIXTURE_VERSION

_WANTED_CORES, _WANTED_PATCHES = 16, 2.5e6
# Samples of the memory in a run, at most so many, and none more often than that
_SAMPLES, _SHORTEST = 240, 0.25
# The first part of a run fills allocators and caches; memory counts from there on
_SETTLED = 0.1


class _Counted:
    """`Plan.fill` that adds up the processor time of the threads that call it, and their patches."""

    def __init__(self, plan: Plan):
        self.plan, self.seconds, self.patches = plan, 0.0, 0
        self._lock = threading.Lock()

    def __call__(self, number: int, buffer: Tensor) -> None:
        began = time.thread_time()
        self.plan.fill(number, buffer)
        spent = time.thread_time() - began
        bucket = self.plan.bucket(number)
        with self._lock:
            self.seconds += spent
            self.patches += bucket.series * bucket.tokens


def resident_mib() -> float:
    """Memory of this process that lies in RAM, MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def flat_out(feeder: Feeder, seconds: float) -> float:
    """Patches per second that the workers deliver to a consumer without work of its own."""
    # What lies ready was made before the clock started
    for _ in range(8):
        next(feeder)
    patches, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        x = next(feeder).x
        patches += x.numel() // feeder.plan.model.patch
    return patches / taken


def steady(feeder: Feeder, *, pace: float, seconds: float) -> dict[str, Any]:
    """Take `pace` patches per second for that long; waits and memory."""
    every = max(seconds / _SAMPLES, _SHORTEST)
    times: list[float] = []
    memory: list[float] = []
    waits: list[float] = []
    patches, waited, began = 0, feeder.wait_seconds, time.perf_counter()
    while (now := time.perf_counter() - began) < seconds:
        if not times or now - times[-1] >= every:
            times.append(now)
            memory.append(resident_mib())
        before = feeder.wait_seconds
        x = next(feeder).x
        count = x.numel() // feeder.plan.model.patch
        waits.append((feeder.wait_seconds - before) / (count / pace))
        patches += count
        time.sleep(count / pace)
    first = sum(t < _SETTLED * seconds for t in times)
    settled = memory[first:]
    slope = float(np.polyfit(times[first:], settled, 1)[0])
    return {
        "steps": len(waits),
        "patches_per_second": patches / now,
        "wait_share": (feeder.wait_seconds - waited) / now,
        "longest_wait_in_steps": max(waits),
        "rss_mib_settled": settled[0],
        "rss_mib_end": settled[-1],
        "rss_mib_range": max(settled) - min(settled),
        "rss_mib_per_hour": slope * 3600,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the run (10)")
    parser.add_argument("--load", type=float, default=0.5, help="consumption over production (.5)")
    parser.add_argument("--workers", type=int, default=1, help="generator threads (1)")
    parser.add_argument("--preset", choices=PRESETS, default="nano", help="shape of a batch (nano)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generator (0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak of the module's docstring; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not Path("/proc/self/statm").exists():
        parser.error("reading a process's memory needs Linux")
    for name in ("minutes", "load", "workers"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name} must be positive, got {getattr(args, name)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = Plan(PRESETS[args.preset], TrainConfig(seed=args.seed, workers=args.workers))
    counted = _Counted(plan)
    seconds = 60 * args.minutes
    print(
        f"soak: {args.minutes:g} min, load {args.load:g}, {args.workers} workers, preset {args.preset}, "
        f"seed {args.seed}, mixture {MIXTURE_VERSION}, {device}, {os.cpu_count()} cores",
        flush=True,
    )
    with Feeder(plan, start=0, device=device, workers=args.workers, fill=counted) as feeder:
        capacity = flat_out(feeder, min(30.0, 0.2 * seconds))
        print(f"flat out: {capacity:,.0f} patches/s", flush=True)
        result = steady(feeder, pace=args.load * capacity, seconds=0.8 * seconds)
        last = next(feeder)
        # The proof that what came through the ring is what was asked for
        again = plan.batch(last.number, torch.device("cpu"))
        for got, wanted in ((last.x, again.x), (last.target, again.target)):
            torch.testing.assert_close(got.cpu(), wanted, rtol=0, atol=0, equal_nan=True)
    core = counted.patches / counted.seconds
    result |= {
        "minutes": args.minutes,
        "workers": args.workers,
        "flat_out_patches_per_second": capacity,
        "core_patches_per_second": core,
        f"extrapolated_{_WANTED_CORES}_cores": _WANTED_CORES * core,
        "wanted": _WANTED_PATCHES,
        "machine": platform.processor() or platform.machine(),
        "mixture": MIXTURE_VERSION,
    }
    print(
        f"one core's time: {core:,.0f} patches/s; extrapolated to {_WANTED_CORES} cores: "
        f"{_WANTED_CORES * core:,.0f} (wanted {_WANTED_PATCHES:,.0f})\n"
        f"wait: {100 * result['wait_share']:.2f} % of the time in {result['steps']:,} steps, the longest "
        f"{result['longest_wait_in_steps']:.2f} steps\n"
        f"memory: {result['rss_mib_settled']:.0f} MiB after a tenth of the run, {result['rss_mib_end']:.0f} at its end, "
        f"slope {result['rss_mib_per_hour']:+.1f} MiB per hour"
    )
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
