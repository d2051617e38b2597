"""SynthTS' speed: points per second of one core, over threads, against rivals; starts; and how long it holds the lock.

    pytest bench/bench_synth.py --benchmark-only --benchmark-group-by=group
    pytest bench/bench_synth.py --benchmark-only --benchmark-json=synth.json    with the figures below

A point is one delivered value, after augmentation. Rates are by processor time, which other work on the machine hardly
changes. Beside pytest-benchmark's table, every figure stands under extra_info and in the summary at the end:
Mpoints/s, the share of the mixture's time that a family takes, seconds to the first series in a new process with a
warm and with an empty cache, and the share of time that a generator thread keeps the interpreter's lock.
Rivals that are not installed are skipped: pip install scikit-learn gluonts.
"""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import rivals
from bench.record import ROOT, TINY
from tinytsm.synth import generator, mixture, philox

LENGTH = 256 if TINY else 2816
ITEMS = 2 if TINY else 200
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(scope="module", autouse=True)
def _summary() -> Iterator[dict[str, dict[str, float]]]:
    """Printed at the end, because pytest-benchmark's table leaves extra_info out."""
    yield FIGURES
    for name, figures in FIGURES.items():
        print(f"\n{name:45s}", "  ".join(f"{k} {v:.4g}" for k, v in figures.items()), end="")


FIGURES: dict[str, dict[str, float]] = {}


def report(benchmark: BenchmarkFixture, **figures: float) -> None:
    benchmark.extra_info |= figures
    FIGURES[str(benchmark.name)] = figures


def rate(benchmark: BenchmarkFixture, run: Callable[[], object], points: int) -> float:
    """Million points per second of processor time, all threads together; the median of the rounds."""
    seconds: list[float] = []

    def clocked() -> None:
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)

    # The first round loads code
    run()
    benchmark.pedantic(clocked, rounds=1 if TINY else 3)
    return points / max(float(np.median(seconds)), 1e-9) / 1e6


# The mixture and its families


@pytest.mark.parametrize("variates", [1, 7])
def bench_mixture(benchmark: BenchmarkFixture, variates: int) -> None:
    benchmark.group = "synth mixture"
    out = np.empty((variates, LENGTH))

    def run() -> None:
        for index in range(ITEMS):
            generator.fill_item(1, index, out)

    report(benchmark, **{"Mpoints/s": rate(benchmark, run, ITEMS * out.size)})
    np.testing.assert_array_equal(out, generator.sample(1, ITEMS - 1, LENGTH, variates))


def calls_per_series() -> np.ndarray:
    """(families,) how often each is called to make one long series of one variate, mixup included; from the tables."""
    m = mixture
    weight = np.diff(m.CUMULATIVE, axis=1, prepend=0.0)
    weight /= weight.sum(1, keepdims=True)
    season = m.SEASON_SHARE * (1 + m.SECOND_SEASON_SHARE)
    trend = 1 - (1 - m.TREND_SHARE) * m.SEASON_SHARE
    other = 1 - m.PLAIN_NOISE_SHARE
    composite = season * weight[m.SEASONAL] + trend * weight[m.TREND]
    composite += m.PLAIN_NOISE_SHARE * weight[m.NOISE]
    wander = m.PROCESS_SHARE * weight[m.PROCESS] + (1 - m.PROCESS_SHARE) * weight[m.SPECTRAL]
    composite += other * wander
    # Of LENGTH steps and more none is drawn as short
    share = m.COMPOSITE_SHARES[0]
    lane = share * composite + (1 - share) * weight[m.WHOLE]
    # One parent or two
    return lane * (1 + m.MIXUP_SHARE * (2 - m.ONE_PARENT_SHARE))


@pytest.fixture(scope="module")
def series_seconds() -> float:
    """Processor time of one series of the mixture."""
    out = np.empty((1, LENGTH))
    generator.fill_item(1, 0, out)
    began = time.process_time()
    for index in range(10 * ITEMS):
        generator.fill_item(1, index, out)
    return (time.process_time() - began) / (10 * ITEMS)


@pytest.mark.parametrize("name", generator.families())
def bench_family(benchmark: BenchmarkFixture, name: str, series_seconds: float) -> None:
    benchmark.group = "synth families"

    def run() -> None:
        for index in range(ITEMS):
            generator.sample_family(name, 1, index, LENGTH)

    points = rate(benchmark, run, ITEMS * LENGTH)
    once, again = (generator.sample_family(name, 1, 0, LENGTH) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    calls = float(calls_per_series()[generator.families().index(name)])
    figures = {
        "Mpoints/s": points,
        "share_of_time": calls * LENGTH / (points * 1e6) / series_seconds,
        # Of items that hold it, at most
        "share_of_items": calls,
    }
    report(benchmark, **figures)


@pytest.mark.parametrize("threads", sorted({1, 2, CORES // 2, CORES} - {0}))
def bench_threads(benchmark: BenchmarkFixture, threads: int) -> None:
    """By the clock: what one more thread adds."""
    benchmark.group = "synth threads"
    if threads > CORES:
        pytest.skip(f"needs {threads} cores, has {CORES}")
    # Items enough that the lock, taken once for each, is no matter
    out = np.empty((threads, 4, LENGTH))
    each = ITEMS // 2

    def work(thread: int) -> None:
        for index in range(thread * each, (thread + 1) * each):
            generator.fill_item(1, index, out[thread])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
        benchmark.pedantic(lambda: list(pool.map(work, range(threads))), rounds=1 if TINY else 7)
    # None under --benchmark-disable
    if benchmark.stats:
        clock = threads * each * out[0].size / benchmark.stats.stats.median / 1e6
        report(benchmark, **{"Mpoints/s": clock, "Mpoints/s/thread": clock / threads})
    for thread in range(threads):
        index = (thread + 1) * each - 1
        np.testing.assert_array_equal(out[thread], generator.sample(1, index, LENGTH, 4))


# Rivals


@pytest.mark.parametrize("rival", ["jitted", "numpy"])
def bench_three_sines(benchmark: BenchmarkFixture, rival: str) -> None:
    """One recipe, three sines with a trend and noise, in both worlds."""
    benchmark.group = "three sines, trend, noise"
    waves, slopes = rivals.draw_three_sines(1, items=ITEMS)
    ours, theirs = np.empty((2, ITEMS, LENGTH))

    def run(noise: float = 0.3) -> None:
        if rival == "jitted":
            rivals.three_sines_jitted(1, waves, slopes, noise, ours)
        else:
            rivals.three_sines_numpy(1, waves, slopes, noise=noise, out=theirs)

    report(benchmark, **{"Mpoints/s": rate(benchmark, run, ours.size)})
    # Without noise they are one and the same
    rivals.three_sines_jitted(1, waves, slopes, 0.0, ours)
    rivals.three_sines_numpy(1, waves, slopes, noise=0.0, out=theirs)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize(
    "rival", ["kernelsynth_sklearn", "kernelsynth_cholesky", "gluonts_recipe", "synthts"]
)
def bench_rivals(benchmark: BenchmarkFixture, rival: str) -> None:
    """Series of 1024 steps, the length that KernelSynth is run at."""
    benchmark.group = "rivals"
    if rival == "kernelsynth_sklearn":
        pytest.importorskip("sklearn", reason="pip install scikit-learn")
    if rival == "gluonts_recipe":
        pytest.importorskip("gluonts", reason="pip install gluonts")
    length = 64 if TINY else 1024
    items = {"synthts": 1000, "gluonts_recipe": 50}.get(rival, 4)
    made = np.empty((items, length))

    def run() -> None:
        if rival == "synthts":
            for index in range(items):
                generator.fill_item(1, index, made[index : index + 1])
        else:
            made[:] = getattr(rivals, rival)(1, items=items, length=length)

    report(benchmark, **{"Mpoints/s": rate(benchmark, run, made.size)})
    assert np.isfinite(made).mean() > 0.9 and (np.nanstd(made, axis=1) > 0).mean() > 0.7


@pytest.mark.parametrize("rival", ["philox", "numpy"])
def bench_normals(benchmark: BenchmarkFixture, rival: str) -> None:
    benchmark.group = "normals"
    out = np.empty(100 * LENGTH)
    rng, theirs = philox.stream(1, 1, 1), np.random.Generator(np.random.Philox(1))

    def run() -> None:
        if rival == "philox":
            philox.fill_normal(rng, out)
        else:
            theirs.standard_normal(out=out)

    report(benchmark, **{"Mpoints/s": rate(benchmark, run, out.size)})
    assert abs(out.mean()) < 0.1 and abs(out.std() - 1) < 0.1


# Starts, and the lock


@pytest.mark.parametrize("cache", ["warm", "empty"])
def bench_start(benchmark: BenchmarkFixture, cache: str, tmp_path: Path) -> None:
    """From a new process to its first series, by its own processor time and by the clock."""
    benchmark.group = "first series of a process"
    if cache == "empty" and TINY:
        pytest.skip("compiling everything takes minutes")
    code = (
        "import time; from tinytsm.synth import generator; generator.sample(0, 0, 2048);"
        "print(time.process_time())"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if cache == "empty":
        environment["NUMBA_CACHE_DIR"] = str(tmp_path)
    generator.sample(0, 0, 64)
    seconds: list[float] = []

    def run() -> None:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True
        )
        seconds.append(float(done.stdout))

    began = time.perf_counter()
    benchmark.pedantic(run, rounds=1 if TINY or cache == "empty" else 5)
    wall = (time.perf_counter() - began) / len(seconds)
    report(benchmark, cpu_seconds=float(np.median(seconds)), seconds=wall)


def _turns_beside(work: Callable[[], object], seconds: float) -> float:
    """Share of a core that a loop in Python gets beside a thread of `work`."""
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=burn)
    thread.start()
    began, until = time.thread_time(), time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    own = time.thread_time() - began
    stop.set()
    thread.join()
    return own / seconds


def bench_lock(benchmark: BenchmarkFixture) -> None:
    """The interpreter's lock: which turns a counting loop loses by it to a thread that fills training batches.

    The yardstick is a thread that hashes a large buffer, which takes a core as well but never the lock.
    """
    import torch

    from tinytsm.config import PRESETS, TrainConfig
    from tinytsm.data import Plan

    benchmark.group = "lock"
    plan = Plan(PRESETS["nano"], TrainConfig(multivariate_share=0.0, short_share=0.0))
    buffer = torch.empty(plan.values(plan.buckets[0]))
    # Longer than the switching interval, as a batch is
    block = bytes(1 << 20 if TINY else 1 << 25)
    seconds, shares = 0.05 if TINY else 3.0, []

    def run() -> None:
        free = _turns_beside(lambda: hashlib.sha256(block).digest(), seconds)
        shares.append(1.0 - _turns_beside(lambda: plan.fill(0, buffer), seconds) / free)

    benchmark.pedantic(run, rounds=1 if TINY else 5)
    report(benchmark, lock_share=float(np.median(shares)))
