"""Laws of the process families: each law is checked against the parameters that were drawn.

A family's parameters are read off its stream by drawing them again in the family's order.
"""

import math

import numpy as np
import pytest

from tests.laws import correlation, drawing
from tinytsm.synth import dynamics, philox
from tinytsm.synth.seasonal import choose

stream, draw = drawing(31)


def regression(y: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(np.stack(columns, 1), y, rcond=None)[0]


@pytest.mark.parametrize("name", dynamics.FAMILIES)
def test_family_is_finite_moves_and_is_pure(name: str) -> None:
    family = getattr(dynamics, name)
    for length in (1, 2, 5, 60, 1500):
        for index in range(40):
            x = draw(family, index, length)
            assert np.isfinite(x).all()
            assert length < 5 or np.ptp(x) > 0
            np.testing.assert_array_equal(x, draw(family, index, length))


def test_ar2_has_the_coefficients_drawn_and_starts_stationary() -> None:
    length = 4000
    scaled = []
    for index in range(30):
        rng = stream(index)
        period = philox.log_uniform(rng, 3.0, 300.0)
        modulus = 1.0 - philox.log_uniform(rng, 0.0005, 0.15)
        a, b = 2 * modulus * math.cos(2 * math.pi / period), -modulus * modulus
        x = draw(dynamics.ar2, index, length)
        found = regression(x[2:], x[1:-1], x[:-2])
        # Asymptotic standard error of both, plus the bias of order 1 / T
        error = 5 * math.sqrt((1 - b * b) / length) + 10 / length
        np.testing.assert_allclose(found, [a, b], atol=error)
        rho = a / (1 - b)
        variance = (1 - b) / ((1 + b) * ((1 - b) ** 2 - a * a))
        scaled.append(x[0] / math.sqrt(variance))
        assert correlation(x, 1) == pytest.approx(rho, abs=0.1)
    assert 0.6 < np.std(scaled) < 1.5


def test_partial_autocorrelations_give_stable_polynomials() -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        order = int(generator.integers(1, 5))
        partial, phi, scratch = generator.uniform(-0.95, 0.95, 4), np.zeros(4), np.zeros(4)
        dynamics._from_partial(partial, order, phi, scratch)
        assert np.abs(np.roots([1, *-phi[:order]])).max() < 1
        assert phi[order - 1] == partial[order - 1]
    # Order two by hand: phi1 = r1 (1 - r2)
    phi = np.zeros(4)
    dynamics._from_partial(np.array([0.5, -0.3, 0, 0]), 2, phi, np.zeros(4))
    np.testing.assert_allclose(phi[:2], [0.5 * 1.3, -0.3])


def test_arma_has_the_first_correlation_its_coefficients_imply() -> None:
    length, close = 4000, []
    for index in range(60):
        rng = stream(index)
        p, q = philox.integer(rng, 1, 5), philox.integer(rng, 0, 4)
        partial = np.array([philox.between(rng, -0.8, 0.8) if k < p else 0.0 for k in range(4)])
        if philox.bernoulli(rng, 0.5):
            partial[0] = 1.0 - philox.log_uniform(rng, 0.005, 0.5)
        phi, theta = np.zeros(4), np.zeros(4)
        dynamics._from_partial(partial, p, phi, np.zeros(4))
        second = np.array([philox.between(rng, -0.8, 0.8) if k < q else 0.0 for k in range(4)])
        dynamics._from_partial(second, q, theta, np.zeros(4))
        # Impulse response: its correlation is the process's
        response = np.zeros(3000)
        for t in range(3000):
            response[t] = (t == 0) - (theta[t - 1] if 1 <= t <= q else 0.0)
            for k in range(min(p, t)):
                response[t] += phi[k] * response[t - 1 - k]
        expected = (response[1:] * response[:-1]).sum() / (response**2).sum()
        x = draw(dynamics.arma, index, length)
        close.append(abs(correlation(x, 1) - expected))
    assert np.quantile(close, 0.9) < 0.06


def test_integrated_paths_have_the_steps_drawn() -> None:
    for index in range(60):
        rng = stream(index)
        phi = philox.between(rng, -0.4, 0.9) if philox.bernoulli(rng, 0.6) else 0.0
        twice = philox.bernoulli(rng, 0.25)
        x = draw(dynamics.integrated, index, 4000)
        step = np.diff(x, n=2 if twice else 1)
        step -= step.mean()
        (found,) = regression(step[1:], step[:-1])
        assert abs(found - phi) < 5 * math.sqrt((1 - phi * phi) / 4000) + 10 / 4000
        residual = step[1:] - phi * step[:-1]
        assert residual.std() == pytest.approx(1.0, abs=0.07)


@pytest.mark.parametrize("bins", [np.arange(4, 400), np.arange(400, 4096)], ids=["slow", "fast"])
def test_long_memory_spectrum_falls_by_its_power(bins: np.ndarray) -> None:
    length = 8192
    error = []
    for index in range(40):
        d = philox.between(stream(index), 0.1, 0.9)
        x = draw(dynamics.long_memory, index, length)
        power = np.abs(np.fft.rfft((x - x.mean()) * np.hanning(length)))[bins] ** 2
        slope = np.polyfit(np.log(np.sin(math.pi * bins / length)), np.log(power), 1)[0]
        error.append(slope + 2 * d)
    # One slope has a standard error of about 1.3 / sqrt(396) over the spread of log frequency
    assert abs(np.mean(error)) < 0.08
    assert np.std(error) < 0.15


def test_long_memory_has_its_law_from_the_first_step() -> None:
    """What its filters say of all steps together, whitened: a start outside of that law is not white."""
    length, found = 64, []
    lag = np.arange(40 * length)
    for index in range(400):
        d = philox.between(stream(index), 0.1, 0.9)
        rate = np.geomspace(0.5 / length, 2.0, 12)
        weight = rate ** (1 - d) @ np.exp(-np.outer(rate, lag))
        weight[0] = weight[1] / d
        covariance = np.array([weight[h:] @ weight[: lag.size - h] for h in range(length)])
        root = np.linalg.cholesky(covariance[np.abs(np.subtract.outer(lag[:length], lag[:length]))])
        found.append(np.linalg.solve(root, draw(dynamics.long_memory, index, length)))
    z = np.array(found)
    assert np.abs(z.mean(axis=0)).max() < 5 / math.sqrt(400)
    assert np.abs((z * z).mean(axis=0) - 1.0).max() < 5 * math.sqrt(2 / 400)


def ou_parameters(index: int, length: int) -> dict[str, float]:
    """What regime_ou draws first, in its order."""
    rng = stream(index)
    dt = 0.01 * philox.log_uniform(rng, 0.5, 30.0)
    theta = (philox.between(rng, 1.0, 5.0), philox.between(rng, 0.05, 0.5))
    mu = (philox.normal(rng) - 2.0, philox.normal(rng) + 2.0)
    sigma = (0.3 * math.exp(0.3 * philox.normal(rng)), 1.5 * math.exp(0.3 * philox.normal(rng)))
    leave = (philox.log_uniform(rng, 0.0005, 0.15), philox.log_uniform(rng, 0.0005, 0.15))
    drift = philox.normal(rng) * 3.0 / length if philox.bernoulli(rng, 0.5) else 0.0
    swing = philox.between(rng, 0.5, 3.0) if philox.bernoulli(rng, 0.4) else 0.0
    philox.log_uniform(rng, 5.0, 370.0)
    phase = 2 * math.pi * philox.uniform(rng)
    stochastic = philox.bernoulli(rng, 0.6)
    philox.log_uniform(rng, 0.002, 0.1)
    philox.between(rng, 0.2, 0.7)
    second = int(philox.bernoulli(rng, leave[0] / sum(leave)))
    plain = drift == 0.0 and swing == 0.0 and not stochastic
    return {
        "keep": math.exp(-theta[second] * dt),
        "mu": mu[second],
        "spread": sigma[second] / math.sqrt(2 * theta[second]),
        "swing": swing * math.sin(phase),
        "expected_stay": 1 / leave[second] if plain else 0.0,
    }


def test_ou_reverts_to_its_mean_with_its_stationary_variance() -> None:
    length, seen = 400, 0
    standard, slopes = [], []
    for index in range(6000):
        drawn = ou_parameters(index, length)
        # Draws that most likely stay in their first regime, and are not modulated
        if drawn["expected_stay"] < 3 * length:
            continue
        seen += 1
        x = draw(dynamics.regime_ou, index, length)
        innovation = x[1:] - drawn["mu"] - drawn["keep"] * (x[:-1] - drawn["mu"])
        scale = drawn["spread"] * math.sqrt(1 - drawn["keep"] ** 2)
        standard.append(np.median(np.abs(innovation / scale)) / 0.6745)
        slopes.append(np.median(innovation / scale))
    assert seen > 20
    # Exact steps have unit innovations about zero; medians shrug off the few that changed regime
    assert np.median(standard) == pytest.approx(1.0, abs=0.03)
    assert np.median(slopes) == pytest.approx(0.0, abs=0.05)


def test_ou_starts_anywhere_in_its_swing_as_far_from_it_as_later() -> None:
    swings = starts = 0.0
    standard = []
    for index in range(3000):
        drawn = ou_parameters(index, 60)
        start = draw(dynamics.regime_ou, index, 60)[0] - drawn["mu"]
        swings += drawn["swing"] ** 2
        starts += drawn["swing"] * start
        if drawn["expected_stay"] > 100:
            standard.append(start / drawn["spread"])
    assert swings > 1000 and starts / swings == pytest.approx(1.0, abs=0.15)
    # at its mean it would be 0
    assert len(standard) > 200 and np.std(standard) == pytest.approx(1.0, abs=0.12)


def test_threshold_ar_follows_the_line_of_each_regime() -> None:
    checked = 0
    for index in range(40):
        rng = stream(index)
        lag = int(philox.integer(rng, 1, 5))
        low = -philox.between(rng, 0.1, 1.5)
        high = philox.between(rng, 0.1, 1.5) if philox.bernoulli(rng, 0.5) else math.inf
        phi = [philox.between(rng, -0.6, top) for top in (0.97, 1.0, 0.97)]
        shift = [philox.between(rng, *span) for span in ((-0.5, 2.0), (-0.5, 0.5), (-2.0, 0.5))]
        scale = philox.log_uniform(rng, 0.05, 1.0)
        x = draw(dynamics.threshold_ar, index, 4000)
        past, last, now = x[: -lag or None][: len(x) - lag], x[lag - 1 : -1], x[lag:]
        for k, inside in enumerate((past < low, (past >= low) & (past < high), past >= high)):
            if inside.sum() > 100:
                residual = (now - shift[k] - phi[k] * last)[inside] / scale
                assert abs(residual.mean()) < 5 / math.sqrt(inside.sum())
                assert abs(residual.std() - 1) < 5 / math.sqrt(2 * inside.sum())
                checked += 1
    assert checked > 40


def test_ets_repeats_with_the_season_drawn() -> None:
    checked = 0
    for index in range(200):
        rng = stream(index)
        alpha = philox.log_uniform(rng, 0.01, 0.9)
        philox.bernoulli(rng, 0.5)
        philox.log_uniform(rng, 0.001, 0.2)
        if philox.bernoulli(rng, 0.6):
            philox.between(rng, 0.8, 1.0)
        if not philox.bernoulli(rng, 0.7):
            continue
        size = int(dynamics._SEASONS[choose(rng, dynamics._SEASON_SHARES)])
        gamma = (1 - alpha) * philox.log_uniform(rng, 0.001, 0.5)
        strength = philox.log_uniform(rng, 0.3, 20.0)
        x = np.diff(draw(dynamics.ets, index, 1200))
        if strength < 6 or gamma > 0.05 or size > 60:
            continue
        found = [correlation(x, lag) for lag in range(1, size + 2)]
        assert np.argmax(found) + 1 == size
        checked += 1
    assert checked > 10


def test_ets_errors_are_white_under_its_own_filter() -> None:
    checked, length = 0, 1500
    for index in range(120):
        rng = stream(index)
        alpha = philox.log_uniform(rng, 0.01, 0.9)
        trend = philox.bernoulli(rng, 0.5)
        beta = alpha * philox.log_uniform(rng, 0.001, 0.2)
        keep = philox.between(rng, 0.8, 1.0) if philox.bernoulli(rng, 0.6) else 1.0
        seasonal = philox.bernoulli(rng, 0.7)
        size = int(dynamics._SEASONS[choose(rng, dynamics._SEASON_SHARES)]) if seasonal else 1
        gamma = (1 - alpha) * philox.log_uniform(rng, 0.001, 0.5)
        strength = philox.log_uniform(rng, 0.3, 20.0)
        season = np.zeros(size)
        if seasonal:
            philox.fill_normal(rng, season)
            season *= strength
        level, slope = 0.0, 0.3 * alpha * philox.normal(rng)
        slope *= trend
        x = draw(dynamics.ets, index, length)
        # Exponentiated draws are positive
        if x.min() > 0:
            continue
        error = np.empty(length)
        for t in range(length):
            error[t] = e = x[t] - (level + slope + season[t % size])
            level += slope + alpha * e
            slope = keep * slope + trend * beta * e
            season[t % size] += seasonal * gamma * e
        assert abs(error.mean()) < 5 / math.sqrt(length)
        assert abs(error.std() - 1) < 5 / math.sqrt(2 * length)
        assert abs(correlation(error, 1)) < 5 / math.sqrt(length)
        checked += 1
    assert checked > 40


def test_airline_model_has_its_two_moving_averages() -> None:
    error = []
    for index in range(80):
        rng = stream(index)
        size = int(dynamics._SEASONS[choose(rng, dynamics._SEASON_SHARES)])
        a, b = philox.between(rng, 0.2, 0.95), philox.between(rng, 0.4, 0.98)
        x = draw(dynamics.airline, index, 4000)
        # Exponentiated draws are positive; the others cross zero
        if x.min() > 0 or size < 4:
            continue
        # Differencing at lag s and at lag one leaves the moving averages alone
        w = np.diff(x[size:] - x[:-size])[size:]
        error.append(correlation(w, 1) + a / (1 + a * a))
        error.append(correlation(w, size) + b / (1 + b * b))
    assert len(error) > 40
    assert np.abs(error).max() < 0.12


def test_seasonal_walk_changes_little_from_season_to_season() -> None:
    checked = 0
    for index in range(80):
        rng = stream(index)
        size = int(dynamics._SEASONS[choose(rng, dynamics._SEASON_SHARES)])
        # The pattern, drawn in the burst
        pattern = np.empty(size)
        philox.fill_normal(rng, pattern)
        smooth = philox.between(rng, 0.0, 0.95) if size > 7 else 0.0
        fresh = philox.log_uniform(rng, 0.01, 0.5)
        error = philox.log_uniform(rng, 0.01, 0.5)
        wander = philox.bernoulli(rng, 0.6)
        if wander or smooth > 0.6:
            continue
        x = draw(dynamics.seasonal_walk, index, 1500)
        step = x[size:] - x[:-size]
        expected = math.sqrt(fresh**2 + 2 * error**2)
        assert step.std() == pytest.approx(expected, rel=0.15)
        checked += 1
    assert checked > 10


def test_drift_walk_steps_are_white_about_their_drift() -> None:
    for index in range(40):
        rng = stream(index)
        change = 1.0 / philox.log_uniform(rng, 20.0, 8000.0)
        spread = philox.log_uniform(rng, 0.005, 0.5)
        philox.log_uniform(rng, 50.0, 8000.0)
        jumps = philox.bernoulli(rng, 0.3)
        step = np.diff(draw(dynamics.drift_walk, index, 4000))
        if jumps or spread > 0.05:
            continue
        assert step.std() == pytest.approx(1.0, abs=0.06)
        assert abs(correlation(step, 1)) < 5 / math.sqrt(4000) + spread**2
        assert 0 < change < 1


def test_prices_are_positive_with_white_returns_that_cluster() -> None:
    white, clustered = [], []
    for index in range(100):
        x = draw(dynamics.prices, index, 4000)
        assert x.min() > 0
        returns = np.diff(np.log(x))
        size = np.abs(returns)
        white.append(correlation(returns, 1))
        clustered.append(correlation(np.minimum(size, 6 * np.median(size)), 1))
    assert abs(np.mean(white)) < 0.02
    assert np.mean(clustered) > 0.05


def test_variance_of_a_walk_grows_with_time_and_of_a_double_sum_with_its_cube() -> None:
    length = 1600
    once: list[np.ndarray] = []
    twice: list[np.ndarray] = []
    for index in range(3000):
        rng = stream(index)
        if philox.bernoulli(rng, 0.6):
            continue
        second = philox.bernoulli(rng, 0.25)
        if philox.bernoulli(rng, 0.5):
            continue
        (twice if second else once).append(draw(dynamics.integrated, index, length))
    walks, sums = np.array(once), np.array(twice)
    assert len(walks) > 300 and len(sums) > 100
    for t in (99, 399, 1599):
        # Sums of independent unit steps, and sums of those: n, and n (n + 1) (2 n + 1) / 6
        n = t + 1
        assert walks[:, t].var() / n == pytest.approx(1.0, abs=5 * math.sqrt(2 / len(walks)))
        cube = n * (n + 1) * (2 * n + 1) / 6
        assert sums[:, t].var() / cube == pytest.approx(1.0, abs=5 * math.sqrt(2 / len(sums)))


def test_ou_has_its_stationary_variance() -> None:
    ratios, length = [], 1500
    for index in range(12_000):
        drawn = ou_parameters(index, length)
        stretches = length * (1 - drawn["keep"])
        # In one regime throughout, most likely, and for many times its memory
        if drawn["expected_stay"] < length or stretches < 40:
            continue
        x = draw(dynamics.regime_ou, index, length)
        ratios.append(x.var() / drawn["spread"] ** 2)
    # Medians shrug off the few that changed regime; a sample variance of a process with n / 2 independent stretches
    # scatters by sqrt(2 / n) or less, and is low by about 2 / n
    assert len(ratios) > 12
    assert abs(np.median(ratios) - 1.0) < 5 * math.sqrt(4 / (40 * len(ratios))) + 0.05
