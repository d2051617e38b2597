"""Both attentions, forward alone and with backward: our kernels against PyTorch's, all with norms and positions.

Attention of short groups is bound by memory: its floor is a plain copy. Rivals are the definition run eagerly, the
library's fused attention behind norms and positions that torch.compile fuses (each of SDPA's back ends for causal
attention, padded groups for feature attention), and flash-attn where it is installed. The Triton kernels take part on a
GPU, and in tiny mode also in Triton's interpreter (TRITON_INTERPRET=1), which says nothing of their speed; Numba's
causal attention takes part on a CPU whose blocks are in bfloat16, behind compiled norms and positions too. In every
round the eager definition takes its turn, so `ratio` is how many times faster than eager a rival is.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench import timing
from bench.record import TINY, pick_device
from tinytsm import ops
from tinytsm.testing import kernel_device

ON_GPU = pick_device().type == "cuda"
TRITON = ["triton"] if ON_GPU or (TINY and kernel_device() is not None) else []
SDPA = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
}
# Of the blocks, in training.
DTYPES = [ops.pick_precision(pick_device())]
NUMBA = ["numba"] if not ON_GPU and torch.bfloat16 in DTYPES else []
RIVALS = [*TRITON, *NUMBA, "reference", "compiled", "sdpa", *(SDPA if ON_GPU else ())]
LENGTHS = [32] if TINY else [32, 64, 128, 256, 512, 1024]
VARIATES = [7] if TINY else [1, 2, 7, 21, 64, 100] if ON_GPU else [1, 7, 21, 100]
WIDTHS = [32, 64] if ON_GPU else [32]
# A CPU spends its time on compiling: there only what training does.
DIRECTIONS = [*(["forward"] if TINY or ON_GPU else []), "forward and backward"]
HEADS = 2 if TINY else 8
# Tokens of a batch, over all series: enough to fill a large GPU, or to leave a CPU's caches.
TOKENS = 128 if TINY else 1 << 17 if ON_GPU else 1 << 13


def rival_of(op: str, rival: str, **settings: Any) -> Callable[..., Tensor]:
    """One way to compute an op on (qkv, q_gain, k_gain); skips what is not installed."""
    attend = getattr(ops, op)
    backend = {"compiled": "reference"}.get(rival, "sdpa" if rival in SDPA else rival)
    if rival == "flash-attn" and ops._flash_attention is None:
        pytest.skip("needs flash-attn")

    def run(qkv: Tensor, q_gain: Tensor, k_gain: Tensor) -> Tensor:
        return attend(qkv, q_gain, k_gain, backend=backend, **settings)

    # the kernels and the definition as they are, all others behind compiled norms and positions
    if rival in ("triton", "reference"):
        return run
    torch.compiler.reset()
    return torch.compile(run, fullgraph=True, backend="aot_eager" if TINY else "inductor")


def compare(
    timed: Callable[..., Any], device: torch.device, op: str, rival: str,
    shape: tuple[int, ...], dtype: torch.dtype, direction: str, flop: float, **settings: Any,
) -> None:  # fmt: skip
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    gains = [1 + 0.1 * normal(shape[-1]) for _ in range(2)]
    grad = normal(*shape[:2], *shape[3:]).to(dtype)
    both = direction != "forward"
    first = normal(*shape).to(dtype)
    sets = 1 if TINY else timing.copies(first.nbytes, device)
    drawn = [first, *(normal(*shape).to(dtype) for _ in range(sets - 1))]
    inputs = [tuple(t.requires_grad_(both) for t in (qkv, *gains)) for qkv in drawn]

    def step(attend: Callable[..., Tensor], *leaves: Tensor) -> list[Tensor]:
        out = attend(*leaves)
        grads = torch.autograd.grad(out, leaves, grad, allow_unused=True) if both else ()
        return [out.detach(), *(g for g in grads if g is not None)]

    run = functools.partial(step, rival_of(op, rival, **settings))
    eager = functools.partial(
        step, functools.partial(getattr(ops, op), backend="reference", **settings)
    )
    chosen = sdpa_kernel(SDPA[rival]) if rival in SDPA else contextlib.nullcontext()
    with chosen:
        try:
            run(*inputs[0])
        except RuntimeError as error:
            if rival not in SDPA:
                raise
            pytest.skip(f"{rival} cannot: {error}")
        # what any implementation reads and writes: qkv and the answer; back again: qkv, its gradient, the upstream one
        moved = first.nbytes + grad.nbytes + (2 * first.nbytes + grad.nbytes if both else 0)
        timed(
            timing.Rotation(run, inputs),
            bytes_moved=moved,
            flop=flop * (3.5 if both else 1),
            dtype=dtype,
            calls=20 if ON_GPU else 2,
            rounds=10 if ON_GPU else 5,
            against=None if rival == "reference" else timing.Rotation(eager, inputs),
            op=op if rival in ("triton", "numba") else None,
        )
        tolerance = {torch.float32: 1e-4, torch.bfloat16: 3e-2}[dtype]
        for leaves in (inputs[0], inputs[-1]):
            for ours, truth in zip(run(*leaves), eager(*leaves), strict=True):
                scale = float(truth.float().abs().max())
                torch.testing.assert_close(ours, truth, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("rival", [*RIVALS, "flash-attn"])
def bench_causal_attention(
    benchmark: BenchmarkFixture, timed: Callable[..., Any], device: torch.device,
    rival: str, length: int, width: int, dtype: torch.dtype, direction: str,
) -> None:  # fmt: skip
    benchmark.group = f"causal_attention {direction} N{length} E{width} {dtype}"
    shape = (max(1, TOKENS // length), length, 3, HEADS, width)
    # two products over the half that is seen
    flop = 2.0 * shape[0] * HEADS * length * length * width
    compare(
        timed, device, "causal_attention", rival, shape, dtype, direction, flop
    )  # fmt: skip


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("variates", VARIATES)
@pytest.mark.parametrize("rival", [*TRITON, "reference", "compiled", "sdpa", "flash-attn"])
def bench_feature_attention(
    benchmark: BenchmarkFixture, timed: Callable[..., Any], device: torch.device,
    rival: str, variates: int, width: int, dtype: torch.dtype, direction: str,
) -> None:  # fmt: skip
    benchmark.group = f"feature_attention {direction} V{variates} E{width} {dtype}"
    tokens = 4 if TINY else 64
    items = max(1, TOKENS // (tokens * variates))
    shape = (items * variates, tokens, 3, HEADS, width)
    flop = 4.0 * items * tokens * HEADS * variates * variates * width
    compare(
        timed, device, "feature_attention", rival, shape, dtype, direction, flop,
        variates=variates,
    )  # fmt: skip
