"""Laws of the record, trace, load and visit families: parameters are read off the stream by drawing them again."""

import math
from types import ModuleType

import numpy as np
import pytest

from tests.laws import correlation, drawing
from tinytsm.synth import counts, dynamics, generator, mixture, philox, records, seasonal, traces

FAMILIES = [(module, name) for module in (records, traces) for name in module.FAMILIES]
IDS = [name for _, name in FAMILIES]


stream, draw = drawing(41)


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


def test_near_walks_are_pulled_by_the_share_drawn() -> None:
    """Undoing the pull leaves standard normals that know nothing of the level; another pull does not."""
    length, moments, own, other = 1000, [], [], []
    for index in range(500):
        rng = stream(index)
        pull = 0.0
        if not philox.bernoulli(rng, 0.5):
            pull = min(philox.log_uniform(rng, 0.5, 30.0) / length, 0.5)
        if philox.bernoulli(rng, 0.5):
            # student steps have no law that a few draws would show
            continue
        moving = philox.bernoulli(rng, 0.4)
        if moving:
            philox.uniform(rng)
        philox.uniform(rng)
        if moving or philox.bernoulli(rng, 0.25):
            continue
        x = draw(dynamics.near_walk, index, length)
        level = x[:-1]
        steps = x[1:] - (1.0 - pull) * level
        moments.append([steps.mean(), (steps * steps).mean() - 1.0])
        if pull * length > 5.0:
            size = math.sqrt(level @ level)
            own.append(level @ steps / size)
            other.append(level @ (steps - pull * level) / size)
    assert len(moments) > 80 and len(own) > 15
    bound = 5 / math.sqrt(len(moments) * length)
    assert np.abs(np.mean(moments, axis=0)).max() < bound * math.sqrt(2)
    # A test statistic of unit spread; a little below zero, as in any autoregression
    assert abs(np.mean(own)) < 0.3 + 4 / math.sqrt(len(own))
    assert np.mean(other) < -2.0


def test_loads_repeat_after_a_week_and_rest_on_sundays() -> None:
    weeks, days = [], []
    for index in range(40):
        size = seasonal._DAYS[philox.integer(stream(index), 0, 3)]
        x = draw(seasonal.load, index, 7 * size * 8)
        weeks.append(correlation(x, 7 * size))
        days.append(correlation(x, size // 2))
    assert np.median(weeks) > 0.6 > np.median(days)


def test_sundays_take_off_the_drop_drawn() -> None:
    asked, seen = [], []
    for index in range(120):
        rng = stream(index)
        size = int(seasonal._DAYS[philox.integer(rng, 0, 3)])
        table = np.empty(size + 1)
        for most in (6, 5, 5):
            harmonics = philox.integer(rng, 2, most)
            seasonal.fill_harmonics(rng, table, size, harmonics, philox.between(rng, 0.5, 1.5))
        for _ in range(2):
            philox.uniform(rng)
        philox.uniform(rng)
        drop = philox.log_uniform(rng, 0.02, 0.4)
        # Saturday, swing and its peaks, year, holiday, weather and its memory, the rest and its memory
        for _ in range(9):
            philox.uniform(rng)
        philox.normal(rng)
        phase, today = philox.integer(rng, 0, size), philox.integer(rng, 0, 7)
        x = draw(seasonal.load, index, 7 * size * 30)
        day = (today + (phase + np.arange(x.size)) // size) % 7
        asked.append(1.0 - drop)
        seen.append(x[day == 6].mean() / x[day < 5].mean())
    assert np.corrcoef(asked, seen)[0, 1] > 0.9
    # Thirty weeks of weather average out over many draws
    assert np.mean(np.array(seen) - asked) == pytest.approx(0.0, abs=0.02)


def test_visits_are_whole_and_follow_the_week() -> None:
    likeness = []
    for index in range(40):
        size = (24, 24, 48, 96, 12)[philox.integer(stream(index), 0, 5)]
        x = draw(counts.web_visits, index, 7 * size * 6)
        assert (x >= 0).all() and (x % 1 == 0).all()
        if x.mean() > 20:
            likeness.append(correlation(np.log1p(x), 7 * size))
    assert len(likeness) > 15 and np.median(likeness) > 0.5


def test_visits_have_the_mean_and_the_week_drawn() -> None:
    levels, slopes = [], []
    for index in range(150):
        rng = stream(index)
        size = (24, 24, 48, 96, 12)[philox.integer(rng, 0, 5)]
        table = np.empty(size + 1)
        harmonics = philox.integer(rng, 1, 6)
        seasonal.fill_harmonics(rng, table, size, harmonics, philox.between(rng, 0.7, 2.0))
        depth = philox.between(rng, 0.1, 1.5)
        spread = philox.log_uniform(rng, 0.02, 0.5)
        weekend = philox.between(rng, -1.2, 0.5) if philox.bernoulli(rng, 0.7) else 0.0
        factors = spread * np.array([philox.normal(rng) for _ in range(7)])
        factors[5:] += weekend
        week = np.exp(depth * table[:size] + factors[:, None]).ravel()
        mean = philox.log_uniform(rng, 0.3, 5000.0)
        growth = philox.normal(rng)
        for _ in range(2):
            philox.uniform(rng)
        if philox.bernoulli(rng, 0.5):
            philox.uniform(rng)
        # A burst outweighs weeks
        if philox.bernoulli(rng, 0.3) or mean < 20.0:
            continue
        philox.uniform(rng)
        start = philox.integer(rng, 0, 7 * size)
        x = draw(counts.web_visits, index, 7 * size * 12)
        profile = np.roll(x.reshape(12, -1).mean(axis=0), start)
        grown = np.expm1(growth) / growth
        levels.append(math.log(x.mean() / (mean * grown * week.mean())))
        slopes.append(np.polyfit(np.log(week), np.log(profile + 0.1), 1)[0])
    assert len(levels) > 40
    assert abs(np.median(levels)) < 0.1
    assert np.median(slopes) == pytest.approx(1.0, abs=0.03)


# Traces


def test_spikes_come_at_the_rate_and_with_the_tail_drawn() -> None:
    length, wanted, found, excess = 1000, 0.0, 0, []
    for index in range(3000):
        rng = stream(index)
        small = philox.log_uniform(rng, 0.002, 0.4)
        if philox.bernoulli(rng, 0.6):
            philox.uniform(rng)
        rate = philox.log_uniform(rng, 0.002, 0.15) if philox.bernoulli(rng, 0.75) else 0.0
        tail, height = philox.between(rng, 0.8, 3.0), philox.log_uniform(rng, 0.1, 10.0)
        fades = philox.bernoulli(rng, 0.5)
        if fades or philox.bernoulli(rng, 0.55):
            continue
        philox.uniform(rng)
        if philox.bernoulli(rng, 0.5):
            continue
        philox.uniform(rng)
        if philox.bernoulli(rng, 0.2) or philox.bernoulli(rng, 0.4):
            continue
        # No job, plateau, ceiling or last digit: a floor of one, and spikes that the noise does not hide
        if height < 12 * small:
            continue
        peaks = draw(traces.machine_trace, index, length) - 1.0
        peaks = peaks[peaks > 0.5 * height]
        # One is certain; at the lowest the noise may take from a spike what it has
        wanted += rate * length + 1.0
        found += len(peaks)
        excess.extend(tail * np.log(np.maximum(peaks / height, 1e-3)))
    assert wanted > 1500
    assert abs(found - wanted) < 5 * math.sqrt(wanted)
    # Logarithms over a Pareto's foot are exponential with the tail's index
    assert np.mean(excess) == pytest.approx(1.0, abs=0.1)


def test_calm_is_as_quiet_and_as_long_as_drawn() -> None:
    """Up to the first change, a regime without a cycle is an AR(1) of the size and memory drawn."""
    length, squares, shares, louder = 1000, [], [], []
    for index in range(400):
        rng = stream(index)
        philox.fill_normal(rng, np.empty(length))
        philox.uniform(rng)
        if not philox.bernoulli(rng, 0.5):
            continue
        share = philox.between(rng, 0.3, 0.95)
        seasonal.period(rng, length)
        for _ in range(2):
            philox.normal(rng)
        philox.uniform(rng)
        noise, memory = philox.log_uniform(rng, 0.002, 0.1), philox.between(rng, 0.0, 0.98)
        if not philox.bernoulli(rng, 0.5):
            continue
        x = draw(traces.regimes, index, length)
        calm, rest = np.split(x, [math.ceil(share * length)])
        steps = (calm[1:] - memory * calm[:-1]) / (noise * math.sqrt(1.0 - memory * memory))
        squares.append((steps * steps).mean())
        shares.append(share)
        louder.append(np.abs(rest).max() > 2 * np.abs(calm).max())
    assert len(squares) > 60
    assert np.mean(squares) == pytest.approx(1.0, abs=5 * math.sqrt(2 / (300 * len(squares))))
    assert np.ptp(squares) < 1.0
    assert np.mean(shares) == pytest.approx(0.625, abs=0.08)
    assert np.mean(louder) > 0.8


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
