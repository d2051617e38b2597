"""Noise around a level: white, heavy-tailed, autoregressive, moving variance.

Each is written as a recursion over normals drawn in one burst into the output.
"""

import math

import numba
import numpy as np

from tinytsm.synth import philox
from tinytsm.synth.philox import leaf

FAMILIES = ("white", "heavy_tailed", "ar1", "garch", "heteroskedastic")


@leaf
def white(rng, out):
    """Independent standard normals."""
    philox.fill_normal(rng, out)


@leaf
def heavy_tailed(rng, out):
    """Independent student t with 2.2 to 8 degrees of freedom, skewed to one side in .3."""
    df = philox.log_uniform(rng, 2.2, 8.0)
    skew = philox.between(rng, 0.1, 0.9) if philox.bernoulli(rng, 0.3) else 1.0
    for t in range(out.shape[0]):
        x = philox.student_t(rng, df)
        out[t] = x if x > 0.0 else skew * x


@leaf
def ar1(rng, out):
    """Stationary AR(1), standard deviation 1: phi U(-.5, .99), or 1 - log-uniform (.002, .2) in half."""
    phi = philox.between(rng, -0.5, 0.99)
    if philox.bernoulli(rng, 0.5):
        phi = 1.0 - philox.log_uniform(rng, 0.002, 0.2)
    philox.fill_normal(rng, out)
    fresh = math.sqrt(1.0 - phi * phi)
    for t in range(1, out.shape[0]):
        out[t] = phi * out[t - 1] + fresh * out[t]


@leaf
def garch(rng, out):
    """GARCH(1,1): alpha U(.02, .2), alpha + beta U(.9, .995), unit variance, t innovations in half.

    Bollerslev 1986, "Generalized autoregressive conditional heteroskedasticity".
    """
    alpha = philox.between(rng, 0.02, 0.2)
    beta = philox.between(rng, 0.9, 0.995) - alpha
    omega = 1.0 - alpha - beta
    variance = 1.0
    df = philox.between(rng, 4.0, 12.0) if philox.bernoulli(rng, 0.5) else 0.0
    philox.fill_normal(rng, out)
    for t in range(out.shape[0]):
        z = out[t]
        if df > 0.0:
            z *= math.sqrt(0.5 * (df - 2.0) / max(philox.gamma(rng, 0.5 * df), 1e-300))
        out[t] = math.sqrt(variance) * z
        # The cap is far beyond what the stationary law reaches; it keeps a t draw from running away
        variance = min(omega + (alpha * z * z + beta) * variance, 1e4)


@numba.njit(nogil=True, cache=True)
def heteroskedastic(rng, out):
    """Noise whose scale moves: a slow wave, two alternating levels, a drift, or a log AR(1)."""
    T = out.shape[0]
    philox.fill_normal(rng, out)
    kind = philox.integer(rng, 0, 4)
    if kind == 0:
        depth = philox.between(rng, 0.3, 1.0)
        length = philox.log_uniform(rng, 8.0, max(float(T), 16.0))
        c, s = math.cos(2.0 * math.pi / length), math.sin(2.0 * math.pi / length)
        phase = 2.0 * math.pi * philox.uniform(rng)
        x, y = math.cos(phase), math.sin(phase)
        for t in range(T):
            out[t] *= 1.0 + depth * x
            x, y = x * c - y * s, y * c + x * s
    elif kind == 1:
        ratio = philox.log_uniform(rng, 2.0, 10.0)
        leave = 1.0 / philox.log_uniform(rng, 10.0, max(T / 3.0, 20.0))
        scale = 1.0
        for t in range(T):
            if philox.uniform(rng) < leave:
                scale = ratio if scale == 1.0 else 1.0
            out[t] *= scale
    elif kind == 2:
        grow = math.exp(philox.between(rng, -2.5, 2.5) / T)
        scale = 1.0
        for t in range(T):
            out[t] *= scale
            scale *= grow
    else:
        memory = 1.0 - philox.log_uniform(rng, 0.002, 0.1)
        spread = philox.between(rng, 0.3, 1.0)
        fresh = math.sqrt(1.0 - memory * memory)
        volatility = np.empty(T)
        philox.fill_normal(rng, volatility)
        state = volatility[0]
        for t in range(T):
            state = memory * state + fresh * volatility[t]
            out[t] *= math.exp(spread * state)
