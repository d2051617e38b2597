"""Columns that are known beside a frame's series: which they are, their numbers, and what the future must hold."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinytsm import frames
from tinytsm.errors import Doubt, InputError


def read(df: pd.DataFrame, future: pd.DataFrame, horizon: int, **named: Any) -> Any:
    roles: dict[str, Any] = dict.fromkeys(("id_column", "timestamp_column", "target", "freq"))
    return frames.read_frame(df, **roles | named, future_df=future, horizon=horizon)


def test_covariates_lie_on_the_grid_and_texts_are_kinds() -> None:
    df = pd.DataFrame(
        {
            "day": ["2024-01-04", "2024-01-01", "2024-01-02"],
            "y": [4.0, 1, 2],
            "hot": [True, False, True],
            "sky": pd.Categorical(["rain", None, "sun"], categories=["sun", "rain", "snow"]),
        }
    )
    future = pd.DataFrame(
        {"day": ["2024-01-06", "2024-01-05"], "hot": [False, True], "sky": ["snow", "sun"]}
    )
    (one,), layout, notes = frames.read_frame(
        df,
        id_column=None,
        timestamp_column="day",
        target=None,
        freq="D",
        future_df=future,
        horizon=2,
    )
    assert layout.targets == ("y",)
    assert [note for note in notes if isinstance(note, Doubt)] == [
        "covariate 'sky' of future_df (--future): 'snow' not in the history ('rain', 'sun'), so without effect"
    ]
    nan = np.nan
    assert one.known is not None
    np.testing.assert_array_equal(one.values, [1, 2, nan, 4])
    # hot, rain, sun: the third day has no row, and no day of the history had snow
    np.testing.assert_array_equal(
        one.known,
        [[0, nan, nan], [1, 0, 1], [nan] * 3, [1, 1, 0], [1, 0, 1], [0, nan, nan]],
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            {"price": ["a", 1, 2]},
            r"'price' of future_df \(--future\): row 0, .* 'a' is not a number",
        ),
        ({"price": [np.inf, 1, 2]}, "of future_df .* column 'price': the value is infinite"),
        ({"y": [1.0, np.nan, 2]}, "column 'y' is the target and cannot be a covariate too"),
        (
            {"step": [3, 4, 6]},
            "the 3 steps from 3 to 5 once each .* got 3 rows: add 1, the first 5; leave out 1, the first 6$",
        ),
        ({"step": [3, 4, 3]}, "add 1, the first 5; 1 are there twice, the first 3$"),
    ],
)
def test_a_future_that_cannot_be_used_is_named(spoil: dict, message: str) -> None:
    df = pd.DataFrame({"step": range(3), "y": 1.0, "price": [1.0, 2, 3]})
    future = pd.DataFrame({"step": [3, 4, 5], "price": [1.0, 2, 3]}).assign(**spoil)
    with pytest.raises(InputError, match=message):
        read(df, future, 3, timestamp_column="step", target="y")


def test_a_future_on_some_days_of_the_week() -> None:
    days = pd.date_range("2024-01-01", periods=140)
    days = days[days.day_of_week.isin([1, 4])]
    df = pd.DataFrame({"date": days, "y": 1.0, "x": range(len(days))})
    (one,), _, _ = read(df[:-3], df[-3:].drop(columns="y"), 3, target="y")
    assert one.known is not None and list(one.known[-3:, 0]) == [37, 38, 39]
    assert list(one.timeline.future(3)) == list(days[-3:])


def test_a_future_of_more_steps_says_what_to_leave_out() -> None:
    df = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=9), "y": 1.0, "x": range(9)})
    future = pd.DataFrame({"date": pd.date_range("2024-01-10", periods=5), "x": range(5)})
    with pytest.raises(
        InputError,
        match="from 2024-01-10 to 2024-01-12 .* got 5 rows: leave out 2, the first 2024-01-13$",
    ):
        read(df, future, 3, target="y")
    abroad = future[:3].assign(date=future["date"][:3].dt.tz_localize("UTC"))
    with pytest.raises(
        InputError, match="its stamps have a time zone, those of the data have no time zone$"
    ):
        read(df, abroad, 3, target="y")
    rows = {"y": 1.0, "x": range(9)}
    with pytest.raises(InputError, match="from 9 to 11 .* got 5 rows: leave out 2, the first 12$"):
        read(pd.DataFrame(rows), pd.DataFrame({"x": range(5)}), 3, target="y")


def test_what_a_future_may_hold_beside_covariates() -> None:
    # as competitions give it: row numbers, and the target's column, empty
    days = pd.date_range("2024-01-01", periods=12)
    df = pd.DataFrame({"id": range(12), "date": days, "sold": 2.0, "temp": np.arange(12) % 5})
    train, test = df[:9], df[9:].assign(sold=np.nan)
    series, layout, notes = read(train, test, 3)
    assert (layout.targets, layout.covariates) == (("sold",), ("temp",))
    assert series[0].known.shape == (12, 1)
    assert notes == ["column 'id' differs in every row: row numbers, left out", "frequency D"]
    _, layout, _ = read(train, test, 3, target="sold")
    assert (layout.id_column, layout.covariates) == (None, ("temp",))


def test_a_text_that_repeats_at_every_stamp_is_no_id() -> None:
    days = np.repeat(pd.date_range("2024-01-01", periods=8), 3)
    promo = ["yes"] * 15 + ["no"] * 9
    df = pd.DataFrame({"shop": list("xyz") * 8, "promo": promo, "date": days, "sold": 1.0})
    series, layout, notes = read(df[:18], df[18:].drop(columns="sold"), 2)
    assert layout.id_column == "shop" and layout.covariates == ("promo",) and len(series) == 3
    assert not any("promo" in note for note in notes)
    numbered = df.assign(shop=df["shop"].map({"x": 1, "y": 2, "z": 3}))
    with pytest.raises(
        InputError, match="is there twice; .*, or name the ids' column with --id-col"
    ):
        read(numbered[:18], numbered[18:].drop(columns="sold"), 2, target="sold")


def test_ids_of_another_kind_are_named() -> None:
    df = pd.DataFrame({"shop": ["01"] * 5, "step": range(5), "y": 1.0, "x": range(5)})
    future = pd.DataFrame({"shop": [1, 1], "step": [5, 6], "x": [1, 2]})
    with pytest.raises(InputError, match="has no row of series '01'; its ids are 1"):
        read(df, future, 2, id_column="shop", timestamp_column="step", target="y")


def test_a_name_is_no_covariate() -> None:
    df = pd.DataFrame({"y": 1.0, "remark": [f"no. {i}" for i in range(60)]})
    with pytest.raises(InputError, match="covariate 'remark' has 60 different texts, more than 50"):
        frames.read_frame(
            df, id_column=None, timestamp_column=None, target="y", freq=None, covariates=["remark"]
        )
