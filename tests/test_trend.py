"""Trends have the curve that was drawn: parameters are read off the stream again, in the family's order."""

import math

import numpy as np
import pytest

from tinytsm.synth import philox, trend

LENGTH = 600
T = np.arange(LENGTH)


def stream(index: int) -> np.ndarray:
    return philox.stream(41, index, 0)


def draw(name: str, index: int) -> np.ndarray:
    out = np.full(LENGTH, np.nan)
    getattr(trend, name)(stream(index), out)
    return out


def sign(rng: np.ndarray) -> float:
    return 1.0 if philox.bernoulli(rng, 0.5) else -1.0


# Recurrences gather rounding over the length: a relative 1e-16 a step, and room for amplification
EXACT = 1e-9


def linear(rng: np.ndarray) -> np.ndarray:
    return sign(rng) * T / (LENGTH - 1)


def exponential(rng: np.ndarray) -> np.ndarray:
    rate = philox.between(rng, -5.0, 5.0)
    # The larger end is one, up to the last step
    return np.exp(rate * T / LENGTH - max(rate, 0.0))


def logistic(rng: np.ndarray) -> np.ndarray:
    centre = philox.between(rng, -0.2, 1.2) * LENGTH
    width = philox.log_uniform(rng, 0.02, 0.5) * LENGTH
    return sign(rng) / (1.0 + np.exp((centre - T) / width))


def damped(rng: np.ndarray) -> np.ndarray:
    tau = philox.log_uniform(rng, 0.03, 1.0) * LENGTH
    start = int(philox.between(rng, 0.0, 0.6) * LENGTH) if philox.bernoulli(rng, 0.4) else 0
    return sign(rng) * (1.0 - np.exp(-np.maximum(T - start, 0) / tau))


def power(rng: np.ndarray) -> np.ndarray:
    exponent = philox.log_uniform(rng, 0.2, 3.0)
    shift = philox.log_uniform(rng, 0.002, 0.5) * LENGTH
    return sign(rng) * ((T + shift) / LENGTH) ** exponent


@pytest.mark.parametrize("curve", [linear, exponential, logistic, damped, power])
def test_curve_is_its_formula(curve) -> None:
    for index in range(40):
        np.testing.assert_allclose(draw(curve.__name__, index), curve(stream(index)), atol=EXACT)


def test_polynomials_are_cubic_and_half_of_them_quadratic() -> None:
    quadratic = 0
    for index in range(200):
        x = draw("polynomial", index)
        assert np.abs(np.diff(x, 4)).max() < 1e-12
        quadratic += np.abs(np.diff(x, 3)).max() < 1e-12
    assert abs(quadratic / 200 - 0.5) < 5 * math.sqrt(0.25 / 200)


def test_pieces_are_straight_and_as_long_as_drawn() -> None:
    breaks = expected = 0.0
    for index in range(200):
        x = draw("piecewise", index)
        breaks += int((np.abs(np.diff(x, 2)) > 1e-10).sum())
        mean = philox.log_uniform(stream(index), LENGTH / 30, LENGTH)
        # Lengths are 2 + floor(mean * exponential): 1.5 more than the mean, and no break near the start
        expected += LENGTH / (mean + 1.5)
    # Breaks come like a Poisson process, but for their least distance
    assert abs(breaks - expected) < 5 * math.sqrt(expected)


def test_wander_is_smooth_between_knots_as_far_apart_as_drawn() -> None:
    for index in range(60):
        x = draw("wander", index)
        distance = philox.log_uniform(stream(index), LENGTH / 12, LENGTH)
        # A cubic between two knots has no fourth difference; a knot is felt by the four that straddle it
        bent = np.flatnonzero(np.abs(np.diff(x, 4)) > 1e-11)
        knots = 1 + int((np.diff(bent) > 4).sum()) if len(bent) else 0
        assert abs(knots - LENGTH / distance) <= 1
        # Monotone from knot to knot
        assert (np.diff(np.sign(np.diff(x))) != 0).sum() <= knots
