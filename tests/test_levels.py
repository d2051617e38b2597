"""Levels by periods: their means, how a forecast is drawn to that of the means, and when it is."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tests.test_inference import Record
from tinytsm import TinyTSM, inference
from tinytsm.inference import forecast_items
from tinytsm.inputs import Item
from tinytsm.levels import draw, period_means
from tinytsm.options import Strategy
from tinytsm.quantiles import QUANTILES
from tinytsm.rows import LARGEST


def test_means_are_of_the_periods_that_end_with_the_newest_step() -> None:
    x = np.array([[9.0, 1.0, 2.0, 3.0, np.nan, 5.0, 7.0, np.nan, np.nan, np.nan]])
    assert_allclose(period_means(x, 3), [[2.0, 6.0, np.nan]])
    assert_allclose(period_means(np.full((2, 7), LARGEST), 3), np.full((2, 2), LARGEST))
    assert period_means(np.ones((2, 2)), 3).shape == (2, 0)


def forecast(
    rng: np.random.Generator, variates: int, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    quantiles = np.sort(rng.normal(size=(variates, length, len(QUANTILES))), -1)
    return torch.from_numpy(quantiles), torch.from_numpy(rng.normal(size=(variates, length)))


def test_a_forecast_is_drawn_as_the_definition_says(rng: np.random.Generator) -> None:
    (quantiles, mean), (means, _) = forecast(rng, 2, 17), forecast(rng, 2, 3)
    drawn, drawn_mean = draw((quantiles, mean), means, 5)
    for v in range(2):
        # where the distance is known: the newest step, and the middles of the three whole periods
        at, added = [-0.5], [0.0]
        for n in range(3):
            own = quantiles[v, 5 * n : 5 * n + 5, 4].mean()
            ahead = n + 0.5
            at.append(5 * ahead - 0.5)
            added.append(float(ahead / (ahead + 4.0) * (means[v, n, 4] - own)))
        for t in range(17):
            # the last two steps are of a fourth period, of which nothing is known
            wanted = np.interp(t, at, added)
            assert_allclose(drawn[v, t], quantiles[v, t] + wanted, atol=1e-12)
            assert drawn_mean[v, t] == pytest.approx(float(mean[v, t]) + wanted)


def test_means_that_agree_change_nothing(rng: np.random.Generator) -> None:
    quantiles, mean = forecast(rng, 1, 12)
    own = quantiles.reshape(1, 3, 4, -1).mean(2)
    drawn, drawn_mean = draw((quantiles, mean), own, 4)
    torch.testing.assert_close(drawn, quantiles, rtol=0, atol=1e-12)
    torch.testing.assert_close(drawn_mean, mean, rtol=0, atol=1e-12)


def test_the_largest_numbers_stay_finite() -> None:
    quantiles = torch.full((1, 8, 9), LARGEST, dtype=torch.float64)
    for sign in (1.0, -1.0):
        drawn, mean = draw((quantiles, quantiles[..., 0]), sign * quantiles[:, :2], 4)
        assert drawn.isfinite().all() and mean.isfinite().all()


def test_a_year_shows_in_the_days_of_hours(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    # three years of hours and a month ahead, in which the year turns sooner or later
    t = np.arange(3 * 8766 + 720)
    day = 0.3 * np.sin(2 * np.pi * t / 24)
    noise = 0.1 * rng.normal(size=len(t))
    truths = [
        day + 0.5 * np.cos(2 * np.pi * (t - len(t) + turn) / 8766) for turn in (0, 180, 360, 720)
    ]
    series = [truth[:-720] + noise[:-720] for truth in truths]
    model = TinyTSM.from_pretrained("nano")

    def error() -> float:
        return float(np.abs(model.forecast(series, 720).median - [x[-720:] for x in truths]).mean())

    drawn = error()
    monkeypatch.setattr(inference, "_PERIODS", 10**6)
    assert drawn < 0.9 * error()


def test_means_are_forecast_where_enough_was_seen(
    miniature: TinyTSM, rng: np.random.Generator
) -> None:
    def asked(periods: int, length: int) -> list[tuple[int, int]]:
        forward = Record()
        forward.config = miniature.config  # patches of 8 steps
        x = np.tile(rng.normal(size=12), periods) + 0.1 * rng.normal(size=12 * periods)
        strategy = Strategy((1,), symmetry=False, adjust=True)
        forecast_items([Item(x[None])], length, forward=forward, strategy=strategy)
        return [(query.values.shape[1], query.length) for query in forward.queries]

    # as it is, without its season, and the means of eight periods, a patch of them
    assert asked(8, 25) == [(96, 25), (96, 25), (8, 2)]
    assert asked(7, 25) == [(84, 25), (84, 25)]
    assert asked(8, 23) == [(96, 23), (96, 23)]
