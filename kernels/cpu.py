"""Kernels for forecasting on CPU: frames, and all of a block but its matmuls, each a loop over what stays in the cache;
no gradients.

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
_LN2, _L3, _L5, _L7, _L9 = _F32(math.log(2)), _F32(1 / 3), _F32(1 / 5), _F32(1 / 7), _F32(1 / 9)
_MOST = float(np.finfo(np.float32).max)


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


@_jit("contract")
def _asinh(x: Any, count: int, bits: Any, mantissa: Any) -> None:
    """asinh in place, of the first numbers, as log1p of what keeps the digits of small ones. bits: scratch of int32;
    mantissa: the same memory."""
    for j in range(count):
        a = min(abs(x[j]), _F32(1e18))
        # asinh(a) = log(1 + t)
        t = a + a * a / (_F32(1) + np.sqrt(a * a + _F32(1)))
        mantissa[j] = _F32(1) + t
        # the exponent that leaves a mantissa of 0.7 to 1.4
        power = (bits[j] - _I32(0x3F3504F3)) >> _I32(23)
        bits[j] -= power << _I32(23)
        # in whole octaves 1 + t has rounded t away; below the first it has not been formed
        over = (
            t / (_F32(2) + t) if power == 0 else (mantissa[j] - _F32(1)) / (mantissa[j] + _F32(1))
        )
        square = over * over
        tail = square * (_L3 + square * (_L5 + square * (_L7 + square * _L9)))
        y = _F32(power) * _LN2 + (_F32(2) * over + _F32(2) * over * tail)
        x[j] = y if x[j] >= _F32(0) else -y


@_jit("contract", *_SUMS)
def _frames(
    x: Any, resolution: Any, degenerate: float, decays: Any, inputs: Any, frame: Any, usable: Any
) -> None:
    """The frame of each token and the patch within it, one after another; statistics in float64.

    x: (S, N, P). resolution: (S,). degenerate: the scale that is too small, in the level. decays: (2, P + 1), of the
    memories of location and scale after so many points. inputs: (S, N, at least 2P), normalised values and observed
    flags. frame: (5, S, N), location, scale, fast scale, slow location, observed points. usable: (S, N).
    """
    series, tokens, width = x.shape
    value, known, weights = np.empty(width), np.empty(width), np.empty(width)
    z, bits = np.empty(width, _F32), np.empty(width, _I32)
    mantissa = bits.view(_F32)
    # of both memories: weight, mean, weighted squares
    mass, mean, squares = np.empty(2), np.empty(2), np.empty(2)
    for s in range(series):
        for m in range(2):
            mass[m], mean[m], squares[m] = 0.0, 0.0, 0.0
        level, seen = 0.0, 0
        for n in range(tokens):
            within = 0
            for j in range(width):
                shown = not np.isnan(x[s, n, j])
                known[j] = 1.0 if shown else 0.0
                value[j] = x[s, n, j] if shown else 0.0
                level = max(level, abs(value[j]))
                within += shown
            seen += within
            for m in range(2 if within > 0 else 0):
                newer, total, middle, spread = within, 0.0, 0.0, 0.0
                for j in range(width):
                    newer -= int(known[j])
                    weights[j] = known[j] * decays[m, newer]
                for j in range(width):
                    total += weights[j]
                    middle += weights[j] * value[j]
                middle /= total
                for j in range(width):
                    spread += weights[j] * (value[j] - middle) * (value[j] - middle)
                # from the heavier side, so that a decayed outlier's rounding does not stay behind in the mean
                older = mass[m] * decays[m, within]
                mass[m] = older + total
                gap, share = middle - mean[m], total / mass[m]
                mean[m] = middle - gap * (older / mass[m]) if share > 0.5 else mean[m] + gap * share
                squares[m] = squares[m] * decays[m, within] + spread + gap * gap * older * share
            for m in range(2):
                # none is larger than float32 holds
                square = min(squares[m] / mass[m], _MOST) if seen > 0 else 0.0
                frame[2 - m, s, n] = np.sqrt(square)
            slow = float(frame[1, s, n])
            frame[0, s, n], frame[3, s, n], frame[4, s, n] = mean[0], mean[1], seen
            usable[s, n] = slow > degenerate * level + resolution[s]
            over = 1.0 / slow if usable[s, n] else 0.0
            for j in range(width):
                z[j] = (value[j] - mean[0]) * known[j] * over
            _asinh(z, width, bits, mantissa)
            for j in range(width):
                inputs[s, n, j] = z[j]
                inputs[s, n, width + j] = known[j]


def _array(x: Tensor) -> np.ndarray:
    """As float32 without gaps, copied only where it is not so already."""
    return x.detach().float().contiguous().numpy()


# Arguments, because compiled code that is kept would not see them change in another file.
_EPS = np.float32(reference.NORM_EPS)
_DEGENERATE = reference.DEGENERATE_ULPS * float(np.finfo(np.float32).eps)


@functools.cache
def _angles(n_tokens: int, half: int) -> tuple[np.ndarray, np.ndarray]:
    table = reference.rotary_table(n_tokens, half, dtype=torch.float32, device=torch.device("cpu"))
    return table[0].numpy(), table[1].numpy()


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
    """`reference.dart_patch_embed`, of the norm `dart`."""
    rows = _array(x).reshape(len(x), x.shape[1] // patch, patch)
    series, tokens, _ = rows.shape
    rates = np.array([[1 / half_life_loc], [1 / half_life_scale]])
    inputs = np.zeros((series, tokens, 2 * patch + reference.FRAME_FEATURES), np.float32)
    found, usable = np.empty((5, series, tokens), np.float32), np.empty((series, tokens), np.bool_)
    decays = np.exp2(-rates * np.arange(patch + 1))
    _frames(rows, _array(resolution), _DEGENERATE, decays, inputs, found, usable)
    frame = reference.Frames(*map(torch.from_numpy, (*found[:4], usable, found[4])))
    h = torch.from_numpy(inputs)
    if features:
        h[..., 2 * patch :] = reference.frame_features(frame)
    return h.to(weight.dtype) @ weight, *reference.token_frame(frame)


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
