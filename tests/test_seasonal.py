"""Seasonal families repeat at the periods that were drawn: found by the spectrum and by autocorrelation."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from tinytsm.synth import philox, seasonal

LENGTH = 4096


def stream(index: int) -> np.ndarray:
    return philox.stream(42, index, 0)


def draw(name: str, index: int, length: int = LENGTH) -> np.ndarray:
    out = np.full(length, np.nan)
    getattr(seasonal, name)(stream(index), out)
    return out


def spectrum(x: np.ndarray) -> np.ndarray:
    """Power at k / T, tapered: a line is four bins wide, whatever its phase."""
    return np.abs(np.fft.rfft((x - x.mean()) * np.hanning(x.size))) ** 2


def near_harmonics(period: float, length: int = LENGTH) -> np.ndarray:
    """Which bins lie within two of a multiple of 1 / period, folded at half the sampling rate."""
    bins = np.zeros(length // 2 + 1, bool)
    for k in range(1, math.ceil(period / 2) + 512):
        frequency = k / period % 1.0
        centre = min(frequency, 1.0 - frequency) * length
        bins[max(0, math.floor(centre - 2)) : math.ceil(centre + 2) + 1] = True
    return bins


def alone_harmonics(rng: np.ndarray) -> float:
    """The period of a draw of one period, else zero."""
    return float(seasonal.period(rng, LENGTH)) if seasonal.choose(rng, COUNT_SHARES) == 0 else 0.0


def alone_wave(rng: np.ndarray) -> float:
    return max(float(seasonal.period(rng, LENGTH)), 4.0) if philox.bernoulli(rng, 0.7) else 0.0


COUNT_SHARES = seasonal._COUNT_SHARES


@pytest.mark.parametrize(
    ("name", "period_of"), [("harmonics", alone_harmonics), ("waves", alone_wave)]
)
def test_periods_are_found_by_the_spectrum(
    name: str, period_of: Callable[[np.ndarray], float]
) -> None:
    pure = count = 0
    for index in range(400):
        period = period_of(stream(index))
        # Lines must be far enough apart to tell them from the rest
        if not 4.0 <= period < LENGTH / 20:
            continue
        power = spectrum(draw(name, index))
        bins = near_harmonics(period)
        if bins.mean() > 0.4:
            continue
        count += 1
        pure += power[bins].sum() > 0.99 * power.sum()
    # The modulated share spreads over side bands
    share = 1.0 - seasonal._MODULATED_SHARE
    assert count > 60
    assert pure / count > share - 4 * math.sqrt(share * (1 - share) / count)


def test_calendar_peaks_at_a_cycle_of_its_clock() -> None:
    found = count = 0
    for index in range(200):
        clock = seasonal.CLOCKS[seasonal.clock(stream(index), LENGTH)]
        cycles = [cycle for cycle in clock if 0 < cycle < LENGTH / 4]
        bins = np.zeros(LENGTH // 2 + 1, bool)
        for cycle in cycles:
            for harmonic in range(1, 11):
                # Products of two cycles stand beside the faster one's lines
                centre = LENGTH * (harmonic / cycle)
                bins[max(0, int(centre - 2)) : int(centre + 3)] = True
        if not cycles or bins.mean() > 0.15:
            continue
        count += 1
        found += bins[spectrum(draw("calendar", index)).argmax()]
    # By chance, fewer than three in twenty would
    assert count > 60
    assert found / count > 0.8


def test_profiles_return_each_week() -> None:
    returns, apart = [], []
    for index in range(80):
        rng = stream(index)
        size = int(seasonal._DAYS[seasonal.choose(rng, seasonal._DAY_SHARES)])
        if 7 * size > LENGTH / 4:
            continue
        x = draw("profile", index)
        z = (x - x.mean()) / x.std()

        def at(lag: int, z: np.ndarray = z) -> float:
            return float((z[lag:] * z[:-lag]).mean())

        returns.append(at(7 * size))
        apart.append(at(7 * size + size // 2))
    assert len(returns) > 30
    assert np.median(returns) > 0.8
    assert np.mean(np.array(returns) > np.array(apart)) > 0.95


def test_profiles_swell_with_the_year_from_the_first_day() -> None:
    day, seen = np.empty(seasonal._DAYS.max() + 1), 0
    for index in range(200):
        rng = stream(index)
        size = int(seasonal._DAYS[seasonal.choose(rng, seasonal._DAY_SHARES)])
        seasonal.fill_bumps(rng, day, size)
        seasonal.fill_bumps(rng, day, size)
        if philox.bernoulli(rng, 0.6):
            philox.uniform(rng)
        philox.uniform(rng)
        if philox.bernoulli(rng, 0.65):
            philox.uniform(rng)
        if philox.bernoulli(rng, 0.15):
            continue
        for _ in range(7):
            philox.normal(rng)
        # Days that differ by the swell alone
        if not philox.bernoulli(rng, 0.4) or 8 * size > LENGTH:
            continue
        philox.uniform(rng)
        swell = philox.between(rng, 0.05, 0.6) if philox.bernoulli(rng, 0.5) else 0.0
        season = 2 * math.pi * philox.uniform(rng)
        base = philox.between(rng, 0.0, 1.0)
        philox.normal(rng)
        left = size - philox.integer(rng, 0, size)
        x = draw("profile", index) - base
        week = 2 * math.pi / 365.25 * 7
        ratio = (1 + swell * math.sin(season)) / (1 + swell * math.sin(season + week))
        np.testing.assert_allclose(x[:left], ratio * x[7 * size : 7 * size + left], atol=1e-9)
        seen += swell > 0.0
    assert seen > 20


def test_load_is_highest_when_days_are_coldest_or_hottest() -> None:
    """Daily means over the year: with the shapes' wave and twice its frequency, never a quarter of a year apart."""
    days, shape, in_phase, apart = 365, np.empty(300), [], []
    for index in range(60):
        rng = stream(index)
        size = int(seasonal._DAYS[philox.integer(rng, 0, 3)])
        for low, high, least, most in ((2, 6, 0.5, 1.5), (2, 5, 0.5, 1.5), (2, 5, 0.8, 1.8)):
            count = philox.integer(rng, low, high)
            seasonal.fill_harmonics(rng, shape, size, count, philox.between(rng, least, most))
        # Two leanings, depth, drop, Saturdays
        for _ in range(5):
            philox.uniform(rng)
        swing = philox.between(rng, 0.0, 0.3)
        angle = math.pi * philox.uniform(rng)
        year = 2 * math.pi * philox.uniform(rng)
        level = draw("load", index, days * size).reshape(days, size).mean(1)
        now = year + 2 * math.pi / 365.25 * np.arange(days)
        waves = np.stack(
            [np.sin(now), np.cos(2 * now), np.cos(now), np.ones(days), np.arange(days)]
        )
        once, twice, aside = np.linalg.lstsq(waves.T, level, rcond=None)[0][:3]
        in_phase += [once - swing * math.cos(angle), twice + swing * math.sin(angle)]
        apart.append(aside)
    # What is left is weather, and days off that lower the whole a little
    assert np.median(np.abs(in_phase)) < 0.02 and np.median(np.abs(apart)) < 0.02


def test_patterns_have_unrelated_entries() -> None:
    # No memory between the steps of a short cycle: its lag-one correlation is what white noise on a circle has
    correlations = []
    for index in range(600):
        rng = stream(index)
        size = int(seasonal._PATTERNS[seasonal.choose(rng, seasonal._PATTERN_SHARES)])
        if size != 12:
            continue
        cycle = draw("pattern", index, 240)[:12]
        z = (cycle - cycle.mean()) / cycle.std()
        correlations.append((z * np.roll(z, 1)).mean())
    # Mean -1 / (n - 1), spread about 1 / sqrt(n)
    assert len(correlations) > 60
    error = 5 / math.sqrt(12 * len(correlations))
    assert abs(np.mean(correlations) + 1 / 11) < error
