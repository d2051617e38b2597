"""Forecasting with random weights: series per second and latency by batch, context and horizon, cold start included.

The weights do not change the time, so none are needed. What is timed is `predict_quantiles` from arrays to arrays, in
the precision that a loaded model has. Two batches from the same model are checked afterwards: quantiles in order,
finite, and a series alone forecast as it is in company.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import timing
from bench.record import ROOT, TINY
from tinytsm import TinyTSM, checkpoint, ops
from tinytsm.config import PRESETS, QUANTILES
from tinytsm.model import Model

# One factor at a time around the middle setting: all combinations would say little more and take hours on a CPU.
_BATCH, _CONTEXT, _HORIZON = 64, 512, 96
_SETTINGS = [
    (_BATCH, _CONTEXT, _HORIZON),
    (1, _CONTEXT, _HORIZON),
    (8, _CONTEXT, _HORIZON),
    (1024, _CONTEXT, _HORIZON),
    (_BATCH, 2048, _HORIZON),
    (_BATCH, _CONTEXT, 720),
]
if TINY:
    _SETTINGS = [(2, _CONTEXT, _HORIZON), (1, _CONTEXT, _HORIZON)]
_PRESETS = ["nano"] if TINY else list(PRESETS)
# Loads a model and forecasts one series: what a person waits for at the command line.
_COLD = """
import sys, numpy
from tinytsm import TinyTSM
model = TinyTSM.from_pretrained(sys.argv[1], device=sys.argv[2])
quantiles, mean = model.predict_quantiles(numpy.sin(numpy.arange(512) / 4), 96)
assert quantiles.isfinite().all()
"""


def _model(preset: str, device: torch.device) -> TinyTSM:
    network = Model(PRESETS[preset], torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    # as `from_pretrained` has it
    network.block_dtype = ops.pick_precision(device)
    return TinyTSM(network, device=device)


def _walks(batch: int, context: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, context)).cumsum(1)


@pytest.mark.parametrize(("batch", "context", "horizon"), _SETTINGS)
@pytest.mark.parametrize("preset", _PRESETS)
def bench_forecast(
    benchmark: BenchmarkFixture, device: torch.device,
    preset: str, batch: int, context: int, horizon: int,
) -> None:  # fmt: skip
    if batch > 512 and device.type == "cpu":
        pytest.skip("a batch that large fills a GPU; a CPU is full long before")
    benchmark.group = f"forecast {preset}"
    model, series = _model(preset, device), _walks(batch, context)

    def forecast() -> tuple[Any, Any]:
        # results are on the host, so there is nothing left to wait for
        return model.predict_quantiles(series, horizon)

    rounds = 1 if TINY else 5 if device.type == "cpu" else 20
    quantiles, mean = benchmark.pedantic(forecast, rounds=rounds, warmup_rounds=0 if TINY else 1)
    # None under --benchmark-disable
    if benchmark.stats:
        seconds = benchmark.stats.stats.median
        benchmark.extra_info |= {"latency_ms": seconds * 1e3, "series/s": batch / seconds}
        taken = timing.peak_bytes(forecast, device)
        if taken is not None:
            benchmark.extra_info["peak_MB"] = taken / 1e6
    assert quantiles.shape == (batch, horizon, len(QUANTILES)) and mean.shape == (batch, horizon)
    assert quantiles.isfinite().all() and (quantiles.diff(dim=-1) >= 0).all()
    alone, _ = model.predict_quantiles(series[:1], horizon)
    tolerance = 0.0 if device.type == "cpu" else 1e-2 * float(series.std())
    torch.testing.assert_close(alone[0], quantiles[0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("preset", _PRESETS)
def bench_cold_start(
    benchmark: BenchmarkFixture, device: torch.device, tmp_path: Path, preset: str,
) -> None:  # fmt: skip
    """From a new process to the first forecast: imports, loading, one series of 512 steps, horizon 96."""
    benchmark.group = "cold start"
    model = Model(PRESETS[preset], torch.Generator().manual_seed(0))
    folder = checkpoint.save(tmp_path / preset, PRESETS[preset], model.state_dict())
    command = [sys.executable, "-c", _COLD, str(folder), device.type]
    seconds: list[float] = []

    def run() -> None:
        began = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        seconds.append(time.perf_counter() - began)

    benchmark.pedantic(run, rounds=1 if TINY else 3, warmup_rounds=0 if TINY else 1)
    if benchmark.stats:
        benchmark.extra_info["latency_ms"] = median(seconds[-3:]) * 1e3
