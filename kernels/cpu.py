"""Kernels for forecasting on CPU: all of a block but its matmuls, each in one pass over memory; no gradients.

Numba compiles them, and keeps what it compiled, so that a machine waits for it once, some two seconds. They compute in
float32 whatever they read, and hold no lock of the interpreter, so that batches on several threads run side by side.
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
_NORM_EPS = _F32(reference.NORM_EPS)
# Masked scores, as in the definition: finite, so that an item without any variate gives numbers.
_ABSENT = _F32(-1e30)
# Taylor's series of 2^f: within a unit in the last place for f in [-1/2, 1/2].
_POWERS = tuple(_F32(math.log(2) ** k / math.factorial(k)) for k in range(7))


def supports(x: Tensor) -> bool:
    """Whether the kernels compute on such a tensor; where Numba is switched off they would be slow."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not numba.config.DISABLE_JIT  # type: ignore[attr-defined]
    )


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at its first call, and kept for other processes where there is a place to write."""

    def prepared(*, cache: bool) -> Callable[..., Any]:
        # sums may be reordered and products contracted; infinities and NaN stay what they are. Python's error model
        # would test every divisor, and keep loops from becoming vectors
        liberties = {"reassoc", "contract", "nsz", "arcp"}
        return numba.njit(nogil=True, fastmath=liberties, error_model="numpy", cache=cache)(
            function
        )

    try:
        return prepared(cache=True)
    except RuntimeError:
        return prepared(cache=False)


# Loops have bounds that the compiler does not know: of those it makes vectors, of short loops with known ones straight
# scalar code, which is eight times slower.


@_jit
def _exp2(x: Any, count: int, bits: Any, power: Any) -> None:
    """2^x in place, of the first numbers; below 2^-126 it is 0. bits: scratch of int32; power: the same memory."""
    c0, c1, c2, c3, c4, c5, c6 = _POWERS
    for j in range(count):
        t = min(max(x[j], _F32(-127)), _F32(127))
        whole = np.floor(t + _F32(0.5))
        f = t - whole
        x[j] = (((((c6 * f + c5) * f + c4) * f + c3) * f + c2) * f + c1) * f + c0
        # the exponent's bits of a float32
        bits[j] = (_I32(whole) + _I32(127)) << _I32(23)
    for j in range(count):
        x[j] *= power[j]


@_jit
def _attend(qkv: Any, gains: Any, cos: Any, sin: Any, shown: Any, causal: bool, out: Any) -> None:
    """Softmax attention within each group, one query at a time.

    qkv: (G, L, 3, H, E). gains: (2, E), of queries and keys. cos, sin: (L, E / 2). shown: (G, L), whether a place is
    attended to. out: (G, L, H, E).
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
                    norm = _F32(1) / np.sqrt(square * share + _NORM_EPS)
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
                for m in range(count):
                    weight = p[m] / total
                    for e in range(width):
                        out[g, n, h, e] += weight * qkv[g, m, 2, h, e]


@_jit
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


@_jit
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


@_jit
def _rms_norm(x: Any, gain: Any, out: Any) -> None:
    """x, out: (M, D). gain: (D,)."""
    rows, width = x.shape
    for i in range(rows):
        square = _F32(0)
        for j in range(width):
            square += x[i, j] * x[i, j]
        norm = _F32(1) / np.sqrt(square / _F32(width) + _NORM_EPS)
        for j in range(width):
            out[i, j] = x[i, j] * norm * gain[j]


def _array(x: Tensor) -> np.ndarray:
    return x.detach().float().contiguous().numpy()


@functools.cache
def _angles(n_tokens: int, half: int) -> tuple[np.ndarray, np.ndarray]:
    table = reference.rotary_table(n_tokens, half, dtype=torch.float32, device=torch.device("cpu"))
    return table[0].numpy(), table[1].numpy()


def causal_attention(qkv: Tensor, q_gain: Tensor, k_gain: Tensor) -> Tensor:
    """`reference.causal_attention`."""
    series, n_tokens, _, heads, width = qkv.shape
    out = torch.empty(series, n_tokens, heads, width)
    cos, sin = _angles(n_tokens, width // 2)
    shown = np.ones((series, n_tokens), np.bool_)
    gains = _array(torch.stack((q_gain, k_gain)))
    _attend(_array(qkv), gains, cos, sin, shown, True, out.numpy())
    return out.to(qkv.dtype)


def feature_attention(
    qkv: Tensor, q_gain: Tensor, k_gain: Tensor, *, variates: int, present: Tensor | None = None
) -> Tensor:
    """`reference.feature_attention`."""
    n_tokens, width = qkv.shape[1], qkv.shape[-1]
    # (items * N, V, 3, H, E)
    groups = qkv.unflatten(0, (-1, variates)).transpose(1, 2).flatten(0, 1)
    out = torch.empty(len(groups), variates, *qkv.shape[-2:])
    unturned = np.ones((variates, width // 2), np.float32)
    if present is None:
        shown = np.ones((len(groups), variates), np.bool_)
    else:
        shown = present.view(-1, variates).repeat_interleave(n_tokens, 0).numpy()
    gains = _array(torch.stack((q_gain, k_gain)))
    _attend(_array(groups), gains, unturned, np.zeros_like(unturned), shown, False, out.numpy())
    return out.unflatten(0, (-1, n_tokens)).transpose(1, 2).flatten(0, 1).to(qkv.dtype)


def swiglu(x: Tensor) -> Tensor:
    """`reference.swiglu`."""
    rows = x.detach().contiguous().flatten(0, -2)
    out = torch.empty(*x.shape[:-1], x.shape[-1] // 2, dtype=x.dtype)
    if x.dtype == torch.bfloat16:
        _swiglu_bfloat16(
            rows.view(torch.uint16).numpy(), out.view(torch.uint16).flatten(0, -2).numpy()
        )
    else:
        _swiglu(rows.numpy(), out.flatten(0, -2).numpy())
    return out


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """`reference.rms_norm`."""
    out = torch.empty(x.shape)
    _rms_norm(_array(x).reshape(-1, x.shape[-1]), _array(gain), out.flatten(0, -2).numpy())
    return out.to(x.dtype)
