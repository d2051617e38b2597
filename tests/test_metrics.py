"""Scores against hand-worked values, gluonts, and themselves in pieces."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinytsm.metrics import (
    INTERVAL,
    LEVELS,
    Scores,
    fill_forward,
    geometric_mean,
    relative,
    season_length,
    seasonal_error,
    seasonal_naive,
)

NAN = math.nan


def test_mase_and_crps_by_hand():
    # seasonal errors at lag 2: (|3-1| + |5-2|) / 2 = 2.5 and (|4-0| + |4-0|) / 2 = 4
    contexts = [[1.0, 2.0, 3.0, 5.0], [0.0, 0.0, 4.0, 4.0]]
    units = [seasonal_error(x, 2) for x in contexts]
    assert units == [2.5, 4.0]
    labels = [[4.0, 7.0], [3.0, NAN]]
    quantiles = np.array([[[3.0, 5.0, 6.0], [6.0, 7.0, 8.0]], [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]])
    scores = Scores(levels=(0.1, 0.5, 0.9))
    scores.update(labels, quantiles=quantiles, mean=quantiles[:, :, 1] + 1, seasonal_errors=units)
    result = scores.result()
    # medians 5, 7 and 1 against 4, 7 and 3
    assert result["mase"] == pytest.approx((1 / 2.5 + 0 / 2.5 + 2 / 4) / 3)
    assert result["mae"] == pytest.approx((1 + 0 + 2) / 3)
    # means 6, 8 and 2
    assert result["mse"] == pytest.approx((4 + 1 + 1) / 3)
    # 2 |y - f| (1 - q) where y <= f, 2 |y - f| q elsewhere; labels sum to 14
    low = 2 * (1 * 0.1 + 1 * 0.1 + 3 * 0.1)
    median = 1 + 0 + 2
    high = 2 * (2 * 0.1 + 1 * 0.1 + 1 * 0.9)
    assert result["crps"] == pytest.approx((low + median + high) / 3 / 14)
    assert result["coverage"] == {
        "0.1": 0.0,
        "0.5": pytest.approx(2 / 3),
        "0.9": pytest.approx(2 / 3),
    }
    assert result["points"] == 3
    assert result["mse_median"] == pytest.approx((1 + 0 + 4) / 3)
    assert result["mape"] == pytest.approx((1 / 4 + 0 / 7 + 2 / 3) / 3)
    assert result["smape"] == pytest.approx(2 * (1 / 9 + 0 / 14 + 2 / 4) / 3)
    assert result["mean_absolute_label"] == pytest.approx(14 / 3)
    assert result["msis"] is None
    # 4 lies between 3 and 5, 7 on the median of 7, 3 above 0, 1 and 2
    assert result["pit"] == pytest.approx([0, 1.5 / 3, 0.5 / 3, 1 / 3])


def test_an_interval_by_hand():
    quantiles = np.array([[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]])
    scores = Scores(levels=(0.025, 0.5, 0.975))
    scores.update([[2.0, 0.5, 4.0]], quantiles=quantiles, mean=[[2.0] * 3], seasonal_errors=[5.0])
    result = scores.result()
    # width 2, and 40 times the 0.5 and the 1.0 that two labels lie outside
    assert result["msis"] == pytest.approx((2 + (2 + 40 * 0.5) + (2 + 40 * 1.0)) / 3 / 5)
    # the interval's ends are no levels of CRPS or of the histogram
    assert result["crps"] == pytest.approx((0 + 1.5 + 2) / 6.5)
    assert result["pit"] == pytest.approx([1.5 / 3, 1.5 / 3])
    assert result["coverage"]["0.025"] == pytest.approx(1 / 3)


def test_ties_are_shared_out_over_the_bins_that_they_touch():
    scores = Scores(levels=(0.1, 0.5, 0.9))
    scores.update([[0.0, 1.0]], quantiles=[[[0.0, 0.0, 1.0], [0.0, 0.0, 0.5]]], mean=[[0.0, 0.0]])
    # 0 is anywhere up to the median, in three of four bins; 1 is above all
    result = scores.result()
    assert result["pit"] == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    # bins of .1, .4 and .4
    assert result["below"] == pytest.approx({"0.1": 0.5 / 9, "0.5": 2.5 / 9, "0.9": 0.5})
    assert result["coverage"] == pytest.approx({"0.1": 0.5, "0.5": 0.5, "0.9": 0.5})


def test_forecasts_that_know_how_often_zero_comes_are_calibrated(rng):
    # zero in 45 of 100 cases, else normal above it: quantiles of just that
    levels = (*LEVELS, *INTERVAL)
    y = np.maximum(0.0, rng.normal(NormalDist().inv_cdf(0.55), 1.0, size=(1, 200_000)))
    centre = NormalDist(NormalDist().inv_cdf(0.55), 1.0)
    q = np.array([max(0.0, centre.inv_cdf(level)) for level in levels])
    scores = Scores(levels=levels)
    scores.update(y, quantiles=np.broadcast_to(q, (*y.shape, len(levels))), mean=0 * y)
    below = scores.result()["below"]
    assert all(abs(below[str(level)] - level) < 0.05 for level in levels)
    assert abs(below["0.9"] - below["0.1"] - 0.8) < 0.02
    assert scores.result()["coverage"]["0.1"] == pytest.approx(0.45, abs=0.01)


def test_a_label_of_zero_is_left_out_of_percentages():
    scores = Scores(levels=(0.5,))
    scores.update([[0.0, 0.0, 2.0]], quantiles=[[[0.0], [1.0], [1.0]]], mean=[[0.0] * 3])
    assert scores.result()["mape"] == pytest.approx(0.5)
    assert scores.result()["smape"] == pytest.approx((2 * 1 / 1 + 2 * 1 / 3) / 2)


def test_a_flat_context_is_left_out_of_mase_alone():
    labels = [[1.0, 2.0], [5.0, 5.0]]
    quantiles = np.zeros((2, 2, 1))
    scores = Scores(levels=(0.5,))
    scores.update(labels, quantiles=quantiles, mean=np.zeros((2, 2)), seasonal_errors=[1.0, 0.0])
    assert scores.result()["mase"] == 1.5
    assert scores.result()["mae"] == 13 / 4


def test_nothing_to_score_is_none_and_not_a_number():
    scores = Scores(levels=(0.5,))
    scores.update(
        [[NAN]], quantiles=np.zeros((1, 1, 1)), mean=np.zeros((1, 1)), seasonal_errors=[NAN]
    )
    result = scores.result()
    assert [result[key] for key in ("mase", "crps", "mse", "mae", "points")] == [None] * 4 + [0]


def test_masked_labels_weigh_nothing(rng):
    labels = rng.normal(size=(4, 6))
    quantiles = np.sort(rng.normal(size=(4, 6, 9)), axis=2)
    units = rng.uniform(1, 2, size=4)
    cut = Scores()
    cut.update(
        labels[:, :4],
        quantiles=quantiles[:, :4],
        mean=quantiles[:, :4, 4],
        seasonal_errors=units,
    )
    labels[:, 4:] = NAN
    masked = Scores()
    masked.update(labels, quantiles=quantiles, mean=quantiles[:, :, 4], seasonal_errors=units)
    expected = cut.result()
    got = masked.result()
    for key in ("coverage", "below", "pit"):
        assert got.pop(key) == pytest.approx(expected.pop(key))
    assert got.pop("msis") is expected.pop("msis") is None
    assert got == pytest.approx(expected)


@given(cuts=st.lists(st.integers(0, 12), max_size=4))
def test_streaming_equals_one_shot(cuts):
    rng = np.random.default_rng(7)
    labels = rng.normal(size=(12, 5))
    labels[rng.random(labels.shape) < 0.2] = NAN
    levels = sorted((*LEVELS, *INTERVAL))
    quantiles = np.sort(rng.normal(size=(12, 5, 11)), axis=2)
    units = rng.uniform(0, 2, size=12)
    whole, pieces = Scores(levels=levels), Scores(levels=levels)
    whole.update(labels, quantiles=quantiles, mean=quantiles[:, :, 4], seasonal_errors=units)
    edges = [0, *sorted(cuts), 12]
    for a, b in itertools.pairwise(edges):
        pieces.update(
            labels[a:b],
            quantiles=quantiles[a:b],
            mean=quantiles[a:b, :, 4],
            seasonal_errors=units[a:b],
        )
    expected, got = whole.result(), pieces.result()
    for key in ("coverage", "below", "pit"):
        assert got.pop(key) == pytest.approx(expected.pop(key), rel=1e-12)
    assert got == pytest.approx(expected, rel=1e-12)


def test_a_failed_forecast_is_refused():
    scores = Scores(levels=(0.5,))
    with pytest.raises(
        ValueError, match=r"quantiles \(1, 2, 1\) and mean \(1, 2\), got \(1, 3, 1\)"
    ):
        scores.update([[1.0, 2.0]], quantiles=np.zeros((1, 3, 1)), mean=np.zeros((1, 2)))
    with pytest.raises(ValueError, match="must be finite"):
        scores.update([[1.0, NAN]], quantiles=[[[1.0], [NAN]]], mean=[[1.0, 1.0]])
    with pytest.raises(ValueError, match="must hold 0.5"):
        Scores(levels=(0.1, 0.9))


def test_season_of_missing_and_short_contexts():
    # only the pair (4, 1) is whole at lag 2
    assert seasonal_error([1.0, NAN, 4.0, 9.0, NAN], 2) == 3.0
    # no longer than a season: lag 1
    assert seasonal_error([1.0, 2.0, 5.0], 3) == 2.0
    assert math.isnan(seasonal_error([1.0], 1))
    assert math.isnan(seasonal_error([NAN, 2.0, NAN, 3.0], 1))


def test_seasonal_naive_by_hand():
    context = [1.0, 2.0, 3.0, 6.0]
    quantiles, point = seasonal_naive(context, horizon=5, season=2, levels=(0.5, 0.9))
    assert point.tolist() == [3, 6, 3, 6, 3]
    assert quantiles[:, 0].tolist() == point.tolist()
    # root mean square of the differences 2 and 4; 1.2816 is the 90 % point of the normal law
    width = math.sqrt((4 + 16) / 2) * 1.2815515655446004
    assert quantiles[:, 1] - point == pytest.approx(width * np.sqrt([1, 1, 2, 2, 3]))


def test_the_largest_values_have_scores():
    context = np.array([1e200, -1e200, 2e200, 5e199] * 9)
    quantiles, point = seasonal_naive(context, horizon=4, season=4)
    assert (quantiles == point[:, None]).all()
    wide, _ = seasonal_naive(1.7e308 * (-1.0) ** np.arange(9), horizon=3, season=3)
    assert np.isfinite(wide).all() and (wide[:, -1] > wide[:, 0]).all()
    small, _ = seasonal_naive(context / 1e200, horizon=4, season=3)
    large, _ = seasonal_naive(context, horizon=4, season=3)
    np.testing.assert_allclose(large / 1e200, small, rtol=1e-14)
    scores = Scores()
    scores.update(np.full((1, 4), 1e200), quantiles=np.zeros((1, 4, 9)), mean=np.zeros((1, 4)))
    result = scores.result()
    assert result["mse"] is None and result["mae"] == pytest.approx(1e200)


def test_seasonal_naive_of_gaps_and_short_contexts():
    assert seasonal_naive([1.0, 2.0, NAN], horizon=3, season=2)[1].tolist() == [2, 2, 2]
    quantiles, point = seasonal_naive([1.0, NAN, 4.0], horizon=2, season=4)
    assert point.tolist() == [2, 2]
    assert (quantiles == 2).all()
    assert seasonal_naive([NAN], horizon=1, season=1)[1].tolist() == [0]
    with pytest.raises(ValueError, match="at least one step"):
        seasonal_naive([], horizon=1, season=1)


@pytest.mark.parametrize("season", [1, 3, 7])
def test_the_median_alone_takes_a_shorter_way_to_the_same(rng, season):
    context = rng.normal(size=20)
    for gap in ([], [0, 1], [18, 19], [5, 19], list(range(20))):
        x = context.copy()
        x[gap] = NAN
        whole = seasonal_naive(x, horizon=9, season=season)
        median = seasonal_naive(x, horizon=9, season=season, levels=(0.5,))
        np.testing.assert_array_equal(median[0][:, 0], whole[0][:, 4])
        np.testing.assert_array_equal(median[1], whole[1])


def test_fill_forward():
    assert fill_forward(np.array([NAN, 1, NAN, NAN, 2, NAN])).tolist() == [1, 1, 1, 1, 2, 2]
    assert fill_forward(np.array([NAN, NAN])).tolist() == [0, 0]


def test_season_length_is_gluonts_rule():
    seasonality = pytest.importorskip("gluonts.time_feature.seasonality")
    freqs = "s 10s 60s min 5min 15min 7min h 2h 5h D 2D B W W-THU 2W ME MS 3MS QS QE YS YE ms"
    for freq in freqs.split():
        assert season_length(freq) == seasonality.get_seasonality(freq), freq
    # aliases that pandas no longer takes, and the manifest still uses
    old = {"H": 24, "T": 1440, "15T": 96, "10S": 360, "M": 12, "Q": 4, "A": 1, "Y": 1}
    assert {freq: season_length(freq) for freq in old} == old
    for bad in ("", "0h", "hourly data", "15", "-h"):
        with pytest.raises(ValueError, match="freq must read like"):
            season_length(bad)


def test_geometric_mean_and_relative():
    assert geometric_mean([0.5, 2.0, None]) == pytest.approx(1.0)
    assert geometric_mean([0.0, 2.0]) == 0.0
    assert geometric_mean([None]) is None
    assert relative(1.0, 4.0) == 0.25
    assert relative(1.0, 0.0) is relative(None, 1.0) is relative(1.0, None) is None


# gluonts 0.17 calls NumPy and pandas in ways that both warn about
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_agrees_with_gluonts_on_the_same_forecasts(rng):
    """All scores and the coverage as gluonts.ev computes them, gaps and flat series included."""
    pd = pytest.importorskip("pandas")
    ev = pytest.importorskip("gluonts.ev.metrics")
    evaluation = pytest.importorskip("gluonts.model.evaluation")
    forecast = pytest.importorskip("gluonts.model.forecast")
    split = pytest.importorskip("gluonts.dataset.split")
    season, horizon, count = 24, 10, 8
    start = pd.Period("2020-01-01 00:00", freq="h")
    targets = rng.normal(size=(count, 120)).cumsum(axis=1)
    targets[0, 30:40] = NAN  # in the context
    targets[1, -5:-2] = NAN  # in the labels
    targets[2, :] = 3.0  # a seasonal error of 0
    targets[3, -3:] = 0.0  # no percentage error
    data = [{"start": start, "target": x, "item_id": str(i)} for i, x in enumerate(targets)]
    test_data = split.split(data, offset=-2 * horizon)[1].generate_instances(
        prediction_length=horizon, windows=2
    )
    levels = (*LEVELS, *INTERVAL)
    order = np.argsort(np.argsort(levels))
    quantiles = np.sort(rng.normal(size=(2 * count, horizon, 11)), axis=2)[..., order]
    quantiles += targets[2, 0]
    mean = rng.normal(size=(2 * count, horizon))
    keys = ["mean", *map(str, levels)]
    forecasts = [
        forecast.QuantileForecast(np.vstack([m, q.T]), start_date=start, forecast_keys=keys)
        for m, q in zip(mean, quantiles, strict=True)
    ]
    metrics = [ev.MASE(), ev.MeanWeightedSumQuantileLoss(LEVELS), ev.MSE(), ev.MAE()]
    metrics += [ev.MSE(forecast_type=0.5), ev.MAPE(), ev.SMAPE(), ev.MSIS()]
    metrics += [ev.Coverage(q=level) for level in levels]
    theirs = evaluation.evaluate_forecasts(
        forecasts, test_data=test_data, metrics=metrics, seasonality=season, batch_size=5
    ).iloc[0]

    ours = Scores(levels=levels)
    ours.update(
        np.stack([label["target"] for label in test_data.label]),
        quantiles=quantiles,
        mean=mean,
        seasonal_errors=[seasonal_error(x["target"], season) for x in test_data.input],
    )
    result = ours.result()
    assert result["mase"] == pytest.approx(theirs["MASE[0.5]"], rel=1e-9)
    assert result["crps"] == pytest.approx(theirs["mean_weighted_sum_quantile_loss"], rel=1e-9)
    assert result["mse"] == pytest.approx(theirs["MSE[mean]"], rel=1e-9)
    assert result["mae"] == pytest.approx(theirs["MAE[0.5]"], rel=1e-9)
    assert result["mse_median"] == pytest.approx(theirs["MSE[0.5]"], rel=1e-9)
    assert result["mape"] == pytest.approx(theirs["MAPE[0.5]"], rel=1e-9)
    assert result["smape"] == pytest.approx(theirs["sMAPE[0.5]"], rel=1e-9)
    assert result["msis"] == pytest.approx(theirs["MSIS"], rel=1e-9)
    for level in levels:
        assert result["coverage"][str(level)] == pytest.approx(theirs[f"coverage[{level}]"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_seasonal_naive_is_gluonts_seasonal_naive(rng):
    pd = pytest.importorskip("pandas")
    model = pytest.importorskip("gluonts.model.seasonal_naive")
    predictor = model.SeasonalNaivePredictor(prediction_length=9, season_length=7)
    for length, gaps in ((5, [2]), (7, []), (30, [0, 3, 28, 29]), (30, [24, 25])):
        x = rng.normal(size=length).astype(np.float32)
        x[gaps] = NAN
        item = {"start": pd.Period("2020-01-01", freq="D"), "target": x}
        wanted = predictor.predict_item(item).samples[0]
        got = seasonal_naive(x, horizon=9, season=7)[1]
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
