"""Frames in, forecasts out, with a forecaster whose answer is known."""

import io
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinytsm import frames, tables
from tinytsm.errors import DataWarning, Doubt, InputError
from tinytsm.frames import predict_frame, split_frame


class Naive:
    """The last seen value, plus 10 q - 5 at quantile q, plus 100 per step; keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def predict_quantiles(
        self, inputs: Sequence[np.ndarray], prediction_length: int, quantile_levels: Sequence[float]
    ) -> tuple[Any, Any]:
        self.seen += inputs
        last = np.array([x[~np.isnan(x)][-1] for x in inputs])
        steps = 100.0 * np.arange(1, prediction_length + 1)
        mean = last[:, None] + steps
        return mean[..., None] + 10 * np.asarray(quantile_levels) - 5, mean


def long_frame() -> pd.DataFrame:
    days = pd.date_range("2024-01-01", periods=4)
    return pd.DataFrame(
        {
            "item_id": ["b"] * 4 + ["a"] * 4,
            "timestamp": [*days, *days],
            "target": [1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0],
        }
    )


def series_of(
    df: pd.DataFrame, freq: str | int | None = None, **named: Any
) -> tuple[list[frames.Series], list[str]]:
    layout, _ = frames.infer_layout(df, **named)
    return split_frame(df, layout, freq=freq)


def test_columns_are_those_of_chronos() -> None:
    model, df = Naive(), long_frame()
    before = df.copy(deep=True)
    got = predict_frame(model, df, prediction_length=2, quantile_levels=[0.1, 0.9])
    expected = pd.DataFrame(
        {
            "item_id": ["b", "b", "a", "a"],
            "timestamp": pd.to_datetime(["2024-01-05", "2024-01-06"] * 2),
            "target_name": "target",
            "predictions": [104.0, 204.0, 140.0, 240.0],
            "0.1": [100.0, 200.0, 136.0, 236.0],
            "0.9": [108.0, 208.0, 144.0, 244.0],
        }
    )
    pd.testing.assert_frame_equal(got, expected, check_dtype=False)
    pd.testing.assert_frame_equal(df, before)
    assert [x.tolist() for x in model.seen] == [[1, 2, 3, 4], [10, 20, 30, 40]]
    assert list(predict_frame(model, df, prediction_length=1))[4:] == [
        f"0.{i}" for i in range(1, 10)
    ]


def test_the_users_names_stay_and_row_order_does_not_matter() -> None:
    renamed = {"item_id": "shop", "timestamp": "day", "target": "sold"}
    df = long_frame().rename(columns=renamed)
    kwargs: dict[str, Any] = {
        "id_column": "shop",
        "timestamp_column": "day",
        "target": "sold",
        "prediction_length": 3,
    }
    got = predict_frame(Naive(), df, **kwargs)
    assert list(got)[:4] == ["shop", "day", "target_name", "predictions"]
    shuffled = predict_frame(Naive(), df.iloc[[3, 5, 0, 7, 1, 2, 6, 4]], **kwargs)
    pd.testing.assert_frame_equal(got, shuffled)
    indexed = predict_frame(Naive(), df.set_index(["shop", "day"]), **kwargs)
    pd.testing.assert_frame_equal(got, indexed)


def test_several_targets_and_levels_in_any_order() -> None:
    df = long_frame().assign(other=lambda t: -t["target"])
    got = predict_frame(
        Naive(), df, prediction_length=1, target=["target", "other"], quantile_levels=[0.9, 0.5]
    )
    assert got["target_name"].tolist() == ["target", "other"] * 2
    assert got["predictions"].tolist() == [104, 96, 140, 60]
    assert list(got)[4:] == ["0.9", "0.5"]
    assert (got["0.9"] - got["0.5"]).tolist() == [4, 4, 4, 4]


def test_wide_tables() -> None:
    wide = pd.DataFrame(
        {
            "ds": pd.date_range("2024", periods=3, freq="MS"),
            "u": [1, 2, 3],
            "v": [4.0, np.nan, np.nan],
        }
    )
    model = Naive()
    got = predict_frame(
        model, wide, prediction_length=2, id_column=None, timestamp_column=None, target=None
    )
    assert got["item_id"].tolist() == ["u", "u", "v", "v"]
    assert got["target_name"].tolist() == ["u", "u", "v", "v"]
    assert got["ds"].tolist() == [pd.Timestamp("2024-04-01"), pd.Timestamp("2024-05-01")] * 2
    # a series that ended early keeps its missing tail: the forecast begins after the table
    np.testing.assert_array_equal(model.seen[1], [4, np.nan, np.nan])


def test_gaps_are_missing_values() -> None:
    df = long_frame().drop(index=[1, 6])
    one, two = series_of(df)[0]
    np.testing.assert_array_equal(one.values, [1, np.nan, 3, 4])
    np.testing.assert_array_equal(two.values, [10, 20, np.nan, 40])
    gaps = "2 of 8 steps have no row and count as missing, not as 0 (--fill 0, fill=0)"
    assert series_of(df)[1] == ["frequency D", gaps]
    assert not isinstance(series_of(df)[1][1], Doubt)
    # most of them
    rare = long_frame().assign(
        timestamp=lambda table: table.timestamp.where(table.index % 4 < 3, "2024-01-31")
    )
    assert isinstance(series_of(rare, "D")[1][1], Doubt)


def test_rows_that_share_a_step_are_averaged() -> None:
    stamps = pd.to_datetime([f"2024-01-01 00:{m}" for m in ("00", "05", "10", "11", "15", "20")])
    (one,), notes = series_of(pd.DataFrame({"ds": stamps, "y": [0.0, 1, 2, 4, 8, 16]}))
    np.testing.assert_array_equal(one.values, [0, 1, 3, 8, 16])
    assert notes == [
        "frequency 5min",
        "1 of 6 time stamps lie between steps, moved to the nearest",
        "1 rows share a step with another; their values are averaged",
    ]


def test_a_frequency_coarser_than_the_rows_is_refused() -> None:
    hours = pd.DataFrame({"ds": pd.date_range("2024", periods=48, freq="h"), "y": np.arange(48.0)})
    for freq in ("D", "MS"):
        with pytest.raises(
            InputError, match=rf"the table: 48 rows fall on \d steps of {freq}; sum or average"
        ):
            series_of(hours, freq=freq)


@pytest.mark.parametrize(
    ("stamps", "message"),
    [
        (["2024-01-01"] * 3 + ["2024-01-02"] * 3, "4 of 6 rows repeat one: sum or average them first, or name the ids'"),
        (
            ["2024-10-27 00:00", "2024-10-27 01:00", "2024-10-27 02:00", "2024-10-27 02:00", "2024-10-27 03:00"],
            "if the clocks went back, write both with their offset, 2024-10-27T02:00",
        ),
        (["2024-01-01", "2024-01-02", "2024-01-02"], "delete one of the rows, join date and hour"),
    ],
)  # fmt: skip
def test_what_to_do_about_a_stamp_that_is_there_twice(stamps: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        series_of(pd.DataFrame({"ds": stamps, "y": 1.0}))


def test_the_mean_is_a_column_where_it_is_asked_for() -> None:
    got = predict_frame(
        Naive(), long_frame(), prediction_length=2, quantile_levels=[0.7], mean=True
    )
    assert list(got)[3:] == ["predictions", "mean", "0.7"]
    assert got["mean"].tolist() == [104.0, 204.0, 140.0, 240.0]


def test_a_future_below_the_history_is_said() -> None:
    df = pd.concat(
        [
            long_frame(),
            long_frame().assign(
                timestamp=lambda t: t.timestamp + pd.Timedelta(days=4), target=np.nan
            ),
        ]
    )
    with pytest.warns(DataWarning, match="the newest 4 steps of every series are empty"):
        predict_frame(Naive(), df, prediction_length=1)
    # of some alone, and of one step, nothing need be said
    predict_frame(Naive(), df[df.item_id.eq("a") | df.target.notna()], prediction_length=1)


def test_one_row_with_a_frequency() -> None:
    df = pd.DataFrame({"item_id": ["a"], "timestamp": ["2024-02-29"], "target": [5]})
    got = predict_frame(Naive(), df, prediction_length=2, freq="M")
    assert [str(t.date()) for t in got["timestamp"]] == ["2024-03-31", "2024-04-30"]
    with pytest.raises(InputError, match="frequency cannot be inferred from 1 row"):
        predict_frame(Naive(), df, prediction_length=2)


def test_whole_numbers_and_no_stamps() -> None:
    df = pd.DataFrame({"item_id": ["a"] * 3, "timestamp": [5, 10, 20], "target": [1, 2, 4]})
    model = Naive()
    got = predict_frame(model, df, prediction_length=2)
    assert got["timestamp"].tolist() == [25, 30]
    np.testing.assert_array_equal(model.seen[0], [1, 2, np.nan, 4])
    plain = predict_frame(
        model,
        pd.DataFrame({"a": [1, 2]}),
        prediction_length=2,
        id_column=None,
        timestamp_column=None,
        target=None,
    )
    assert plain["timestamp"].tolist() == [2, 3]


def test_time_zones_survive() -> None:
    stamps = pd.date_range("2024-03-31", periods=23, freq="h", tz="Europe/Berlin")
    df = pd.DataFrame({"item_id": "a", "timestamp": stamps, "target": np.arange(23.0)})
    got = predict_frame(Naive(), df, prediction_length=2)
    assert [str(t) for t in got["timestamp"]] == [
        "2024-04-01 00:00:00+02:00",
        "2024-04-01 01:00:00+02:00",
    ]


def test_every_kind_of_number_is_read() -> None:
    df = long_frame()[:4]
    columns = {
        "text": [" 1", "2.5", "", "1e3"],
        "decimal": [Decimal(1), Decimal("2.5"), None, Decimal(1000)],
        "nullable": pd.array([1, 2, None, 1000], dtype="Int64"),
        "flag": [True, False, None, True],
        "words": pd.Categorical(["1", "2.5", None, "1000"]),
    }
    for name, values in columns.items():
        (one,), _ = series_of(df.assign(target=values), target="target")
        last = 1.0 if name == "flag" else 1000.0
        assert one.values[3] == last, name
        assert np.isnan(one.values).tolist() == [False, False, True, False], name


def test_context_length_keeps_the_newest_and_batches_change_nothing() -> None:
    model, (series, _) = Naive(), series_of(long_frame())
    done: list[int] = []
    frames.forecast_series(
        model, series, prediction_length=1, context_length=3, batch_size=1, progress=done.append
    )
    assert [x.tolist() for x in model.seen] == [[2, 3, 4], [20, 30, 40]]
    assert done == [1, 1]
    predict_frame(model, long_frame(), prediction_length=1, context_length=99)
    assert len(model.seen[-1]) == 4


def test_a_context_must_hold_a_value() -> None:
    df = long_frame()
    df.loc[2:3, "target"] = np.nan
    with pytest.raises(InputError, match="series 'b target': its newest 2 steps are all missing"):
        predict_frame(Naive(), df, prediction_length=1, context_length=2)
    predict_frame(Naive(), df, prediction_length=1, context_length=3)


def change(column: str, row: int, value: object) -> pd.DataFrame:
    df = long_frame().astype({column: object})
    df.loc[row, column] = value
    return df


@pytest.mark.parametrize(
    ("df", "message"),
    [
        (
            long_frame().drop(columns="target"),
            "column 'target' for the target is missing; the table has: item_id, timestamp",
        ),
        (long_frame()[:0], "the table has no rows; add at least one"),
        (
            change("target", 2, "abc"),
            r"row 2, column 'target': 'abc' is not a number; write it as 1234\.5, or leave",
        ),
        (change("target", 2, "1,5"), "row 2, column 'target': '1,5' is not a number"),
        (
            change("target", 5, float("-inf")),
            "row 5, column 'target': the value is infinite; correct it, or leave",
        ),
        (
            change("timestamp", 1, "soon"),
            "row 1, column 'timestamp': 'soon' is not a date; write it as",
        ),
        (change("timestamp", 1, None), "row 1, column 'timestamp': time stamp is missing"),
        (change("item_id", 3, None), "row 3, column 'item_id': the id is missing; fill it in"),
        (
            change("timestamp", 5, pd.Timestamp("2024-01-01")),
            "row 5, column 'timestamp': time stamp 2024-01-01 of series 'a' is there twice; delete one of the rows$",
        ),
        (
            long_frame().assign(target=[1.0] * 4 + [np.nan] * 4),
            "series 'a target': every value is missing; fill in",
        ),
        (
            long_frame().assign(target=pd.Timestamp("2024")),
            r"column 'target' holds datetime64\[.*\], not numbers",
        ),
    ],
)
def test_bad_frames(df: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        predict_frame(Naive(), df, prediction_length=1)
    assert "\n" not in str(caught.value)


def test_duplicates_in_a_wide_table_hint_at_ids() -> None:
    df = pd.DataFrame({"ds": ["2024-01-01"] * 2, "y": [1, 2]}, index=pd.Index([2, 3], name="line"))
    with pytest.raises(
        InputError,
        match=r"line 3, column 'ds': time stamp 2024-01-01 is there twice; .*--id-column",
    ):
        series_of(df)


@pytest.mark.parametrize("horizon", [0, -1, 1.5, "x", "1.0", True, None, float("nan")])
def test_bad_horizons(horizon: Any) -> None:
    with pytest.raises(
        InputError,
        match=r"horizon \(prediction_length\) must be a whole number of at least 1, got ",
    ):
        predict_frame(Naive(), long_frame(), prediction_length=horizon)


@pytest.mark.parametrize("length", [0, -40, 2.5])
def test_bad_context_lengths(length: Any) -> None:
    message = f"context_length must be a whole number of at least 1, got {length}"
    with pytest.raises(InputError, match=message):
        predict_frame(Naive(), long_frame(), prediction_length=1, context_length=length)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([0.1, 1.0], r"quantile level 1 is outside \(0, 1\); write the 90 % quantile as 0\.9"),
        ([float("nan")], "quantile level nan is outside"),
        ([0.1, 0.1], "quantile level 0.1 is given twice; give it once"),
        ([], "quantile levels are empty"),
        (["x"], "quantile levels must be numbers such as"),
    ],
)
def test_bad_quantiles(levels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict_frame(Naive(), long_frame(), prediction_length=1, quantile_levels=levels)


def test_bad_frequency() -> None:
    with pytest.raises(InputError, match="unknown frequency 'fortnight'; use one such as"):
        predict_frame(Naive(), long_frame(), prediction_length=1, freq="fortnight")


_cells = st.sampled_from([
    "", "nan", "1", "-2.5", "1e308", "inf", "x", "true", "2024-01-01", "2024-01-02", "2024-02-29 12:00",
    "01/02/2024", "13/02/2024", "2024-03-31T02:30+01:00", "2024-W05", "today", "99999-01-01", "20240131", "1e-9",
])  # fmt: skip
_names = st.sampled_from(["date", "ds", "id", "item_id", "y", "a", "b", "time", "target", "year"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    table=st.lists(_names, min_size=1, max_size=4, unique=True).flatmap(
        lambda names: st.lists(st.tuples(*[_cells] * len(names)), min_size=1, max_size=6).map(
            lambda rows: "\n".join(",".join(row) for row in [tuple(names), *rows])
        )
    )
)
def test_any_table_gives_a_forecast_or_one_line(table: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(table.encode())))
        try:
            df = tables.read_table("-")
            got = predict_frame(
                Naive(), df, prediction_length=2, id_column=None, timestamp_column=None, target=None
            )
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert len(got) > 0
            assert not got.isna().any(axis=None)


@pytest.mark.parametrize("df", [pd.Series([1.0, 2.0]), {"target": [1.0]}, [1.0]])
def test_what_is_no_frame_is_named(df: Any) -> None:
    wanted = f"df must be a pandas DataFrame, got {type(df).__name__}; give"
    with pytest.raises(InputError, match=wanted):
        predict_frame(Naive(), df, prediction_length=1)
    with pytest.raises(InputError, match=f"future_{wanted}"):
        predict_frame(Naive(), long_frame(), prediction_length=1, future_df=df)
