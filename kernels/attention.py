"""How attention is laid on the chip: tiles by dispatch table, and the launches that both attention ops share."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from tinytsm.kernels.attention_stream import stream_backward_kv, stream_backward_q, stream_forward
from tinytsm.kernels.attention_tiles import whole_backward, whole_forward
from tinytsm.kernels.triton_support import DTYPES, architecture

HEAD_WIDTHS = (32, 64, 128)


class _Tiles(NamedTuple):
    """Tiles of one dtype and head width, the fastest to be expected that spill no register.

    whole: rows of the largest tile that holds whole groups, forward and backward, 0 for none; longer groups are
    streamed, and so are more than 64 variates.
    forward, backward_q, backward_kv: queries, keys, warps and pipeline stages of a streamed block.
    """

    whole: tuple[int, int]
    forward: tuple[int, int, int, int]
    backward_q: tuple[int, int, int, int]
    backward_kv: tuple[int, int, int, int]


# By bytes of the dtype and head width. Wide heads in float32 are not there: their three TF32 products fit no registers.
# Hopper multiplies from 64 rows up; older chips hold less in registers, because their products leave operands there.
_HOPPER = {
    (2, 32): _Tiles((128, 128), (64, 64, 4, 2), (64, 64, 4, 2), (64, 64, 4, 2)),
    (2, 64): _Tiles((128, 128), (64, 64, 4, 2), (64, 64, 4, 2), (64, 64, 4, 1)),
    (2, 128): _Tiles((0, 0), (64, 64, 8, 1), (64, 64, 8, 1), (64, 32, 8, 1)),
    (4, 32): _Tiles((0, 0), (64, 32, 4, 1), (64, 32, 4, 1), (32, 64, 4, 1)),
    (4, 64): _Tiles((0, 0), (64, 32, 4, 1), (64, 16, 4, 1), (32, 64, 8, 1)),
}
# What Hopper just holds, Blackwell spills; wide heads in float32 with it.
_BLACKWELL = {
    (2, 32): _HOPPER[2, 32]._replace(whole=(64, 64)),
    (2, 64): _HOPPER[2, 64]._replace(whole=(64, 64), forward=(64, 64, 4, 1)),
    (2, 128): _HOPPER[2, 128]._replace(backward_q=(64, 32, 8, 1)),
    (4, 32): _HOPPER[4, 32],
}
_AMPERE = {
    (2, 32): _Tiles((128, 128), (64, 64, 4, 2), (64, 64, 4, 2), (64, 64, 4, 1)),
    (2, 64): _Tiles((128, 64), (64, 64, 4, 2), (64, 64, 4, 1), (64, 32, 4, 1)),
    (2, 128): _Tiles((0, 0), (64, 32, 8, 1), (64, 32, 8, 1), (32, 32, 8, 1)),
    (4, 32): _Tiles((0, 0), (32, 32, 4, 1), (32, 16, 4, 1), (32, 32, 4, 1)),
}


def _table() -> dict[tuple[int, int], _Tiles]:
    return {9: _HOPPER, 10: _BLACKWELL}.get(architecture() // 10, _AMPERE)


def _tiles(qkv: Tensor) -> _Tiles:
    return _table()[qkv.itemsize, qkv.shape[-1]]


def supports(qkv: Tensor) -> bool:
    """Whether the kernels compute this: a head width that has tiles in the dtype on the chip at hand, no float64."""
    return qkv.dtype in DTYPES and (qkv.itemsize, qkv.shape[-1]) in _table()


def check(qkv: Tensor, q_gain: Tensor, k_gain: Tensor) -> None:
    """Raise ValueError for what is no projection of queries, keys and values with its gains."""
    if qkv.ndim != 5 or qkv.shape[2] != 3 or not supports(qkv):
        raise ValueError(
            f"qkv must be (series, tokens, 3, heads, width), width one of {HEAD_WIDTHS}, in bfloat16, float16 "
            f"or, narrow, float32, got {tuple(qkv.shape)} in {qkv.dtype}"
        )
    width = qkv.shape[-1:]
    if q_gain.shape != width or k_gain.shape != width:
        raise ValueError(
            f"gains must be ({width[0]},), one for each channel of a head, got {tuple(q_gain.shape)} and "
            f"{tuple(k_gain.shape)}"
        )


def whole_tile(length: int, qkv: Tensor, *, causal: bool, backward: bool) -> int | None:
    """Rows of the tile that holds whole groups of `length` rows on the chip at hand; None where they are streamed."""
    # 64 rows are what Hopper's matrix instruction wants at least
    tile = 64 if length <= 64 else 128
    # the variates' states cost the wide tile the registers that it lacks
    largest = _tiles(qkv).whole[backward] if causal else min(64, _tiles(qkv).whole[backward])
    return tile if length <= tile <= largest else None


def launch_forward(
    qkv: Tensor, q_gain: Tensor, k_gain: Tensor, table: Tensor, state: Tensor, length: int, *, causal: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Answers (S, N, H, E) and their logarithms of sums (H, S * N), group by group of `length` rows."""
    series, tokens, _, heads, width = qkv.shape
    groups = series * tokens // length if length else 0
    out = torch.empty(series, tokens, heads, width, dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty(heads, series * tokens, dtype=torch.float32, device=qkv.device)
    if out.numel() == 0:
        return out, lse
    inputs = (qkv, q_gain, k_gain, table, state, out, lse)
    sizes = (tokens, length, heads, *qkv.stride()[:4])
    if tile := whole_tile(length, qkv, causal=causal, backward=False):
        whole_forward[(triton.cdiv(groups, tile // length) * heads,)](
            *inputs, groups, *sizes,
            E=width, BT=tile, CAUSAL=causal, num_warps=tile // 16, enable_fp_fusion=True,
        )  # fmt: skip
    else:
        queries, keys, warps, stages = _tiles(qkv).forward
        stream_forward[(groups * heads, triton.cdiv(length, queries))](
            *inputs, *sizes, E=width, BM=queries, BN=keys, CAUSAL=causal,
            num_warps=warps, num_stages=stages, enable_fp_fusion=True,
        )  # fmt: skip
    return out, lse


def launch_backward(
    qkv: Tensor, q_gain: Tensor, k_gain: Tensor, table: Tensor, state: Tensor,
    out: Tensor, lse: Tensor, out_grad: Tensor, length: int, *, causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of qkv (S, N, 3, H, E), q_gain and k_gain (E,)."""
    series, tokens, _, heads, width = qkv.shape
    groups = series * tokens // length if length else 0
    device = qkv.device
    grad = torch.empty(qkv.shape, dtype=qkv.dtype, device=device)
    if grad.numel() == 0:
        return grad, torch.zeros_like(q_gain), torch.zeros_like(k_gain)
    inputs = (qkv, q_gain, k_gain, table, state)
    sizes = (tokens, length, heads, *qkv.stride()[:4])
    if tile := whole_tile(length, qkv, causal=causal, backward=True):
        programs = triton.cdiv(groups, tile // length) * heads
        gain_grads = torch.empty(2, programs, width, dtype=torch.float32, device=device)
        whole_backward[(programs,)](
            *inputs, lse, out_grad, grad, gain_grads, groups, *sizes,
            E=width, BT=tile, CAUSAL=causal, num_warps=tile // 16, enable_fp_fusion=True,
        )  # fmt: skip
        # not as one sum: an op's results must not share memory
        q_gain_grad, k_gain_grad = gain_grads[0].sum(0), gain_grads[1].sum(0)
    else:
        delta = torch.empty_like(lse)
        queries, keys, warps, stages = _tiles(qkv).backward_q
        shape = (groups * heads, triton.cdiv(length, queries))
        partial = torch.empty(*shape, width, dtype=torch.float32, device=device)
        stream_backward_q[shape](
            *inputs, out, lse, out_grad, grad, delta, partial, *sizes,
            E=width, BM=queries, BN=keys, CAUSAL=causal,
            num_warps=warps, num_stages=stages, enable_fp_fusion=True,
        )  # fmt: skip
        q_gain_grad = partial.sum((0, 1))
        queries, keys, warps, stages = _tiles(qkv).backward_kv
        shape = (groups * heads, triton.cdiv(length, keys))
        partial = torch.empty(*shape, width, dtype=torch.float32, device=device)
        stream_backward_kv[shape](
            *inputs, lse, out_grad, grad, delta, partial, *sizes,
            E=width, BM=queries, BN=keys, CAUSAL=causal,
            num_warps=warps, num_stages=stages, enable_fp_fusion=True,
        )  # fmt: skip
        k_gain_grad = partial.sum((0, 1))
    return grad, q_gain_grad.to(q_gain.dtype), k_gain_grad.to(k_gain.dtype)
