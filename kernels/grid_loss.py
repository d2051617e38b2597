"""Horizon head and coarse-grid loss: projection, non-crossing quantiles, pinball and Huber terms in one kernel.

For token i, horizon patch k of its octave and step p, with raw = h_i @ weight_k and y in the token's frame:

    quantile_j = median -+ (softplus(gap_1 - 1) + ... )               gaps downwards, then upwards
    loss       = [2 mean_j max(l_j e_j, (l_j - 1) e_j) + 1/4 huber(y - mean)] * min(1, 100 / |y|),  e_j = y - quantile_j
    dloss/dquantile_j = -l_j or 1 - l_j;   a gap gets the sum over the quantiles beyond it, times softplus'

A program takes 64 tokens and 16 steps of one horizon patch. It makes one (64, 16) tile for each of the 1 + Q outputs and keeps them
in registers, so neither outputs nor quantiles exist in memory: the forward pass saves its inputs alone. The backward
pass makes them again and writes their gradient for a bounded chunk of tokens, which two library matmuls turn into the
gradients of h and weight; memory does not depend on the horizon. No atomics: sums run in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from tinytsm.kernels.reference import (
    FAR_TARGET,
    GAP_SHIFT,
    HUBER_DELTA,
    MEAN_WEIGHT,
    check_grid,
    grid_rows,
    octaves,
)
from tinytsm.kernels.triton_support import DTYPES, dot, is_number, narrow, product_of

_FAR = tl.constexpr(FAR_TARGET)
_SHIFT = tl.constexpr(GAP_SHIFT)
_DELTA = tl.constexpr(HUBER_DELTA)
_MEAN_WEIGHT = tl.constexpr(MEAN_WEIGHT)

# Bytes of output gradients that the backward pass holds at once: a part of the smallest L2 cache (40 MB, A100).
CHUNK_BYTES = 16 << 20
# Rows of the grid and steps of a patch that a program takes: more would not fit the registers beside 1 + Q tiles.
BLOCK_ROWS, BLOCK_STEPS = 64, 16
# Columns of h that it multiplies at a time.
_RANKS = {"half": 32, "tf32": 32, "float32": 16}


@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))


@triton.jit(do_not_specialize=["n_rows", "n_tokens", "n_target", "first_k"])
def _grid_loss_kernel(
    h, weight, target, loc, scale, token_weight, levels, index, out, counts,
    n_rows, n_tokens, n_target, first_k, R,
    P: tl.constexpr, Q: tl.constexpr, BM: tl.constexpr, BP: tl.constexpr, BR: tl.constexpr, EXACT: tl.constexpr,
    BACKWARD: tl.constexpr,
):  # fmt: skip
    """Program (i * P / BP + l, j): rows i * BM .. + BM of the grid, steps l * BP .. + BP of horizon patch first_k + j.

    Neighbours share their rows of h, so that only the first reads them from far away.

    index: (n_rows,), the token of each row, counted through all series. weight: (K, 1 + Q, P, R).
    Forward: out and counts, one entry for each program, take sums of loss and of weights. Backward: out (n_rows,
    horizon patches, 1 + Q, P) takes the loss's gradient with respect to the outputs.
    """
    i_ml, i_k = tl.program_id(0), tl.program_id(1)
    i_m, i_l = (i_ml // (P // BP)).to(tl.int64), i_ml % (P // BP)
    k = (first_k + i_k).to(tl.int64)
    o_row = i_m * BM + tl.arange(0, BM)
    m_row = o_row < n_rows
    # divided as 32-bit numbers, which is several times cheaper
    index_row = tl.load(index + o_row, m_row, other=0)
    series, token = (index_row // n_tokens).to(tl.int64), index_row % n_tokens
    o_n = index_row.to(tl.int64)
    o_p, o_r = i_l * BP + tl.arange(0, BP), tl.arange(0, BR)

    # a tuple of tiles, one for each output: Triton unrolls what Python's types cannot follow
    raw = ()
    for _ in tl.static_range(1 + Q):
        raw = raw + (tl.zeros((BM, BP), tl.float32),)  # type: ignore[assignment]
    for r in range(0, R, BR):
        m_r = r + o_r < R
        b_h = tl.load(
            h + o_n[:, None] * R + r + o_r[None, :], m_row[:, None] & m_r[None, :], other=0.0
        )
        p_w = weight + (k * (1 + Q) * P + o_p[None, :]) * R + r + o_r[:, None]
        more = ()
        for j in tl.static_range(1 + Q):
            b_w = tl.load(p_w + j * P * R, m_r[:, None], other=0.0)
            more = more + (dot(b_h, b_w, raw[j], EXACT),)  # type: ignore[assignment]
        raw = more

    b_loc = tl.load(loc + o_n, m_row, other=0.0).to(tl.float32)
    b_scale = tl.load(scale + o_n, m_row, other=0.0).to(tl.float32)
    importance = tl.load(token_weight + o_n, m_row, other=0.0).to(tl.float32)
    usable = m_row & (b_scale > 0)
    unit = tl.where(usable, b_scale, 1.0)
    p_y = target + (series * n_target + token + 1 + k)[:, None] * P + o_p[None, :]
    y = tl.load(p_y, usable[:, None], other=float("nan")).to(tl.float32)
    y = (y - b_loc[:, None]) / unit[:, None]
    known = is_number(y)
    y = tl.where(known, y, 0.0)
    reach = _FAR / tl.maximum(tl.abs(y), _FAR)

    HALF: tl.constexpr = (Q - 1) // 2
    away = y - raw[0]  # type: ignore[misc]
    error = y - raw[1]  # type: ignore[misc]
    middle = tl.load(levels + HALF).to(tl.float32)
    if BACKWARD:
        share = tl.where(known, importance[:, None] * reach, 0.0)
        dtype: tl.constexpr = out.dtype.element_ty
        o_out = o_row * tl.num_programs(1) + i_k
        p_out = out + o_out[:, None] * ((1 + Q) * P) + o_p[None, :]
        m_out = m_row[:, None]
        mean_grad = -_MEAN_WEIGHT * tl.minimum(tl.maximum(away, -_DELTA), _DELTA)
        tl.store(p_out, narrow(share * mean_grad, dtype), m_out)
        # twice the pinball loss's slope is sign(quantile - y) + 1 - 2 level, also where they are equal
        share = share * (1.0 / Q)
        median_grad = 1.0 - 2.0 * middle - _sign(error)
        for side in tl.static_range(2):
            direction = 2.0 * side - 1.0
            slopes = ()
            beyond = error
            total = tl.zeros((BM, BP), tl.float32)
            for j in tl.static_range(HALF):
                beyond = beyond - direction * _softplus(raw[2 + side * HALF + j] + _SHIFT)
                level = tl.load(levels + (HALF - 1 - j if side == 0 else HALF + 1 + j))
                slope = 1.0 - 2.0 * level.to(tl.float32) - _sign(beyond)
                slopes = slopes + (slope,)  # type: ignore[assignment]
                total = total + slope
            median_grad = median_grad + total
            for j in tl.static_range(HALF):
                gap = raw[2 + side * HALF + j] + _SHIFT
                gap_grad = direction * total / (1.0 + tl.exp(-gap))
                tl.store(p_out + (2 + side * HALF + j) * P, narrow(share * gap_grad, dtype), m_out)
                total = total - slopes[j]
        tl.store(p_out + P, narrow(share * median_grad, dtype), m_out)
    else:
        near = tl.minimum(tl.abs(away), _DELTA)
        huber = near * (tl.abs(away) - near * 0.5)
        pinball = tl.maximum(middle * error, (middle - 1.0) * error)
        for side in tl.static_range(2):
            direction = 2.0 * side - 1.0
            beyond = error
            for j in tl.static_range(HALF):
                beyond = beyond - direction * _softplus(raw[2 + side * HALF + j] + _SHIFT)
                level = tl.load(levels + (HALF - 1 - j if side == 0 else HALF + 1 + j))
                level = level.to(tl.float32)
                pinball += tl.maximum(level * beyond, (level - 1.0) * beyond)
        loss = tl.where(known, (pinball * (2.0 / Q) + _MEAN_WEIGHT * huber) * reach, 0.0)
        o_out = i_ml * tl.num_programs(1) + i_k
        # summed as one axis: Triton 3.6 cannot compile a sum along rows of these tiles for sm_100
        tl.store(out + o_out, tl.sum(loss * importance[:, None]))
        tl.store(counts + o_out, tl.sum(tl.where(known, importance[:, None], 0.0)))


def _outputs_first(weight: Tensor, patch: int) -> Tensor:
    """(K, R, P * (1 + Q)) to (K, 1 + Q, P, R): one output's P steps are neighbours, R runs fastest."""
    return weight.unflatten(-1, (patch, -1)).permute(0, 3, 2, 1).contiguous()


def _blocks(index: Tensor, patch: int) -> int:
    """Programs of one horizon patch."""
    return triton.cdiv(len(index), BLOCK_ROWS) * (patch // BLOCK_STEPS)


def _launch(
    h: Tensor, weight: Tensor, target: Tensor, loc: Tensor, scale: Tensor, token_weight: Tensor,
    levels: Tensor, index: Tensor, out: Tensor, counts: Tensor, ks: range, *, backward: bool,
) -> None:  # fmt: skip
    rank, patch = h.shape[-1], target.shape[-1]
    product = product_of(h.dtype)
    _grid_loss_kernel[(_blocks(index, patch), len(ks))](
        h, weight, target, loc, scale, token_weight, levels, index, out, counts,
        len(index), h.shape[1], target.shape[1], ks.start, rank,
        P=patch, Q=len(levels), BM=BLOCK_ROWS, BP=BLOCK_STEPS, BR=_RANKS[product],
        EXACT=product != "tf32", BACKWARD=backward, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip


def launch_forward(
    h: Tensor, weight: Tensor, target: Tensor, loc: Tensor, scale: Tensor, token_weight: Tensor,
    offset: Tensor, levels: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sum and count of each octave, (O,) each."""
    by_output = _outputs_first(weight, target.shape[-1])
    sums = []
    for ks, stride in octaves(len(weight)):
        index = grid_rows(offset, h.shape[1], stride).int()
        shape = (2, _blocks(index, target.shape[-1]), len(ks))
        partial = torch.empty(shape, dtype=torch.float32, device=h.device)
        _launch(
            h, by_output, target, loc, scale, token_weight, levels, index,
            partial[0], partial[1], ks, backward=False,
        )  # fmt: skip
        sums.append(partial.sum((1, 2)))
    total, count = torch.stack(sums, 1)
    return total.clone(), count.clone()


def launch_backward(
    h: Tensor, weight: Tensor, target: Tensor, loc: Tensor, scale: Tensor, token_weight: Tensor,
    offset: Tensor, levels: Tensor, grad: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of h and weight; grad: (O,), of each octave's sum."""
    rank, outputs = h.shape[-1], weight.shape[-1]
    by_output = _outputs_first(weight, target.shape[-1])
    flat = h.flatten(0, 1)
    h_grad = torch.zeros(flat.shape, dtype=torch.float32, device=h.device)
    weight_grad = torch.zeros(by_output.shape, dtype=torch.float32, device=h.device)
    for (ks, stride), upstream in zip(octaves(len(weight)), grad.float(), strict=True):
        index = grid_rows(offset, h.shape[1], stride).int()
        width = len(ks) * outputs
        chunk = max(1, CHUNK_BYTES // (width * h.itemsize * BLOCK_ROWS)) * BLOCK_ROWS
        weight_of = by_output[ks.start : ks.stop].view(width, rank)
        grad_of = weight_grad[ks.start : ks.stop].view(width, rank)
        for rows in index.split(chunk):
            outputs_grad = torch.empty(len(rows), width, dtype=h.dtype, device=h.device)
            _launch(
                h, by_output, target, loc, scale, token_weight, levels, rows,
                outputs_grad, outputs_grad, ks, backward=True,
            )  # fmt: skip
            # upstream is a tiny number: multiplied in float32, it cannot underflow in float16
            grad_of += (outputs_grad.t() @ flat[rows]).float() * upstream
            # a chunk's rows are distinct tokens, so the order of these additions cannot matter
            h_grad.index_add_(0, rows, (outputs_grad @ weight_of).float() * upstream)
    weight_grad = weight_grad.permute(0, 3, 2, 1).reshape(weight.shape)
    return h_grad.view(h.shape).to(h.dtype), weight_grad.to(weight.dtype)


@custom_op("tinytsm::grid_loss", mutates_args=())
def _forward(
    h: Tensor, weight: Tensor, target: Tensor, loc: Tensor, scale: Tensor, token_weight: Tensor,
    offset: Tensor, levels: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return launch_forward(h, weight, target, loc, scale, token_weight, offset, levels)


@_forward.register_fake
def _(h, weight, target, loc, scale, token_weight, offset, levels):
    n = len(octaves(weight.shape[0]))
    return h.new_empty(n, dtype=torch.float32), h.new_empty(n, dtype=torch.float32)


@custom_op("tinytsm::grid_loss_backward", mutates_args=())
def _backward(
    h: Tensor, weight: Tensor, target: Tensor, loc: Tensor, scale: Tensor, token_weight: Tensor,
    offset: Tensor, levels: Tensor, grad: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    # a caller's autocast would round the gradients on their way through the library's matmuls
    with torch.autocast(h.device.type, enabled=False):
        return launch_backward(h, weight, target, loc, scale, token_weight, offset, levels, grad)


@_backward.register_fake
def _(h, weight, target, loc, scale, token_weight, offset, levels, grad):
    return torch.empty_like(h), torch.empty_like(weight)


def _setup_context(ctx, inputs, output):
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)


def _gradients(ctx, grad, _):
    h_grad = weight_grad = None
    if grad is not None:
        h_grad, weight_grad = _backward(*ctx.saved_tensors, grad)
    return h_grad, weight_grad, None, None, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_setup_context)


def supports(h: Tensor, weight: Tensor, target: Tensor) -> bool:
    """Whether the kernel computes this: patches of whole tiles, one dtype of h and weight, float32 targets."""
    return (
        target.shape[-1] % BLOCK_STEPS == 0
        and target.dtype == torch.float32
        and h.dtype in DTYPES
        and weight.dtype == h.dtype
    )


def grid_loss(
    h: Tensor,
    weight: Tensor,
    target: Tensor,
    loc: Tensor,
    scale: Tensor,
    token_weight: Tensor,
    offset: Tensor,
    levels: Tensor,
) -> tuple[Tensor, Tensor]:
    """`reference.grid_loss` by the kernel; gradients for `h` and `weight` alone.

    h: (S, N, R) and weight: (K, R, P * (1 + Q)) of one dtype. target: (S, N + K, P) float32. Returns (sum, count),
    (O,) each, in float32. Raises ValueError for shapes that do not fit.
    """
    check_grid(h, weight, target, loc, scale, token_weight, offset, levels)
    return _forward(
        *(t.contiguous() for t in (h, weight, target, loc, scale, token_weight, offset, levels))
    )
