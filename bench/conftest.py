"""What every benchmark shares: the device, the tiny mode, and the one timer that waits for the GPU.

pytest bench --benchmark-only                              full size
TINYTSM_BENCH_TINY=1 pytest bench --benchmark-disable      small and once: proves that they still run
"""

import os
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

if TYPE_CHECKING:
    import torch

TINY = os.environ.get("TINYTSM_BENCH_TINY", "0") not in ("", "0")


@pytest.fixture(scope="session")
def tiny() -> bool:
    """Whether sizes are cut to what continuous integration can afford."""
    return TINY


@pytest.fixture(scope="session")
def device() -> "torch.device":
    """The GPU where there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def timed(benchmark: BenchmarkFixture, device: "torch.device") -> Callable[..., Any]:
    """Time `fn` in batches of calls with one synchronisation each, so that launch gaps stay out of short kernels.

    timed(fn, bytes_moved=..., calls=20, rounds=10) returns what the last call of `fn` returned, to be compared
    with the definition's result. Reported beside pytest-benchmark's table, which is per batch: microseconds per
    call and, of the bytes that one call must read and write, GB/s; both from the median round.
    """
    import torch

    def run(fn: Callable[[], Any], *, bytes_moved: float, calls: int = 20, rounds: int = 10) -> Any:
        calls = 1 if TINY else calls

        def batch() -> Any:
            for _ in range(calls):
                out = fn()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return out

        out = benchmark.pedantic(batch, rounds=1 if TINY else rounds, warmup_rounds=1)
        # None under --benchmark-disable
        if benchmark.stats:
            seconds = benchmark.stats.stats.median / calls
            benchmark.extra_info |= {
                "us_per_call": seconds * 1e6,
                "GB/s": bytes_moved / seconds / 1e9,
                "device": torch.cuda.get_device_name(device)
                if device.type == "cuda"
                else platform.processor() or platform.machine(),
                "torch": torch.__version__,
            }
        return out

    return run
