"""DART-Norm, patching and the embedding's first linear layer in one kernel, from raw series to tokens.

For token i of a series, with w = 2^(-age / half-life) over its observed points so far, ages in observed points:

    loc_i   = sum(w x) / sum(w)                           short memory
    scale_i = sqrt(sum(w (x - mean)^2) / sum(w))          long memory, about its own mean
    h_i     = [asinh((x - loc_i) / scale_i), observed, features_i] @ weight

A patch becomes (half-lives that it lasts, weight, mean, sum of squared deviations); such quadruples merge associatively
(Chan, Golub and LeVeque 1983, eq. 2.1), so a scan over patches gives every frame, never as E[x^2] - E[x]^2. Half-lives
add up exactly, or nearly; a product of as many decays would add up the errors of a GPU's 2^x.

Forward, bytes: reads x and weight once, writes h once, and per token loc, scale, token weight and four features.
Backward: only `weight` has a gradient. The normalised patches are made again from x, loc, scale and the features, so
nothing of size tokens x patch is saved. Each program adds up its own tokens and the partial sums are added in a fixed
order: the same bits in every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from tinytsm.kernels.reference import DEGENERATE_ULPS, FEATURE_LIMIT, FRAME_FEATURES
from tinytsm.kernels.triton_support import (
    DTYPES,
    LN2,
    MAX,
    architecture,
    dot,
    dot_by_flags,
    dot_flags,
    is_number,
    last_of,
    maximum,
    narrow,
    processors,
    product_of,
)

# A dot's inner length is at least 16: the four features are padded with zeros.
_FEATURES = tl.constexpr(FRAME_FEATURES)
_FEATURE_BLOCK = tl.constexpr(16)
_LIMIT = tl.constexpr(FEATURE_LIMIT)
_DEGENERATE = tl.constexpr(DEGENERATE_ULPS * torch.finfo(torch.float32).eps)
_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)

PATCHES = (16, 32, 64)
# Tiles by patch length and how the weight is multiplied: the largest that spill no register on any chip of the gate (wider ones
# of 32 steps in TF32 do not on Hopper, and were slower there).
# Forward: columns, warps, pipeline stages. Backward: tokens, columns, warps.
_FORWARD_TILES = {
    (16, "half"): (128, 4, 3), (32, "half"): (128, 4, 3), (64, "half"): (64, 8, 3),
    (16, "tf32"): (64, 4, 3), (32, "tf32"): (32, 4, 3), (64, "tf32"): (32, 8, 1),
    (16, "float32"): (32, 4, 3), (32, "float32"): (16, 4, 3), (64, "float32"): (16, 8, 1),
}  # fmt: skip
_BACKWARD_TILES = {
    (16, "half"): (64, 128, 4), (32, "half"): (32, 128, 4), (64, "half"): (16, 64, 4),
    (16, "tf32"): (64, 128, 8), (32, "tf32"): (32, 128, 8), (64, "tf32"): (16, 64, 4),
    (16, "float32"): (32, 128, 8), (32, "float32"): (32, 128, 8), (64, "float32"): (16, 64, 4),
}  # fmt: skip


@triton.jit
def _asinh(x):
    """Odd series near zero, where the logarithm loses digits."""
    a = tl.minimum(tl.abs(x), 1e18)
    s = a * a
    near = 35.0 / 1152 - s * (63.0 / 2816)
    near = 3.0 / 40 - s * (5.0 / 112 - s * near)
    near = a - a * s * (1.0 / 6 - s * near)
    far = tl.log2(a + tl.sqrt(s + 1.0)) * LN2
    y = tl.where(a < 0.25, near, far)
    return tl.where(x < 0, -y, y)


@triton.jit
def _merge(a1, w1, m1, s1, a2, w2, m2, s2):
    """Two stretches in one, the older first: (half-lives, weight, mean, sum of squared deviations)."""
    decay = tl.exp2(-a2)
    older = w1 * decay
    weight = older + w2
    over = 1.0 / tl.maximum(weight, 1e-30)
    gap = m2 - m1
    # from the heavier side, so that a decayed outlier's rounding does not stay behind in the mean
    mean = tl.where(w2 > older, m2 - gap * (older * over), m1 + gap * (w2 * over))
    between = tl.minimum(gap * gap, MAX) * (older * (w2 * over))
    return a1 + a2, weight, mean, tl.minimum(s1 * decay + s2 + between, MAX)


@triton.jit
def _running(
    value, seen, newer, within, w0, m0, s0, RATE: tl.constexpr, BS: tl.constexpr, BT: tl.constexpr
):
    """One memory's (weight, mean, sum of squares) at each token: (BS, BT) each.

    value, seen, newer: (BS * BT, P). within: (BS * BT,), observed points of each patch. w0, m0, s0: (BS,), the memory
    before the tile.
    """
    weight = seen * tl.exp2(-RATE * newer)
    mass = tl.sum(weight, 1)
    mean = tl.sum(weight * value, 1) / tl.maximum(mass, 1e-30)
    gap = value - mean[:, None]
    spread = tl.minimum(tl.sum(weight * gap * gap, 1), MAX)
    a, w, m, s = tl.associative_scan(
        (
            tl.reshape(RATE * within, (BS, BT)),
            tl.reshape(mass, (BS, BT)),
            tl.reshape(mean, (BS, BT)),
            tl.reshape(spread, (BS, BT)),
        ),
        1,
        _merge,
    )
    # what the older memory lasted is asked for by nobody
    _, w, m, s = _merge(a, w0[:, None], m0[:, None], s0[:, None], a, w, m, s)
    return w, m, s


@triton.jit
def _previous(x, before, at):
    """x one token earlier: (BS, BT), `before` (BS,) in the first column; at: (BS, BT) column numbers."""
    earlier = tl.gather(x, tl.maximum(at - 1, 0), 1)
    return tl.where(at == 0, before[:, None], earlier)


@triton.jit
def _clip(x):
    return tl.minimum(tl.maximum(x, -_LIMIT), _LIMIT)


@triton.jit(do_not_specialize=["S", "N"])
def _embed_fwd_kernel(
    x, resolution, weight, h, loc, scale, token_weight, moves, S, N, C,
    P: tl.constexpr, RATE_LOC: tl.constexpr, RATE_SCALE: tl.constexpr, FEATURES: tl.constexpr,
    EXACT: tl.constexpr, BS: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Program (i, g): series i * BS .. + BS, token tiles one after the other, column blocks g, g + G, ..."""
    i_s = tl.program_id(0).to(tl.int64) * BS
    i_c, n_c = tl.program_id(1), tl.num_programs(1)
    o_p = tl.arange(0, P)
    o_s = i_s + tl.arange(0, BS)
    o_row = tl.arange(0, BS * BT)
    at = tl.broadcast_to(tl.arange(0, BT)[None, :], (BS, BT))
    is_last = at == BT - 1
    b_resolution = tl.load(resolution + o_s, o_s < S, other=0.0).to(tl.float32)

    zero = tl.zeros((BS,), tl.float32)
    count0, level0 = zero, zero
    w_loc0, m_loc0, s_loc0 = zero, zero, zero
    w_long0, m_long0, s_long0 = zero, zero, zero
    last_loc, last_scale, last_usable = zero, zero, zero
    for start in range(0, N, BT):
        o_series = i_s + o_row // BT
        o_token = start + o_row % BT
        m_row = (o_series < S) & (o_token < N)
        o_n = o_series * N + o_token
        p_x = x + o_n[:, None] * P + o_p[None, :]
        raw = tl.load(p_x, m_row[:, None], other=float("nan")).to(tl.float32)
        is_seen = is_number(raw)
        seen = tl.where(is_seen, 1.0, 0.0)
        value = tl.where(is_seen, raw, 0.0)
        within = tl.sum(seen, 1)
        newer = within[:, None] - tl.cumsum(seen, 1)

        w_loc, m_loc, s_loc = _running(
            value, seen, newer, within, w_loc0, m_loc0, s_loc0, RATE_LOC, BS, BT
        )
        w_long, m_long, s_long = _running(
            value, seen, newer, within, w_long0, m_long0, s_long0, RATE_SCALE, BS, BT
        )
        fast = tl.sqrt(tl.minimum(s_loc / tl.maximum(w_loc, 1e-30), MAX))
        slow = tl.sqrt(tl.minimum(s_long / tl.maximum(w_long, 1e-30), MAX))
        count = count0[:, None] + tl.cumsum(tl.reshape(within, (BS, BT)), 1)
        level = tl.reshape(tl.max(tl.abs(value), 1), (BS, BT))
        level = tl.maximum(tl.associative_scan(level, 1, maximum), level0[:, None])
        # the tensor first: in the interpreters of Triton 3.6 and 3.7 a constexpr times a tensor is a constexpr
        usable = tl.where(slow > level * _DEGENERATE + b_resolution[:, None], 1.0, 0.0)
        unit = tl.where(usable > 0, slow, 1.0)

        before = _previous(usable, last_usable, at)
        old_loc = _previous(m_loc, last_loc, at)
        old_unit = tl.where(before > 0, _previous(unit, last_scale, at), 1.0)
        moved = (before > 0) & (usable > 0)
        f0 = tl.where(moved, _clip(_asinh((m_loc - old_loc) / unit)), 0.0)
        f1 = tl.where(moved, _clip(tl.log2(unit / old_unit) * LN2), 0.0)
        f2 = tl.where(usable > 0, _clip(_asinh((m_loc - m_long) / unit)), 0.0)
        f3 = tl.where(usable > 0, _clip(tl.log2(tl.maximum(fast / unit, _TINY)) * LN2), 0.0)

        row_loc = tl.reshape(m_loc, (BS * BT,))
        row_unit = tl.reshape(unit, (BS * BT,))
        row_usable = tl.reshape(usable, (BS * BT,)) > 0
        row_weight = tl.reshape(tl.minimum(count * 0.125, 1.0), (BS * BT,))
        o_f = tl.arange(0, _FEATURE_BLOCK)
        f = tl.where(o_f[None, :] == 0, tl.reshape(f0, (BS * BT,))[:, None], 0.0)
        f = tl.where(o_f[None, :] == 1, tl.reshape(f1, (BS * BT,))[:, None], f)
        f = tl.where(o_f[None, :] == 2, tl.reshape(f2, (BS * BT,))[:, None], f)
        f = tl.where(o_f[None, :] == 3, tl.reshape(f3, (BS * BT,))[:, None], f)
        if not FEATURES:
            f = tl.zeros((BS * BT, _FEATURE_BLOCK), tl.float32)
        if i_c == 0:
            tl.store(loc + o_n, row_loc, m_row)
            tl.store(scale + o_n, tl.where(row_usable, row_unit, 0.0), m_row)
            tl.store(token_weight + o_n, tl.where(row_usable, row_weight, 0.0), m_row)
            m_f = m_row[:, None] & (o_f[None, :] < _FEATURES)
            tl.store(moves + o_n[:, None] * _FEATURES + o_f[None, :], f, m_f)

        shown = is_seen & row_usable[:, None]
        z = _asinh(tl.where(shown, value - row_loc[:, None], 0.0) / row_unit[:, None])
        dtype: tl.constexpr = weight.dtype.element_ty
        z, seen, f = narrow(z, dtype), narrow(seen, dtype), narrow(f, dtype)
        for c in range(i_c * BC, C, n_c * BC):
            o_c = c + tl.arange(0, BC)
            m_c = o_c < C
            p_w = weight + o_p[:, None] * C + o_c[None, :]
            w_value = tl.load(p_w, m_c[None, :], other=0.0)
            w_seen = tl.load(p_w + P * C, m_c[None, :], other=0.0)
            p_f = weight + (2 * P + o_f[:, None]) * C + o_c[None, :]
            w_f = tl.load(p_f, (o_f[:, None] < _FEATURES) & m_c[None, :], other=0.0)
            acc = dot(z, w_value, tl.zeros((BS * BT, BC), tl.float32), EXACT)
            acc = dot_flags(seen, w_seen, acc, EXACT)
            acc = dot(f, w_f, acc, EXACT)
            p_h = h + o_n[:, None] * C + o_c[None, :]
            tl.store(p_h, narrow(acc, dtype), m_row[:, None] & m_c[None, :])

        count0, level0 = last_of(count, is_last), last_of(level, is_last)
        w_loc0, m_loc0 = last_of(w_loc, is_last), last_of(m_loc, is_last)
        s_loc0, w_long0 = last_of(s_loc, is_last), last_of(w_long, is_last)
        m_long0, s_long0 = last_of(m_long, is_last), last_of(s_long, is_last)
        last_loc, last_scale = m_loc0, last_of(unit, is_last)
        last_usable = last_of(usable, is_last)


@triton.jit(do_not_specialize=["rows", "rows_each"])
def _embed_bwd_kernel(
    x, loc, scale, moves, grad, partial, rows, rows_each, C,
    P: tl.constexpr, EXACT: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Weight gradient of token rows g * rows_each .. + rows_each, in columns k * BC .. + BC, for program (g, k)."""
    i_g = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    o_p, o_f = tl.arange(0, P), tl.arange(0, _FEATURE_BLOCK)
    m_c = o_c < C
    acc_value = tl.zeros((BC, P), tl.float32)
    acc_seen = tl.zeros((BC, P), tl.float32)
    acc_f = tl.zeros((BC, _FEATURE_BLOCK), tl.float32)
    dtype: tl.constexpr = grad.dtype.element_ty
    first = i_g * rows_each
    stop = tl.minimum(first + rows_each, rows)
    for start in range(first, stop, BR):
        o_n = start + tl.arange(0, BR)
        m_n = o_n < stop
        raw = tl.load(x + o_n[:, None] * P + o_p[None, :], m_n[:, None], other=float("nan"))
        raw = raw.to(tl.float32)
        b_loc = tl.load(loc + o_n, m_n, other=0.0)
        b_scale = tl.load(scale + o_n, m_n, other=0.0)
        is_seen = is_number(raw)
        shown = is_seen & (b_scale > 0)[:, None]
        unit = tl.where(b_scale > 0, b_scale, 1.0)
        z = _asinh(tl.where(shown, raw - b_loc[:, None], 0.0) / unit[:, None])
        m_f = m_n[:, None] & (o_f[None, :] < _FEATURES)
        f = tl.load(moves + o_n[:, None] * _FEATURES + o_f[None, :], m_f, other=0.0)
        p_g = grad + o_n[None, :] * C + o_c[:, None]
        g = tl.load(p_g, m_c[:, None] & m_n[None, :], other=0.0)  # (BC, BR)
        acc_value = dot(g, narrow(z, dtype), acc_value, EXACT)
        acc_seen = dot_by_flags(g, narrow(tl.where(is_seen, 1.0, 0.0), dtype), acc_seen, EXACT)
        acc_f = dot(g, narrow(f, dtype), acc_f, EXACT)
    p_out = partial + i_g * (2 * P + _FEATURES) * C + o_c[:, None]
    tl.store(p_out + o_p[None, :] * C, acc_value, m_c[:, None])
    tl.store(p_out + (P + o_p[None, :]) * C, acc_seen, m_c[:, None])
    m_f = m_c[:, None] & (o_f[None, :] < _FEATURES)
    tl.store(p_out + (2 * P + o_f[None, :]) * C, acc_f, m_f)


def launch_forward(
    x: Tensor, resolution: Tensor, weight: Tensor, patch: int,
    half_life_loc: float, half_life_scale: float, features: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Launch the forward kernel on x (S, T): embedding (S, N, columns); location, scale and weight (S, N); moves (S, N, frame features)."""
    series, tokens, columns = x.shape[0], x.shape[1] // patch, weight.shape[1]
    h = torch.empty(series, tokens, columns, dtype=weight.dtype, device=x.device)
    loc, scale, token_weight = (
        torch.empty(series, tokens, dtype=torch.float32, device=x.device) for _ in range(3)
    )
    moves = torch.empty(series, tokens, FRAME_FEATURES, dtype=torch.float32, device=x.device)
    if h.numel() == 0:
        return h, loc, scale, token_weight, moves
    # short contexts share a tile, so that its rows are not wasted
    block_tokens, block_series = (16, 4) if tokens <= 16 else (64, 1)
    product = product_of(weight.dtype)
    block_columns, warps, stages = _FORWARD_TILES[patch, product]
    if architecture() // 10 == 9:
        # Hopper's instruction multiplies 64 rows with four warps: four more would repeat them, and in float32 halve
        # the columns of an instruction to 8, for which Triton does not vouch (triton-lang/triton issue 10629)
        warps = 4
    groups = triton.cdiv(series, block_series)
    # few long series do not fill the device: their columns are shared out, at the price of the statistics twice
    split = min(triton.cdiv(columns, block_columns), triton.cdiv(2 * processors(x.device), groups))
    _embed_fwd_kernel[(groups, split)](
        x, resolution, weight, h, loc, scale, token_weight, moves, series, tokens, columns,
        P=patch, RATE_LOC=1.0 / half_life_loc, RATE_SCALE=1.0 / half_life_scale, FEATURES=features, EXACT=product != "tf32",
        BS=block_series, BT=block_tokens, BC=block_columns, num_warps=warps, num_stages=stages, enable_fp_fusion=True,
    )  # fmt: skip
    return h, loc, scale, token_weight, moves


def launch_backward(
    x: Tensor, loc: Tensor, scale: Tensor, moves: Tensor, grad: Tensor, patch: int
) -> Tensor:
    """Launch the backward kernel: the gradient of the weight (2P + frame features, columns) from that of h."""
    rows, columns = loc.numel(), grad.shape[-1]
    product = product_of(grad.dtype)
    block_rows, block_columns, warps = _BACKWARD_TILES[patch, product]
    blocks = triton.cdiv(columns, block_columns)
    groups = max(
        1,
        min(triton.cdiv(rows, block_rows), triton.cdiv(4 * processors(x.device), blocks)),
    )
    rows_each = triton.cdiv(triton.cdiv(rows, groups), block_rows) * block_rows
    shape = (groups, 2 * patch + FRAME_FEATURES, columns)
    partial = torch.empty(shape, dtype=torch.float32, device=x.device)
    _embed_bwd_kernel[(groups, blocks)](
        x, loc, scale, moves, grad, partial, rows, rows_each, columns,
        P=patch, EXACT=product != "tf32", BR=block_rows, BC=block_columns, num_warps=warps, enable_fp_fusion=True,
    )  # fmt: skip
    return partial.sum(0).to(grad.dtype)


@custom_op("tinytsm::dart_patch_embed", mutates_args=())
def _forward(
    x: Tensor, resolution: Tensor, weight: Tensor, patch: int,
    half_life_loc: float, half_life_scale: float, features: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return launch_forward(x, resolution, weight, patch, half_life_loc, half_life_scale, features)


@_forward.register_fake
def _(x, resolution, weight, patch, half_life_loc, half_life_scale, features):
    series, tokens = x.shape[0], x.shape[1] // patch
    loc, scale, token_weight = (x.new_empty(series, tokens, dtype=torch.float32) for _ in range(3))
    h = weight.new_empty(series, tokens, weight.shape[1])
    moves = x.new_empty(series, tokens, FRAME_FEATURES, dtype=torch.float32)
    return h, loc, scale, token_weight, moves


@custom_op("tinytsm::dart_patch_embed_backward", mutates_args=())
def _backward(
    x: Tensor, loc: Tensor, scale: Tensor, moves: Tensor, grad: Tensor, patch: int
) -> Tensor:
    return launch_backward(x, loc, scale, moves, grad, patch)


@_backward.register_fake
def _(x, loc, scale, moves, grad, patch):
    return grad.new_empty(2 * patch + FRAME_FEATURES, grad.shape[-1])


def _setup_context(ctx, inputs, output):
    x, _, _, ctx.patch, *_ = inputs
    _, loc, scale, token_weight, moves = output
    ctx.mark_non_differentiable(loc, scale, token_weight, moves)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, loc, scale, moves)


def _gradients(ctx, grad, *_):
    weight_grad = None
    if grad is not None and ctx.needs_input_grad[2]:
        weight_grad = _backward(*ctx.saved_tensors, grad.contiguous(), ctx.patch)
    return None, None, weight_grad, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_setup_context)


def supports(x: Tensor, weight: Tensor, *, patch: int, norm: str) -> bool:
    """Whether the kernel computes this: DART-Norm, a tile's patch length, float32 series, no float64 anywhere."""
    return (
        norm == "dart"
        and patch in PATCHES
        and x.dtype == torch.float32
        and not x.requires_grad
        and weight.dtype in DTYPES
    )


def dart_patch_embed(
    x: Tensor,
    resolution: Tensor,
    weight: Tensor,
    *,
    patch: int,
    half_life_loc: float,
    half_life_scale: float,
    features: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`reference.dart_patch_embed` with the `dart` norm, by the kernel; gradient for `weight` alone.

    x: (S, T) float32. resolution: (S,). weight: (2P + 4, C) in float32, bfloat16 or float16. Returns h (S, N, C) in
    weight's dtype and loc, scale, token weight (S, N) in float32. Raises ValueError for shapes that do not fit.
    """
    if x.ndim != 2 or patch not in PATCHES or x.shape[1] % patch:
        raise ValueError(
            f"x must be (series, steps), steps a multiple of a patch length of {PATCHES}, "
            f"got {tuple(x.shape)} and patch {patch}"
        )
    if weight.ndim != 2 or weight.shape[0] != 2 * patch + FRAME_FEATURES:
        raise ValueError(
            f"weight must be ({2 * patch + FRAME_FEATURES}, columns) for patch {patch}, got {tuple(weight.shape)}"
        )
    if resolution.shape != x.shape[:1]:
        raise ValueError(
            f"resolution must be ({x.shape[0]},), one for each series, got {tuple(resolution.shape)}"
        )
    h, loc, scale, token_weight, _ = _forward(
        x.contiguous(),
        resolution.contiguous(),
        weight.contiguous(),
        patch,
        half_life_loc,
        half_life_scale,
        features,
    )
    return h, loc, scale, token_weight
