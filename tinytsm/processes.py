"""Processes whose best forecast is known: paths, and the law of what follows.

Every law is normal, step by step, given the path and the process itself, so expected scores of any quantile forecast
have a closed form and no label needs to be drawn. With Y ~ N(m, s^2), u = (f - m) / s, phi and Phi the density and
distribution of N(0, 1):

    E loss_q(Y, f) = 2 s (phi(u) + u (Phi(u) - q)),   loss_q(y, f) = 2 |(y - f) ((y <= f) - q)|

which is least, 2 s phi(z_q), at the true quantile (Gneiting 2011, Quantiles as optimal point forecasts, is the general
case). Letters: n paths, T steps of context, H steps of horizon, Q levels.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Paths(NamedTuple):
    """`context` (n, T); mean and standard deviation of the next steps given it, (n, H) each; steps per season (n,)."""

    context: Array
    mean: Array
    deviation: Array
    season: NDArray[np.int64]


def white_noise(rng: np.random.Generator, *, count: int, length: int, horizon: int) -> Paths:
    """Independent N(level, scale^2)."""
    level, scale = _units(rng, count)
    context = level + scale * rng.normal(size=(count, length))
    steps = np.ones((count, horizon))
    return Paths(context, level * steps, scale * steps, _no_season(count))


def random_walk(rng: np.random.Generator, *, count: int, length: int, horizon: int) -> Paths:
    """Sums of independent N(0, scale^2) from a level on: the last value, and sqrt(h) wide."""
    level, scale = _units(rng, count)
    context = level + scale * rng.normal(size=(count, length)).cumsum(1)
    ahead = np.arange(1, horizon + 1)
    mean = context[:, -1:] * np.ones(horizon)
    return Paths(context, mean, scale * np.sqrt(ahead), _no_season(count))


def autoregression(rng: np.random.Generator, *, count: int, length: int, horizon: int) -> Paths:
    """Stationary AR(1) with a coefficient a in (-0.5, 0.98): a^h of the last deviation is left after h steps."""
    level, scale = _units(rng, count)
    a = rng.uniform(-0.5, 0.98, size=(count, 1))
    x = np.empty((count, length))
    x[:, :1] = scale / np.sqrt(1 - a**2) * rng.normal(size=(count, 1))
    shocks = scale * rng.normal(size=(count, length))
    for t in range(1, length):
        x[:, t] = a[:, 0] * x[:, t - 1] + shocks[:, t]
    ahead = np.arange(1, horizon + 1)
    variance = (1 - a ** (2 * ahead)) / (1 - a**2)
    mean = level + a**ahead * x[:, -1:]
    return Paths(level + x, mean, scale * np.sqrt(variance), _no_season(count))


def seasonal(rng: np.random.Generator, *, count: int, length: int, horizon: int) -> Paths:
    """A fixed cycle of 7, 12, 24 or 48 steps, three harmonics of it, and N(0, scale^2) around it."""
    level, scale = _units(rng, count)
    period = rng.choice([7, 12, 24, 48], size=(count, 1))
    amplitude = scale * 10 ** rng.uniform(-0.3, 1.0, size=(count, 1))
    t = np.arange(length + horizon)
    wave = np.zeros((count, length + horizon))
    for harmonic in (1, 2, 3):
        phase = rng.uniform(0, 2 * math.pi, size=(count, 1))
        wave += np.cos(2 * math.pi * harmonic * t / period + phase) / harmonic
    wave = level + amplitude * wave
    context = wave[:, :length] + scale * rng.normal(size=(count, length))
    deviation = scale * np.ones((count, horizon))
    return Paths(context, wave[:, length:], deviation, period[:, 0])


PROCESSES: dict[str, Callable[..., Paths]] = {
    "white noise": white_noise,
    "random walk": random_walk,
    "AR(1)": autoregression,
    "seasonal + noise": seasonal,
}


def _units(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Level and scale of each path: a forecaster cannot know the units."""
    scale = 10 ** rng.uniform(-1, 2, size=(count, 1))
    return scale * rng.normal(0, 10, size=(count, 1)), scale


def _no_season(count: int) -> NDArray[np.int64]:
    return np.ones(count, np.int64)


def best_quantiles(paths: Paths, levels: Sequence[float]) -> Array:
    """The true quantiles (n, H, Q): no forecast made from the context has a lower expected loss."""
    z = np.array([NormalDist().inv_cdf(level) for level in levels])
    return paths.mean[..., None] + paths.deviation[..., None] * z


def expected_loss(paths: Paths, quantiles: Array, levels: Sequence[float]) -> Array:
    """Expected quantile loss (n, H, Q) of forecasts of that shape."""
    u = (quantiles - paths.mean[..., None]) / paths.deviation[..., None]
    density = np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    return 2 * paths.deviation[..., None] * (density + u * (normal_cdf(u) - np.asarray(levels)))


def expected_coverage(paths: Paths, quantiles: Array) -> Array:
    """Probability (n, H, Q) that a label falls at or below each quantile."""
    return normal_cdf((quantiles - paths.mean[..., None]) / paths.deviation[..., None])


def normal_cdf(u: Array) -> Array:
    """Phi, to 1e-15: half the complementary error function of -u / sqrt 2."""
    return 0.5 * np.vectorize(math.erfc, otypes=[float])(-u / math.sqrt(2))
