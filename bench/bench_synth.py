"""SynthTS on one core: points per second of the mixture and of each family, and its normals against NumPy's.

The mixture is what training waits for; the families say which of them it waits for.
"""

import os

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tinytsm.synth import generator, philox

TINY = os.environ.get("TINYTSM_BENCH_TINY", "0") not in ("", "0")
LENGTH = 256 if TINY else 2816
ITEMS = 2 if TINY else 200


def _report(benchmark: BenchmarkFixture, points: int) -> None:
    # None under --benchmark-disable
    if benchmark.stats:
        seconds = benchmark.stats.stats.median
        benchmark.extra_info |= {"Mpoints/s": points / seconds / 1e6}


@pytest.mark.parametrize("variates", [1, 7])
def bench_mixture(benchmark: BenchmarkFixture, variates: int) -> None:
    benchmark.group = "synth mixture"
    out = np.empty((variates, LENGTH))
    generator.fill_item(1, 0, out)

    def run() -> None:
        for index in range(ITEMS):
            generator.fill_item(1, index, out)

    benchmark.pedantic(run, rounds=1 if TINY else 5)
    _report(benchmark, ITEMS * out.size)
    np.testing.assert_array_equal(out, generator.sample(1, ITEMS - 1, LENGTH, variates))


@pytest.mark.parametrize("name", generator.families())
def bench_family(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark.group = "synth families"
    generator.sample_family(name, 1, 0, LENGTH)

    def run() -> np.ndarray:
        for index in range(ITEMS):
            x = generator.sample_family(name, 1, index, LENGTH)
        return x

    x = benchmark.pedantic(run, rounds=1 if TINY else 3)
    _report(benchmark, ITEMS * LENGTH)
    assert np.isfinite(x).all()


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

    benchmark.pedantic(run, rounds=1 if TINY else 10, warmup_rounds=1)
    _report(benchmark, out.size)
    assert abs(out.mean()) < 0.1 and abs(out.std() - 1) < 0.1
