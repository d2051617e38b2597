"""Chaotic series: maps, and flows integrated by Runge-Kutta and sampled at random rates.

Parameters stay where orbits are bounded and mostly chaotic; periodic windows are left in, for they
are series too. A share is seen through noise. Exact to rounding only: two machines part ways.
Equations and parameters: Sprott 2003, "Chaos and Time-Series Analysis", appendix A.
"""

import math

import numba
import numpy as np

from tinytsm.synth import philox

FAMILIES = (
    "logistic_map",
    "henon_map",
    "ikeda_map",
    "coupled_maps",
    "lorenz",
    "rossler",
    "neuron",
    "mackey_glass",
)

_SETTLE = 200


@numba.njit(nogil=True, cache=True)
def _observe(rng, out):
    """In three of ten, add noise of a small share of the range of out (T,)."""
    if philox.bernoulli(rng, 0.3):
        low = high = out[0]
        for t in range(out.size):
            low, high = min(low, out[t]), max(high, out[t])
        scale = philox.log_uniform(rng, 0.003, 0.15) * (high - low)
        for t in range(out.size):
            out[t] += scale * philox.normal(rng)


@numba.njit(nogil=True, cache=True)
def _hold(rng):
    """Steps for which a map's value holds: most change at every step, some are slow."""
    return 1 if philox.bernoulli(rng, 0.7) else philox.integer(rng, 2, 9)


@numba.njit(nogil=True, cache=True)
def logistic_map(rng, out):
    """x <- r x (1 - x): chaos, intermittency and periodic windows, r drifting for a share."""
    r = philox.between(rng, 3.5, 3.999)
    drift = (philox.between(rng, 3.5, 3.999) - r) / out.size if philox.bernoulli(rng, 0.2) else 0.0
    hold = _hold(rng)
    x = philox.between(rng, 0.05, 0.95)
    for _ in range(_SETTLE):
        x = r * x * (1.0 - x)
    for t in range(out.size):
        if t % hold == 0:
            x = r * x * (1.0 - x)
        r += drift
        out[t] = x
    _observe(rng, out)


@numba.njit(nogil=True, cache=True)
def henon_map(rng, out):
    """x <- 1 - a x^2 + y, y <- b x, near the classical parameters."""
    a, b = philox.between(rng, 1.1, 1.4), philox.between(rng, 0.2, 0.3)
    hold = _hold(rng)
    x, y = philox.between(rng, -0.1, 0.1), philox.between(rng, -0.1, 0.1)
    for t in range(-_SETTLE, out.size):
        if t % hold == 0:
            x, y = 1.0 - a * x * x + y, b * x
        # Start again should an orbit leave its basin
        if abs(x) > 10.0:
            x, y = 0.0, 0.0
        if t >= 0:
            out[t] = x
    _observe(rng, out)


@numba.njit(nogil=True, cache=True)
def ikeda_map(rng, out):
    """Light in a ring cavity: z <- 1 + u z exp(i (0.4 - 6 / (1 + |z|^2))), its real part seen."""
    u = philox.between(rng, 0.6, 0.9)
    hold = _hold(rng)
    # Near the origin: farther out, orbits of strong cavities fall into a fixed point
    x, y = philox.between(rng, -0.2, 0.4), philox.between(rng, -0.2, 0.4)
    for t in range(-_SETTLE, out.size):
        if t % hold == 0:
            angle = 0.4 - 6.0 / (1.0 + x * x + y * y)
            c, s = math.cos(angle), math.sin(angle)
            x, y = 1.0 + u * (x * c - y * s), u * (x * s + y * c)
        if t >= 0:
            out[t] = x
    _observe(rng, out)


@numba.njit(nogil=True, cache=True)
def coupled_maps(rng, out):
    """A ring of logistic maps with neighbour coupling, seen at one site."""
    sites = philox.integer(rng, 3, 9)
    r, mix = philox.between(rng, 3.6, 3.99), philox.between(rng, 0.02, 0.4)
    hold = _hold(rng)
    x, image = np.empty(sites), np.empty(sites)
    for i in range(sites):
        x[i] = philox.between(rng, 0.05, 0.95)
    for t in range(-_SETTLE, out.size):
        if t % hold == 0:
            for i in range(sites):
                image[i] = r * x[i] * (1.0 - x[i])
            for i in range(sites):
                beside = 0.5 * (image[i - 1] + image[(i + 1) % sites])
                x[i] = (1.0 - mix) * image[i] + mix * beside
        if t >= 0:
            out[t] = x[0]
    _observe(rng, out)


@numba.njit(nogil=True, cache=True)
def _lorenz(x, y, z, p):
    return p[0] * (y - x), x * (p[1] - z) - y, x * y - p[2] * z


@numba.njit(nogil=True, cache=True)
def _rossler(x, y, z, p):
    return -y - z, x + p[0] * y, p[1] + z * (x - p[2])


@numba.njit(nogil=True, cache=True)
def _neuron(x, y, z, p):
    return y + x * x * (3.0 - x) - z + p[0], 1.0 - 5.0 * x * x - y, p[1] * (4.0 * (x + 1.6) - z)


@numba.njit(nogil=True, cache=True)
def _derivative(which, x, y, z, p):
    if which == 0:
        return _lorenz(x, y, z, p)
    if which == 1:
        return _rossler(x, y, z, p)
    return _neuron(x, y, z, p)


@numba.njit(nogil=True, cache=True)
def integrate(which, state, parameters, step, inner, settle, seen, out):
    """Fourth-order Runge-Kutta: state (3,) moves on; out (T,) takes one coordinate of it.

    which: 0 Lorenz, 1 Rossler, 2 neuron; step: model time per stage; inner: steps per
    value; settle: values thrown away first; seen: 0, 1, 2 a coordinate, 3 the square of the first.
    """
    x, y, z = state[0], state[1], state[2]
    half = 0.5 * step
    for t in range(-settle, out.size):
        for _ in range(inner):
            ax, ay, az = _derivative(which, x, y, z, parameters)
            bx, by, bz = _derivative(which, x + half * ax, y + half * ay, z + half * az, parameters)
            cx, cy, cz = _derivative(which, x + half * bx, y + half * by, z + half * bz, parameters)
            dx, dy, dz = _derivative(which, x + step * cx, y + step * cy, z + step * cz, parameters)
            x += step * (ax + 2.0 * bx + 2.0 * cx + dx) / 6.0
            y += step * (ay + 2.0 * by + 2.0 * cy + dy) / 6.0
            z += step * (az + 2.0 * bz + 2.0 * cz + dz) / 6.0
        if t >= 0:
            out[t] = x if seen == 0 else y if seen == 1 else z if seen == 2 else x * x
    state[0], state[1], state[2] = x, y, z


@numba.njit(nogil=True, cache=True)
def _rate(rng, longest, slowest, fastest):
    """(step, inner): model time per value log-uniform in (slowest, fastest), in steps <= longest."""
    per_value = philox.log_uniform(rng, slowest, fastest)
    inner = 1 + np.int64(per_value / longest)
    return per_value / inner, inner


@numba.njit(nogil=True, cache=True)
def lorenz(rng, out):
    """Convection: two lobes, visited at random; from finely to coarsely sampled."""
    parameters = np.array(
        [philox.between(rng, 9.0, 11.0), philox.between(rng, 25.0, 45.0), 8.0 / 3.0]
    )
    state = np.array([philox.normal(rng), philox.normal(rng), 20.0 + philox.normal(rng)])
    step, inner = _rate(rng, 0.012, 0.008, 0.1)
    integrate(0, state, parameters, step, inner, _SETTLE, philox.integer(rng, 0, 4), out)
    _observe(rng, out)


@numba.njit(nogil=True, cache=True)
def rossler(rng, out):
    """A spiral with a fold: an almost regular cycle of chaotic height, or its rare spikes."""
    parameters = np.array([philox.between(rng, 0.15, 0.22), 0.2, philox.between(rng, 4.5, 8.0)])
    state = np.array([philox.normal(rng), philox.normal(rng), 0.1])
    step, inner = _rate(rng, 0.08, 0.05, 0.6)
    integrate(1, state, parameters, step, inner, _SETTLE, philox.integer(rng, 0, 4), out)
    _observe(rng, out)


@numba.njit(nogil=True, cache=True)
def neuron(rng, out):
    """Hindmarsh and Rose 1984: spikes in bursts with rests between, regular to chaotic."""
    parameters = np.array([philox.between(rng, 1.6, 3.5), philox.log_uniform(rng, 0.002, 0.03)])
    state = np.array([philox.between(rng, -1.5, 0.5), -4.0, philox.between(rng, 1.5, 3.0)])
    step, inner = _rate(rng, 0.1, 0.3, 1.5)
    integrate(2, state, parameters, step, inner, _SETTLE, philox.integer(rng, 0, 2), out)
    _observe(rng, out)


@numba.njit(nogil=True, cache=True)
def mackey_glass(rng, out):
    """Blood cells with a delay: x' = 0.2 x(t - tau) / (1 + x(t - tau)^10) - 0.1 x, by Heun's rule."""
    delay = philox.between(rng, 15.0, 40.0)
    step, inner = _rate(rng, 0.5, 0.4, 4.0)
    steps = np.int64(delay / step) + 1
    past = np.empty(steps)
    x = philox.between(rng, 0.4, 1.3)
    for i in range(steps):
        past[i] = x * philox.between(rng, 0.9, 1.1)
    at = 0
    for t in range(-_SETTLE, out.size):
        for _ in range(inner):
            old = past[at]
            newer = past[at + 1 if at + 1 < steps else 0]
            begin = _production(old) - 0.1 * x
            end = _production(newer) - 0.1 * (x + step * begin)
            past[at] = x
            x += 0.5 * step * (begin + end)
            at = at + 1 if at + 1 < steps else 0
        if t >= 0:
            out[t] = x
    _observe(rng, out)


@numba.njit(nogil=True, cache=True)
def _production(x):
    fifth = x * x * x * x * x
    return 0.2 * x / (1.0 + fifth * fifth)
