"""Seasonal adjustment: the definition, what is found and what is not, and how its forecast is put together."""

import numpy as np
import pytest
import torch
from numba.core import caching
from numpy.testing import assert_allclose

from tinytsm import TinyTSM, season, season_loops
from tinytsm.season import Adjusted


def defined(x: np.ndarray, period: int, cycles: int = 16) -> tuple[np.ndarray, float]:
    """Season by place and F of the newest cycles, step by step; place 0 is that of the first step ahead."""
    half = period // 2
    weights = np.ones(2 * half + 1)
    if period % 2 == 0:
        weights[[0, -1]] = 0.5
    above: list[list[float]] = [[] for _ in range(period)]
    for t in range(max(0, len(x) - (cycles + 1) * period) + half, len(x) - half):
        around = x[t - half : t + half + 1]
        shown = ~np.isnan(around)
        if not np.isnan(x[t]) and weights[shown].sum() >= period / 2:
            trend = (weights * around)[shown].sum() / weights[shown].sum()
            above[(t - len(x)) % period].append(x[t] - trend)
    told = {place: values for place, values in enumerate(above) if len(values) > 1}
    every = np.concatenate(list(told.values()))
    groups = sum(len(v) * (np.mean(v) - every.mean()) ** 2 for v in told.values())
    errors = sum(float(np.square(np.array(v) - np.mean(v)).sum()) for v in told.values())
    f = (groups / (len(told) - 1)) / (errors / (len(every) - len(told)))
    trimmed = {p: np.mean(np.sort(v)[1:-1] if len(v) > 2 else v) for p, v in told.items()}
    middle = np.mean(list(trimmed.values()))
    return np.array([trimmed.get(place, middle) - middle for place in range(period)]), f


@pytest.mark.parametrize("period", [2, 3, 4, 7, 12, 24])
@pytest.mark.parametrize("gaps", [0.0, 0.2])
def test_a_season_is_what_the_definition_says(
    period: int, gaps: float, rng: np.random.Generator
) -> None:
    # in the shortest some places are seen but once
    for steps in (20 * period + 3, 12 * period, max(24, 4 * period + period // 2 + 1)):
        x = rng.normal(size=steps).cumsum() + np.resize(rng.normal(size=period), steps)
        x[rng.random(steps) < gaps] = np.nan
        seen = ~np.isnan(x)
        sums, counts = (
            np.concatenate(([0.0], np.cumsum(of))) for of in (np.where(seen, x, 0.0), seen)
        )
        table, values = np.empty((5, period)), np.empty(period)
        season_loops.fold(x, sums, counts, period, season._CYCLES, table)
        season_loops.shape(period, table, values)
        wanted, clear = defined(x, period)
        assert_allclose(values, wanted, atol=1e-12)
        assert season_loops.clarity(period, table) == pytest.approx(clear)


def test_half_of_a_season_is_that_of_the_newest_periods(rng: np.random.Generator) -> None:
    x = rng.normal(size=200) + np.linspace(1.0, 3.0, 200) * np.resize(rng.normal(size=5), 200)
    season, clear = np.zeros((1, 207)), np.zeros(1)
    leading = np.zeros(1, np.int64)
    season_loops.take_out(
        x[None].copy(), np.array([5]), np.array([5]), np.array([False]), 16, season, clear, leading
    )
    whole, f = defined(x, 5)
    newest, _ = defined(x, 5, 6)
    assert leading == 5 and clear == pytest.approx(f)
    assert_allclose(season[0, 200:], np.resize((whole + newest) / 2 * (1 - 1 / f), 7), atol=1e-12)


def test_places_that_the_newest_periods_show_keep_their_level(
    rng: np.random.Generator,
) -> None:
    # nights of 5 and days of 15, the newest week's nights missing
    t = np.arange(16 * 24)
    night = t % 24 < 12
    x = np.where(night, 5.0, 15.0) + 0.1 * rng.normal(size=len(t))
    x[night & (t >= 9 * 24)] = np.nan
    season = np.zeros((1, len(t) + 24))
    season_loops.take_out(
        x[None].copy(), np.array([0]), np.array([24]), np.array([True]), 16, season,
        np.zeros(1), np.zeros(1, np.int64),
    )  # fmt: skip
    whole, f = defined(x, 24)
    whole *= 1 - 1 / f
    assert_allclose(season[0, -24:-12], whole[:12], atol=1e-12)
    assert season[0, -12:].mean() == pytest.approx(whole[12:].mean())
    assert np.abs(season[0, -12:] - whole[12:]).max() > 1e-3


def adjust(values: np.ndarray, length: int, period: int = 0) -> Adjusted | None:
    """Of one item."""
    return season.adjust([values], length, [period])[0]


Forecast = tuple[torch.Tensor, torch.Tensor]


def restored(adjusted: Adjusted, forecast: Forecast) -> Forecast:
    """A forecast of the adjusted series alone, with its seasons."""
    alone = adjusted._replace(clear=np.ones_like(adjusted.clear))
    quantiles, mean = forecast
    return alone.blend((torch.zeros_like(quantiles), torch.zeros_like(mean)), forecast, 1.0)


def certain(line: np.ndarray) -> Forecast:
    """A forecast (V, H) without any spread."""
    mean = torch.from_numpy(line)
    return mean[..., None].expand(-1, -1, 9), mean


@pytest.mark.parametrize("length", [1, 30, 400])
def test_seasons_on_a_line_come_out_and_come_back(length: int, rng: np.random.Generator) -> None:
    day, week = rng.normal(size=24), rng.normal(size=168)
    t = np.arange(168 * 9 + length)
    whole = 50 + 0.01 * t + np.resize(day, len(t)) + np.resize(week, len(t))
    known = len(t) - length
    adjusted = adjust(whole[None, :known], length)
    assert adjusted is not None and adjusted.values.shape == (1, known)
    # what is left is the line, up to a level
    rest = adjusted.values[0] - 0.01 * t[:known]
    assert np.ptp(rest) < 0.02 * np.ptp(whole)
    line = certain(rest.mean() + 0.01 * t[None, known:])
    for found in restored(adjusted, line):
        assert_allclose(
            found.reshape(length, -1).T, np.tile(whole[known:], (found[0, 0].numel(), 1)), atol=0.1
        )


def test_a_period_of_no_calendar_is_found_where_it_is_named(rng: np.random.Generator) -> None:
    x = np.resize(rng.normal(size=17), 400)[None]
    named = adjust(x, 5, 17)
    assert named is not None and np.ptp(named.values) < 1e-6
    unnamed = adjust(x, 5)
    assert unnamed is None or np.ptp(unnamed.values) > 0.5 * np.ptp(x)


def test_growing_seasons_are_divided_out(rng: np.random.Generator) -> None:
    months = np.exp(0.2 * rng.normal(size=12))
    t = np.arange(132)
    whole = 100 * 1.01**t * np.resize(months, 132)
    adjusted = adjust(whole[None, :120], 12)
    assert adjusted is not None and (adjusted.shift == 0).all()
    growth = certain(adjusted.values[:, -1:] * 1.01 ** np.arange(1.0, 13))
    assert_allclose(restored(adjusted, growth)[1][0], whole[120:], rtol=0.01)
    # where values come near zero, logarithms say nothing
    low = adjust(whole[None, :120] - whole.min() + 0.1, 12)
    assert low is not None and (low.scale == 1).all()


def test_peaks_that_grow_are_divided_out_however_low_the_rest(rng: np.random.Generator) -> None:
    # a shop before Christmas: the lowest value is a twentieth of the mean
    months = np.concatenate((np.zeros(10), [0.7, 1.6])) + 0.1 * rng.normal(size=12)
    t = np.arange(84)
    whole = 100 * 1.04**t * np.exp(np.resize(months, 84) + 0.05 * rng.normal(size=84))
    assert whole.min() < 0.1 * whole.mean()
    adjusted = adjust(whole[None], 12)
    assert adjusted is not None and (adjusted.shift == 0).all()


def test_a_season_whose_division_leaves_a_rougher_series_is_subtracted(
    rng: np.random.Generator,
) -> None:
    # a machine that all but stands still by night, but for a few jobs: in logarithms its days are the clearer
    t = np.arange(480)
    night = np.where(rng.random(480) < 0.03, 50.0, 0.01)
    whole = np.where(t % 24 < 8, night, 100.0 * np.exp(0.5 * rng.normal(size=480)))
    adjusted = adjust(whole[None], 24)
    assert adjusted is not None and (adjusted.scale == 1).all()


@pytest.mark.parametrize("low", [1e-308, 1e-20])
def test_positive_series_of_any_range_are_adjusted_finitely(low: float) -> None:
    t = np.arange(240)
    x = np.where(t % 24 == 5, low, 1e308)
    x[0] = 1.0
    adjusted = adjust(x[None], 24)
    assert adjusted is not None
    assert all(np.isfinite(part).all() for part in adjusted)
    x = np.where(t % 24 == 5, low, 1e250)
    x[0] = 1e-300
    assert adjust(x[None], 24) is not None


@pytest.mark.parametrize("steps", [10, 16, 20, 40, 200, 1000])
def test_noise_has_no_season(steps: int, rng: np.random.Generator) -> None:
    noise = rng.normal(size=(200, 1, steps))
    found = season.adjust([*noise, *noise.cumsum(2)], 8, [0] * 400)
    assert sum(one is not None for one in found) < 0.1 * 400


@pytest.mark.parametrize("steps", [30, 60, 120, 930])
def test_one_outlier_is_no_season(steps: int, rng: np.random.Generator) -> None:
    noise = rng.normal(size=(60, 1, steps))
    for row, t in zip(noise, np.linspace(0, steps - 1, 60).astype(int), strict=True):
        row[0, t] += 100
    found = season.adjust(list(noise), 8, [0] * 60)
    assert sum(one is not None for one in found) < 0.06 * 60


@pytest.mark.parametrize(
    "values",
    [[7.0] * 60, [np.nan] * 60, list(range(60)), [1e9 + 0.1 * i for i in range(60)], [3.0], [1, 2]],
)
def test_what_has_no_season_stays(values: list[float]) -> None:
    assert adjust(np.array([values], np.float64), 8) is None


@pytest.mark.parametrize(
    ("period", "taken", "may"),
    [(168, 24, True), (336, 24, False), (1440, 96, False), (1440, 60, True), (24, 24, False)]
    + [(24, 168, True), (100, 24, True)],
)
def test_of_several_days_only_a_week_is_a_season(period: int, taken: int, may: bool) -> None:
    assert season_loops.may_follow(period, taken) == may


def test_of_a_period_and_its_multiples_the_shortest_comes_out(rng: np.random.Generator) -> None:
    # F of two days is as large as that of one, or of a week: as many values of each place, and the same noise
    periods = [period for period in (7, 12, 24, 96) for _ in range(20)]
    found = []
    for period in periods:
        x = np.resize(rng.normal(size=period), 3000) + 0.5 * rng.normal(size=3000)
        adjusted = adjust(x[None], 24)
        assert adjusted is not None
        found.append(adjusted.period)
    assert np.equal(found, periods).mean() > 0.93


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300, 1.7e308])
def test_the_largest_and_smallest_numbers(scale: float, rng: np.random.Generator) -> None:
    x = np.resize(rng.uniform(-1, 1, 12), 120) + 0.01 * rng.normal(size=120)
    adjusted = adjust((x / np.abs(x).max() * scale)[None], 12)
    assert adjusted is not None and np.isfinite(adjusted.values).all()
    assert np.ptp(adjusted.values / scale) < 0.2
    forecast = certain(adjusted.values[:, -12:])
    wide = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64)[None, None].repeat(1, 12, 1) * scale
    for quantiles in (forecast[0], wide):
        back, mean = adjusted.blend(forecast, (quantiles, forecast[1]), 1.0)
        assert back.isfinite().all() and (back.diff(dim=-1) >= 0).all() and mean.isfinite().all()


def test_each_variate_has_its_own_seasons(rng: np.random.Generator) -> None:
    weekly = np.resize(rng.normal(size=7), 210) + 0.1 * rng.normal(size=210)
    noise = rng.normal(size=210)
    gone = np.full(210, np.nan)
    together = adjust(np.stack((weekly, noise, gone)), 14)
    alone = adjust(weekly[None], 14)
    assert together is not None and alone is not None
    assert np.array_equal(together.values[0], alone.values[0])
    assert np.array_equal(together.values[1], noise) and np.isnan(together.values[2]).all()
    assert together.clear[0, 0] == alone.clear[0, 0] > 0.9 and (together.clear[1:] == 0).all()
    assert np.array_equal(together.spread[0], alone.spread[0]) and (together.spread[1:] == 1).all()
    # a variate without seasons keeps its forecast to the bit
    quantiles = torch.from_numpy(np.sort(rng.normal(size=(2, 3, 14, 9))))
    plain, other = zip(quantiles, torch.from_numpy(rng.normal(size=(2, 3, 14))), strict=True)
    for blended, before in zip(together.blend(plain, other, 1.0), plain, strict=True):
        assert torch.equal(blended[1:], before[1:]) and not torch.equal(blended[0], before[0])


def test_what_the_adjusted_forecast_weighs(rng: np.random.Generator) -> None:
    adjusted = adjust((np.resize(rng.normal(size=7), 210) + 0.1 * rng.normal(size=210))[None], 14)
    assert adjusted is not None
    quantiles = torch.from_numpy(np.sort(rng.normal(size=(2, 1, 14, 9))))
    plain, other = zip(quantiles, torch.from_numpy(rng.normal(size=(2, 1, 14))), strict=True)
    none, half, whole = (adjusted.blend(plain, other, weight) for weight in (0.0, 0.5, 1.0))
    for at_none, at_half, at_whole, before in zip(none, half, whole, plain, strict=True):
        assert torch.equal(at_none, before) and not torch.equal(at_whole, before)
        assert torch.allclose(at_half, (at_none + at_whole) / 2)


def spreads(x: np.ndarray, period: int) -> np.ndarray:
    """The spread at each place of a period, place 0 that of the first step ahead, step by step."""
    newest = x[-16 * period :]
    shown = np.sort(newest[~np.isnan(newest)])
    away: list[list[float]] = [[] for _ in range(period)]
    for t, value in enumerate(newest):
        if not np.isnan(value):
            away[(t - len(newest)) % period].append(abs(value - shown[len(shown) // 2]))
    kept = [sorted(one)[:-1] if len(one) > 2 else one for one in away]
    usual = np.mean(np.concatenate(kept))
    found = [(sum(one) / usual + 4) / (len(one) + 4) for one in kept]
    return np.array(found) / np.mean(found)


@pytest.mark.parametrize("period", [2, 7, 24])
@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_the_spread_is_what_the_definition_says(
    period: int, gaps: float, rng: np.random.Generator
) -> None:
    for steps in (20 * period + 3, 12 * period, 3 * period + 1):
        rows = rng.normal(size=(3, steps)) * np.resize(rng.uniform(0.1, 2, period), steps)
        rows[rng.random(rows.shape) < gaps] = np.nan
        for row, got in zip(rows, season._spread(rows, period), strict=True):
            assert_allclose(got, spreads(row, period), rtol=1e-12)
    assert (season._spread(np.full((1, 5 * period), 3.0), period) == 1).all()


def test_where_values_spread_more_the_interval_is_wider(rng: np.random.Generator) -> None:
    day = 0.2 + np.sin(np.arange(24) / 24 * np.pi) ** 2
    whole = np.resize(10 * day, 600) + np.resize(day, 600) * rng.normal(size=600)
    # one outlier by night is not the spread of nights
    whole[480] += 50
    adjusted = adjust(whole[None], 48)
    assert adjusted is not None
    spread = np.resize(day, 648)[600:] / day.mean()
    assert np.corrcoef(adjusted.spread[0], spread)[0, 1] > 0.9
    assert_allclose(adjusted.spread[0], spread, atol=0.6)
    quantiles = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64)[None, None].repeat(1, 48, 1)
    mean = torch.full((1, 48), 0.1, dtype=torch.float64)
    back, middle = restored(adjusted, (quantiles, mean))
    assert_allclose((back[..., -1] - back[..., 0]) / 2, adjusted.spread, rtol=1e-9)
    assert_allclose(back[..., 4], adjusted.shift, rtol=1e-9)
    assert_allclose(middle - back[..., 4], 0.1 * adjusted.spread, rtol=1e-9, atol=1e-12)


def test_one_busy_hour_has_nearly_all_of_the_spread(rng: np.random.Generator) -> None:
    hour = np.arange(480) % 24
    x = 10 * np.sin(hour / 24 * 2 * np.pi) + rng.normal(size=480) * np.where(hour == 9, 3.0, 1e-3)
    for scale, shift in ((1.0, 0.0), (1e-9, 0.0), (-1e6, 3e7)):
        adjusted = adjust(scale * x[None] + shift, 24)
        assert adjusted is not None
        # 15 distances and 4 usual ones at that hour, next to nothing and 4 usual ones at any other
        assert 15 < adjusted.spread[0, 9] < 20
        assert (np.delete(adjusted.spread[0], 9) < 0.3).all()


def daylight(days: int, rng: np.random.Generator) -> np.ndarray:
    """(24 days,) of something that is zero from 18 to 6 o'clock, and never else."""
    sun = np.maximum(0.0, np.sin((np.arange(24 * days) % 24 - 6) / 12 * np.pi)).round(9)
    return sun * rng.uniform(1.0, 5.0, 24 * days)


def test_what_always_was_zero_is_zero(miniature: TinyTSM, rng: np.random.Generator) -> None:
    x, night = daylight(12, rng), daylight(2, rng) == 0.0
    x[30], x[200:203] = np.nan, np.nan
    for scale in (1.0, -1e-300):
        adjusted = adjust(scale * x[None], 48)
        assert adjusted is not None and np.array_equal(adjusted.zero[0], night)
    for effort in ("standard", "best"):
        (quantiles,), (mean,) = miniature.predict_quantiles([x], 48, effort=effort)
        assert not quantiles[night].any() and not mean[night].any()
        assert quantiles[~night].any(1).all()
        # whoever asks how unlikely a value is wants to know how far it is from the others
        (wide,), _ = miniature.predict_quantiles([x], 48, effort=effort, nonnegative=False)
        assert wide[night].any(1).all()


def test_idle_series_and_few_periods_are_not_always_zero(rng: np.random.Generator) -> None:
    idle, once, few = daylight(12, rng), daylight(12, rng), daylight(7, rng)
    # by day too, on most days
    idle[rng.random(len(idle)) < 0.7] = 0.0
    night = once[:24] == 0.0
    once[24 * 8 + 2], night[2] = 1.0, False
    for x in (idle, few):
        adjusted = adjust(x[None], 24)
        assert adjusted is None or not adjusted.zero.any()
    adjusted = adjust(once[None], 24)
    assert adjusted is not None and np.array_equal(adjusted.zero[0], night)


def test_forecasts_with_and_without_seasons_are_blended(
    miniature: TinyTSM, rng: np.random.Generator
) -> None:
    months = rng.normal(size=12)
    for noise, least, most in ((0.01, 0.9, 1.0), (0.8, 0.5, 0.9)):
        x = np.resize(months, 110) + noise * rng.normal(size=110)
        adjusted = adjust(x[None], 20)
        assert adjusted is not None and least < adjusted.clear[0, 0] < most
        plain = miniature.predict_quantiles([x], 20, effort="fast")
        q, m = miniature.predict_quantiles(list(adjusted.values), 20, effort="fast")
        assert isinstance(q, torch.Tensor) and isinstance(m, torch.Tensor)
        found = miniature.predict_quantiles([x], 20, effort="fast", adjust=True)
        w = adjusted.clear[0, 0]
        seasonal = restored(adjusted, (q, m))
        for got, one, two in zip(found, plain, seasonal, strict=True):
            assert_allclose(got, (1 - w) * one + w * two, rtol=1e-12, atol=1e-12)


def test_nothing_depends_on_the_items_beside(rng: np.random.Generator) -> None:
    items, periods = [], []
    for _ in range(60):
        steps, period = (int(rng.choice(n)) for n in ([40, 500, 2100], [0, 5, 24, 37]))
        x = rng.normal(size=(int(rng.integers(1, 3)), steps)).cumsum(1)
        x += 5 * np.resize(rng.normal(size=period or 12), steps)
        x[:, rng.random(steps) < rng.choice([0.0, 0.2])] = np.nan
        items.append(x)
        periods.append(period)
    together = season.adjust(items, 30, periods)
    assert sum(one is not None for one in together) > 30
    for x, period, got in zip(items, periods, together, strict=True):
        alone = adjust(x, 30, period)
        assert (got is None) == (alone is None)
        if got is not None and alone is not None:
            for a, b in zip(got, alone, strict=True):
                assert np.array_equal(a, b, equal_nan=True)


def test_items_with_and_without_seasons_keep_their_order(
    miniature: TinyTSM, rng: np.random.Generator
) -> None:
    seasonal = [np.resize(rng.normal(size=p), 110) for p in (4, 7, 12)]
    gappy = np.where(rng.random(110) < 0.1, np.nan, seasonal[0])
    items = [seasonal[0], rng.normal(size=90), seasonal[1], np.full(30, 2.0), seasonal[2], gappy]
    together, _ = miniature.predict_quantiles(items, 9, effort="best")
    for item, got in zip(items, together, strict=True):
        alone, _ = miniature.predict_quantiles([item], 9, effort="best")
        assert torch.equal(alone[0], got)
    assert (together[3] == 2.0).all()


def test_the_loops_need_no_place_to_keep_what_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    # neither beside the sources nor for the user
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert season_loops._compiled(lambda x: 2 * x)(2) == 4
