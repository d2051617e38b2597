"""Which column means what: found by name and content, settled by flags."""

from typing import Any

import pandas as pd
import pytest

from tinytsm.columns import infer_layout
from tinytsm.tables import InputError

DAYS = ["2024-01-01", "2024-01-02", "2024-01-03"]


def layout(
    table: dict[str, Any], **named: Any
) -> tuple[str | None, str | None, tuple[str, ...], list[str]]:
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
    found = layout({"date": DAYS, "weekday": ["Mon", "Tue", "Wed"], "a": [1, 2, 3]})
    assert found == (None, "date", ("a",), ["columns that hold no numbers are left out: weekday"])
    # typing errors do not turn a number column into words
    assert layout({"date": DAYS, "a": ["1", "x", "3"]})[2] == ("a",)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"target": "c"}, "column 'c' for the target is missing; the table has: date, a"),
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
    with pytest.raises(
        InputError, match="no number column to forecast; the table needs a column of numbers"
    ):
        layout({"date": DAYS})


def test_two_columns_that_could_be_ids() -> None:
    table = {"date": [DAYS[0]] * 2, "shop": ["x", "y"], "town": ["u", "v"], "sold": [1, 2]}
    with pytest.raises(
        InputError,
        match=r"time stamps repeat and 'shop', 'town' could name the series; choose with --id",
    ):
        layout(table)
