"""Laws of the record, trace, load and visit families: parameters are read off the stream by drawing them again."""

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from tinytsm.synth import counts, dynamics, generator, mixture, philox, records, seasonal, traces

FAMILIES = [(module, name) for module in (records, traces) for name in module.FAMILIES]
IDS = [name for _, name in FAMILIES]


def stream(index: int) -> np.ndarray:
    return philox.stream(41, index, 0)


def draw(family: Callable[..., None], index: int, length: int) -> np.ndarray:
    out = np.full(length, np.nan)
    family(stream(index), out)
    return out


def correlation(x: np.ndarray, lag: int) -> float:
    z = x - x.mean()
    return float((z[lag:] * z[:-lag]).mean() / (z * z).mean())


@pytest.mark.parametrize(("module", "name"), FAMILIES, ids=IDS)
def test_family_is_finite_moves_and_is_pure(module: ModuleType, name: str) -> None:
    family = getattr(module, name)
    for length in (1, 2, 5, 20, 60, 1500):
        for index in range(40):
            x = draw(family, index, length)
            assert np.isfinite(x).all()
            assert length < 20 or np.ptp(x) > 1e-9 * np.abs(x).max()
            np.testing.assert_array_equal(x, draw(family, index, length))


# Records


def test_slopes_are_mostly_up_and_shrink_with_the_length() -> None:
    def slopes(length: int) -> np.ndarray:
        rng = stream(1)
        return np.array([records.slope_of(rng, length) for _ in range(4000)])

    short = slopes(40)
    assert np.mean(short == 0.0) == pytest.approx(0.2, abs=0.03)
    assert np.mean(short[short != 0.0] > 0) == pytest.approx(0.8, abs=0.03)
    assert 0.04 <= np.abs(short[short != 0.0]).min() and np.abs(short).max() <= 2.0
    np.testing.assert_allclose(slopes(960), 0.25 * short, rtol=1e-12)


def test_path_is_its_state_space_model() -> None:
    """Filtered by the model with the parameters drawn, a path gives back the normals that it was made from."""
    checked = 0
    for index in range(60):
        length, size = 90, 4
        rng = stream(index)
        alpha = records.level_weight(rng)
        fixed = philox.bernoulli(rng, 0.5)
        beta = 0.0 if fixed else alpha * philox.log_uniform(rng, 0.02, 0.5)
        keep = philox.between(rng, 0.8, 0.98) if philox.bernoulli(rng, 0.45) else 1.0
        slope = records.slope_of(rng, length)
        if philox.bernoulli(rng, 0.35) or philox.bernoulli(rng, 0.3):
            # a break or an outlier is no part of the linear model
            continue
        lasting = slope * philox.uniform(rng)
        normals = np.empty(length)
        philox.fill_normal(rng, normals)

        season = np.array([2.0, -1.0, 0.0, -1.0, 0.0])
        x = np.empty(length)
        records.path(stream(index), season.copy(), size, 0.1, x)
        level, errors = 0.0, np.empty(length)
        for t in range(length):
            damped = lasting + keep * (slope - lasting)
            errors[t] = x[t] - level - damped - season[t % size]
            level += damped + alpha * errors[t]
            slope = damped + beta * errors[t]
            season[t % size] += 0.1 * errors[t]
        np.testing.assert_allclose(errors, normals, atol=1e-8)
        checked += 1
    assert checked > 15


def test_half_of_growth_compounds_within_its_span() -> None:
    found = [draw(records.growth, index, 60) for index in range(400)]
    compounding = np.array([x.min() == 1.0 for x in found])
    assert compounding.mean() == pytest.approx(0.5, abs=0.08)
    assert max(x.max() for x, yes in zip(found, compounding, strict=True) if yes) <= math.exp(3.0)


def test_growth_goes_on_after_half_of_it() -> None:
    """What trend forecasts live from: the second half mostly moves as the first did."""
    first, second = np.array(
        [[x[20] - x[0], x[40] - x[20]] for x in (draw(records.growth, i, 41) for i in range(600))]
    ).T
    large = np.abs(first) > np.median(np.abs(first))
    assert 0.65 < np.mean((first * second > 0)[large]) < 0.95


@pytest.mark.parametrize("size", [4, 12, 52])
def test_a_year_has_mean_zero_and_unit_power(size: int) -> None:
    for index in range(30):
        season = np.full(size + 1, np.nan)
        records.fill_year(stream(index), season, size)
        assert abs(season[:size].mean()) < 1e-12
        assert (season[:size] ** 2).mean() == pytest.approx(1.0, rel=1e-6)


def test_seasonal_growth_repeats_after_its_year() -> None:
    repeats = []
    for index in range(60):
        size = records.season_size(stream(index), 160)
        repeats.append(correlation(np.diff(draw(records.seasonal_growth, index, 160)), size))
    assert np.median(repeats) > 0.4


def test_business_cycles_have_the_period_drawn() -> None:
    ratios = []
    for index in range(60):
        length = philox.log_uniform(stream(index), 4.0, 40.0)
        # the mean periodogram of many pieces; differencing takes out the trend
        steps = np.diff(draw(records.business_cycle, index, 4097), 2).reshape(-1, 273)[:, :256]
        power = (np.abs(np.fft.rfft(steps * np.hanning(256))) ** 2).mean(axis=0)
        frequency = np.arange(len(power)) / 256
        # undo what two differences did to the spectrum, where a cycle can be
        power = power[6:] / (2 * np.sin(np.pi * frequency[6:])) ** 4
        ratios.append(frequency[6:][power.argmax()] * length)
    assert 0.8 < np.median(ratios) < 1.2


# Walks, loads, visits


def test_near_walks_have_no_drift_and_white_steps() -> None:
    paths = [draw(dynamics.near_walk, index, 400) for index in range(400)]
    steps = [np.diff(x) / np.diff(x).std() for x in paths]
    ends = np.array([s.sum() / math.sqrt(len(s)) for s in steps])
    assert abs(ends.mean()) < 4 / math.sqrt(len(ends))
    assert abs(np.median([correlation(s, 1) for s in steps])) < 0.05
    assert abs(np.median([correlation(s, 5) for s in steps])) < 0.05


def test_loads_repeat_after_a_week_and_rest_on_sundays() -> None:
    weeks, days = [], []
    for index in range(40):
        size = seasonal._DAYS[philox.integer(stream(index), 0, 3)]
        x = draw(seasonal.load, index, 7 * size * 8)
        weeks.append(correlation(x, 7 * size))
        days.append(correlation(x, size // 2))
    assert np.median(weeks) > 0.6 > np.median(days)


def test_visits_are_whole_and_follow_the_week() -> None:
    likeness = []
    for index in range(40):
        size = (24, 24, 48, 96, 12)[philox.integer(stream(index), 0, 5)]
        x = draw(counts.web_visits, index, 7 * size * 6)
        assert (x >= 0).all() and (x % 1 == 0).all()
        if x.mean() > 20:
            likeness.append(correlation(np.log1p(x), 7 * size))
    assert len(likeness) > 15 and np.median(likeness) > 0.5


# Traces


def test_machine_traces_are_positive_and_peak_far_above_their_mean() -> None:
    peaks = []
    for index in range(200):
        x = draw(traces.machine_trace, index, 1000)
        assert (x >= 0).all()
        peaks.append(x.max() / x.mean())
    assert np.median(peaks) > 4 and np.quantile(peaks, 0.9) > 20


def test_half_of_regimes_stay_calm_before_they_change() -> None:
    calm = []
    for index in range(200):
        x = draw(traces.regimes, index, 1000)
        start = x[:250]
        calm.append(start.std() < 0.2 * x.std())
    assert 0.3 < np.mean(calm) < 0.8


# What is drawn for which length


def test_short_series_are_records_more_often() -> None:
    rng = stream(3)
    groups = np.array(mixture.GROUP)

    def shares(length: int) -> tuple[float, float]:
        kinds = np.array([generator.draw_kind(rng, length) for _ in range(6000)])
        whole = kinds[kinds >= 0]
        return float(np.mean(kinds == -2)), float(np.mean(groups[whole] == mixture.RECORD))

    for length, row in ((30, 1), (150, 1), (600, 0), (4096, 0)):
        composite, record = shares(length)
        assert composite == pytest.approx(mixture.COMPOSITE_SHARES[row], abs=0.03)
        assert record == pytest.approx(mixture.WHOLE_SHARES[row][mixture.RECORD], abs=0.03)
    # half-way on the logarithm
    assert 0.1 < shares(300)[1] < mixture.WHOLE_SHARES[1][mixture.RECORD] - 0.1
