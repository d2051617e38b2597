"""The ops at the shapes of the presets: random inputs, the work that any implementation must do, and the rivals.

The ops that the trainer keeps in float32 are timed in float32, those inside the blocks in the blocks' dtype.
Attention has a file of its own, bench_attention.py.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bench.record import TINY, pick_device
from tinytsm import ops
from tinytsm.config import PRESETS, QUANTILES, ModelConfig
from tinytsm.kernels import reference
from tinytsm.testing import kernel_device

KERNELS = ("dart_patch_embed", "grid_loss")
OPS = (*KERNELS, "rms_norm", "swiglu")
DIRECTIONS = ("forward", "forward and backward")
# What a rival may differ by, relative to the largest value: sums in another order, and in bfloat16 other roundings.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


@dataclass(frozen=True, kw_only=True)
class Case:
    """An op at one shape.

    draw: one set of random inputs from a generator. trained: positions of the inputs that get gradients. reduce: from
    what the op returns to the one tensor that is differentiated. flop, flop_both: forward alone, and with backward.
    """

    op: str
    shape: str
    dtype: torch.dtype
    draw: Callable[[torch.Generator], tuple[Tensor, ...]]
    settings: dict[str, Any]
    trained: tuple[int, ...]
    reduce: Callable[[Any], Tensor]
    flop: float = 0.0
    flop_both: float = 0.0

    def inputs(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """One set of inputs on the generator's device; the trained ones want gradients."""
        drawn = [t.to(generator.device) for t in self.draw(generator)]
        for i in self.trained:
            drawn[i].requires_grad_()
        return tuple(drawn)

    def run(self, fn: Callable[..., Any], direction: str) -> Callable[..., tuple[Tensor, ...]]:
        """The op as it is timed: its output, and with "backward" the gradients of a fixed direction as well."""

        def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (self.reduce(fn(*inputs, **self.settings)),)

        def both(*inputs: Tensor) -> tuple[Tensor, ...]:
            out = self.reduce(fn(*inputs, **self.settings))
            # the output itself is the direction: random, and costs no memory of its own
            grads = torch.autograd.grad(
                out, [inputs[i] for i in self.trained], out.detach() if out.ndim else None
            )
            return (out.detach(), *grads)

        return forward if direction == "forward" else both

    def bytes_moved(self, inputs: tuple[Tensor, ...], out: Tensor, direction: str) -> int:
        """What any implementation must read and write: backward reads it all again and writes the gradients."""
        once = sum(t.nbytes for t in inputs) + out.nbytes
        if direction == "forward":
            return once
        return 2 * once + sum(inputs[i].nbytes for i in self.trained)


def _embed(config: ModelConfig, *, series: int, tokens: int, shape: str) -> Case:
    width = 3 * config.d_model
    inner = 2 * config.patch + reference.FRAME_FEATURES

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        x = torch.randn(
            series, tokens * config.patch, generator=generator, device=generator.device
        ).cumsum(1)
        x[torch.rand(x.shape, generator=generator, device=generator.device) < 0.05] = float("nan")
        weight = torch.randn(inner, width, generator=generator, device=generator.device) / 8
        return x, torch.zeros(series), weight

    flop = 2.0 * series * tokens * inner * width
    return Case(
        op="dart_patch_embed",
        shape=shape,
        dtype=torch.float32,
        draw=draw,
        settings={
            "patch": config.patch,
            "half_life_loc": config.half_life_loc,
            "half_life_scale": config.half_life_scale,
        },
        trained=(2,),
        reduce=lambda result: result[0],
        flop=flop,
        # the series are data: backward is the weight's gradient alone
        flop_both=2 * flop,
    )


def _loss(config: ModelConfig, *, series: int, tokens: int, shape: str) -> Case:
    horizon = 3 if TINY else config.horizon_patches
    outputs, rank = config.patch * (1 + len(QUANTILES)), config.head_rank

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (
            torch.randn(series, tokens, rank, generator=generator, device=generator.device),
            torch.randn(horizon, rank, outputs, generator=generator, device=generator.device)
            * rank**-0.5,
            torch.randn(
                series, tokens + horizon, config.patch, generator=generator, device=generator.device
            ),
            torch.randn(series, tokens, generator=generator, device=generator.device),
            torch.rand(series, tokens, generator=generator, device=generator.device) + 0.5,
            torch.ones(series, tokens),
            torch.arange(series) % reference.MAX_STRIDE,
            torch.tensor(QUANTILES),
        )

    pairs = series * sum(len(ks) * (tokens // stride) for ks, stride in reference.octaves(horizon))
    return Case(
        op="grid_loss",
        shape=shape,
        dtype=torch.float32,
        draw=draw,
        settings={},
        trained=(0, 1),
        reduce=lambda result: (result[0] / result[1].clamp_min(1)).mean(),
        flop=2.0 * pairs * rank * outputs,
        flop_both=6.0 * pairs * rank * outputs,
    )


def _rms_norm(
    config: ModelConfig, *, series: int, tokens: int, shape: str, dtype: torch.dtype
) -> Case:
    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        x = torch.randn(
            series, tokens, config.d_model, generator=generator, device=generator.device
        )
        return x.to(dtype), torch.rand(
            config.d_model, generator=generator, device=generator.device
        ) + 0.5

    return Case(
        op="rms_norm",
        shape=shape,
        dtype=dtype,
        draw=draw,
        settings={},
        trained=(0, 1),
        reduce=lambda y: y,
    )


def _swiglu(
    config: ModelConfig, *, series: int, tokens: int, shape: str, dtype: torch.dtype
) -> Case:
    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (
            torch.randn(
                series, tokens, 2 * config.d_ff, generator=generator, device=generator.device
            ).to(dtype),
        )

    return Case(
        op="swiglu",
        shape=shape,
        dtype=dtype,
        draw=draw,
        settings={},
        trained=(0,),
        reduce=lambda y: y,
    )


def case(op: str, preset: str, *, tokens: int | None, device: torch.device) -> Case:
    """An op at a preset's width; tokens of a series: the preset's context unless given."""
    config = PRESETS[preset]
    # Tokens of a batch: enough to fill a large GPU, or to leave a CPU's caches.
    batch = 64 if TINY else 1 << (17 if device.type == "cuda" else 13)
    length = min(batch, tokens or config.context_patches)
    shape = {"series": batch // length, "tokens": length}
    name = preset if tokens is None else f"{preset} N={tokens}"
    if op == "dart_patch_embed":
        return _embed(config, **shape, shape=name)
    if op == "grid_loss":
        return _loss(config, **shape, shape=name)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    build = {"rms_norm": _rms_norm, "swiglu": _swiglu}[op]
    return build(config, **shape, shape=name, dtype=dtype)


def rivals(op: str) -> list[str]:
    """Who takes part here: eager and compiled always, our kernel and Liger's where they run.

    In tiny mode the Triton kernels also run in Triton's interpreter, which proves that they do and says nothing of speed.
    """
    found = ["eager", "compiled"]
    on_gpu = pick_device().type == "cuda"
    interpreted = TINY and kernel_device() is not None
    # the loss has a kernel for the CPU as well
    if op == "grid_loss" or op in KERNELS and (on_gpu or interpreted):
        found.insert(0, "kernel")
    if op not in KERNELS and on_gpu and find_spec("liger_kernel") is not None:
        found.append("liger")
    return found


def implementation(op: str, rival: str) -> Callable[..., Any]:
    """One way to compute an op."""
    definition = getattr(reference, op)
    if rival == "kernel":
        return getattr(ops, op)
    if rival == "eager":
        return definition
    if rival == "liger":
        return _liger(op)
    torch.compiler.reset()
    # in tiny mode the compiler's own time would be all there is
    return torch.compile(definition, fullgraph=True, backend="aot_eager" if TINY else "inductor")


def _liger(op: str) -> Callable[..., Any]:
    if op == "rms_norm":
        function = importlib.import_module("liger_kernel.ops.rms_norm").LigerRMSNormFunction
        return lambda x, gain: function.apply(x, gain, 1e-6, 0.0, "llama", False)
    function = importlib.import_module("liger_kernel.ops.swiglu").LigerSiLUMulFunction
    # two halves of one projection, as the model has them
    return lambda x: function.apply(*x.chunk(2, -1))
