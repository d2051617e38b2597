"""Each op, forward and backward: our kernel, its definition run eagerly, torch.compile of the definition, and Liger.

In every round the eager definition takes its turn, so `ratio` is how many times faster than eager a rival is; divide
two rivals' ratios to compare them. The embedding and the pointwise ops are bound by memory: look at `of_copy`, the
share of a plain copy's GB/s in the same run. The loss is bound by its matmuls: `of_matmul`, and on a GPU `peak_MB`.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import cases, timing
from bench.record import TINY, pick_device
from tinytsm.config import PRESETS

# The two ends: the presets between them add minutes of compiling on a CPU, and no other regime.
_PRESETS = ["nano"] if TINY else list(PRESETS) if pick_device().type == "cuda" else ["nano", "tiny"]
# Tokens of a series at a constant number of tokens of a batch: where a kernel's parallelism changes.
_SWEEP = [32] if TINY else [32, 64, 128, 256, 512, 1024]


def _contests(names: tuple[str, ...]) -> list[Any]:
    return [pytest.param(op, rival) for op in names for rival in cases.rivals(op)]


def _time(
    benchmark: BenchmarkFixture, timed: Callable[..., Any], device: torch.device,
    case: cases.Case, rival: str, direction: str,
) -> None:  # fmt: skip
    name = str(case.dtype).removeprefix("torch.")
    benchmark.group = f"{case.op} {direction} {case.shape} {name}"
    benchmark.extra_info["dtype"] = name
    generator = torch.Generator(device).manual_seed(0)
    first = case.inputs(generator)
    sets = timing.copies(sum(t.nbytes for t in first), device)
    inputs = [first] + [case.inputs(generator) for _ in range(1 if TINY else sets - 1)]
    run = case.run(cases.implementation(case.op, rival), direction)
    eager = case.run(cases.implementation(case.op, "eager"), direction)
    rotating = timing.Rotation(run, inputs)
    gpu = device.type == "cuda"
    timed(
        rotating,
        bytes_moved=case.bytes_moved(first, eager(*first)[0], direction),
        flop=case.flop if direction == "forward" else case.flop_both,
        dtype=case.dtype,
        calls=20 if gpu else 2,
        rounds=10 if gpu else 5,
        against=None if rival == "eager" else timing.Rotation(eager, inputs),
        op=case.op if rival == "kernel" else None,
    )
    tolerance = cases.TOLERANCE[case.dtype]
    for chosen in (inputs[0], inputs[-1]):
        for ours, truth in zip(run(*chosen), eager(*chosen), strict=True):
            loss = case.op == "grid_loss"
            if loss or gpu and case.dtype == torch.float32:
                # a rounding turns slopes of the pinball loss, and eager multiplies in TensorFloat-32 on a GPU
                error = float((ours - truth).norm() / truth.norm().clamp_min(1e-30))
                assert error < ((0.1 if loss else 5e-3) if gpu else 1e-3), error
                continue
            scale = float(truth.float().abs().max())
            torch.testing.assert_close(ours, truth, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("direction", cases.DIRECTIONS)
@pytest.mark.parametrize(("op", "rival"), _contests(cases.OPS))
@pytest.mark.parametrize("preset", _PRESETS)
def bench_op(
    benchmark: BenchmarkFixture, timed: Callable[..., Any], device: torch.device,
    op: str, rival: str, direction: str, preset: str,
) -> None:  # fmt: skip
    case = cases.case(op, preset, tokens=None, device=device)
    _time(benchmark, timed, device, case, rival, direction)


@pytest.mark.parametrize("tokens", _SWEEP)
@pytest.mark.parametrize(("op", "rival"), _contests(("dart_patch_embed",)))
def bench_length(
    benchmark: BenchmarkFixture, timed: Callable[..., Any], device: torch.device,
    op: str, rival: str, tokens: int,
) -> None:  # fmt: skip
    """The embedding against the length of a series: its scan is the only op here that runs along time."""
    if rival == "compiled" and device.type == "cpu" and not TINY and tokens not in (32, 1024):
        pytest.skip("each length is another minute of compiling on a CPU")
    case = cases.case(op, "nano", tokens=tokens, device=device)
    _time(benchmark, timed, device, case, rival, "forward")
