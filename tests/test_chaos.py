"""Chaotic families are deterministic, part exponentially, and stay in bounds.

Rosenstein, Collins and De Luca 1993, "A practical method for calculating largest Lyapunov exponents from small data
sets": near neighbours among delay vectors are followed; what a law determines, near states share for a while, and
chaos drives them apart.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest

from tinytsm.synth import chaos, philox

LENGTH = 4000


def stream(index: int) -> np.ndarray:
    return philox.stream(44, index, 0)


def draw(name: str, index: int) -> np.ndarray:
    out = np.full(LENGTH, np.nan)
    getattr(chaos, name)(stream(index), out)
    return out


def divergence(x: np.ndarray, *, delay: int, dimension: int, ahead: list[int]) -> np.ndarray:
    """Mean log distance of near neighbours, in standard deviations, after each number of steps ahead."""
    z = (x - x.mean()) / x.std()
    count = z.size - (dimension - 1) * delay - max(ahead)
    points = np.stack([z[i * delay : i * delay + count] for i in range(dimension)], 1)
    start = np.arange(0, count, max(1, count // 100))
    distances = np.abs(points[start, None] - points[None]).max(-1)
    # Neighbours in time are neighbours in space for no other reason
    distances[np.abs(start[:, None] - np.arange(count)[None]) < 20 * delay] = np.inf
    near = distances.argmin(1)
    last = (dimension - 1) * delay
    return np.array(
        [np.mean(np.log(np.abs(z[start + last + k] - z[near + last + k]) + 1e-12)) for k in ahead]
    )


def is_noiseless_map(x: np.ndarray) -> bool:
    """Not held, and not seen through noise: neighbours' next values agree closely."""
    if (np.diff(x) == 0.0).mean() > 0.3:
        return False
    return bool(divergence(x, delay=1, dimension=4, ahead=[1])[0] < math.log(0.1))


@pytest.mark.parametrize("name", ["logistic_map", "henon_map", "ikeda_map"])
def test_maps_are_determined_and_part(name: str) -> None:
    parting = seen = 0
    for index in range(16):
        x = draw(name, index)
        # Periodic windows are left in; there all neighbours coincide
        if not is_noiseless_map(x) or len(np.unique(np.round(x, 6))) < 500:
            continue
        seen += 1
        now, later = divergence(x, delay=1, dimension=4, ahead=[0, 4])
        # Four steps at a positive exponent, however weak the chaos: .1 for each
        parting += later - now > 0.4
    # About half are seen at every step and without noise
    assert seen >= 4
    assert parting >= 0.75 * seen


def test_logistic_map_has_its_parameter_and_a_positive_exponent() -> None:
    exact, exponents = 0, []
    for index in range(60):
        rng = stream(index)
        r = philox.between(rng, 3.5, 3.999)
        drifts = philox.bernoulli(rng, 0.2)
        x = draw("logistic_map", index)
        if drifts or np.abs(x[1:] - r * x[:-1] * (1 - x[:-1])).max() > 1e-12:
            continue
        exact += 1
        exponents.append(np.mean(np.log(np.abs(r * (1 - 2 * x)) + 1e-300)))
    # .8 without drift, .7 of them at every step, .7 of those without noise
    assert abs(exact / 60 - 0.392) < 5 * math.sqrt(0.392 * 0.608 / 60)
    # Above the end of period doubling at 3.57 all but the windows are chaotic; never beyond log 2
    assert np.mean(np.array(exponents) > 0) > 0.6
    assert max(exponents) < math.log(2)


def test_coupled_maps_feel_their_neighbours_by_the_coupling() -> None:
    felt = []
    for index in range(60):
        rng = stream(index)
        sites = philox.integer(rng, 3, 9)
        r, mix = philox.between(rng, 3.6, 3.99), philox.between(rng, 0.02, 0.4)
        held = 1 if philox.bernoulli(rng, 0.7) else philox.integer(rng, 2, 9)
        for _ in range(sites):
            philox.between(rng, 0.05, 0.95)
        noisy = philox.bernoulli(rng, 0.3)
        x = draw("coupled_maps", index)
        if noisy:
            continue
        assert 0.0 <= x.min() and x.max() <= 1.0
        assert (np.diff(x) == 0.0).mean() == pytest.approx(1 - 1 / held, abs=0.01)
        # What a site's own map leaves unexplained is the coupling times a difference of two images
        own = x[:-held:held]
        left = x[held::held] - r * own * (1 - own)
        assert np.abs(left).max() <= mix * r / 4 + 1e-12
        felt.append(np.abs(left).max() / (mix * r / 4))
    # Strong coupling synchronises some rings
    assert len(felt) > 25 and np.median(felt) > 0.3


@pytest.mark.parametrize(
    ("name", "least"), [("lorenz", 0.75), ("rossler", 0.5), ("neuron", 0.0), ("mackey_glass", 0.75)]
)
def test_flows_are_smooth_determined_and_part(name: str, least: float) -> None:
    """least: share of draws without noise whose neighbours part; periodic ones among them do not."""
    parting = seen = 0
    for index in range(12):
        x = draw(name, index)
        step = np.abs(np.diff(x, 2)).mean() / x.std()
        now, soon, later = divergence(x, delay=5, dimension=4, ahead=[0, 1, 120])
        # Seen through noise: bends at every step, or near states that differ
        if soon > math.log(0.1) or step > 0.3:
            continue
        seen += 1
        parting += later - now > 0.5
    assert seen >= 4
    assert parting >= least * seen


def test_neurons_spike_and_rest() -> None:
    crossings = []
    for index in range(40):
        x = draw("neuron", index)
        z = x - np.median(x)
        crossings.append(int(((z[1:] > 0.5 * z.max()) & (z[:-1] <= 0.5 * z.max())).sum()))
    # Potential and recovery of Hindmarsh and Rose stay within these; most spike again and again
    assert np.median(crossings) > 10
    assert all(-15.0 < draw("neuron", i).min() and draw("neuron", i).max() < 4.0 for i in range(20))


# Sprott 2003, appendix A; Hindmarsh and Rose 1984 with a 1, b 3, c 1, d 5, s 4, rest -1.6


def lorenz(x: float, y: float, z: float, p: np.ndarray) -> list[float]:
    return [p[0] * (y - x), x * (p[1] - z) - y, x * y - p[2] * z]


def rossler(x: float, y: float, z: float, p: np.ndarray) -> list[float]:
    return [-y - z, x + p[0] * y, p[1] + z * (x - p[2])]


def neuron(x: float, y: float, z: float, p: np.ndarray) -> list[float]:
    return [y - x**3 + 3 * x**2 - z + p[0], 1 - 5 * x**2 - y, p[1] * (4 * (x + 1.6) - z)]


@pytest.mark.parametrize(("which", "law"), list(enumerate([lorenz, rossler, neuron])))
def test_flows_move_by_their_equations(
    which: int, law: Callable[..., list[float]], rng: np.random.Generator
) -> None:
    step = 1e-5
    for _ in range(20):
        state, p = rng.normal(size=3), rng.uniform(0.1, 3.0, size=3)
        before = state.copy()
        chaos.integrate(which, state, p, step, 1, 0, 0, np.empty(1))
        expected = law(*(0.5 * (before + state)), p)
        np.testing.assert_allclose((state - before) / step, expected, atol=1e-6)


def test_mackey_glass_feels_its_past_by_the_delay_drawn() -> None:
    own, other = [], []
    for index in range(80):
        rng = stream(index)
        delay = philox.between(rng, 15.0, 40.0)
        step, inner = chaos._rate(rng, 0.5, 0.4, 4.0)
        per_value = step * inner
        steps = int(delay / step) + 1
        for _ in range(1 + steps):
            philox.uniform(rng)
        noisy = philox.bernoulli(rng, 0.3)
        # Too coarse for a difference to be a derivative
        if noisy or per_value > 1.0:
            continue
        x = draw("mackey_glass", index)
        slope = (x[2:] - x[:-2]) / (2 * per_value)
        times = np.arange(LENGTH) * per_value

        def unexplained(
            delay: float, x: np.ndarray = x, slope: np.ndarray = slope, times: np.ndarray = times
        ) -> float:
            past = np.interp(times[1:-1] - delay, times, x)
            left = slope - (0.2 * past / (1 + past**10) - 0.1 * x[1:-1])
            known = times[1:-1] > delay
            return float(left[known].std() / slope[known].std())

        own.append(unexplained(steps * step))
        other.append(unexplained(1.15 * steps * step))
    assert len(own) > 15
    assert np.median(own) < 0.05
    assert np.median(other) > 0.2
