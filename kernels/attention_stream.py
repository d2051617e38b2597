"""Attention of groups too long for one tile, block by block: FlashAttention with norms and rotary positions inside.

Formulas, letters and layouts are those of `attention_tiles`. Forward and the gradient of the queries take a block of
queries past all keys that it sees, the gradients of keys and values a block of keys past all queries that see it. The
softmax runs online (Milakov and Gimelshein 2018, arXiv:1805.02867); the backward kernels read its logarithms of sums,
and the first of them leaves delta for the second.
"""

import triton
import triton.language as tl

from tinytsm.kernels.attention_tiles import (
    _ALONE,
    _LOWEST,
    _PRESENT,
    _place,
    _prepared,
    _scores,
    _unprepared,
)
from tinytsm.kernels.triton_support import dot, narrow


@triton.jit
def _masked(scores, o_m, o_n, b_state, length, CAUSAL: tl.constexpr):
    """Scores, -inf where a query of o_m does not see the key of o_n."""
    visible = (o_n < length)[None, :]
    if CAUSAL:
        visible = visible & (o_m[:, None] >= o_n[None, :])
    else:
        scores = tl.where(b_state[None, :] == _ALONE, 0.0, scores)
        visible = visible & (b_state[None, :] >= _PRESENT)
    return tl.where(visible, scores, float("-inf"))


@triton.jit(do_not_specialize=["tokens", "length"])
def stream_forward(
    qkv, q_gain, k_gain, table, state, out, lse, tokens, length, heads,
    stride_s, stride_n, stride_c, stride_h,
    E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Program (g, h, m), h fastest after the grid's second axis: queries m * BM .. + BM of group g and head h."""
    h, g = (tl.program_id(0) % heads).to(tl.int64), tl.program_id(0) // heads
    # blocks that see most come first
    i_m = tl.num_programs(1) - 1 - tl.program_id(1)
    o_m, o_e = i_m * BM + tl.arange(0, BM), tl.arange(0, E)
    m_m = o_m < length
    s, n = _place(g, o_m, tokens, length, CAUSAL)
    p_q = qkv + s * stride_s + n * stride_n + h * stride_h
    qa, qb = _prepared(p_q, q_gain, table, n, m_m, tokens, E, CAUSAL)
    dtype: tl.constexpr = qkv.dtype.element_ty
    largest = tl.full((BM,), _LOWEST, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, E), tl.float32)
    stop = tl.minimum((i_m + 1) * BM, length) if CAUSAL else length
    for start in range(0, stop, BN):
        o_n = start + tl.arange(0, BN)
        m_n = o_n < length
        s_k, n_k = _place(g, o_n, tokens, length, CAUSAL)
        p_k = qkv + s_k * stride_s + n_k * stride_n + h * stride_h + stride_c
        ka, kb = _prepared(p_k, k_gain, table, n_k, m_n, tokens, E, CAUSAL)
        b_state = o_n
        if not CAUSAL:
            b_state = tl.load(state + s_k, m_n, other=_PRESENT)
        scores = _masked(_scores(qa, qb, ka, kb, BM, BN, E), o_m, o_n, b_state, length, CAUSAL)
        larger = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - larger[:, None])
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(weights, 1)
        v = tl.load(p_k[:, None] + stride_c + o_e[None, :], m_n[:, None], other=0.0)
        acc = dot(narrow(weights, dtype), v, acc * shrink[:, None])
        largest = larger
    row = (s * tokens + n) * heads + h
    p_out = out + row[:, None] * E + o_e[None, :]
    tl.store(p_out, narrow(acc / total[:, None], dtype), m_m[:, None])
    p_lse = lse + (h * (tl.num_programs(0) // heads) + g) * length + o_m
    tl.store(p_lse, largest + tl.log2(total), m_m)


@triton.jit(do_not_specialize=["tokens", "length"])
def stream_backward_q(
    qkv, q_gain, k_gain, table, state, out, lse, out_grad, grad, delta, gain_grad,
    tokens, length, heads, stride_s, stride_n, stride_c, stride_h,
    E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """The programs of `stream_forward`: gradients of queries and of q_gain, and delta: (H, groups * length)."""
    h, g = (tl.program_id(0) % heads).to(tl.int64), tl.program_id(0) // heads
    i_m = tl.num_programs(1) - 1 - tl.program_id(1)
    o_m, o_e = i_m * BM + tl.arange(0, BM), tl.arange(0, E)
    m_m = o_m < length
    s, n = _place(g, o_m, tokens, length, CAUSAL)
    p_q = qkv + s * stride_s + n * stride_n + h * stride_h
    qa, qb = _prepared(p_q, q_gain, table, n, m_m, tokens, E, CAUSAL)
    row = (s * tokens + n) * heads
    o_row = (row + h)[:, None] * E + o_e[None, :]
    do = tl.load(out_grad + o_row, m_m[:, None], other=0.0)
    o = tl.load(out + o_row, m_m[:, None], other=0.0).to(tl.float32)
    b_delta = tl.sum(o * do.to(tl.float32), 1)
    o_stat = (h * (tl.num_programs(0) // heads) + g) * length + o_m
    tl.store(delta + o_stat, b_delta, m_m)
    b_lse = tl.load(lse + o_stat, m_m, other=0.0)
    dtype: tl.constexpr = qkv.dtype.element_ty
    dqa = tl.zeros((BM, E // 2), tl.float32)
    dqb = tl.zeros((BM, E // 2), tl.float32)
    stop = tl.minimum((i_m + 1) * BM, length) if CAUSAL else length
    for start in range(0, stop, BN):
        o_n = start + tl.arange(0, BN)
        m_n = o_n < length
        s_k, n_k = _place(g, o_n, tokens, length, CAUSAL)
        p_k = qkv + s_k * stride_s + n_k * stride_n + h * stride_h + stride_c
        ka, kb = _prepared(p_k, k_gain, table, n_k, m_n, tokens, E, CAUSAL)
        b_state = o_n
        if not CAUSAL:
            b_state = tl.load(state + s_k, m_n, other=_PRESENT)
        scores = _masked(_scores(qa, qb, ka, kb, BM, BN, E), o_m, o_n, b_state, length, CAUSAL)
        weights = tl.exp2(scores - b_lse[:, None])
        v = tl.load(p_k[:, None] + stride_c + o_e[None, :], m_n[:, None], other=0.0)
        dp = dot(do, tl.trans(v), tl.zeros((BM, BN), tl.float32))
        ds = weights * (dp - b_delta[:, None]) * (1.0 / E**0.5)
        if not CAUSAL:
            ds = tl.where(b_state[None, :] == _ALONE, 0.0, ds)
        ds = narrow(ds, dtype)
        dqa = dot(ds, ka, dqa)
        dqb = dot(ds, kb, dqb)
    program = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    _unprepared(
        dqa, dqb, p_q, grad + (3 * row + h) * E, q_gain, gain_grad + program * E,
        table, n, m_m, tokens, E, CAUSAL,
    )  # fmt: skip


@triton.jit(do_not_specialize=["tokens", "length"])
def stream_backward_kv(
    qkv, q_gain, k_gain, table, state, lse, out_grad, grad, delta, gain_grad,
    tokens, length, heads, stride_s, stride_n, stride_c, stride_h,
    E: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Program (g, h, n): gradients of keys and values n * BN .. + BN of group g and head h, and of k_gain."""
    h, g = (tl.program_id(0) % heads).to(tl.int64), tl.program_id(0) // heads
    o_n, o_e = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, E)
    m_n = o_n < length
    s, n = _place(g, o_n, tokens, length, CAUSAL)
    p_k = qkv + s * stride_s + n * stride_n + h * stride_h + stride_c
    ka, kb = _prepared(p_k, k_gain, table, n, m_n, tokens, E, CAUSAL)
    v = tl.load(p_k[:, None] + stride_c + o_e[None, :], m_n[:, None], other=0.0)
    b_state = o_n
    if not CAUSAL:
        b_state = tl.load(state + s, m_n, other=_PRESENT)
    dtype: tl.constexpr = qkv.dtype.element_ty
    dka = tl.zeros((BN, E // 2), tl.float32)
    dkb = tl.zeros((BN, E // 2), tl.float32)
    dv = tl.zeros((BN, E), tl.float32)
    first = (tl.program_id(1) * BN // BM) * BM if CAUSAL else 0
    for start in range(first, length, BM):
        o_m = start + tl.arange(0, BM)
        m_m = o_m < length
        s_q, n_q = _place(g, o_m, tokens, length, CAUSAL)
        p_q = qkv + s_q * stride_s + n_q * stride_n + h * stride_h
        qa, qb = _prepared(p_q, q_gain, table, n_q, m_m, tokens, E, CAUSAL)
        scores = _masked(_scores(qa, qb, ka, kb, BM, BN, E), o_m, o_n, b_state, length, CAUSAL)
        o_stat = (h * (tl.num_programs(0) // heads) + g) * length + o_m
        b_lse = tl.load(lse + o_stat, m_m, other=0.0)
        weights = tl.exp2(scores - b_lse[:, None])
        o_row = (s_q * tokens + n_q) * heads + h
        do = tl.load(out_grad + o_row[:, None] * E + o_e[None, :], m_m[:, None], other=0.0)
        dv = dot(tl.trans(narrow(weights, dtype)), do, dv)
        b_delta = tl.load(delta + o_stat, m_m, other=0.0)
        dp = dot(do, tl.trans(v), tl.zeros((BM, BN), tl.float32))
        ds = weights * (dp - b_delta[:, None]) * (1.0 / E**0.5)
        if not CAUSAL:
            ds = tl.where(b_state[None, :] == _ALONE, 0.0, ds)
        ds = tl.trans(narrow(ds, dtype))
        dka = dot(ds, qa, dka)
        dkb = dot(ds, qb, dkb)
    p_grad = grad + (3 * (s * tokens + n) * heads + h) * E
    p_dv = p_grad[:, None] + 2 * heads * E + o_e[None, :]
    tl.store(p_dv, narrow(dv, dtype), m_n[:, None])
    program = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    _unprepared(
        dka, dkb, p_k, p_grad + heads * E, k_gain, gain_grad + program * E,
        table, n, m_n, tokens, E, CAUSAL,
    )  # fmt: skip
