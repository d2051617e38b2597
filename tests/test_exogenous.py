"""Forecasts with covariates: what is found, what is not, and what must not change."""

import numpy as np
import pandas as pd
import pytest
import torch

from tinytsm import TinyTSM
from tinytsm.exogenous import _best_lag, _coefficients, _regressors

H = 14


@pytest.fixture(scope="module")
def nano() -> TinyTSM:
    return TinyTSM.from_pretrained(device="cpu")


def shop(rng: np.random.Generator, steps: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Days of sales with a week and promotions at random: the series (T + H,), and the promotions."""
    t = np.arange(steps + H)
    promotion = (rng.random(steps + H) < 0.15).astype(np.float64)
    noise = rng.normal(size=steps + H)
    return 100 + 10 * np.sin(2 * np.pi * t / 7) + 25 * promotion + noise, promotion


def test_promotions_are_forecast(nano: TinyTSM, rng: np.random.Generator) -> None:
    whole, promotions = zip(*(shop(rng) for _ in range(4)), strict=True)
    past, future = [x[:-H] for x in whole], np.stack([x[-H:] for x in whole])
    plain, plain_mean = (np.asarray(one) for one in nano.predict_quantiles(past, H))
    quantiles, mean, weight = nano.predict_with_covariates(past, promotions, H)
    assert quantiles.shape == (4, H, 9) and mean.shape == (4, H) and weight.tolist() == [1.0] * 4
    q = quantiles.numpy()
    assert (np.diff(q) >= 0).all()
    # what is left is the noise, and the plain forecast's band has the promotions in it
    assert np.abs(q[..., 4] - future).mean() < 0.3 * np.abs(plain[..., 4] - future).mean()
    assert np.square(mean.numpy() - future).mean() < 0.1 * np.square(plain_mean - future).mean()
    assert (q[..., 8] - q[..., 0]).mean() < 0.5 * (plain[..., 8] - plain[..., 0]).mean()


def test_random_walks_explain_nothing(nano: TinyTSM, rng: np.random.Generator) -> None:
    # in levels they would: regressions of walks on walks are spurious
    whole = rng.normal(size=(30, 200 + H)).cumsum(1)
    others = rng.normal(size=(30, 200 + H, 2)).cumsum(1)
    plain, _ = nano.predict_quantiles(whole[:, :-H], H)
    quantiles, _, weight = nano.predict_with_covariates(list(whole[:, :-H]), list(others), H)
    loss, before = (
        np.abs(np.asarray(q)[..., 4] - whole[:, -H:]).mean() for q in (quantiles, plain)
    )
    assert loss < 1.1 * before
    assert weight.mean() < 0.4
    none = weight.numpy() == 0
    assert none.any()
    np.testing.assert_array_equal(quantiles[none], plain[none])


def test_effects_bend_at_the_knots(rng: np.random.Generator) -> None:
    # heating below, cooling above: no straight line has both
    temperature = rng.normal(size=500).cumsum() / 5
    load = 3 * np.maximum(np.quantile(temperature, 0.25) - temperature, 0)
    load += 2 * np.maximum(temperature - np.quantile(temperature, 0.75), 0)
    regressors = _regressors(temperature[:, None])
    effect = regressors @ _coefficients(load, regressors, 7)
    assert np.std(load - effect) < 0.1 * np.std(load)
    straight = regressors[:, :1] @ _coefficients(load, regressors[:, :1], 7)
    assert np.std(load - straight) > 0.3 * np.std(load)


def test_a_common_trend_is_no_effect(rng: np.random.Generator) -> None:
    t = np.arange(400.0)
    regressors = _regressors((t + rng.normal(size=400))[:, None])
    for lag in (1, 7, 24):
        effect = regressors @ _coefficients(0.5 * t + rng.normal(size=400), regressors, lag)
        # of the trend, by which both rise
        assert np.ptp(effect) < 0.2 * 0.5 * np.ptp(t)


def test_a_frame_of_covariates_is_its_array(miniature: TinyTSM, rng: np.random.Generator) -> None:
    values, known = rng.normal(size=40), rng.integers(0, 5, (45, 2))
    frame = pd.DataFrame(known, dtype="Int64")
    frame.iloc[3, 0] = pd.NA
    wanted = miniature.predict_with_covariates(
        [values], [frame.to_numpy(float, na_value=np.nan)], 5
    )
    for a, b in zip(miniature.predict_with_covariates([values], [frame], 5), wanted, strict=True):
        assert torch.equal(a, b)


def test_a_series_that_ended_long_ago(miniature: TinyTSM, rng: np.random.Generator) -> None:
    tail = miniature.context_length // 2
    values, known = rng.normal(size=50), rng.normal(size=50 + 9 * tail)
    coming = rng.normal(size=5)
    # a missing end counts as no longer than this
    ended, longer = (np.concatenate((values, np.full(n * tail, np.nan))) for n in (1, 9))
    near = np.concatenate((known[: 50 + tail], coming))
    far = np.concatenate((known, coming))
    for one, other in zip(
        miniature.predict_with_covariates([ended], [near], 5),
        miniature.predict_with_covariates([longer], [far], 5),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_what_does_not_vary_is_no_regressor() -> None:
    known = np.full((50, 4), np.nan)
    known[:, 1] = 3.0
    known[5:, 2] = np.arange(45) % 2
    known[:, 3] = 1e300 * np.arange(50)
    regressors = _regressors(known)
    assert regressors.shape == (50, 1 + 4)
    assert np.isfinite(regressors).all() and (regressors[:5, 0] == 0).all()
    # a promotion that is announced and never was has no effect that is known
    promised = np.zeros((60, 1))
    promised[55:] = 1.0
    regressors = _regressors(promised)
    assert _coefficients(np.arange(50.0), regressors[:50], 4).tolist() == [0.0]


@pytest.mark.parametrize(
    ("values", "lag"),
    [
        (np.sin(2 * np.pi * np.arange(100) / 24), 24),
        (np.tile([0.0, 0, 0, 0, 0, 9, 9], 6), 7),
        (np.arange(9.0), 1),
        (np.full(40, np.nan), 4),
    ],
)
def test_the_best_lag(values: np.ndarray, lag: int) -> None:
    assert _best_lag(values) == lag


def test_nothing_depends_on_the_series_beside(miniature: TinyTSM, rng: np.random.Generator) -> None:
    # more than are computed at once
    lengths = [3, 40, 90, 1, 200, 90, *[30] * 14]
    series = [rng.normal(size=n) for n in lengths]
    series[2][:60] = np.nan
    known = [rng.normal(size=(n + 5, 1 + i % 3)) for i, n in enumerate(lengths)]
    together = miniature.predict_with_covariates(series, known, 5)
    for i, (one, own) in enumerate(zip(series, known, strict=True)):
        for all_, alone in zip(
            together, miniature.predict_with_covariates([one], [own], 5), strict=True
        ):
            np.testing.assert_array_equal(all_[i], alone[0])


def test_without_variation_it_is_the_plain_forecast(
    miniature: TinyTSM, rng: np.random.Generator
) -> None:
    values = rng.normal(size=100)
    plain = miniature.predict_quantiles([values], 6, [0.5, 0.05])
    given = miniature.predict_with_covariates([values], [np.ones(106)], 6, [0.5, 0.05])
    np.testing.assert_array_equal(given[0], plain[0])
    np.testing.assert_array_equal(given[1], plain[1])
    assert given[2].tolist() == [0.0]


def test_scale_is_kept_up_to_the_largest_numbers(nano: TinyTSM, rng: np.random.Generator) -> None:
    whole, promotion = shop(rng, 200)
    small, _, _ = nano.predict_with_covariates([whole[:-H]], [promotion], H)
    for exponent in (-900, 1000):
        past = np.ldexp(whole[:-H], exponent)
        q, mean, _ = nano.predict_with_covariates([past], [promotion], H)
        assert np.isfinite(np.asarray(q)).all() and np.isfinite(np.asarray(mean)).all()
        # the plain part is the network's, equivariant up to the blocks' rounding
        np.testing.assert_allclose(np.ldexp(q.numpy(), -exponent), small, rtol=0.05)
    largest = np.where(promotion[:-H] > 0, 1.7e308, -1.7e308)
    q, mean, _ = nano.predict_with_covariates([largest], [promotion], H)
    assert np.isfinite(np.asarray(q)).all() and np.isfinite(np.asarray(mean)).all()


def test_gaps_floors_and_whole_numbers(nano: TinyTSM, rng: np.random.Generator) -> None:
    whole, promotion = shop(rng)
    whole = np.maximum(whole - 100, 0.0)
    known = np.where(rng.random(len(promotion)) < 0.1, np.nan, promotion)
    past = np.where(rng.random(len(whole) - H) < 0.1, np.nan, whole[:-H])
    past[:20] = np.nan
    q, mean, weight = nano.predict_with_covariates([past], [known], H, integer=True)
    assert weight[0] > 0
    assert q.min() == 0 and mean.min() >= 0
    np.testing.assert_array_equal(q, q.round())
    below, _, _ = nano.predict_with_covariates([past], [known], H, nonnegative=False)
    assert below.min() < 0


@pytest.mark.parametrize(
    ("inputs", "covariates", "message"),
    [
        ([], [], "inputs is empty: wanted at least one series"),
        ([np.ones(5)], [], "wanted covariates of each of 1 inputs, got 0"),
        ([np.ones((2, 5))], [np.ones(8)], r"inputs\[0\] must have shape \(T,\) beside covariates, got \(2, 5\)"),
        ([np.ones(5)], [np.ones(5)], r"covariates\[0\] must have shape \(5 \+ 3, C\), .* got \(5,\)"),
        ([np.ones(5)], [np.ones((8, 1, 1))], r"got \(8, 1, 1\)"),
        ([np.ones(5)], [["a"] * 8], r"covariates\[0\] must hold numbers"),
        ([np.ones(5)], [np.full(8, np.inf)], r"covariates\[0\] holds an infinite value"),
        ([np.full(5, np.nan)], [np.ones(8)], r"inputs\[0\] must hold an observed value"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(miniature: TinyTSM, inputs, covariates, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        miniature.predict_with_covariates(inputs, covariates, 3)
