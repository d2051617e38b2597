"""Trends, one curve each, between about zero and one.

Every trend is given by its total excursion over the series, never by a slope per step: a slope that
suits a hundred steps is absurd over four thousand. The generator scales the excursion.
"""

import math

from tinytsm.synth import philox
from tinytsm.synth.philox import leaf

FAMILIES = (
    "linear",
    "exponential",
    "logistic",
    "piecewise",
    "damped",
    "power",
    "polynomial",
    "wander",
)


@leaf
def linear(rng, out):
    """A straight line, up or down."""
    T = out.shape[0]
    step = (1.0 if philox.bernoulli(rng, 0.5) else -1.0) / max(T - 1, 1)
    for t in range(T):
        out[t] = step * t


@leaf
def exponential(rng, out):
    """exp(r t / T) with r ~ U(-5, 5): growth that speeds up, or decay that levels off."""
    T = out.shape[0]
    rate = philox.between(rng, -5.0, 5.0)
    # Scaled by its larger end, so that the excursion is of order one for any rate
    value = math.exp(min(0.0, -rate))
    ratio = math.exp(rate / T)
    for t in range(T):
        out[t] = value
        value *= ratio


@leaf
def logistic(rng, out):
    """A sigmoid (adoption curve): centre U(-.2, 1.2) T, width log-uniform (.02, .5) T."""
    T = out.shape[0]
    centre = philox.between(rng, -0.2, 1.2) * T
    width = philox.log_uniform(rng, 0.02, 0.5) * T
    sign = 1.0 if philox.bernoulli(rng, 0.5) else -1.0
    value = math.exp(centre / width)
    ratio = math.exp(-1.0 / width)
    for t in range(T):
        out[t] = sign / (1.0 + value)
        value *= ratio


@leaf
def piecewise(rng, out):
    """Joined straight pieces whose slopes change at random: mean piece log-uniform (T/30, T)."""
    T = out.shape[0]
    mean_length = philox.log_uniform(rng, max(T / 30.0, 4.0), max(T, 8.0))
    # One share keeps most of its slope over a break, the other draws it anew
    memory = philox.between(rng, 0.0, 1.0) if philox.bernoulli(rng, 0.5) else 0.0
    slope = philox.normal(rng)
    level = 0.0
    t = 0
    while t < T:
        length = 2 + int(mean_length * philox.exponential(rng))
        step = slope / T
        for _ in range(min(length, T - t)):
            out[t] = level
            level += step
            t += 1
        slope = memory * slope + math.sqrt(1.0 - memory * memory) * philox.normal(rng) * 2.0


@leaf
def damped(rng, out):
    """Damped approach to a level, 1 - exp(-t/tau), tau log-uniform (.03, 1) T, from a random start."""
    T = out.shape[0]
    tau = philox.log_uniform(rng, 0.03, 1.0) * T
    start = int(philox.between(rng, 0.0, 0.6) * T) if philox.bernoulli(rng, 0.4) else 0
    sign = 1.0 if philox.bernoulli(rng, 0.5) else -1.0
    ratio = math.exp(-1.0 / tau)
    left = 1.0
    for t in range(T):
        out[t] = sign * (1.0 - left)
        if t >= start:
            left *= ratio


@leaf
def power(rng, out):
    """((t + c) / T)^a: log-like and square-root-like growth, a log-uniform (.2, 3)."""
    T = out.shape[0]
    exponent = philox.log_uniform(rng, 0.2, 3.0)
    shift = philox.log_uniform(rng, 0.002, 0.5) * T
    sign = 1.0 if philox.bernoulli(rng, 0.5) else -1.0
    for t in range(T):
        out[t] = sign * math.exp(exponent * math.log((t + shift) / T))


@leaf
def polynomial(rng, out):
    """A quadratic or cubic with normal coefficients in t / T about a random centre."""
    T = out.shape[0]
    centre = philox.uniform(rng)
    a, b, c = philox.normal(rng), 2.0 * philox.normal(rng), 2.0 * philox.normal(rng)
    if philox.bernoulli(rng, 0.5):
        c = 0.0
    for t in range(T):
        u = t / T - centre
        out[t] = u * (a + u * (b + u * c))


@leaf
def wander(rng, out):
    """A smooth random curve: smoothstep between normal knots, knot distance log-uniform (T/12, T)."""
    T = out.shape[0]
    distance = max(philox.log_uniform(rng, T / 12.0, max(T, 2.0)), 2.0)
    momentum = philox.between(rng, 0.0, 1.0)
    left, step = 0.0, philox.normal(rng)
    right = left + step
    position = philox.uniform(rng)
    for t in range(T):
        out[t] = left + (right - left) * position * position * (3.0 - 2.0 * position)
        position += 1.0 / distance
        if position >= 1.0:
            position -= 1.0
            step = momentum * step + (1.0 - momentum) * philox.normal(rng)
            left, right = right, right + step
