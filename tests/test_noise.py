"""Laws of the noise families: each law is checked against the parameters that were drawn.

A family's parameters are read off its stream by drawing them again in the family's order.
"""

import math

import numpy as np
import pytest

from tests.laws import correlation, drawing
from tinytsm.synth import noise, philox

stream, draw = drawing(31)


def students_cdf(x: np.ndarray, df: float) -> np.ndarray:
    """Student t by quadrature, on a grid that bends towards the tails."""
    grid = np.sinh(np.linspace(-12.0, 12.0, 8001))
    density = (1 + grid * grid / df) ** (-0.5 * (df + 1))
    total = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(grid))])
    return np.interp(x, grid, total / total[-1])


def kolmogorov(u: np.ndarray) -> float:
    """Scaled distance of values from the uniform law: above 2.2 once in eight thousand draws."""
    u = np.sort(u)
    n = len(u)
    steps = np.arange(n)
    return math.sqrt(n) * max((u - steps / n).max(), ((steps + 1) / n - u).max())


@pytest.mark.parametrize("name", noise.FAMILIES)
def test_family_is_finite_moves_and_is_pure(name: str) -> None:
    family = getattr(noise, name)
    for length in (1, 2, 5, 60, 1500):
        for index in range(40):
            x = draw(family, index, length)
            assert np.isfinite(x).all()
            assert length < 5 or np.ptp(x) > 0
            np.testing.assert_array_equal(x, draw(family, index, length))


def test_white_noise_is_standard_normal() -> None:
    x = np.concatenate([draw(noise.white, index, 2000) for index in range(30)])
    assert kolmogorov(np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])) < 2.2
    assert all(abs(correlation(x, lag)) < 5 / math.sqrt(len(x)) for lag in (1, 2, 7, 24, 128))


def test_ar1_keeps_unit_variance_from_the_first_step() -> None:
    draws = np.stack([draw(noise.ar1, index, 50) for index in range(1500)])
    for t in (0, 1, 10, 49):
        assert abs(draws[:, t].var() - 1) < 5 * math.sqrt(2 / 1500)
    for index in range(20):
        rng = stream(index)
        phi = philox.between(rng, -0.5, 0.99)
        if philox.bernoulli(rng, 0.5):
            phi = 1.0 - philox.log_uniform(rng, 0.002, 0.2)
        x = draw(noise.ar1, index, 4000)
        found = (x[1:] * x[:-1]).sum() / (x[:-1] ** 2).sum()
        assert abs(found - phi) < 5 * math.sqrt((1 - phi * phi) / 4000) + 10 / 4000


def test_heavy_tails_are_heavier_than_normal_ones() -> None:
    share = np.mean(
        [
            np.mean(np.abs(x) > 4 * np.median(np.abs(x)) * 1.4826)
            for x in (draw(noise.heavy_tailed, index, 2000) for index in range(60))
        ]
    )
    normal = math.erfc(4 / math.sqrt(2))
    assert share > 20 * normal


def test_heavy_tails_are_students_with_the_freedom_drawn() -> None:
    pooled = []
    for index in range(60):
        rng = stream(index)
        df = philox.log_uniform(rng, 2.2, 8.0)
        skew = philox.between(rng, 0.1, 0.9) if philox.bernoulli(rng, 0.3) else 1.0
        x = draw(noise.heavy_tailed, index, 3000)
        pooled.append(students_cdf(np.where(x > 0, x, x / skew), df))
        assert kolmogorov(pooled[-1]) < 2.2
    assert kolmogorov(np.concatenate(pooled)) < 2.2


def test_garch_has_unit_variance_white_signs_and_clusters() -> None:
    draws = [draw(noise.garch, index, 4000) for index in range(100)]
    assert 0.8 < np.mean([x.var() for x in draws]) < 1.2
    assert abs(np.mean([correlation(x, 1) for x in draws])) < 0.01
    assert np.mean([correlation(x * x, 1) for x in draws]) > 0.08


def test_garch_shocks_are_white_under_its_own_recursion() -> None:
    for index in range(30):
        rng = stream(index)
        alpha = philox.between(rng, 0.02, 0.2)
        beta = philox.between(rng, 0.9, 0.995) - alpha
        tails = philox.bernoulli(rng, 0.5)
        df = philox.between(rng, 4.0, 12.0) if tails else 0.0
        x = draw(noise.garch, index, 3000)
        z, variance = np.empty(len(x)), 1.0
        for t, value in enumerate(x):
            z[t] = value / math.sqrt(variance)
            variance = 1 - alpha - beta + alpha * value * value + beta * variance
        u = [0.5 * math.erfc(-v / math.sqrt(2)) for v in z]
        if tails:
            u = list(students_cdf(z * math.sqrt(df / (df - 2)), df))
        assert kolmogorov(np.array(u)) < 2.2
        # Nothing of the clustering is left
        assert abs(correlation(np.minimum(z * z, 9.0), 1)) < 5 / math.sqrt(len(z))


def test_heteroskedastic_noise_is_no_louder_at_its_start() -> None:
    draws = np.stack([draw(noise.heteroskedastic, index, 400) for index in range(2000)])
    squares = (draws / draws.std(axis=1, keepdims=True)) ** 2
    starts = squares[:, :8].mean(axis=1)
    assert abs(starts.mean() - 1.0) < 5 * starts.std() / math.sqrt(2000)


def test_heteroskedastic_noise_is_white_but_uneven() -> None:
    draws = [draw(noise.heteroskedastic, index, 2000) for index in range(200)]
    assert abs(np.mean([correlation(x, 1) for x in draws])) < 0.01
    uneven = [np.std([part.std() for part in np.split(x / x.std(), 20)]) for x in draws]
    white = np.std([part.std() for part in np.split(draw(noise.white, 1, 2000), 20)])
    assert np.median(uneven) > 2 * white


def test_heteroskedastic_scale_has_one_of_its_four_forms() -> None:
    length, seen = 2000, [0, 0, 0, 0]
    fresh = []
    for index in range(80):
        rng, z = stream(index), np.empty(length)
        philox.fill_normal(rng, z)
        kind = philox.integer(rng, 0, 4)
        scale = draw(noise.heteroskedastic, index, length) / z
        seen[kind] += 1
        t = np.arange(length)
        if kind == 0:
            depth = philox.between(rng, 0.3, 1.0)
            angle = 2 * math.pi * t / philox.log_uniform(rng, 8.0, length)
            wave = np.cos(angle + 2 * math.pi * philox.uniform(rng))
            np.testing.assert_allclose(scale, 1 + depth * wave, atol=1e-9)
        elif kind == 1:
            ratio = philox.log_uniform(rng, 2.0, 10.0)
            assert np.minimum(abs(scale - 1), abs(scale - ratio)).max() < 1e-9
        elif kind == 2:
            grow = philox.between(rng, -2.5, 2.5)
            np.testing.assert_allclose(np.log(scale), grow * t / length, atol=1e-9)
        else:
            memory = 1 - philox.log_uniform(rng, 0.002, 0.1)
            spread = philox.between(rng, 0.3, 1.0)
            state = np.log(scale) / spread
            fresh.append((state[1:] - memory * state[:-1]) / math.sqrt(1 - memory * memory))
    assert min(seen) > 8
    steps = np.concatenate(fresh)
    assert abs(steps.mean()) < 5 / math.sqrt(len(steps))
    assert abs(steps.std() - 1) < 5 / math.sqrt(2 * len(steps))
