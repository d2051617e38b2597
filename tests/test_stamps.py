"""Texts and numbers to time stamps: what is read, what is said, what is refused."""

import numpy as np
import pandas as pd
import pytest

from tinytsm.errors import InputError
from tinytsm.stamps import looks_like_dates, parse_stamps


def parse(*values: object) -> tuple[list[str], str | None]:
    index, note = parse_stamps(pd.Series(list(values), name="ds"), lambda row: f"line {row + 2}")
    return [str(stamp) for stamp in index], note


def test_texts_that_are_dates() -> None:
    assert parse("2024-01-01", "2024-01-01 12:00") == (
        ["2024-01-01 00:00:00", "2024-01-01 12:00:00"],
        None,
    )
    assert parse("2024-01", "2024-02")[0][1] == "2024-02-01 00:00:00"
    assert parse("2024-Q1", "2024-Q2")[0][1] == "2024-04-01 00:00:00"
    assert parse(20240131, 20240229) == (
        ["2024-01-31 00:00:00", "2024-02-29 00:00:00"],
        "column 'ds': read as dates YYYYMMDD",
    )
    assert parse(202112, 202201) == (
        ["2021-12-01 00:00:00", "2022-01-01 00:00:00"],
        "column 'ds': read as dates YYYYMM",
    )
    assert parse(2024013100, 2024013123) == (
        ["2024-01-31 00:00:00", "2024-01-31 23:00:00"],
        "column 'ds': read as dates YYYYMMDDHH",
    )
    assert parse(202401310000, 202401312345) == (
        ["2024-01-31 00:00:00", "2024-01-31 23:45:00"],
        "column 'ds': read as dates YYYYMMDDHHMM",
    )
    # pandas alone reads the 20th of January 2001
    assert parse("200101", "200102") == (
        ["2001-01-01 00:00:00", "2001-02-01 00:00:00"],
        "column 'ds': read as dates YYYYMM",
    )
    assert parse("2024013100", "2024013123")[0][1] == "2024-01-31 23:00:00"
    # numbers that go on past 12, or might
    assert parse(202112, 202113) == (["202112", "202113"], None)
    assert parse(202101, 202112) == (["202101", "202112"], None)
    assert parse(1990, 1991) == (["1990", "1991"], None)
    assert parse(3.0, 4.0)[0] == ["3", "4"]
    assert parse("2024-01-01T00:00Z")[0] == ["2024-01-01 00:00:00+00:00"]


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ("01-Jan-24", "02-Jan-24", "2024-01-02"),
        ("01.2024", "02.2024", "2024-02-01"),
        ("2018M01", "2018M02", "2018-02-01"),
        ("2018-M1", "2018-M2", "2018-02-01"),
        ("Q1 2015", "Q2 2015", "2015-04-01"),
        ("Q1-2015", "Q2-2015", "2015-04-01"),
        ("2015 Q1", "2015 Q2", "2015-04-01"),
        ("2020-W53", "2021-W01", "2021-01-04"),
        ("2023W01", "2023W02", "2023-01-09"),
        ("01.02.2024 00:00 - 01.02.2024 01:00", "01.02.2024 01:00 - 01.02.2024 02:00", "2024-02-01 01:00:00"),
    ],
)  # fmt: skip
def test_periods_begin_with_their_first_day(first: str, second: str, wanted: str) -> None:
    assert looks_like_dates(pd.Series([first, second]))
    assert parse(first, second)[0][1] == str(pd.Timestamp(wanted))


def test_a_week_that_a_year_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="'2023-W52' is not a date"):
        parse("2023-W52", "2023-W53")


def test_a_month_and_two_digits() -> None:
    for texts in (("Nov 23", "Dec 23", "Jan 24"), ("Oct-23", " Dec-23", "Jan-24")):
        assert looks_like_dates(pd.Series(texts))
        stamps, note = parse(*texts)
        assert stamps[2] == "2024-01-01 00:00:00"
        assert note is not None and "read as month and year" in note
    # days of one month, or no months at all
    for others in (["Jan 18", "Jan 19", "Jan 20"], ["Sales 18", "Sales 19"], ["18-Jan", "19-Jan"]):
        assert not looks_like_dates(pd.Series(others))


def test_months_of_one_year_need_a_name() -> None:
    months = [202401, 202402, 202403]
    named, _ = parse_stamps(pd.Series(months, name="Month"), str)
    assert str(named[2]) == "2024-03-01 00:00:00"
    other, _ = parse_stamps(pd.Series(months, name="step"), str)
    assert other.tolist() == months


@pytest.mark.parametrize("kind", ["object", "arrow", "python"])
def test_a_zone_survives_in_columns_that_are_not_numpys(kind: str) -> None:
    # summer time begins within
    stamps = pd.Series(pd.date_range("2024-03-25", periods=12, tz="Europe/Berlin"), name="ds")
    column = stamps.astype(object)
    if kind == "python":
        column = pd.Series([stamp.to_pydatetime() for stamp in stamps], dtype=object, name="ds")
    if kind == "arrow":
        arrow = pytest.importorskip("pyarrow")
        column = stamps.astype(pd.ArrowDtype(arrow.timestamp("us", "Europe/Berlin")))
    index, note = parse_stamps(column, str)
    assert note is None
    assert index.equals(pd.DatetimeIndex(stamps).as_unit("ns"))


def test_day_first_is_seen_or_said() -> None:
    # at the end of the text, too
    hours = [f"{hour:02}:00 {day:02}.03.2024" for day in range(1, 11) for hour in range(24)]
    assert parse(*hours)[0][-1] == "2024-03-10 23:00:00"
    # the fourteenth month does not exist
    assert parse("01/02/2024", "14/02/2024") == (
        ["2024-02-01 00:00:00", "2024-02-14 00:00:00"],
        "column 'ds': dates are read as day first",
    )
    assert parse("02/14/2024", "03/01/2024") == (
        ["2024-02-14 00:00:00", "2024-03-01 00:00:00"],
        None,
    )
    stamps, note = parse("01/02/2024", "02/02/2024")
    assert stamps[0] == "2024-01-02 00:00:00"
    assert note is not None
    assert "month first; write 2024-01-31" in note


def months(form: str) -> list[str]:
    return pd.date_range("2021-01-01", periods=30, freq="MS").strftime(form).tolist()


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%d-%m-%Y", "%d.%m.%Y", "%d.%m.%y"])
def test_the_first_of_each_month_is_no_january(form: str) -> None:
    stamps, note = parse(*months(form), *months(form))
    assert stamps[:30] == stamps[30:]
    assert stamps[1] == "2021-02-01 00:00:00"
    assert note == "column 'ds': dates are read as day first; write 2024-01-31 if that is wrong"


def test_month_first_where_nothing_speaks_for_the_day() -> None:
    stamps, note = parse(*months("%m/%d/%Y"))
    assert stamps[1] == "2021-02-01 00:00:00"
    assert note is not None
    assert "month first" in note
    # twelve days of January, or the first of twelve months
    assert "month first" in str(parse(*months("%m/%d/%Y")[:12])[1])
    # but not with dots
    assert parse("01.02.2024", "02.02.2024")[0][0] == "2024-02-01 00:00:00"


def test_mixed_offsets_become_utc() -> None:
    stamps, note = parse("2024-03-31T01:00:00+01:00", "2024-03-31T03:00:00+02:00")
    assert stamps == ["2024-03-31 00:00:00+00:00", "2024-03-31 01:00:00+00:00"]
    assert note is not None
    assert "UTC" in note


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ("2024-01-01", "soon"),
            "line 3, column 'ds': 'soon' is not a date; write it as 2024-01-31 or",
        ),
        (("2024-01-01", "2024-02-30"), "line 3, column 'ds': '2024-02-30' is not a date"),
        (("2024-01-01", "today"), "line 3, column 'ds': 'today' is not a date"),
        (("12:00", "13:00"), "line 2, column 'ds': '12:00' is not a date"),
        (("2024-01-01 12:00", "1:00 PM"), "line 3, column 'ds': '1:00 PM' is not a date"),
        (("240131", "240201"), "line 2, column 'ds': '240131' is not a date"),
        (
            ("2024-01-01", None),
            "line 3, column 'ds': time stamp is missing; fill it in or delete the row",
        ),
        ((1.0, 2.5), "line 3, column 'ds': 2.5 is neither a date nor a whole number"),
        ((1.0, float("inf")), "line 3, column 'ds': inf is neither"),
        (
            (1704067200000000000, 2),
            "line 2, column 'ds': 1704067200000000000 is too large .*pd.to_datetime",
        ),
        ((True, False), "column 'ds' holds bool, not time stamps"),
    ],
)
def test_stamps_that_cannot_be_read(values: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(*values)


def test_dates_outside_the_nanosecond_range() -> None:
    far = pd.Series(np.array(["1500-01-01"], dtype="datetime64[s]"), name="ds")
    with pytest.raises(
        InputError, match="column 'ds': dates must lie between the years 1678 and 2261"
    ):
        parse_stamps(far, str)
