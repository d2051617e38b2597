"""Each op of our own, forward and backward: the kernel, its definition run eagerly, and torch.compile of the definition.

The embedding is bound by memory: its floor is a plain copy, timed in the same run. The loss is bound by its matmuls:
its rivals differ in peak memory, reported on a GPU. The kernel takes part on a GPU, and in tiny mode also in Triton's
interpreter (TRITON_INTERPRET=1), which proves that it runs and says nothing of its speed.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils.benchmark import Timer

from tinytsm import ops
from tinytsm.config import PRESETS, QUANTILES
from tinytsm.kernels import reference
from tinytsm.testing import kernel_device

TINY = os.environ.get("TINYTSM_BENCH_TINY", "0") not in ("", "0")
ON_GPU = torch.cuda.is_available()
KERNEL = ["kernel"] if ON_GPU or (TINY and kernel_device() is not None) else []
RIVALS = [*KERNEL, "eager", "compiled"]
DTYPES = [torch.float32, torch.bfloat16] if ON_GPU else [torch.float32]
PRESET_NAMES = ["nano"] if TINY else list(PRESETS)
# Tokens of a batch: enough to fill a large GPU, or to leave a CPU's caches.
TOKENS = 64 if TINY else 1 << 18 if ON_GPU else 1 << 13


def rival_of(name: str, rival: str) -> Callable[..., Any]:
    """One way to compute an op."""
    if rival == "kernel":
        return getattr(ops, name)
    definition = getattr(reference, name)
    if rival == "eager":
        return definition
    torch.compiler.reset()
    # in tiny mode the compiler's own time would be all there is
    return torch.compile(definition, fullgraph=True, backend="aot_eager" if TINY else "inductor")


@pytest.fixture(scope="module")
def copy_gb_per_s(device: torch.device) -> float:
    """GB/s of a plain copy on this device, reads and writes counted: the floor of what only moves data."""
    source = torch.empty(1 << (14 if TINY else 28 if ON_GPU else 24), device=device)
    target = torch.empty_like(source)
    timer = Timer("b.copy_(a)", globals={"a": source, "b": target})
    return (
        2 * source.nbytes / timer.blocked_autorange(min_run_time=0.01 if TINY else 1).median / 1e9
    )


def measure(
    benchmark: BenchmarkFixture, timed: Callable[..., Any], fn: Callable[[], Any], *,
    bytes_moved: float, flop: float, copy_gb_per_s: float,
) -> Any:  # fmt: skip
    """Time fn; beside GB/s, its share of the copy, TFLOP/s and, on a GPU, the memory it took."""
    if ON_GPU:
        fn()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        fn()
        torch.cuda.synchronize()
        benchmark.extra_info["peak_MB"] = (torch.cuda.max_memory_allocated() - before) / 1e6
    out = timed(fn, bytes_moved=bytes_moved, calls=20 if ON_GPU else 2, rounds=10 if ON_GPU else 3)
    # None under --benchmark-disable
    if benchmark.stats:
        seconds = benchmark.extra_info["us_per_call"] / 1e6
        benchmark.extra_info["of_copy"] = bytes_moved / seconds / 1e9 / copy_gb_per_s
        benchmark.extra_info["TFLOP/s"] = flop / seconds / 1e12
    return out


def embed_inputs(preset: str, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    config = PRESETS[preset]
    generator = torch.Generator().manual_seed(0)
    tokens = min(TOKENS, config.context_patches)
    x = torch.randn(TOKENS // tokens, tokens * config.patch, generator=generator).cumsum(1)
    x[torch.rand(x.shape, generator=generator) < 0.05] = float("nan")
    weight = torch.randn(2 * config.patch + 4, 3 * config.d_model, generator=generator) / 8
    return tuple(t.to(device) for t in (x, torch.zeros(len(x)), weight.to(dtype)))


def embed_settings(preset: str) -> dict[str, Any]:
    config = PRESETS[preset]
    return {
        "patch": config.patch,
        "half_life_loc": config.half_life_loc,
        "half_life_scale": config.half_life_scale,
    }


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("rival", RIVALS)
def bench_dart_patch_embed(
    benchmark: BenchmarkFixture, timed: Callable[..., Any], device: torch.device,
    copy_gb_per_s: float, rival: str, preset: str, dtype: torch.dtype, direction: str,
) -> None:  # fmt: skip
    benchmark.group = f"dart_patch_embed {direction} {preset} {dtype}"
    embed, settings = rival_of("dart_patch_embed", rival), embed_settings(preset)
    x, resolution, weight = embed_inputs(preset, dtype, device)
    weight.requires_grad_(direction == "backward")
    h = embed(x, resolution, weight, **settings)[0]
    # what any implementation must read and write
    work = {
        "bytes_moved": x.nbytes + h.nbytes + weight.nbytes,
        "flop": 2 * h.numel() * len(weight),
        "copy_gb_per_s": copy_gb_per_s,
    }
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    if direction == "forward":
        out = measure(benchmark, timed, lambda: embed(x, resolution, weight, **settings)[0], **work)
        truth = reference.dart_patch_embed(x, resolution, weight, **settings)[0]
    else:
        grad = torch.randn_like(h)
        out = measure(
            benchmark,
            timed,
            lambda: torch.autograd.grad(h, weight, grad, retain_graph=True)[0],
            **work,
        )
        true_h = reference.dart_patch_embed(x, resolution, weight, **settings)[0]
        truth = torch.autograd.grad(true_h, weight, grad)[0]
    scale = float(truth.float().abs().max())
    torch.testing.assert_close(out, truth, rtol=tolerance, atol=tolerance * scale)


def loss_inputs(preset: str, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    config = PRESETS[preset]
    generator = torch.Generator().manual_seed(0)
    tokens, horizon = min(TOKENS, config.context_patches), 3 if TINY else config.horizon_patches
    series, outputs = TOKENS // tokens, config.patch * (1 + len(QUANTILES))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    rank = config.head_rank
    tensors = (
        normal(series, tokens, rank).to(dtype),
        (normal(horizon, rank, outputs) * rank**-0.5).to(dtype),
        normal(series, tokens + horizon, config.patch),
        normal(series, tokens),
        torch.rand(series, tokens, generator=generator) + 0.5,
        torch.ones(series, tokens),
        torch.arange(series) % reference.MAX_STRIDE,
        torch.tensor(QUANTILES),
    )
    return tuple(t.to(device) for t in tensors)


@pytest.mark.parametrize("direction", ["forward", "forward and backward"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("rival", RIVALS)
def bench_grid_loss(
    benchmark: BenchmarkFixture, timed: Callable[..., Any], device: torch.device,
    copy_gb_per_s: float, rival: str, preset: str, dtype: torch.dtype, direction: str,
) -> None:  # fmt: skip
    benchmark.group = f"grid_loss {direction} {preset} {dtype}"
    loss = rival_of("grid_loss", rival)
    h, weight, *rest = loss_inputs(preset, dtype, device)
    both = direction != "forward"
    for tensor in (h, weight):
        tensor.requires_grad_(both)

    def step(f: Callable[..., Any]) -> tuple[Tensor, ...]:
        total, count = f(h, weight, *rest)
        mean = (total / count.clamp_min(1)).mean()
        grads = torch.autograd.grad(mean, (h, weight)) if both else ()
        return (mean.detach(), *grads)

    grid = reference.octaves(len(weight))
    pairs = sum(len(ks) * (h.shape[1] // stride) for ks, stride in grid) * len(h)
    target = rest[0]
    out = measure(
        benchmark,
        timed,
        lambda: step(loss),
        bytes_moved=(h.nbytes + weight.nbytes) * (2 if both else 1) + target.nbytes,
        flop=2 * pairs * weight[0].numel() * (3 if both else 1),
        copy_gb_per_s=copy_gb_per_s,
    )
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 5e-2}[dtype]
    for ours, truth in zip(out, step(reference.grid_loss), strict=True):
        scale = float(truth.float().abs().max())
        torch.testing.assert_close(ours, truth, rtol=tolerance, atol=tolerance * scale)
