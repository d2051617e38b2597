"""Loops of the CPU's kernels, compiled by Numba: over what stays in the cache, in float32 whatever they read.

Numba compiles them without a C++ compiler and keeps what it compiled, so that a machine waits for it once. All stand in this
file, because compiled code that is kept sees no change in another. They hold no lock of the interpreter, so that threads
run side by side. Letters as in `tinytsm.kernels.reference`.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_F32, _I32, _U32 = np.float32, np.int32, np.uint32
LOG2E = _F32(math.log2(math.e))
# Masked scores, as in the definition: finite, so that an item without any variate gives numbers.
_ABSENT = _F32(-1e30)
# Taylor's series of 2^f: within two units in the last place for f in [-1/2, 1/2].
_POWERS = tuple(_F32(math.log(2) ** k / math.factorial(k)) for k in range(7))
_ZERO, _HALF, _ONE, _TWO = _F32(0), _F32(0.5), _F32(1), _F32(2)
# log(1 + x) = 2 artanh(x / (2 + x)): within one unit in the last place for x in [0, 1].
_LOGS = tuple(_F32(2 / (2 * k + 1)) for k in range(8))
_LN2, _L3, _L5, _L7, _L9 = _F32(math.log(2)), _F32(1 / 3), _F32(1 / 5), _F32(1 / 7), _F32(1 / 9)
_MOST = float(np.finfo(np.float32).max)


def compiles() -> bool:
    """Whether Numba is switched on: else the loops would be Python's."""
    return not numba.config.DISABLE_JIT  # type: ignore[attr-defined]


def jit(*liberties: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
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
SUMS = ("reassoc", "nsz", "arcp")


@jit("contract")
def exp2(x: Any, count: int, bits: Any, power: Any) -> None:
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


@jit("contract", *SUMS)
def attend(
    qkv: Any, gains: Any, eps: float, cos: Any, sin: Any, shown: Any, causal: bool, out: Any
) -> None:
    """Softmax attention within each group, one query at a time.

    qkv: (G, L, 3, H, E), E even. gains: (2, E), of queries and keys. cos, sin: (L, E / 2). shown: (G, L), whether a place
    is attended to. out: (G, L, H, E).
    """
    groups, length, _, heads, width = qkv.shape
    half = cos.shape[1]
    share, scale = _F32(1) / _F32(width), LOG2E / np.sqrt(_F32(width))
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
                exp2(p, count, bits, power)
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


@jit("contract")
def swiglu(x: Any, out: Any) -> None:
    """silu(gate) * up. x: (M, 2F), out: (M, F), float32."""
    rows, width = out.shape
    decay, bits = np.empty(width, _F32), np.empty(width, _I32)
    power = bits.view(_F32)
    for i in range(rows):
        for j in range(width):
            decay[j] = -LOG2E * x[i, j]
        exp2(decay, width, bits, power)
        for j in range(width):
            out[i, j] = x[i, j] / (_F32(1) + decay[j]) * x[i, width + j]


@jit("contract")
def swiglu_bfloat16(x: Any, out: Any) -> None:
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
            decay[j] = -LOG2E * gate[j]
        exp2(decay, width, bits, power)
        for j in range(width):
            up[j] *= gate[j] / (_F32(1) + decay[j])
        for j in range(width):
            # to nearest, ties to even
            odd = (up_bits[j] >> _U32(16)) & _U32(1)
            out[i, j] = (up_bits[j] + _U32(0x7FFF) + odd) >> _U32(16)


@jit("contract", *SUMS)
def rms_norm(x: Any, gain: Any, eps: float, out: Any) -> None:
    """x, out: (M, D). gain: (D,)."""
    rows, width = x.shape
    for i in range(rows):
        square = _F32(0)
        for j in range(width):
            square += x[i, j] * x[i, j]
        norm = _F32(1) / np.sqrt(square / _F32(width) + eps)
        for j in range(width):
            out[i, j] = x[i, j] * norm * gain[j]


@jit("contract")
def asinh(x: Any, count: int, bits: Any, mantissa: Any) -> None:
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


@jit("contract", *SUMS)
def frames(
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
            asinh(z, width, bits, mantissa)
            for j in range(width):
                inputs[s, n, j] = z[j]
                inputs[s, n, width + j] = known[j]


@jit("contract", *SUMS)
def _softplus(gaps: Any, shift: Any, value: Any, slope: Any, bits: Any, power: Any) -> None:
    """softplus(gap + shift) and its derivative, of a row. bits, power: scratch as in `exp2`."""
    c0, c1, c2, c3, c4, c5, c6, c7 = _LOGS
    count = len(gaps)
    for j in range(count):
        slope[j] = -LOG2E * abs(gaps[j] + shift)
    exp2(slope, count, bits, power)
    for j in range(count):
        x, e = gaps[j] + shift, slope[j]
        q = e / (_TWO + e)
        s = q * q
        log = c4 + s * (c5 + s * (c6 + s * c7))
        log = q * (c0 + s * (c1 + s * (c2 + s * (c3 + s * log))))
        value[j] = max(x, _ZERO) + log
    for j in range(count):
        e = slope[j]
        slope[j] = (e if gaps[j] + shift < _ZERO else _ONE) / (_ONE + e)


@jit()
def _sign(x: Any) -> Any:
    return (_ONE if x > _ZERO else _ZERO) - (_ONE if x < _ZERO else _ZERO)


@jit("contract", *SUMS)
def pair_losses(
    raw: Any, index: Any, first: int, target: Any, frame: Any, levels: Any, constants: Any, gradients: bool, out: Any,
) -> None:  # fmt: skip
    """`reference.pair_loss` of rows of an octave; the outputs' gradients take the outputs' place if they are wanted.

    raw: (rows, 1 + Q, k * P), the octave's patches side by side. index: (rows,), each row's token, counted through all
    series. first: the octave's first horizon patch. target: (S, N + K, P). frame: (3, S * N), location, scale, weight.
    constants: of the definition. out: (2, rows), weighted sums of losses and of scored points.
    """
    shift, delta, mean_weight, far = constants
    rows, outputs, width = raw.shape
    half, patch = (outputs - 2) // 2, target.shape[2]
    n_tokens = frame.shape[1] // target.shape[0]
    share_of_level = _ONE / _F32(outputs - 1)
    twice = _TWO * share_of_level
    middle = levels[half]
    soft, rate = np.empty((2, half, width), _F32), np.empty((2, half, width), _F32)
    bits = np.empty(2 * half * width, _I32)
    power = bits.view(_F32)
    slope, total, median = (
        np.empty((half, width), _F32),
        np.empty(width, _F32),
        np.empty(width, _F32),
    )
    y, reach, loss = np.empty(width, _F32), np.empty(width, _F32), np.empty(width, _F32)
    away, error, beyond = np.empty(width, _F32), np.empty(width, _F32), np.empty(width, _F32)
    for r in range(rows):
        series, token = index[r] // n_tokens, index[r] % n_tokens
        loc, scale, weight = frame[0, index[r]], frame[1, index[r]], frame[2, index[r]]
        if not scale > _ZERO:
            out[0, r], out[1, r] = 0.0, 0.0
            if gradients:
                raw[r] = _ZERO
            continue
        start = token + 1 + first
        seen = target[series, start : start + width // patch].reshape(width)
        known = _ZERO
        for j in range(width):
            y[j] = (seen[j] - loc) / scale
        for j in range(width):
            known += _ONE if y[j] == y[j] else _ZERO
        for j in range(width):
            reach[j] = far / max(abs(y[j]), far) if y[j] == y[j] else _ZERO
        for j in range(width):
            y[j] = y[j] if y[j] == y[j] else _ZERO
        mean, centre = raw[r, 0], raw[r, 1]
        _softplus(
            raw[r, 2:].reshape(2 * half * width), shift, soft.reshape(2 * half * width),
            rate.reshape(2 * half * width), bits, power,
        )  # fmt: skip
        for j in range(width):
            away[j] = y[j] - mean[j]
        for j in range(width):
            error[j] = y[j] - centre[j]
        for j in range(width):
            near = min(abs(away[j]), delta)
            loss[j] = mean_weight * near * (abs(away[j]) - near * _HALF)
        for j in range(width):
            loss[j] += max(middle * error[j], (middle - _ONE) * error[j]) * twice
        for j in range(width):
            # twice the pinball loss's slope, also where both sides are equal
            median[j] = _ONE - _TWO * middle - _sign(error[j])
        if gradients:
            for j in range(width):
                mean[j] = -weight * reach[j] * mean_weight * min(max(away[j], -delta), delta)
        for side in range(2):
            direction = _F32(2 * side - 1)
            for j in range(width):
                beyond[j] = error[j]
            for j in range(width):
                total[j] = _ZERO
            for i in range(half):
                level = levels[half + 1 + i if side else half - 1 - i]
                gap, tilt = soft[side, i], slope[i]
                for j in range(width):
                    beyond[j] -= direction * gap[j]
                for j in range(width):
                    loss[j] += max(level * beyond[j], (level - _ONE) * beyond[j]) * twice
                for j in range(width):
                    tilt[j] = _ONE - _TWO * level - _sign(beyond[j])
                for j in range(width):
                    total[j] += tilt[j]
            if not gradients:
                continue
            for j in range(width):
                median[j] += total[j]
            # a gap moves the quantiles beyond it
            for i in range(half):
                grad, steep, tilt = raw[r, 2 + side * half + i], rate[side, i], slope[i]
                for j in range(width):
                    grad[j] = weight * share_of_level * direction * reach[j] * total[j] * steep[j]
                for j in range(width):
                    total[j] -= tilt[j]
        if gradients:
            for j in range(width):
                centre[j] = weight * share_of_level * reach[j] * median[j]
        lost = _ZERO
        for j in range(width):
            # where nothing is scored y and reach are 0, and the loss may be infinite; an infinite y is to be seen
            lost += loss[j] * reach[j] if reach[j] > _ZERO or y[j] != _ZERO else _ZERO
        out[0, r], out[1, r] = lost * weight, known * weight


@jit("contract", *SUMS)
def causal_softmax_bfloat16(scores: Any, factor: Any, exact: Any) -> None:
    """Softmax of the scores that each row may see, in place, and unrounded; the others become 0.

    scores: (G, L, L), bits of bfloat16 as uint16. factor: the scores' own, and that of e's powers as powers of 2. exact:
    (G, L * L), float32.
    """
    groups, length, _ = scores.shape
    size = length * length
    raw, bits = np.empty(size, _U32), np.empty(size, _I32)
    x, ordered, power = raw.view(_F32), raw.view(_I32), bits.view(_F32)
    for g in range(groups):
        tile = scores[g].reshape(size)
        for j in range(size):
            raw[j] = _U32(tile[j]) << _U32(16)
        # rows as views: indices that start further on keep a loop from becoming vectors
        for n in range(length):
            start, stop, end = n * length, n * length + n + 1, (n + 1) * length
            seen, order, hidden = x[start:stop], ordered[start:stop], x[stop:end]
            # as whole numbers, which the compiler finds the largest of in vectors; a NaN is above all others
            most = _I32(-(2**31))
            for j in range(len(order)):
                most = max(most, order[j] ^ ((order[j] >> _I32(31)) & _I32(0x7FFFFFFF)))
            bits[0] = most ^ ((most >> _I32(31)) & _I32(0x7FFFFFFF))
            top = power[0]
            for j in range(len(seen)):
                seen[j] = (seen[j] - top) * factor
            for j in range(len(hidden)):
                hidden[j] = _ABSENT
        exp2(x, size, bits, power)
        for n in range(length):
            seen = x[n * length : n * length + n + 1]
            total = _ZERO
            for j in range(len(seen)):
                total += seen[j]
            inverse = _ONE / total
            for j in range(len(seen)):
                seen[j] *= inverse
        unrounded = exact[g]
        for j in range(size):
            unrounded[j] = x[j]
        for j in range(size):
            # to nearest, ties to even
            odd = (raw[j] >> _U32(16)) & _U32(1)
            tile[j] = (raw[j] + _U32(0x7FFF) + odd) >> _U32(16)


@jit("contract", *SUMS)
def causal_softmax_backward_bfloat16(weights: Any, grads: Any, factor: Any) -> None:
    """Gradients of the scores in place of those of the weights. weights: (G, L, L), float32. grads: their bits."""
    groups, length, _ = weights.shape
    grad_bits = np.empty(length, _U32)
    d = grad_bits.view(_F32)
    for g in range(groups):
        for n in range(length):
            count = n + 1
            p, grad = weights[g, n], grads[g, n]
            for j in range(count):
                grad_bits[j] = _U32(grad[j]) << _U32(16)
            inner = _ZERO
            for j in range(count):
                inner += p[j] * d[j]
            for j in range(count):
                d[j] = p[j] * (d[j] - inner) * factor
            for j in range(count):
                odd = (grad_bits[j] >> _U32(16)) & _U32(1)
                grad[j] = (grad_bits[j] + _U32(0x7FFF) + odd) >> _U32(16)
            for j in range(count, length):
                grad[j] = 0
