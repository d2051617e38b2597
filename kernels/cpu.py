"""Kernels for forecasting on CPU: all of a block but its matmuls, each a loop over what stays in the cache; no gradients.

Numba compiles them, without a C++ compiler, and keeps what it compiled, so that a machine waits for it once. They compute
in float32 whatever they read, and hold no lock of the interpreter, so that batches on several threads run side by side.
Letters as in `tinytsm.kernels.reference`, whose functions these stand for.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from tinytsm.kernels import reference

_F32, _I32, _U32 = np.float32, np.int32, np.uint32
_LOG2E = _F32(math.log2(math.e))
# Masked scores, as in the definition: finite, so that an item without any variate gives numbers.
_ABSENT = _F32(-1e30)
# Taylor's series of 2^f: within two units in the last place for f in [-1/2, 1/2].
_POWERS = tuple(_F32(math.log(2) ** k / math.factorial(k)) for k in range(7))


def supports(x: Tensor) -> bool:
    """Whether the kernels compute on such a tensor, its last axis being what they work along."""
    # with Numba switched off they would be loops in Python
    compiled = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]
    known = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return bool(compiled and known and x.ndim > 1)


def _jit(*liberties: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiled at its first call, and kept for other processes where there is a place to write.

    liberties: with floating-point numbers, in LLVM's words. Python's error model would test every divisor, and keep loops
    from becoming vectors.
    """

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        def kept(cache: bool) -> Callable[..., Any]:
            return numba.njit(
                nogil=True, fastmath=set(liberties), error_model="numpy", cache=cache
            )(function)

        try:
            return kept(True)
        except RuntimeError:
            return kept(False)

    return compiled


# Loops have bounds that the compiler does not know: of those it makes vectors, of short loops with known ones straight
# scalar code, which is eight times slower. A sum becomes one of vectors only where its order is free.
_SUMS = ("reassoc", "nsz", "arcp")


@_jit("contract")
def _exp2(x: Any, count: int, bits: Any, power: Any) -> None:
    """2^x in place, of the first numbers; 0 below 2^-126 and infinite from 2^127.5. bits: scratch of int32; power: the
    same memory."""
    c0, c1, c2, c3, c4, c5, c6 = _POWERS
    for j in range(count):
        t = min(max(x[j], _F32(-127)), _F32(128))
        whole = np.floor(t + _F32(0.5))
        f = t - whole
        x[j] = (((((c6 * f + c5) * f + c4) * f + c3) * f + c2) * f + c1) * f + c0
        # the exponent's bits of a float32
        bits[j] = (_I32(whole) + _I32(127)) << _I32(23)
    for j in range(count):
        x[j] *= power[j]


@_jit("contract", *_SUMS)
def _attend(
    qkv: Any, gains: Any, eps: float, cos: Any, sin: Any, shown: Any, causal: bool, out: Any
) -> None:
    """Softmax attention within each group, one query at a time.

    qkv: (G, L, 3, H, E), E even. gains: (2, E), of queries and keys. cos, sin: (L, E / 2). shown: (G, L), whether a place
    is attended to. out: (G, L, H, E).
    """
    groups, length, _, heads, width = qkv.shape
    half = cos.shape[1]
    share, scale = _F32(1) / _F32(width), _LOG2E / np.sqrt(_F32(width))
    qk = np.empty((2, length, width), _F32)
    p, bits = np.empty(length, _F32), np.empty(length, _I32)
    power = bits.view(_F32)
    for g in range(groups):
        for h in range(heads):
            for n in range(length):
                for c in range(2):
                    square = _F32(0)
                    for e in range(width):
                        square += qkv[g, n, c, h, e] * qkv[g, n, c, h, e]
                    norm = _F32(1) / np.sqrt(square * share + eps)
                    for e in range(half):
                        a = qkv[g, n, c, h, e] * norm * gains[c, e]
                        b = qkv[g, n, c, h, half + e] * norm * gains[c, half + e]
                        qk[c, n, e] = a * cos[n, e] - b * sin[n, e]
                        qk[c, n, half + e] = a * sin[n, e] + b * cos[n, e]
            for n in range(length):
                count = n + 1 if causal else length
                most = _F32(-np.inf)
                for m in range(count):
                    score = _F32(0)
                    for e in range(width):
                        score += qk[0, n, e] * qk[1, m, e]
                    p[m] = score * scale if shown[g, m] else _ABSENT
                    most = max(most, p[m])
                for m in range(count):
                    p[m] -= most
                _exp2(p, count, bits, power)
                total = _F32(0)
                for m in range(count):
                    total += p[m]
                for e in range(width):
                    out[g, n, h, e] = _F32(0)
                inverse = _F32(1) / total
                for m in range(count):
                    weight = p[m] * inverse
                    for e in range(width):
                        out[g, n, h, e] += weight * qkv[g, m, 2, h, e]


@_jit("contract")
def _swiglu(x: Any, out: Any) -> None:
    """silu(gate) * up. x: (M, 2F), out: (M, F), float32."""
    rows, width = out.shape
    decay, bits = np.empty(width, _F32), np.empty(width, _I32)
    power = bits.view(_F32)
    for i in range(rows):
        for j in range(width):
            decay[j] = -_LOG2E * x[i, j]
        _exp2(decay, width, bits, power)
        for j in range(width):
            out[i, j] = x[i, j] / (_F32(1) + decay[j]) * x[i, width + j]


@_jit("contract")
def _swiglu_bfloat16(x: Any, out: Any) -> None:
    """The same, of the bits of bfloat16 as uint16: the upper half of a float32's."""
    rows, width = out.shape
    gate_bits, up_bits = np.empty(width, _U32), np.empty(width, _U32)
    gate, up = gate_bits.view(_F32), up_bits.view(_F32)
    decay, bits = np.empty(width, _F32), np.empty(width, _I32)
    power = bits.view(_F32)
    for i in range(rows):
        for j in range(width):
            gate_bits[j] = _U32(x[i, j]) << _U32(16)
        for j in range(width):
            up_bits[j] = _U32(x[i, width + j]) << _U32(16)
        for j in range(width):
            decay[j] = -_LOG2E * gate[j]
        _exp2(decay, width, bits, power)
        for j in range(width):
            up[j] *= gate[j] / (_F32(1) + decay[j])
        for j in range(width):
            # to nearest, ties to even
            odd = (up_bits[j] >> _U32(16)) & _U32(1)
            out[i, j] = (up_bits[j] + _U32(0x7FFF) + odd) >> _U32(16)


@_jit("contract", *_SUMS)
def _rms_norm(x: Any, gain: Any, eps: float, out: Any) -> None:
    """x, out: (M, D). gain: (D,)."""
    rows, width = x.shape
    for i in range(rows):
        square = _F32(0)
        for j in range(width):
            square += x[i, j] * x[i, j]
        norm = _F32(1) / np.sqrt(square / _F32(width) + eps)
        for j in range(width):
            out[i, j] = x[i, j] * norm * gain[j]


def _array(x: Tensor) -> np.ndarray:
    """As float32 without gaps, copied only where it is not so already."""
    return x.detach().float().contiguous().numpy()


# An argument, because compiled code that is kept would not see it change in another file.
_EPS = np.float32(reference.NORM_EPS)


@functools.cache
def _angles(n_tokens: int, half: int) -> tuple[np.ndarray, np.ndarray]:
    table = reference.rotary_table(n_tokens, half, dtype=torch.float32, device=torch.device("cpu"))
    return table[0].numpy(), table[1].numpy()


def causal_attention(qkv: Tensor, q_gain: Tensor, k_gain: Tensor) -> Tensor:
    """`reference.causal_attention`."""
    series, n_tokens, _, heads, width = qkv.shape
    out = np.empty((series, n_tokens, heads, width), np.float32)
    cos, sin = _angles(n_tokens, width // 2)
    shown = np.ones((series, n_tokens), np.bool_)
    gains = _array(torch.stack((q_gain, k_gain)))
    _attend(_array(qkv), gains, _EPS, cos, sin, shown, True, out)
    return torch.from_numpy(out).to(qkv.dtype)


def feature_attention(
    qkv: Tensor, q_gain: Tensor, k_gain: Tensor, *, variates: int, present: Tensor | None = None
) -> Tensor:
    """`reference.feature_attention`."""
    n_tokens, _, heads, width = qkv.shape[1:]
    # (items * N, V, 3, H, E)
    groups = _array(qkv.unflatten(0, (-1, variates)).transpose(1, 2).flatten(0, 1))
    out = np.empty((len(groups), variates, heads, width), np.float32)
    unturned = np.ones((variates, width // 2), np.float32)
    if present is None:
        shown = np.ones((len(groups), variates), np.bool_)
    else:
        shown = present.reshape(-1, variates).repeat_interleave(n_tokens, 0).numpy()
    gains = _array(torch.stack((q_gain, k_gain)))
    _attend(groups, gains, _EPS, unturned, np.zeros_like(unturned), shown, False, out)
    attended = torch.from_numpy(out).unflatten(0, (-1, n_tokens)).transpose(1, 2).flatten(0, 1)
    return attended.to(qkv.dtype)


def swiglu(x: Tensor) -> Tensor:
    """`reference.swiglu`."""
    rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
    out = torch.empty(len(rows), x.shape[-1] // 2, dtype=x.dtype, device=x.device)
    if x.dtype == torch.bfloat16:
        # a float32 copy, the other kernel and a copy back take half as long again; a function that both called for a row
        # costs a fifth, for the references to its arrays that Numba counts
        _swiglu_bfloat16(rows.view(torch.uint16).numpy(), out.view(torch.uint16).numpy())
    else:
        _swiglu(rows.numpy(), out.numpy())
    return out.view(*x.shape[:-1], out.shape[-1])


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """`reference.rms_norm`."""
    rows = _array(x).reshape(-1, x.shape[-1])
    out = np.empty_like(rows)
    _rms_norm(rows, _array(gain), _EPS, out)
    return torch.from_numpy(out).view(x.shape).to(x.dtype)
