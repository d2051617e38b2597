"""Stamps to grids: frequencies, gaps, calendars, time zones, and what comes after."""

import numpy as np
import pandas as pd
import pytest

from tinytsm.errors import InputError
from tinytsm.timeline import MAX_STEPS, Timeline, lay_out, parse_freq


def lay(stamps: pd.Index, freq: str | int | None = None) -> Timeline:
    return lay_out(stamps, freq=freq, name="series 'a'")


def same(got: pd.Index, wanted: pd.Index) -> bool:
    return got.dtype == wanted.dtype and got.equals(wanted)


ALIASES = [
    "s",
    "15min",
    "h",
    "6h",
    "D",
    "B",
    "W-WED",
    "2W-SUN",
    "MS",
    "ME",
    "BME",
    "QS-FEB",
    "QE-DEC",
    "YS-JAN",
    "YE-JUN",
]


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("alias", ALIASES)
def test_regular_stamps_continue_as_pandas_would(alias: str, zone: str | None) -> None:
    whole = pd.date_range("2023-01-05", periods=40, freq=alias, tz=zone).as_unit("ns")
    line = lay(whole[:30])
    assert same(line.grid, whole[:30])
    assert same(line.future(10), whole[30:])
    assert line.moved == 0


@pytest.mark.parametrize("alias", ["min", "h", "D", "B", "W-WED", "MS", "ME", "QS-FEB", "YE-JUN"])
def test_gaps_become_cells_without_a_row(alias: str) -> None:
    whole = pd.date_range("2020-01-01 00:00", periods=60, freq=alias).as_unit("ns")
    kept = whole.delete([5, 6, 7, 30, 50])
    line = lay(kept)
    assert same(line.grid, whole)
    assert line.grid[line.cells].equals(kept)
    assert line.moved == 0
    following = pd.date_range(whole[-1], periods=4, freq=alias)[1:]
    assert line.future(3).tolist() == following.tolist()


def test_any_order_gives_the_same_cells() -> None:
    stamps = pd.date_range("2024-01-31", periods=20, freq="ME")
    order = np.random.default_rng(0).permutation(20)
    assert lay(stamps[order]).cells.tolist() == order.tolist()


def test_jitter_moves_to_the_nearest_step() -> None:
    exact = pd.date_range("2024-01-01", periods=100, freq="5min")
    noise = pd.to_timedelta(np.random.default_rng(1).integers(-9, 10, 100), unit="s")
    line = lay(exact + noise)
    assert line.freq == "5min"
    assert line.cells.tolist() == list(range(100))
    assert line.grid[-1] == (exact + noise)[-1]
    assert line.moved > 50


@pytest.mark.parametrize("day", [15, 29, 31])
def test_months_on_any_one_day_do_not_drift(day: int) -> None:
    months = [m for m in range(1, 13) if day <= pd.Timestamp(2023, m, 1).days_in_month]
    stamps = pd.DatetimeIndex([pd.Timestamp(2023, m, day) for m in months])
    coming = lay(stamps, "M").future(14)
    days = [min(day, pd.Timestamp(2024, m, 1).days_in_month) for m in range(1, 13)]
    assert coming[:12].day.tolist() == days
    assert coming[:12].month.tolist() == list(range(1, 13))


@pytest.mark.parametrize("day", [29, 30, 31])
@pytest.mark.parametrize("newest", [12, 13, 14])
def test_months_that_february_cuts_short_go_on_from_the_full_day(day: int, newest: int) -> None:
    firsts = pd.date_range("2022-03-01", periods=30, freq="MS")
    whole = pd.DatetimeIndex([first.replace(day=min(day, first.days_in_month)) for first in firsts])
    line = lay(whole[:newest])
    assert line.moved == 0
    assert line.future(30 - newest).tolist() == whole[newest:].tolist()
    assert lay(whole.delete([2, 3, 11])).grid.tolist() == whole.tolist()


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("alias", ["SMS-15", "SME-15"])
def test_twice_a_month(alias: str, zone: str | None) -> None:
    whole = pd.date_range("2023-01-01", periods=30, freq=alias, tz=zone).as_unit("ns")
    line = lay(whole[:20].delete([5, 6]))
    assert same(line.grid, whole[:20])
    assert line.moved == 0
    assert same(line.future(10), whole[20:])
    assert lay(whole[18:20], line.freq).future(10).equals(whole[20:])


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("freq", ["W-MON-THU", "W-TUE-FRI", "W-MON-WED-FRI", "W-SAT-SUN"])
def test_some_days_of_the_week(freq: str, zone: str | None) -> None:
    every = pd.date_range("2024-01-01 06:30", periods=140, tz=zone)
    stamps = every[[day.strftime("%a").upper() in freq for day in every]]
    seen = stamps[:-4].delete(5)
    line = lay_out(seen[::-1], freq=None, name="x")
    assert (line.freq, line.moved) == (freq, 0)
    assert line.grid.equals(stamps[:-4]) and line.future(4).equals(stamps[-4:])
    again = lay_out(seen, freq=line.freq.lower(), name="x")
    assert again.grid.equals(line.grid) and again.future(4).equals(stamps[-4:])


def test_days_of_the_week_at_other_hours_and_one_that_strays() -> None:
    days = pd.date_range("2024-01-01", periods=140)
    days = days[days.day_of_week.isin([0, 3])]
    late = pd.to_timedelta(np.random.default_rng(0).integers(0, 600, len(days)), unit="s")
    # a day in summer begins an hour earlier in UTC
    abroad = days.tz_localize("America/New_York").tz_convert("UTC")
    stray = days.append(pd.DatetimeIndex(["2024-02-06"])).sort_values()
    for stamps, moved in ((days + late, len(days) - 1), (abroad, 20), (stray, 1)):
        line = lay_out(stamps, freq=None, name="x")
        assert (line.freq, line.moved, len(line.grid)) == ("W-MON-THU", moved, len(days))
        assert line.grid[-1] == stamps[-1]
        ahead = line.future(4)
        assert list(ahead.day_of_week) == [0, 3, 0, 3]
        assert (ahead - ahead.normalize() == stamps[-1] - stamps[-1].normalize()).all()


@pytest.mark.parametrize("freq", ["W-TUE-TUE-FRI", "W-FRI-TUE"])
def test_days_of_the_week_are_named_in_any_order(freq: str) -> None:
    days = pd.date_range("2024-01-01", periods=30)
    # what is not on one of the days moves to the nearest
    line = lay_out(days[days.day_of_week.isin([2, 4])], freq=freq, name="x")
    assert line.freq == "W-TUE-FRI" and line.moved == 4 and len(line.grid) == 8


def test_few_or_thin_days_of_the_week_tell_no_step() -> None:
    every = pd.date_range("2024-01-01", periods=140)
    some = every[every.day_of_week.isin([0, 3])]
    for stamps in (some[:5], some[::3], every[[0, 1, 9, 11, 24, 25, 37, 39, 51, 57, 64]]):
        assert lay_out(stamps, freq=None, name="x").freq.count("-") < 2


@pytest.mark.parametrize("kept", [0.25, 0.4, 0.6])
@pytest.mark.parametrize("alias", ["15min", "h", "D", "B", "W-WED", "MS"])
def test_rows_at_few_of_the_steps_stay_where_they_are(alias: str, kept: float) -> None:
    whole = pd.date_range("2015-01-01", periods=400, freq=alias).as_unit("ns")
    some = whole[np.random.default_rng(3).random(400) < kept]
    line = lay(some)
    assert line.moved == 0
    assert line.grid[line.cells].equals(some)
    assert line.future(1).tolist() == pd.date_range(some[-1], periods=2, freq=alias)[1:].tolist()
    ticks = np.flatnonzero(np.isin(whole, some))
    assert lay(pd.Index(7 * ticks)).freq == "7"


@pytest.mark.parametrize(("months", "freq"), [(1, "MS"), (3, "3MS"), (12, "12MS")])
def test_the_step_between_middles_of_months_can_be_given_again(months: int, freq: str) -> None:
    start = pd.Timestamp(2020, 1, 15)
    stamps = pd.DatetimeIndex([start + pd.DateOffset(months=months * i) for i in range(9)])
    line = lay(stamps)
    assert line.freq == freq
    assert lay(stamps[-2:], line.freq).future(5).equals(line.future(5))


@pytest.mark.parametrize(
    ("alias", "old"), [("MS", "M"), ("QS-JAN", "Q"), ("YS-JAN", "A"), ("h", "H"), ("W-TUE", "W")]
)
def test_old_names_serve_the_stamps_that_are_there(alias: str, old: str) -> None:
    whole = pd.date_range("2020-01-01", periods=9, freq=alias)
    for rows in (1, 2, 6):
        line = lay(whole[:rows], old)
        assert line.moved == 0
        assert line.future(3).tolist() == whole[rows : rows + 3].tolist()


def test_summer_time() -> None:
    hours = pd.date_range("2024-03-30 12:00", periods=72, freq="h", tz="Europe/Berlin")
    line = lay(hours.delete([3, 40]))
    assert line.grid.equals(hours)
    days = pd.date_range("2024-10-20", periods=14, freq="D", tz="Europe/Berlin")
    line = lay(days.delete([4]))
    assert line.grid.tolist() == days.tolist()
    assert line.future(200).hour.unique().tolist() == [0]
    # half past two does not exist on the last Sunday of March
    nights = pd.date_range("2024-03-24 02:30", periods=6, freq="D", tz="Europe/Berlin")
    assert [str(t)[8:16] for t in lay(nights).future(4)] == [
        "30 02:30",
        "31 03:00",
        "01 02:30",
        "02 02:30",
    ]


def test_whole_numbers() -> None:
    line = lay(pd.Index([10, 12, 18, 14]))
    assert line.grid.tolist() == [10, 12, 14, 16, 18]
    assert line.cells.tolist() == [0, 1, 4, 2]
    assert line.future(2).tolist() == [20, 22]
    assert lay(pd.Index([7])).future(2).tolist() == [8, 9]
    assert lay(pd.Index([7]), 5).future(2).tolist() == [12, 17]


@pytest.mark.parametrize(
    ("stamps", "freq", "message"),
    [
        (
            pd.date_range("2024", periods=2),
            None,
            r"series 'a': frequency cannot be inferred from 2 row\(s\); give --freq",
        ),
        (pd.date_range("2024", periods=5), "2", "frequency 2 is a number but the stamps are dates"),
        (
            pd.Index([1, 2, 3]),
            "D",
            "stamps are whole numbers, so the frequency must be one too, got 'D'",
        ),
        (
            pd.DatetimeIndex(["1900", "2000-01-01", "2000-01-01 00:00:01"]),
            "s",
            f"more than {MAX_STEPS:,} steps",
        ),
    ],
)
def test_stamps_that_give_no_grid(stamps: pd.Index, freq: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lay(stamps, freq)


@pytest.mark.parametrize("freq", ["D", "YS"])
def test_the_calendar_ends(freq: str) -> None:
    with pytest.raises(
        InputError,
        match=r"series 'a': 200000 steps of .* lead beyond the year 2262; ask for a shorter",
    ):
        lay(pd.date_range("2020", periods=3, freq=freq)).future(200_000)


@pytest.mark.parametrize("freq", ["fortnight", "", "0D", "-1D", "0", "D-MON-X", "1.5X", "é"])
def test_unknown_frequencies(freq: str) -> None:
    with pytest.raises(InputError, match=r"unknown frequency .*; use one such as"):
        parse_freq(freq)
