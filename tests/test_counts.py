"""Count families keep the rates, echoes and memories that were drawn."""

import math

import numpy as np

from tests.laws import correlation
from tinytsm.synth import counts, philox, seasonal

LENGTH = 3000
T = np.arange(LENGTH)


def stream(index: int) -> np.ndarray:
    return philox.stream(46, index, 0)


def draw(name: str, index: int) -> np.ndarray:
    out = np.full(LENGTH, np.nan)
    getattr(counts, name)(stream(index), out)
    return out


def assert_unbiased(ratios: list[float], *, bias: float = 0.0) -> None:
    """The mean is one within five standard errors, and a known bias."""
    error = np.std(ratios) / math.sqrt(len(ratios))
    assert abs(np.mean(ratios) - 1.0) < 5 * error + bias


def test_intermittent_demand_comes_at_its_chance_in_spells_too() -> None:
    ratios, clinging = [], []
    for index in range(500):
        rng = stream(index)
        chance = philox.log_uniform(rng, 0.02, 0.7)
        spells = philox.bernoulli(rng, 0.3)
        cling = philox.between(rng, 0.0, 0.9) if spells else 0.0
        drifting = philox.bernoulli(rng, 0.3)
        if drifting:
            philox.normal(rng)
        weekly = philox.bernoulli(rng, 0.35)
        if drifting or weekly:
            continue
        busy = draw("intermittent_demand", index) > 0
        ratios.append(busy.mean() / chance)
        if spells and chance > 0.1:
            # A state that is copied with this chance and drawn anew otherwise has it as its correlation
            clinging.append(correlation(busy * 1.0, 1) - cling)
    assert len(ratios) > 100 and len(clinging) > 20
    assert_unbiased(ratios)
    # Bartlett: sqrt((1 - c^2) / T) below 1 / sqrt(T), and a bias of order 5 / T
    assert np.abs(clinging).max() < 5 / math.sqrt(LENGTH)


def test_seasonal_counts_follow_their_rate() -> None:
    ratios, waves = [], []
    for index in range(300):
        rng = stream(index)
        base = math.log(philox.log_uniform(rng, 0.2, 1000.0))
        angle = 2.0 * math.pi / seasonal.period(rng, LENGTH) * T
        angle += philox.between(rng, 0.0, 2.0 * math.pi)
        depth = philox.between(rng, 0.1, 1.5)
        twice, twisted = 0.5 * depth * philox.normal(rng), 0.5 * depth * philox.normal(rng)
        philox.between(rng, 0.5, 0.99)
        spread = philox.log_uniform(rng, 0.01, 0.6)
        trend = 0.5 * philox.normal(rng)
        wave = depth * np.cos(angle) + twice * np.sin(2 * angle) + twisted * np.cos(2 * angle)
        log_rate = base + wave + trend * T / LENGTH
        if spread > 0.25 or log_rate.max() > 11:
            continue
        x = draw("seasonal_counts", index)
        # A log-normal factor of this spread raises the mean
        rate = np.exp(log_rate + 0.5 * spread * spread)
        if rate.sum() > 300:
            ratios.append(float(x.sum() / rate.sum()))
        if base > 3.0 and depth > 0.5:
            waves.append(np.corrcoef(np.log(x + 1.0), log_rate)[0, 1])
    assert len(ratios) > 60 and len(waves) > 20
    assert_unbiased(ratios)
    assert np.median(waves) > 0.8


def test_self_exciting_counts_have_the_correlation_of_an_ingarch() -> None:
    errors = []
    for index in range(200):
        rng = stream(index)
        total = philox.between(rng, 0.3, 0.985)
        echo = total * philox.between(rng, 0.2, 0.95)
        lasting = total - echo
        mean = philox.log_uniform(rng, 0.3, 100.0)
        overdispersed = philox.bernoulli(rng, 0.3)
        if total > 0.9 or overdispersed or mean < 2.0:
            continue
        x = draw("self_exciting_counts", index)
        # Weiss 2018, "An introduction to discrete-valued time series", section 4.1
        first = echo * (1 - lasting * total) / (1 - total * total + echo * echo)
        errors.append(correlation(x, 1) - first)
        errors.append(correlation(x, 2) - first * total)
    # Total at most .9: about twenty independent stretches in each hundred steps
    assert len(errors) > 60
    assert np.abs(errors).max() < 6 / math.sqrt(LENGTH / 10)
    assert abs(np.mean(errors)) < 0.02


def test_shops_sell_by_the_weekday() -> None:
    closed = matched = count = 0
    for index in range(200):
        rng = stream(index)
        mean = philox.log_uniform(rng, 0.2, 200.0)
        contrast = philox.log_uniform(rng, 1.0, 60.0)
        week = np.array([philox.gamma(rng, contrast) / contrast for _ in range(7)])
        if philox.bernoulli(rng, 0.2):
            week[philox.integer(rng, 0, 7)] = 0.0
            closed += 1
        x = draw("shop_sales", index)
        by_day = x[: LENGTH // 7 * 7].reshape(-1, 7)
        assert (by_day[:, week == 0.0] == 0.0).all() or x.sum() == 1.0
        if mean > 5.0 and contrast < 20.0:
            count += 1
            matched += np.corrcoef(by_day.mean(0), week)[0, 1] > 0.95
    assert abs(closed / 200 - 0.2) < 5 * math.sqrt(0.16 / 200)
    # Overdispersion of up to one leaves few means of four hundred days off
    assert count > 40 and matched / count > 0.9


def test_small_integers_are_survivors_queues_or_states() -> None:
    memories, means, moves = [], [], []
    for index in range(400):
        rng = stream(index)
        kind = philox.integer(rng, 0, 3)
        x = draw("small_integers", index)
        if kind == 0:
            stay = philox.between(rng, 0.1, 0.98)
            mean = philox.log_uniform(rng, 0.3, 15.0)
            if stay < 0.9:
                # INAR(1): Poisson, remembered by thinning (McKenzie 1985)
                memories.append(correlation(x, 1) - stay)
                means.append(float(x.mean() / mean))
        elif kind == 1:
            load = philox.between(rng, 0.5, 1.1)
            philox.log_uniform(rng, 0.2, 8.0)
            room = int(philox.log_uniform(rng, 8.0, 100.0))
            assert x.min() >= 0 and x.max() <= room
            if load < 0.6:
                # Served faster than it fills: it empties
                assert (x == 0).mean() > 0.2
        else:
            states = philox.integer(rng, 2, 8)
            move = philox.log_uniform(rng, 0.003, 0.5)
            assert 0 <= x.min() and x.max() <= states - 1
            # Evenly over all states, a jump stays put in one of them and a step off either end is held
            if move > 0.02:
                moves.append((np.diff(x) != 0).mean() / (move * (1 - 1 / states)))
    assert min(len(memories), len(moves)) > 50
    # Bartlett: below 1 / sqrt(T) for an autoregression, somewhat more for rare counts; low by about 4 / T
    assert np.abs(memories).max() < 7 / math.sqrt(LENGTH)
    assert abs(np.mean(memories)) < 5 / math.sqrt(LENGTH * len(memories)) + 4 / LENGTH
    assert_unbiased(means)
    assert_unbiased(moves, bias=0.01)
