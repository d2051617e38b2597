"""Which column means what: found by name and content, settled by flags."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinytsm.columns import doubt_marks, infer_layout, levels_as_columns
from tinytsm.errors import Doubt, InputError

DAYS = ["2024-01-01", "2024-01-02", "2024-01-03"]


def layout(table: Any, **named: Any) -> tuple[str | None, str | None, tuple[str, ...], list[str]]:
    found, notes = infer_layout(pd.DataFrame(table), **named)
    return found.id_column, found.timestamp_column, found.targets, notes


def test_wide_tables() -> None:
    assert layout({"Date": DAYS, "a": [1, 2, 3], "b": [1.5, None, 2]}) == (
        None,
        "Date",
        ("a", "b"),
        [],
    )
    # no telling name: the first column of dates
    assert layout({"a": [1, 2, 3], "when": DAYS}) == (None, "when", ("a",), [])
    # four digits make no date, and ids may be years
    codes = ["SKU-1001", "SKU-1001", "SKU-1002"]
    assert layout({"sku": codes, "when": DAYS, "a": [1, 2, 3]})[1] == "when"
    years = ["2001", "2001", "2002"]
    assert layout({"item_id": years, "when": DAYS, "a": [1, 2, 3]})[:2] == ("item_id", "when")
    assert layout({"year": [2001, 2002, 2003], "gdp": [1, 2, 3]}) == (None, "year", ("gdp",), [])


def test_long_tables() -> None:
    ids = ["x", "x", "y"]
    assert layout({"unique_id": ids, "ds": DAYS, "y": [1, 2, 3], "price": [4, 5, 6]}) == (
        "unique_id",
        "ds",
        ("y",),
        [],
    )
    assert layout({"item_id": ids, "ds": DAYS, "a": [1, 2, 3], "b": [4, 5, 6]})[2] == ("a", "b")
    repeated = {"date": [DAYS[0], DAYS[1], DAYS[0]], "shop": ids, "sold": [1, 2, 3]}
    assert layout(repeated) == (
        "shop",
        "date",
        ("sold",),
        ["time stamps repeat: column 'shop' is taken for the series' ids"],
    )


def test_flags_win() -> None:
    table = {"item_id": ["x", "x", "y"], "date": DAYS, "ds": DAYS, "y": [1, 2, 3], "z": [4, 5, 6]}
    assert layout(table, timestamp_column="ds", target="z")[:3] == ("item_id", "ds", ("z",))
    assert layout(table, id_column="item_id", target=["z", "y"])[2] == ("z", "y")


def test_what_is_guessed_is_said() -> None:
    assert layout({"a": [1, 2, 3]}) == (
        None,
        None,
        ("a",),
        ["no time stamp column found: rows are numbered 0, 1, 2, ..."],
    )
    found = layout({"id": [1, 2, 3], "date": DAYS, "a": [1, 2, 3]})
    assert found == (
        None,
        "date",
        ("a",),
        ["column 'id' differs in every row: row numbers, left out"],
    )
    # names are no row numbers
    found = layout({"item_id": ["A", "B", "C"], "date": DAYS, "a": [1, 2, 3]})
    assert found == ("item_id", "date", ("a",), [])
    found = layout({"date": DAYS, "weekday": ["Mon", "Tue", "Wed"], "a": [1, 2, 3]})
    assert found == (None, "date", ("a",), ["columns that hold no numbers are left out: weekday"])
    # typing errors do not turn a number column into words
    assert layout({"date": DAYS, "a": ["1", "x", "3"]})[2] == ("a",)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            {"target": "c"},
            "column 'c' for the target is missing; the table has: date, a; name one of these, or leave it out",
        ),
        ({"covariates": ["c"]}, "'c' for the covariates .*; name one of these, or leave it out$"),
        ({"id_column": "c"}, "column 'c' for the ids is missing"),
        ({"timestamp_column": "c"}, "column 'c' for the time stamps is missing"),
        (
            {"target": ["a", "a"]},
            "column 'a' is named for two roles; name a different one for each",
        ),
        ({"target": "date", "timestamp_column": "date"}, "column 'date' is named for two roles"),
    ],
)
def test_names_that_do_not_fit(named: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        layout({"date": DAYS, "a": [1, 2, 3]}, **named)


def test_tables_without_numbers() -> None:
    with pytest.raises(
        InputError,
        match=r"no number column to forecast: row 0, column 'b' holds 'x'; the table needs",
    ):
        layout({"date": DAYS, "b": ["x", "y", "z"]})
    # what keeps it from being one, not what would do
    with pytest.raises(InputError, match=r"row 1, column 'b' holds '1,032'; .* as 1234\.5"):
        layout({"date": DAYS, "b": ["950", "1,032", "1,100"]})
    with pytest.raises(
        InputError, match="no number column to forecast; the table needs a column of numbers"
    ):
        layout({"date": DAYS})


@pytest.mark.parametrize("text", ["1,50", "2'010", "$9", "12 %", "1.234,5", "(3.2)"])
def test_numbers_in_words_are_doubted(text: str) -> None:
    left_out, doubt = layout({"date": DAYS, "a": [1, 2, 3], "b": [text] * 3})[3]
    assert left_out == "columns that hold no numbers are left out: b" and isinstance(doubt, Doubt)
    assert "row 0, column 'b': " in doubt and "is not read as a number; write it as 1234.5" in doubt
    # words, kinds, years
    kinds = pd.Categorical([0, 1, 2])
    years = pd.period_range("2024", periods=3, freq="Y")
    for others in (["x" + text] * 3, kinds, years, ["555 123 456"] * 3):
        notes = layout({"date": DAYS, "a": [1, 2, 3], "b": others})[3]
        assert not any(isinstance(note, Doubt) for note in notes)


def test_rows_without_dates_are_doubted_where_texts_may_hold_them() -> None:
    table = {"product": list("abc"), "when": ["Mo 1st", "Tu 2nd", "We 3rd"], "v": [1, 2, 3]}
    notes = layout(table)[3]
    assert isinstance(notes[0], Doubt)
    assert "if column 'when' ('Mo 1st') holds their dates, write them as 2024-01-31" in notes[0]
    nothing = pd.Categorical([None] * 3)
    for other in ({"v": [1, 2, 3]}, {"v": [1, 2, 3], "kind": list("abc"), "none": nothing}):
        assert not isinstance(layout(other)[3][0], Doubt)
    assert not isinstance(layout(table, covariates=["when"])[3][0], Doubt)


@pytest.mark.parametrize(
    ("values", "far"),
    [
        ([1.0, 2.0, -999.0, 3.0], -999),
        ([np.nan, 99999.0, 420.0, 580.0], 99999),
        ([1.0, 999.0, 998.0, 2.0], None),
        ([1.0, 2.0, 1234.0], None),
        ([5.0, 5.0, 999.0], None),
        ([1.7e308, -1.7e308, 999.0], None),
        ([999.0], None),
        ([], None),
    ],
)
def test_marks_of_missing_values_are_doubted(values: list[float], far: int | None) -> None:
    df = pd.DataFrame({"y": values}, dtype=np.float64)
    notes = doubt_marks(df, "y", df["y"].to_numpy())
    assert [str(far) in note for note in notes] == [True] * (far is not None)
    assert all(isinstance(note, Doubt) for note in notes)


def test_a_table_with_a_column_for_each_date_is_refused() -> None:
    table = {
        "product": ["a", "b"],
        "2024-01-01": [1, 2],
        "2024-01-02": [3, 4],
        "2024-01-03": [5, 6],
    }
    with pytest.raises(InputError, match=r"most columns are dates \(2024-01-03\): turn the table"):
        layout(table)
    assert layout(table, target="2024-01-01")[2] == ("2024-01-01",)


def test_numbers_name_columns() -> None:
    table = {0: ["a", "a", "b"], 1: DAYS, 2: [1, 2, 3]}
    assert layout(table, id_column=0, timestamp_column=1, target=2)[:3] == (0, 1, (2,))
    named = infer_layout(pd.DataFrame(table), id_column=0, timestamp_column=1, target=2)[0]
    assert (named.id_name, named.stamp_name) == (0, 1)


def test_ids_that_tell_most_rows_apart_are_not_enough() -> None:
    days = pd.date_range("2024-01-01", periods=20)
    rows = [
        (day, sku, shop)
        for day in days
        for sku in "ab"
        for shop in "xy"
        if (day.day + ord(sku) + ord(shop)) % 3
    ]
    table = pd.DataFrame(rows, columns=["date", "sku", "shop"]).assign(sold=1)
    with pytest.raises(InputError, match="only 'sku', 'shop' together name the series"):
        layout(table)


def test_two_columns_that_could_be_ids() -> None:
    table = {"date": [DAYS[0]] * 2, "shop": ["x", "y"], "town": ["u", "v"], "sold": [1, 2]}
    with pytest.raises(
        InputError,
        match=r"time stamps repeat and 'shop', 'town' could name the series; choose with --id",
    ):
        layout(table)


def test_columns_that_are_ids_only_together() -> None:
    table = {
        "date": [DAYS[0], DAYS[1]] * 4,
        "town": list("xxxxyyyy"),
        "shop": list("uuvvuuvv"),
        "sold": range(8),
    }
    with pytest.raises(
        InputError,
        match="time stamps repeat and only 'town', 'shop' together name the series; join them to one",
    ):
        layout(table)


def test_dates_and_times_of_day_name_no_series() -> None:
    table = {"date": [DAYS[0]] * 2, "time": ["00:00", "01:00"], "v": [1, 2]}
    with pytest.raises(
        InputError,
        match="time stamps repeat and column 'time' holds times of day; join the two to one column",
    ):
        layout(table)
    assert layout(table | {"shop": ["x", "y"]})[0] == "shop"
    due = {"date": [DAYS[0]] * 2, "due": DAYS[:2], "v": [1, 2]}
    assert layout(due)[0] is None


def test_names_that_are_there_twice() -> None:
    table = pd.DataFrame([[DAYS[0], 1, 2]], columns=["date", "a", "a"])
    with pytest.raises(InputError, match="column 'a' appears twice; rename or drop one of the two"):
        infer_layout(table)


@pytest.mark.parametrize("dates", [pd.DatetimeIndex(DAYS), pd.PeriodIndex(DAYS, freq="D")])
def test_an_index_of_dates_is_the_time_stamps(dates: pd.Index) -> None:
    df = pd.DataFrame({"a": [1, 2, 3]}, index=dates)
    assert list(levels_as_columns(df, None, None)) == ["timestamp", "a"]
    assert list(levels_as_columns(df.rename_axis("when"), None, None)) == ["when", "a"]
    # a name that was given, where the index has no other
    assert list(levels_as_columns(df, None, "ds")) == ["ds", "a"]
    assert list(levels_as_columns(df.rename_axis("ds"), None, "ds")) == ["ds", "a"]
    assert list(levels_as_columns(df.rename_axis("when"), None, "ds")) == ["a"]
    # a column of that name goes first
    assert list(levels_as_columns(df.assign(timestamp=DAYS), None, None)) == ["a", "timestamp"]
    both = df.assign(shop="x").rename_axis("when").set_index("shop", append=True)
    assert sorted(levels_as_columns(both, None, None)) == ["a", "shop", "when"]
    assert list(levels_as_columns(both, "shop", "ds")) == ["shop", "a"]
    rows = pd.DataFrame({"a": [1, 2, 3]})
    assert levels_as_columns(rows, None, None) is rows


@pytest.mark.parametrize("name", ["target_name", "predictions", "actual"])
def test_a_name_that_results_have_is_refused(name: str) -> None:
    table = {name: ["x", "x", "y"], "date": DAYS, "sold": [1, 2, 3]}
    with pytest.raises(
        InputError, match=f"column '{name}' would meet one of that name in the result"
    ):
        layout(table, id_column=name, target="sold")
