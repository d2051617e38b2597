"""Anomaly scores: the normal score of each value in what was forecast for it, from the past alone."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinytsm import TinyTSM
from tinytsm.anomalies import anomaly_scores, normal_scores
from tinytsm.config import QUANTILES

KNOTS = np.array([NormalDist().inv_cdf(q) for q in QUANTILES])


class Normal:
    """N(0, 2) whatever came before."""

    def predict_quantiles(
        self, inputs: Sequence[np.ndarray], prediction_length: int, quantile_levels: Sequence[float]
    ) -> tuple[Any, Any]:
        z = np.array([NormalDist().inv_cdf(q) for q in quantile_levels])
        return np.broadcast_to(2 * z, (len(inputs), prediction_length, len(z))), None


def test_a_normal_forecast_gives_the_normal_score() -> None:
    y = np.array([0.0, 1.0, -1.0, 5.0, -7.0, 2 * KNOTS[0], 2 * KNOTS[4], 1e300, -1e300, np.nan])
    z = normal_scores(y, np.tile(2 * KNOTS, (len(y), 1)))
    np.testing.assert_allclose(z[:7], y[:7] / 2, atol=1e-12)
    assert z[7:9].tolist() == [38.0, -38.0] and math.isnan(z[9])


def test_shared_levels_and_narrow_tails() -> None:
    # counts: half of the levels at 0
    counts = np.array([0, 0, 0, 0, 0, 1, 1, 2, 3.0])
    z = normal_scores(np.array([0.0, 1.0]), np.tile(counts, (2, 1)))
    assert z[0] == pytest.approx((KNOTS[0] + KNOTS[4]) / 2)
    assert z[1] == pytest.approx((KNOTS[5] + KNOTS[6]) / 2)
    # a constant: itself is in the middle, anything else as far out as can be
    z = normal_scores(np.array([4.0, 4.1, 3.9]), np.full((3, 9), 4.0))
    assert z.tolist() == [0.0, 38.0, -38.0]
    # one narrow last gap does not make an outlier: the band's own pace goes on
    narrow = KNOTS.copy()
    narrow[-1] = narrow[-2] + 1e-6
    (beyond,) = normal_scores(narrow[-1:] + 1, narrow[None])
    assert beyond < KNOTS[-1] + 1.3


def test_scores_grow_with_the_value() -> None:
    quantiles = np.sort(np.random.default_rng(0).normal(size=(1, 9)))
    y = np.linspace(-9, 9, 500)
    assert (np.diff(normal_scores(y, np.repeat(quantiles, 500, 0))) > 0).all()


def test_frame_of_scores() -> None:
    values = np.zeros(40)
    values[30], values[33] = 8.0, np.nan
    table = anomaly_scores(Normal(), values, step=7, warmup=12)
    names = ["item_id", "timestamp", "target_name", "value", "predictions", "0.1", "0.9"]
    assert list(table) == [*names, "z", "probability", "anomaly"]
    assert table["z"].isna().tolist() == [t < 12 or t == 33 for t in range(40)]
    assert table["predictions"].isna().sum() == 12
    assert table.loc[30, "z"] == pytest.approx(4)
    assert table.loc[30, "probability"] == pytest.approx(2 * NormalDist().cdf(-4))
    assert np.flatnonzero(table["anomaly"]).tolist() == [30]
    assert not anomaly_scores(Normal(), values, threshold=1e-5)["anomaly"].any()
    for wrong, message in (
        ({"threshold": 0.0}, "threshold is a probability between 0 and 1, got 0"),
        ({"threshold": 5}, "threshold is a probability between 0 and 1, got 5"),
        ({"threshold": "low"}, "threshold is a probability between 0 and 1, got 'low'"),
        ({"step": 1.5}, "step must be a whole number of at least 1, got 1.5"),
        ({"step": 0}, "step must be a whole number of at least 1, got 0"),
        ({"warmup": 0}, "warmup must be a whole number of at least 1, got 0"),
    ):
        # asked before anything is forecast
        with pytest.raises(ValueError, match=message):
            anomaly_scores(None, values, **wrong)  # type: ignore[arg-type]


def test_one_sale_in_a_slow_week_is_scored_without_a_floor(miniature: TinyTSM) -> None:
    sales = np.random.default_rng(3).poisson(0.2, size=120).astype(float)
    scored = miniature.anomaly_scores(sales)
    assert scored.equals(miniature.anomaly_scores(sales, nonnegative=False))
    # where zero is a floor, quantiles lie on it
    floored = miniature.anomaly_scores(sales, nonnegative=True)
    assert (floored["0.1"].dropna() >= 0).all() and (scored["0.1"].dropna() < 0).any()


def test_scores_are_causal(miniature: TinyTSM) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=160)
    changed = values.copy()
    changed[100:] = 1e6
    before, after = (miniature.anomaly_scores(x)["z"].to_numpy() for x in (values, changed))
    np.testing.assert_array_equal(before[:100], after[:100])
    # the steps of the window that was forecast from before the change are judged by the same forecast
    assert (np.abs(after[100:104]) > 30).all()


def test_a_longer_series_has_the_same_scores(miniature: TinyTSM) -> None:
    values = np.random.default_rng(4).normal(size=200)
    values[:3] = values[5] = np.nan
    for step, warmup in ((8, 64), (7, 20), (1, 5), (30, 10)):
        whole = miniature.anomaly_scores(values, step=step, warmup=warmup)["z"].to_numpy()
        for length in (6, 7, 8, 11, 19, 40, 41, 90, 100, 127, 199):
            part = miniature.anomaly_scores(values[:length], step=step, warmup=warmup)["z"]
            both = part.notna().to_numpy() & ~np.isnan(whole[:length])
            np.testing.assert_array_equal(part[both], whole[:length][both])
            # from the warm-up on, or half of it all, but for what lies before two values
            start = max(min(warmup, length // 2), 5)
            seen = ~np.isnan(values[start:length])
            assert (part[start:].notna() == seen).all()
            assert part[: max(5, start - step + 1)].isna().all()


def test_one_value_says_nothing_of_the_spread(miniature: TinyTSM) -> None:
    new = [[10.0, 11.0], [10.0, None, 9.0], [5.0, 5.2, 4.9], [None, 3.0, None]]
    z = miniature.anomaly_scores(new, step=1, warmup=1)["z"]
    assert np.flatnonzero(z.notna()).tolist() == [7]


def test_planted_outliers_stand_out() -> None:
    model = TinyTSM.from_pretrained(device="cpu")
    rng = np.random.default_rng(2)
    values = np.sin(np.arange(400) * 2 * np.pi / 24) + 0.1 * rng.normal(size=400)
    planted = [150, 233, 341]
    values[planted] += [2.0, -2.0, 2.5]
    stamps = pd.date_range("2024-01-01", periods=400, freq="h")
    df = pd.DataFrame({"timestamp": stamps, "target": values})
    table = model.anomaly_scores(df, id_column=None)
    order = np.argsort(-table["z"].abs().fillna(0).to_numpy())
    assert sorted(order[:3]) == planted
    assert table.loc[planted, "anomaly"].all()
