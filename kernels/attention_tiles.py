"""What both attentions compute, tile by tile: the Triton kernels behind causal_attention and feature_attention.

A group is what attends to itself: a series' tokens (CAUSAL, with rotary positions), or an item's variates at one token
index. With q and k the normed (and rotated) rows of a group, c = E^-1/2 and l_i the logarithm of row i's sum:

    p_ij = exp(c q_i k_j - l_i)     o_i = sum_j p_ij v_j                       (FlashAttention, arXiv:2205.14135)
    dv_j = sum_i p_ij do_i          ds_ij = c p_ij (do_i v_j - delta_i)        delta_i = sum_j p_ij do_i v_j = do_i o_i
    dq_i = sum_j ds_ij k_j          dk_j = sum_i ds_ij q_i

Rows are normed and rotated as they are loaded and their gradients turned back before they are stored, so neither form of
them exists in memory. Short groups share a tile, as many as its rows hold; no softmax runs online, and one backward
kernel reads every row once. Long groups are streamed: keys pass by blocks of queries, and the other way round. No
atomics: programs write their own rows, and a partial sum each of the gains' gradients.

Every kernel takes the projection's output (S, N, 3, H, E) by its strides and writes one gradient of that shape.
"""

import triton
import triton.language as tl

from tinytsm.kernels.reference import NORM_EPS
from tinytsm.kernels.triton_support import dot, narrow

_EPS = tl.constexpr(NORM_EPS)
_LOG2E = tl.constexpr(1.4426950408889634)
# Below every score, and finite, so that a block in which nothing is visible gives zeros and not NaN.
_LOWEST = tl.constexpr(-1e30)

# What `state` says of a variate: what its queries see of it.
ABSENT, PRESENT, ALONE = 0, 1, 2
_PRESENT = tl.constexpr(PRESENT)
_ALONE = tl.constexpr(ALONE)


@triton.jit
def _place(g, i, tokens, length, CAUSAL: tl.constexpr):
    """Series and token, in 64 bits, of element i of group g."""
    if CAUSAL:
        s, n = g + i * 0, i + g * 0
    else:
        s, n = (g // tokens) * length + i, g % tokens + i * 0
    return s.to(tl.int64), n.to(tl.int64)


@triton.jit
def _halves(p, mask, E: tl.constexpr):
    """The two halves of each row, (rows, E / 2) in float32; p: (rows,) pointers."""
    o = tl.arange(0, E // 2)
    a = tl.load(p[:, None] + o[None, :], mask[:, None], other=0.0).to(tl.float32)
    b = tl.load(p[:, None] + E // 2 + o[None, :], mask[:, None], other=0.0).to(tl.float32)
    return a, b


@triton.jit
def _gains(gain, E: tl.constexpr):
    o = tl.arange(0, E // 2)
    return tl.load(gain + o).to(tl.float32)[None, :], tl.load(gain + E // 2 + o).to(tl.float32)[
        None, :
    ]


@triton.jit
def _angles(table, n, mask, tokens, E: tl.constexpr):
    o = tl.arange(0, E // 2)
    p = table + n[:, None] * (E // 2) + o[None, :]
    cos = tl.load(p, mask[:, None], other=0.0)
    return cos, tl.load(p + tokens * (E // 2), mask[:, None], other=0.0)


@triton.jit
def _root(a, b, E: tl.constexpr):
    return tl.rsqrt(tl.sum(a * a + b * b, 1) / E + _EPS)[:, None]


@triton.jit
def _prepared(p, gain, table, n, mask, tokens, E: tl.constexpr, CAUSAL: tl.constexpr):
    """Rows of queries or keys, normed and, if CAUSAL, rotated: two halves in the rows' own dtype."""
    dtype: tl.constexpr = p.dtype.element_ty
    a, b = _halves(p, mask, E)
    root = _root(a, b, E)
    gain_a, gain_b = _gains(gain, E)
    a, b = a * root * gain_a, b * root * gain_b
    if CAUSAL:
        cos, sin = _angles(table, n, mask, tokens, E)
        a, b = a * cos - b * sin, a * sin + b * cos
    return narrow(a, dtype), narrow(b, dtype)


@triton.jit
def _unprepared(
    da, db, p, p_out, gain, p_gain, table, n, mask, tokens, E: tl.constexpr, CAUSAL: tl.constexpr
):
    """Store the gradients of raw rows and of the gain, from those of the prepared rows' halves.

    p, p_out: (rows,) pointers to the rows and to their gradients. p_gain: where this program's (E,) share goes.
    """
    # read again: held since the first time, they would not fit the registers
    a, b = _halves(p, mask, E)
    root = _root(a, b, E)
    a, b = a * root, b * root
    if CAUSAL:
        cos, sin = _angles(table, n, mask, tokens, E)
        da, db = da * cos + db * sin, db * cos - da * sin
    o = tl.arange(0, E // 2)
    tl.store(p_gain + o, tl.sum(da * a, 0))
    tl.store(p_gain + E // 2 + o, tl.sum(db * b, 0))
    gain_a, gain_b = _gains(gain, E)
    da, db = da * gain_a, db * gain_b
    along = (tl.sum(da * a + db * b, 1) / E)[:, None]
    dtype: tl.constexpr = p_out.dtype.element_ty
    p_half = p_out[:, None] + o[None, :]
    tl.store(p_half, narrow((da - a * along) * root, dtype), mask[:, None])
    tl.store(p_half + E // 2, narrow((db - b * along) * root, dtype), mask[:, None])


@triton.jit
def _scores(qa, qb, ka, kb, BM: tl.constexpr, BN: tl.constexpr, E: tl.constexpr):
    """c q k in units of log 2: (BM, BN)."""
    s = dot(qa, tl.trans(ka), tl.zeros((BM, BN), tl.float32))
    return dot(qb, tl.trans(kb), s) * (_LOG2E / E**0.5)


@triton.jit(do_not_specialize=["groups", "tokens", "length"])
def whole_forward(
    qkv, q_gain, k_gain, table, state, out, lse, groups, tokens, length, heads,
    stride_s, stride_n, stride_c, stride_h,
    E: tl.constexpr, BT: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Program (t, h), h fastest: BT // length groups of head h, one after the other in a tile of BT rows.

    table: (2, tokens, E / 2), cosines and sines, read if CAUSAL. state: (S,) int8, read if not. out: (S, N, H, E)
    and lse: (H, groups * length), logarithms to base 2, contiguous.
    """
    h, tile = (tl.program_id(0) % heads).to(tl.int64), tl.program_id(0) // heads
    each = BT // length
    o_t = tl.arange(0, BT)
    group, i = o_t // length, o_t % length
    g = tile * each + group
    mask = (group < each) & (g < groups)
    s, n = _place(g, i, tokens, length, CAUSAL)
    p = qkv + s * stride_s + n * stride_n + h * stride_h
    qa, qb = _prepared(p, q_gain, table, n, mask, tokens, E, CAUSAL)
    ka, kb = _prepared(p + stride_c, k_gain, table, n, mask, tokens, E, CAUSAL)
    scores = _scores(qa, qb, ka, kb, BT, BT, E)
    # rows past the last group see one another, all zeros: no row is without a score
    visible = group[:, None] == group[None, :]
    if CAUSAL:
        visible = visible & (i[:, None] >= i[None, :])
    else:
        b_state = tl.load(state + s, mask, other=_PRESENT)[None, :]
        scores = tl.where(b_state == _ALONE, 0.0, scores)
        visible = visible & (b_state >= _PRESENT)
    scores = tl.where(visible, scores, float("-inf"))
    largest = tl.max(scores, 1)
    weights = tl.exp2(scores - largest[:, None])
    total = tl.sum(weights, 1)

    dtype: tl.constexpr = qkv.dtype.element_ty
    o_e = tl.arange(0, E)
    v = tl.load(p[:, None] + 2 * stride_c + o_e[None, :], mask[:, None], other=0.0)
    o = dot(narrow(weights, dtype), v, tl.zeros((BT, E), tl.float32)) / total[:, None]
    p_out = out + ((s * tokens + n) * heads + h)[:, None] * E + o_e[None, :]
    tl.store(p_out, narrow(o, dtype), mask[:, None])
    p_lse = lse + (h * groups + tile * each) * length + o_t
    tl.store(p_lse, largest + tl.log2(total), mask)


@triton.jit(do_not_specialize=["groups", "tokens", "length"])
def whole_backward(
    qkv, q_gain, k_gain, table, state, lse, out_grad, grad, gain_grads, groups, tokens, length, heads,
    stride_s, stride_n, stride_c, stride_h,
    E: tl.constexpr, BT: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """The tiles of `whole_forward`. out_grad: (S, N, H, E), grad: (S, N, 3, H, E), contiguous.

    gain_grads: (2, programs, E), each program's share of the gradients of q_gain and k_gain.
    """
    h, tile = (tl.program_id(0) % heads).to(tl.int64), tl.program_id(0) // heads
    each = BT // length
    o_t = tl.arange(0, BT)
    group, i = o_t // length, o_t % length
    g = tile * each + group
    mask = (group < each) & (g < groups)
    s, n = _place(g, i, tokens, length, CAUSAL)
    p = qkv + s * stride_s + n * stride_n + h * stride_h
    qa, qb = _prepared(p, q_gain, table, n, mask, tokens, E, CAUSAL)
    ka, kb = _prepared(p + stride_c, k_gain, table, n, mask, tokens, E, CAUSAL)
    scores = _scores(qa, qb, ka, kb, BT, BT, E)
    visible = group[:, None] == group[None, :]
    if CAUSAL:
        visible = visible & (i[:, None] >= i[None, :])
    else:
        b_state = tl.load(state + s, mask, other=_PRESENT)[None, :]
        scores = tl.where(b_state == _ALONE, 0.0, scores)
        visible = visible & (b_state >= _PRESENT)
    b_lse = tl.load(lse + (h * groups + tile * each) * length + o_t, mask, other=0.0)
    weights = tl.where(visible, tl.exp2(scores - b_lse[:, None]), 0.0)

    dtype: tl.constexpr = qkv.dtype.element_ty
    o_e = tl.arange(0, E)
    row = (s * tokens + n) * heads
    do = tl.load(out_grad + (row + h)[:, None] * E + o_e[None, :], mask[:, None], other=0.0)
    p_grad = grad + (3 * row + h) * E
    dv = dot(tl.trans(narrow(weights, dtype)), do, tl.zeros((BT, E), tl.float32))
    tl.store(p_grad[:, None] + 2 * heads * E + o_e[None, :], narrow(dv, dtype), mask[:, None])
    v = tl.load(p[:, None] + 2 * stride_c + o_e[None, :], mask[:, None], other=0.0)
    dp = dot(do, tl.trans(v), tl.zeros((BT, BT), tl.float32))
    delta = tl.sum(weights * dp, 1)
    ds = weights * (dp - delta[:, None]) * (1.0 / E**0.5)
    if not CAUSAL:
        ds = tl.where(b_state == _ALONE, 0.0, ds)
    ds = narrow(ds, dtype)
    zero = tl.zeros((BT, E // 2), tl.float32)
    program = tl.program_id(0).to(tl.int64)
    p_gain = gain_grads + program * E
    _unprepared(
        dot(ds, ka, zero), dot(ds, kb, zero), p, p_grad, q_gain, p_gain,
        table, n, mask, tokens, E, CAUSAL,
    )  # fmt: skip
    ds = tl.trans(ds)
    p_gain += tl.num_programs(0).to(tl.int64) * E
    _unprepared(
        dot(ds, qa, zero), dot(ds, qb, zero), p + stride_c, p_grad + heads * E, k_gain, p_gain,
        table, n, mask, tokens, E, CAUSAL,
    )  # fmt: skip
