"""Backtests: origins that see nothing after them, scores that a loop confirms."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinytsm import TinyTSM, metrics
from tinytsm.backtest import backtest, season_of
from tinytsm.errors import DataWarning, InputError
from tinytsm.panel import split
from tinytsm.timeline import parse_freq


class Last:
    """The last value, and a normal of width 1 around it; remembers what it was shown."""

    def __init__(self) -> None:
        self.contexts: list[np.ndarray] = []

    def predict_quantiles(
        self, inputs: Sequence[np.ndarray], prediction_length: int, quantile_levels: Sequence[float]
    ) -> tuple[Any, Any]:
        self.contexts += [np.array(x) for x in inputs]
        last = np.array([x[~np.isnan(x)][-1] for x in inputs])
        mean = np.repeat(last[:, None], prediction_length, 1)
        return mean[..., None] + [NormalDist().inv_cdf(q) for q in quantile_levels], mean


def frame(steps: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    stamps = pd.date_range("2024-01-01", periods=steps)
    parts = [
        pd.DataFrame({"item_id": i, "timestamp": stamps, "target": rng.normal(size=steps).cumsum()})
        for i in ("a", "b")
    ]
    return pd.concat(parts, ignore_index=True)


def test_origins_see_their_past_alone() -> None:
    last, df = Last(), frame()
    result = backtest(last, df, 4, windows=3, step=2)
    values = df.loc[df["item_id"] == "a", "target"].to_numpy()
    for context, origin in zip(last.contexts[:3], (22, 24, 26), strict=True):
        np.testing.assert_array_equal(context, values[:origin])
    table = result.forecasts
    assert len(table) == 2 * 3 * 4
    head = ["item_id", "timestamp", "target_name", "cutoff", "actual", "predictions", "0.1"]
    assert list(table)[:7] == head
    first = table.iloc[:4]
    assert (first["cutoff"] == pd.Timestamp("2024-01-22")).all()
    assert first["timestamp"].tolist() == list(pd.date_range("2024-01-23", periods=4))
    np.testing.assert_array_equal(first["actual"], values[22:26])
    np.testing.assert_array_equal(first["predictions"], np.full(4, values[21]))


def test_scores_are_those_of_a_loop() -> None:
    df = frame()
    df.loc[df.index[-2], "target"] = np.nan
    result = backtest(Last(), df, 4, windows=3, season=5, quantile_levels=[0.5])
    errors, scaled, inside, losses, labels = [], [], [], [], []
    for _, rows in df.groupby("item_id"):
        x = rows["target"].to_numpy()
        for origin in (18, 22, 26):
            unit = metrics.seasonal_error(x[:origin], 5)
            for y in x[origin : origin + 4]:
                if np.isnan(y):
                    continue
                last = x[origin - 1]
                errors.append(abs(y - last))
                scaled.append(abs(y - last) / unit)
                inside.append(abs(y - last) <= NormalDist().inv_cdf(0.9))
                for q in metrics.LEVELS:
                    gap = y - last - NormalDist().inv_cdf(q)
                    losses.append(2 * max(q * gap, (q - 1) * gap))
                labels.append(abs(y))
    ours = result.scores.loc["TinyTSM"]
    assert ours["mae"] == pytest.approx(np.mean(errors))
    assert ours["mase"] == pytest.approx(np.mean(scaled))
    assert ours["coverage_80"] == pytest.approx(np.mean(inside))
    assert ours["crps"] == pytest.approx(np.sum(losses) / 9 / np.sum(labels))
    naive = result.scores.loc["seasonal naive"]
    assert result.scores.loc["relative", "mae"] == pytest.approx(ours["mae"] / naive["mae"])
    assert ours["windows"] == 6
    assert list(result.forecasts)[-1] == "0.5"


def test_scores_are_the_same_whichever_levels_are_asked_for() -> None:
    df = frame()
    few, many = (
        backtest(Last(), df, 4, quantile_levels=q)
        for q in ([0.5], [0.975, 0.025, 0.3, 0.7, 0.05, 0.95])
    )
    pd.testing.assert_frame_equal(few.scores, many.scores)
    assert list(many.forecasts)[-6:] == ["0.975", "0.025", "0.3", "0.7", "0.05", "0.95"]


def test_a_context_may_be_cut_and_scores_keep_their_units() -> None:
    cut, whole, df = Last(), Last(), frame()
    short = backtest(cut, df, 4, windows=3, context_length=7)
    long = backtest(whole, df, 4, windows=3)
    assert [len(x) for x in cut.contexts] == [7] * 6
    for few, all_ in zip(cut.contexts, whole.contexts, strict=True):
        np.testing.assert_array_equal(few, all_[-7:])
    # what looks at the last value alone forecasts the same, and is measured the same
    pd.testing.assert_frame_equal(short.scores, long.scores)
    pd.testing.assert_frame_equal(short.forecasts, long.forecasts)


def test_a_window_whose_context_is_all_missing_is_left_out() -> None:
    x = np.arange(40.0)
    x[20:30] = np.nan
    cut = Last()
    result = backtest(cut, [x], 5, windows=5, context_length=6)
    assert result.forecasts["cutoff"].unique().tolist() == [14, 34]
    assert all(len(context) == 6 for context in cut.contexts)
    whole = backtest(Last(), [x], 5, windows=5)
    assert whole.forecasts["cutoff"].unique().tolist() == [14, 29, 34]


def test_series_without_room_are_named_and_left_out() -> None:
    why = "series '1 target': 3 steps leave no window of 5 steps with values in it and before it"
    with pytest.warns(DataWarning, match=f"^{why}: left out \\(and 1 more series\\)$"):
        some = backtest(Last(), [np.arange(30.0), np.arange(3.0), np.arange(4.0)], 5)
    alone = backtest(Last(), [np.arange(30.0)], 5)
    pd.testing.assert_frame_equal(some.forecasts, alone.forecasts)
    pd.testing.assert_frame_equal(some.scores, alone.scores)


def test_no_series_has_room() -> None:
    why = "series '0 target': 3 steps leave no window of 5 steps with values in it and before it; ask for a shorter horizon"
    with pytest.raises(InputError, match=f"^{why}$"):
        backtest(Last(), [np.arange(3.0), np.arange(4.0)], 5)


@pytest.mark.parametrize("name", ["windows", "step", "season", "context_length"])
@pytest.mark.parametrize("value", [0, -3, 2.5, True])
def test_counts_are_whole_numbers_from_one_up(name: str, value: Any) -> None:
    message = f"{name} must be a whole number of at least 1, got {value}"
    with pytest.raises(ValueError, match=message):
        backtest(Last(), [np.arange(30.0)], 5, **{name: value})


@pytest.mark.parametrize(
    ("freq", "days", "season"),
    [("MS", 0, 12), ("MS", 14, 12), ("BME", 0, 12), ("BMS", 0, 12), ("3MS", 14, 4), ("BQE-DEC", 0, 4), ("B", 0, 5),
     ("D", 0, 7), ("2D", 0, 1), ("h", 0, 24), ("SMS", 0, 24), ("SME", 0, 24), ("W-MON-WED-FRI", 0, 3), ("W-TUE", 0, 1),
     ("W-TUE-TUE-FRI", 0, 2)],
)  # fmt: skip
def test_the_season_is_that_of_the_calendar(freq: str, days: int, season: int) -> None:
    stamps = pd.date_range("2020-01-01", periods=20, freq=parse_freq(freq)) + pd.Timedelta(
        days=days
    )
    df = pd.DataFrame({"item_id": "a", "timestamp": stamps, "target": np.arange(20.0)})
    (one,), _ = split(df)
    assert season_of(one) == season


def test_as_many_windows_as_there_are() -> None:
    x = np.arange(20.0)
    # the origin before which nothing was observed, and the window that holds nothing, are left out
    x[:8] = np.nan
    x[15:] = np.nan
    for windows in (9, 10**15):
        result = backtest(Last(), [x], 5, windows=windows)
        assert result.forecasts["cutoff"].unique().tolist() == [9]


def test_a_forecast_is_that_of_the_frame_cut_at_its_cutoff(miniature: TinyTSM) -> None:
    df = frame(80)
    result = miniature.backtest(df, 8, windows=2)
    cut = df[df["timestamp"] <= result.forecasts["cutoff"].iloc[0]]
    alone = miniature.predict_df(cut, prediction_length=8)
    for one, rows in alone.groupby("item_id"):
        table = result.forecasts
        same = table[(table["item_id"] == one) & (table["cutoff"] == table["cutoff"].min())]
        np.testing.assert_array_equal(same["predictions"], rows["predictions"])
