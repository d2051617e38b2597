"""Imputation: every gap filled from both sides, observed values untouched."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinytsm import TinyTSM
from tinytsm.impute import impute


class Last:
    """The last value shown, with quantiles `level` above it."""

    def predict_quantiles(
        self, inputs: Sequence[np.ndarray], prediction_length: int, quantile_levels: Sequence[float]
    ) -> tuple[Any, Any]:
        last = np.array([x[-1] for x in inputs])
        assert not np.isnan(last).any(), "a context ends where a gap begins"
        mean = np.repeat(last[:, None], prediction_length, 1)
        return mean[..., None] + np.array(quantile_levels) - 0.5, mean


def test_the_nearer_side_weighs_more() -> None:
    values = [np.nan, 1.0, np.nan, np.nan, np.nan, 5.0, np.nan, np.nan]
    table = impute(Last(), values, quantile_levels=[0.3])
    # one side at the ends; between, the line from one neighbour to the other
    assert table["value"].tolist() == [1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0]
    assert table["imputed"].tolist() == [True, False, True, True, True, False, True, True]
    np.testing.assert_allclose(table["0.3"], table["value"] - 0.2 * table["imputed"])
    assert list(table)[:3] == ["item_id", "timestamp", "target_name"]


def test_steps_without_a_row_are_filled() -> None:
    stamps = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-06", "2024-01-07"])
    df = pd.DataFrame({"day": stamps, "north": [1.0, 2, 3, 6, 7], "south": [0.0, 0, 0, 0, 0]})
    table = impute(Last(), df, id_column=None, timestamp_column="day", target=None, freq="D")
    north = table[table["item_id"] == "north"]
    assert north["day"].tolist() == list(pd.date_range("2024-01-01", periods=7))
    np.testing.assert_allclose(north["value"], np.arange(1.0, 8.0))
    assert north["imputed"].sum() == 2


def test_a_series_is_filled_with_the_same_bits_alone_and_beside_others(miniature: TinyTSM) -> None:
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(3, 200)).cumsum(1)
    whole[rng.random(size=whole.shape) < 0.2] = np.nan
    # beyond the 32 steps of one pass its shape is the horizon's
    whole[0, 20:60] = whole[1, 50:80] = whole[2, 90:150] = np.nan
    together = miniature.impute(list(whole))
    for i in range(3):
        alone = miniature.impute([whole[i]])
        part = together[together["item_id"] == i]
        for column in ("value", "0.1", "0.9"):
            np.testing.assert_array_equal(part[column], alone[column])
        seen = ~np.isnan(whole[i])
        np.testing.assert_array_equal(part["value"].to_numpy()[seen], whole[i][seen])
        assert part["value"].notna().all() and (part["0.1"] <= part["0.9"]).all()


def test_gaps_copy_nothing_of_a_long_series() -> None:
    values = np.arange(2000.0)
    values[100:1900:3] = np.nan

    class Watch(Last):
        def predict_quantiles(self, inputs: Sequence[np.ndarray], *args: Any, **options: Any):
            assert all(x.base is not None for x in inputs)
            return super().predict_quantiles(inputs, *args, **options)

    table = impute(Watch(), values)
    assert table["value"].notna().all() and table["imputed"].sum() == 600


def test_whole_numbers_are_whole_after_the_blend(miniature: TinyTSM) -> None:
    values = [None, 3.5, 9.0, None, None, None, None, 40.0, 44.0, None]
    plain, whole = (miniature.impute(values, integer=integer) for integer in (False, True))
    for column in ("value", "0.1", "0.9"):
        # the values that were there stay as they were
        wanted = plain[column].round().where(plain["imputed"], plain[column])
        np.testing.assert_array_equal(whole[column], wanted)
    assert not whole.equals(plain)


def test_nothing_missing_nothing_done() -> None:
    table = impute(None, np.arange(5.0))  # type: ignore[arg-type]
    assert not table["imputed"].any()
    with pytest.raises(ValueError, match="every value is missing"):
        impute(Last(), np.full(3, np.nan))
    with pytest.raises(ValueError, match="series 1 is empty; give it at least one step, or leave"):
        impute(Last(), [[1.0, np.nan], []])


def test_a_season_is_seen_from_both_sides() -> None:
    model = TinyTSM.from_pretrained(device="cpu")
    t = np.arange(400)
    truth = 10 + np.sin(t * 2 * np.pi / 24) + 0.05 * np.random.default_rng(0).normal(size=400)
    given = truth.copy()
    given[200:220] = np.nan
    filled = model.impute(given)["value"].to_numpy()
    line = np.interp(t, np.delete(t, range(200, 220)), np.delete(truth, range(200, 220)))
    ours, straight = (np.abs(x - truth)[200:220].mean() for x in (filled, line))
    assert ours < 0.5 * straight
