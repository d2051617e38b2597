"""Laws against simulation, closed forms against integration."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from tinytsm import processes
from tinytsm.metrics import LEVELS, Scores
from tinytsm.processes import PROCESSES, Paths


def only(mean, deviation):
    return Paths(np.zeros((1, 1)), np.array([[mean]]), np.array([[deviation]]), np.ones(1, int))


@pytest.mark.parametrize(("level", "forecast"), [(0.5, 3.0), (0.1, -2.0), (0.9, 3.5), (0.3, 40.0)])
def test_expected_loss_is_the_integral(level, forecast):
    mean, deviation = 3.0, 2.0
    got = processes.expected_loss(only(mean, deviation), np.array([[[forecast]]]), [level])
    y, step = np.linspace(mean - 20 * deviation, mean + 20 * deviation, 400_001, retstep=True)
    density = np.exp(-(((y - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))
    loss = 2 * np.abs((y - forecast) * ((y <= forecast) - level))
    assert got.item() == pytest.approx(float((loss * density).sum() * step), rel=1e-6)


def test_expected_loss_by_hand():
    # of the median of N(0, s^2): the mean absolute deviation s sqrt(2 / pi)
    got = processes.expected_loss(only(0.0, 3.0), np.zeros((1, 1, 1)), [0.5])
    assert got.item() == pytest.approx(3 * math.sqrt(2 / math.pi))
    # of the true quantile: 2 s phi(z)
    z = NormalDist().inv_cdf(0.8)
    got = processes.expected_loss(only(1.0, 3.0), np.array([[[1 + 3 * z]]]), [0.8])
    assert got.item() == pytest.approx(2 * 3 * NormalDist().pdf(z))
    # far off, the loss is linear
    got = processes.expected_loss(only(0.0, 1.0), np.array([[[1e6]]]), [0.8])
    assert got.item() == pytest.approx(2 * 0.2 * 1e6)


def test_no_forecast_beats_the_true_quantiles(rng):
    paths = processes.random_walk(rng, count=3, length=5, horizon=4)
    best = processes.best_quantiles(paths, LEVELS)
    least = processes.expected_loss(paths, best, LEVELS)
    for shift in (-0.1, -1e-3, 1e-3, 0.1):
        moved = best + shift * paths.deviation[..., None]
        assert (processes.expected_loss(paths, moved, LEVELS) > least).all()
    coverage = processes.expected_coverage(paths, best)
    np.testing.assert_allclose(coverage, np.broadcast_to(LEVELS, coverage.shape), atol=1e-12)


def test_normal_cdf():
    u = np.array([-2.0, -1.0, 0.0, 0.5, 9.0])
    wanted = [NormalDist().cdf(x) for x in u]
    np.testing.assert_allclose(processes.normal_cdf(u), wanted, rtol=1e-12)
    # where 1 - cdf(8) has lost every digit
    assert processes.normal_cdf(np.array([-20.0])).item() == pytest.approx(2.7536e-89, rel=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_law_is_that_of_longer_paths(name):
    """The future of a path is the rest of a longer one: standardised by the law it is N(0, 1), step by step."""
    count, length, horizon = 4000, 48, 7
    whole = PROCESSES[name](
        np.random.default_rng(3), count=count, length=length + horizon, horizon=1
    )
    # the law given the first part, from the process's own parameters: the same draws in the same order
    law = conditional(name, whole, count=count, length=length, horizon=horizon)
    z = (whole.context[:, length:] - law.mean) / law.deviation
    assert np.abs(z.mean(0)).max() < 4 / math.sqrt(count)
    assert np.abs(z.std(0) - 1).max() < 4 / math.sqrt(2 * count)


def conditional(name, whole, *, count, length, horizon):
    """Redraw a process's parameters and state its law given a shorter part of the same paths."""
    rng = np.random.default_rng(3)
    level, scale = processes._units(rng, count)
    ahead = np.arange(1, horizon + 1)
    last = whole.context[:, length - 1 : length]
    ones = np.ones((count, horizon))
    if name == "white noise":
        mean, deviation = level * ones, scale * ones
    elif name == "random walk":
        mean, deviation = last * ones, scale * np.sqrt(ahead)
    elif name == "AR(1)":
        a = rng.uniform(-0.5, 0.98, size=(count, 1))
        mean = level + a**ahead * (last - level)
        # shocks since then, one by one
        deviation = scale * np.sqrt(np.cumsum(a ** (2 * (ahead - 1)), 1))
    else:
        shorter = processes.seasonal(rng_at_start(), count=count, length=length, horizon=horizon)
        mean, deviation = shorter.mean, shorter.deviation
    return Paths(whole.context[:, :length], mean, deviation, whole.season)


def rng_at_start():
    return np.random.default_rng(3)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_law_given_is_the_one_stated(name):
    """At horizon 1 of the longest paths the law that the module returns equals the one worked out here."""
    whole = PROCESSES[name](rng_at_start(), count=50, length=40, horizon=6)
    law = conditional(name, whole, count=50, length=40, horizon=6)
    np.testing.assert_allclose(whole.mean, law.mean, rtol=1e-9)
    np.testing.assert_allclose(whole.deviation * np.ones((50, 6)), law.deviation, rtol=1e-9)


def test_cycles_repeat_at_their_season(rng):
    paths = processes.seasonal(rng, count=40, length=30, horizon=96)
    for mean, season in zip(paths.mean, paths.season, strict=True):
        np.testing.assert_allclose(mean[season:], mean[:-season], rtol=1e-7, atol=1e-7)
        assert season in (7, 12, 24, 48)


def test_expected_scores_are_what_sampled_labels_average_to(rng):
    paths = processes.autoregression(rng, count=2, length=8, horizon=3)
    quantiles = processes.best_quantiles(paths, LEVELS) + 0.3 * paths.deviation[..., None]
    draws = 40_000
    scores = Scores(levels=LEVELS)
    unit = paths.deviation[:, None]
    labels = paths.mean[:, None] + unit * rng.normal(size=(2, draws, 3))
    for of_path, label in zip(quantiles, labels, strict=True):
        many = np.broadcast_to(of_path, (draws, *of_path.shape))
        scores.update(label, quantiles=many, mean=many[..., 4])
    expected = processes.expected_loss(paths, quantiles, LEVELS).mean()
    size = scores.result()["mean_absolute_label"]
    assert scores.result()["crps"] * size == pytest.approx(expected, rel=0.02)
    coverage = processes.expected_coverage(paths, quantiles).mean((0, 1))
    assert list(scores.result()["coverage"].values()) == pytest.approx(list(coverage), abs=0.01)
