"""Counter-based random numbers for jitted code: Philox4x32-10, keyed by seed, index and purpose.

A stream is a small array of words that jitted functions pass around and change in place. Its key is
the seed and its 128-bit counter is (block, purpose, index), so any stream is reached without drawing
the ones before it: items are the same bits whatever worker, batch or order makes them. Blocks are
made in bursts, because a burst of independent blocks vectorises and a lone block does not.

Philox: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
Ziggurat: Marsaglia and Tsang 2000, "The ziggurat method for generating random variables".
"""

import math

import numba
import numpy as np

from tinytsm.synth import compiled  # noqa: F401  (before the first cached function)

# For jitted functions that allocate nothing. Numba counts references to each array argument with
# atomic adds, which made a uniform cost 16 ns; with the counting off it costs 1.8 ns
leaf = numba.njit(nogil=True, cache=True, _nrt=False)  # type: ignore[call-overload]

# For the draws that hot loops make: a call costs several times what the draw does
inlined = numba.njit(  # type: ignore[call-overload]
    nogil=True, cache=True, _nrt=False, forceinline=True
)

U64 = np.uint64
_LOW32 = U64(0xFFFFFFFF)
_32 = U64(32)
# Multipliers and key increments of Philox4x32
_M0, _M1 = U64(0xD2511F53), U64(0xCD9E8D57)
_W0, _W1 = U64(0x9E3779B9), U64(0xBB67AE85)

# Layout of a stream: key, counter, position of the next unread word, then the words of one burst
_KEY, _BLOCK, _PURPOSE, _INDEX, _POSITION, _WORDS = 0, 2, 3, 4, 6, 8
_BURST = 32
STATE_WORDS = _WORDS + 2 * _BURST


def _ziggurat_tables(layers: int = 256) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Widths, acceptance thresholds and heights of the layers under exp(-x^2/2), for 52-bit draws."""
    right, area = 3.6541528853610088, 0.00492867323399  # of 256 layers; Marsaglia and Tsang
    edge = np.zeros(layers + 1)
    edge[0] = area / math.exp(-0.5 * right * right)
    edge[1] = right
    for i in range(2, layers):
        edge[i] = math.sqrt(-2 * math.log(area / edge[i - 1] + math.exp(-0.5 * edge[i - 1] ** 2)))
    width = edge[:layers] / 2.0**52
    accept = (edge[1:] / edge[:layers] * 2.0**52).astype(np.uint64)
    return width, accept, np.exp(-0.5 * edge**2)


_WIDTH, _ACCEPT, _HEIGHT = _ziggurat_tables()
_TAIL = 3.6541528853610088


@leaf
def _round(c0, c1, c2, c3, k0, k1, bumps):
    p0 = _M0 * c0
    p1 = _M1 * c2
    k0 = (k0 + _W0 * bumps) & _LOW32
    k1 = (k1 + _W1 * bumps) & _LOW32
    return (p1 >> _32) ^ c1 ^ k0, p1 & _LOW32, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW32


@leaf
def block(c0, c1, c2, c3, k0, k1):
    """Ten Philox rounds: counter and key words (each a uint64 below 2^32) -> four such words."""
    # Written out: a loop here is not unrolled in time for the loop over blocks to be vectorised
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, U64(0))
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, U64(1))
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, U64(2))
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, U64(3))
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, U64(4))
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, U64(5))
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, U64(6))
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, U64(7))
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1, U64(8))
    return _round(c0, c1, c2, c3, k0, k1, U64(9))


@numba.njit(nogil=True, cache=True)
def stream(seed, index, purpose):
    """A new stream. seed, index: integers in [0, 2^63); purpose: integer in [0, 2^32)."""
    rng = np.empty(STATE_WORDS, np.uint64)
    rng[_KEY] = U64(seed) & _LOW32
    rng[_KEY + 1] = U64(seed) >> _32
    rng[_BLOCK] = U64(0)
    rng[_PURPOSE] = U64(purpose) & _LOW32
    rng[_INDEX] = U64(index) & _LOW32
    rng[_INDEX + 1] = U64(index) >> _32
    rng[_POSITION] = U64(2 * _BURST)
    return rng


@leaf
def _refill(rng):
    k0, k1 = rng[_KEY], rng[_KEY + 1]
    first, purpose = rng[_BLOCK], rng[_PURPOSE]
    low, high = rng[_INDEX], rng[_INDEX + 1]
    for i in range(_BURST):
        a, b, c, d = block((first + U64(i)) & _LOW32, purpose, low, high, k0, k1)
        # Two runs, not pairs: contiguous stores
        rng[_WORDS + i] = a | (b << _32)
        rng[_WORDS + _BURST + i] = c | (d << _32)
    rng[_BLOCK] = first + U64(_BURST)


@inlined
def word(rng):
    """The next 64 random bits, as uint64."""
    position = np.int64(rng[_POSITION])
    if position == 2 * _BURST:
        _refill(rng)
        position = np.int64(0)
    rng[_POSITION] = U64(position + 1)
    return rng[_WORDS + position]


@inlined
def uniform(rng):
    """Uniform in the open interval (0, 1)."""
    # The half keeps zero out, and 2^52 + half steps keep one out: log of either end would be infinite
    return (np.float64(word(rng) >> U64(12)) + 0.5) * 2.220446049250313e-16


@leaf
def integer(rng, low, high):
    """Uniform integer in [low, high), high - low in [1, 2^31]."""
    # Multiply-shift: its bias, (high - low) / 2^32, is far below anything a series shows
    return low + np.int64(((word(rng) >> _32) * U64(high - low)) >> _32)


@leaf
def between(rng, low, high):
    """Uniform in (low, high)."""
    return low + (high - low) * uniform(rng)


@leaf
def log_uniform(rng, low, high):
    """Log-uniform in (low, high), both positive."""
    return low * math.exp(math.log(high / low) * uniform(rng))


@leaf
def bernoulli(rng, p):
    """True with probability p."""
    return uniform(rng) < p


@leaf
def exponential(rng):
    """Exponential with mean 1."""
    return -math.log(uniform(rng))


@leaf
def _normal_rejected(rng, sign, layer, x):
    """Finish a normal that fell outside its layer's rectangle (about one in eighty)."""
    while True:
        if layer == 0:
            # Beyond the last layer: Marsaglia's tail
            while True:
                excess = exponential(rng) / _TAIL
                if 2.0 * exponential(rng) > excess * excess:
                    return sign * (_TAIL + excess)
        height = _HEIGHT[layer] + uniform(rng) * (_HEIGHT[layer + 1] - _HEIGHT[layer])
        if height < math.exp(-0.5 * x * x):
            return x
        bits = word(rng)
        layer = np.int64(bits & U64(255))
        sign = 1.0 - 2.0 * np.float64((bits >> U64(8)) & U64(1))
        x = sign * np.float64(bits >> U64(12)) * _WIDTH[layer]
        if bits >> U64(12) < _ACCEPT[layer]:
            return x


@inlined
def normal(rng):
    """Standard normal, by a ziggurat of 256 layers."""
    bits = word(rng)
    layer = np.int64(bits & U64(255))
    # The sign by arithmetic: a branch on it would be mispredicted every other time
    sign = 1.0 - 2.0 * np.float64((bits >> U64(8)) & U64(1))
    x = sign * np.float64(bits >> U64(12)) * _WIDTH[layer]
    if bits >> U64(12) < _ACCEPT[layer]:
        return x
    # Apart, so that the usual path is short enough to be inlined
    return _normal_rejected(rng, sign, layer, x)


@leaf
def fill_normal(rng, out):
    """Fill out (T,) with independent standard normals."""
    for t in range(out.shape[0]):
        out[t] = normal(rng)


@leaf
def gamma(rng, shape):
    """Gamma with this shape > 0 and scale 1 (Marsaglia and Tsang 2000, squeeze method)."""
    # Below one the density is unbounded: draw at shape + 1 and shrink by a power of a uniform
    boost = 1.0
    if shape < 1.0:
        boost = uniform(rng) ** (1.0 / shape)
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        x = normal(rng)
        v = 1.0 + c * x
        if v <= 0.0:
            continue
        v = v * v * v
        u = uniform(rng)
        # The squeeze accepts nearly all that the exact bound accepts, and nothing else, without a logarithm
        if u < 1.0 - 0.0331 * (x * x) * (x * x):
            return boost * d * v
        if math.log(u) < 0.5 * x * x + d - d * v + d * math.log(v):
            return boost * d * v


@leaf
def student_t(rng, df):
    """Student t with df > 0 degrees of freedom, unscaled (variance df / (df - 2) above two)."""
    return normal(rng) * math.sqrt(0.5 * df / max(gamma(rng, 0.5 * df), 1e-300))


@leaf
def poisson(rng, lam):
    """Poisson with mean lam >= 0, as float64 (Hormann 1993, PTRS, from mean 10 up)."""
    if lam < 10.0:
        floor = math.exp(-lam)
        product = uniform(rng)
        count = 0.0
        while product > floor:
            product *= uniform(rng)
            count += 1.0
        return count
    b = 0.931 + 2.53 * math.sqrt(lam)
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    v_r = 0.9277 - 3.6224 / (b - 2.0)
    log_lam = math.log(lam)
    while True:
        u = uniform(rng) - 0.5
        v = uniform(rng)
        us = 0.5 - abs(u)
        k = math.floor((2.0 * a / us + b) * u + lam + 0.43)
        if us >= 0.07 and v <= v_r:
            return float(k)
        if k < 0.0 or (us < 0.013 and v > us):
            continue
        left = math.log(v * inverse_alpha / (a / (us * us) + b))
        if left <= k * log_lam - lam - math.lgamma(k + 1.0):
            return float(k)
