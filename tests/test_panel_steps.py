"""Panels: which step each series of a table has, and what stands where it has no row."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.test_frames import Naive, long_frame, series_of
from tinytsm import frames
from tinytsm.errors import Doubt, InputError
from tinytsm.frames import predict_frame


def test_each_item_has_its_own_frequency_and_short_ones_borrow_most_others() -> None:
    day, month = pd.date_range("2024", periods=3), pd.date_range("2024", periods=3, freq="ME")
    df = pd.DataFrame({"id": ["d"] * 3 + ["m"] * 3, "ds": [*day, *month], "y": range(6)})
    got = predict_frame(
        Naive(), df, prediction_length=1, id_column="id", timestamp_column="ds", target="y"
    )
    assert got["ds"].tolist() == [pd.Timestamp("2024-01-04"), pd.Timestamp("2024-04-30")]
    one_more = pd.DataFrame({"id": ["s"], "ds": [pd.Timestamp("2024-05-01")], "y": [1]})
    short = pd.concat([df[:3], one_more])
    assert series_of(short)[0][1].timeline.future(1).tolist() == [pd.Timestamp("2024-05-02")]
    with pytest.raises(
        InputError, match=r"series 's': frequency cannot be inferred from 1 row\(s\); give --freq"
    ):
        series_of(pd.concat([df, one_more]))
    more = df[:3].assign(id="e")
    assert [one.timeline.freq for one in series_of(pd.concat([df, more, one_more]))[0]] == [
        "D", "ME", "D", "D",
    ]  # fmt: skip


def test_whole_numbers_borrow_too() -> None:
    ticks = [*range(0, 400, 10), 100, 100, 130]
    df = pd.DataFrame({"id": ["a"] * 40 + ["b"] + ["c"] * 2, "ds": ticks, "y": range(43)})
    series, _ = series_of(df)
    assert [one.timeline.future(2).tolist() for one in series] == [
        [400, 410],
        [110, 120],
        [140, 150],
    ]
    # unless they meet there
    near = pd.DataFrame({"id": "d", "ds": [1, 2], "y": 1})
    assert series_of(pd.concat([df, near]))[0][3].timeline.future(2).tolist() == [3, 4]


def test_rows_here_and_there_lie_on_the_steps_of_the_others() -> None:
    days = pd.date_range("2024-01-01", periods=60)
    sold = days[[0, 9, 17, 25, 34, 43, 50, 59]]
    df = pd.DataFrame(
        {"id": ["a"] * 60 + ["b"] * 60 + ["rare"] * 8, "ds": [*days, *days, *sold], "y": 1.0}
    )
    assert series_of(df[120:])[0][0].timeline.freq != "D"
    assert [one.timeline.freq for one in series_of(df)[0]] == ["D"] * 3
    (doubt,) = [note for note in series_of(df)[1] if note.startswith("1 series without")]
    assert isinstance(doubt, Doubt) and "such as 'rare', take that of most others, D" in doubt
    # a frequency of its own is no such thing, nor with a row a day late
    late = pd.date_range("2024-01-01", periods=28, freq="7D").to_series()
    late.iloc[20] += pd.Timedelta(days=1)
    moved = pd.concat([df[:120], pd.DataFrame({"id": "late", "ds": late, "y": 1.0})])
    assert series_of(moved)[0][-1].timeline.freq == "7D"
    weeks = days[::7]
    df = pd.concat([df[:120], pd.DataFrame({"id": "weekly", "ds": weeks, "y": 1.0})])
    assert series_of(df)[0][-1].timeline.freq == "W-MON"


def test_stamps_with_a_zone_are_the_series_own() -> None:
    # of many short series the caches must not be mixed up
    first = pd.Timestamp("2020-01-01", tz="UTC")
    starts = [first + pd.Timedelta(days=40 * i % 3000) for i in range(200)]
    df = pd.DataFrame(
        {
            "id": np.repeat(np.arange(200), 3),
            "ds": [start + pd.Timedelta(days=k) for start in starts for k in range(3)],
            "y": 1.0,
        }
    )
    series, _ = series_of(df, id_column="id", timestamp_column="ds")
    assert [one.timeline.grid[0] for one in series] == starts


@pytest.mark.parametrize("freq", ["D", "MS", "W-TUE-FRI", "h"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_steps_without_a_row_are_filled_to_the_end_of_the_table(
    freq: str, zone: str | None
) -> None:
    stamps = pd.date_range("2024-03-01", periods=40, freq="D" if "-" in freq else freq, tz=zone)
    if "-" in freq:
        stamps = stamps[stamps.day_of_week.isin([1, 4])]
    count = len(stamps)
    rows = [0, 2, 3]
    df = pd.DataFrame(
        {
            "id": ["all"] * count + ["rare"] * 3,
            "ds": [*stamps, *stamps[[1, 3, 4]]],
            "y": [1.0] * count + [7.0, np.nan, 9.0],
        }
    )
    named: Any = {"id_column": "id", "timestamp_column": "ds", "target": "y"}
    (whole, rare), _, notes = frames.read_frame(df, freq=freq, fill=2, **named)
    assert (whole.values == 1).all()
    wanted = np.full(count - 1, 2.0)
    # a value that is missing is no step without a row
    wanted[rows] = 7, np.nan, 9
    np.testing.assert_array_equal(rare.values, wanted)
    assert rare.timeline.grid.equals(pd.DatetimeIndex(stamps[1:]).as_unit("ns"))
    assert rare.timeline.future(3).equals(whole.timeline.future(3))
    assert f"{count - 4} of {2 * count - 1} steps have no row and count as 2" in notes
    assert not any(isinstance(note, Doubt) for note in notes)
    gaps = frames.read_frame(df, freq=freq, **named)[0][1]
    assert len(gaps.values) == 4 and np.isnan(gaps.values[1])


def test_a_fill_is_a_number() -> None:
    for fill in ("none", math.inf, math.nan):
        with pytest.raises(InputError, match="fill must be a number such as 0, got"):
            predict_frame(Naive(), long_frame(), prediction_length=1, fill=fill)  # type: ignore[arg-type]


def test_a_short_series_borrows_the_middle_of_months() -> None:
    days = pd.date_range("2023-01-01", periods=15, freq="MS") + pd.Timedelta(days=14)
    df = pd.DataFrame({"id": ["a"] * 13 + ["b"] * 2, "ds": days, "y": range(15)})
    series, notes = series_of(df)
    assert notes[0] == "frequency MS"
    assert [str(t.date()) for t in series[1].timeline.future(2)] == ["2024-04-15", "2024-05-15"]
