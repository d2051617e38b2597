"""Time stamps to a regular grid.

A forecaster sees values at equal steps; stamps in the world have gaps, jitter, months of unequal length and summer
time. `lay_out` finds the step, assigns each stamp (`tinytsm.stamps`) a cell and can continue the grid.
The grid ends at the newest stamp, so that a forecast begins one step after it.
"""

import dataclasses
import datetime
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset
from pandas.tseries.offsets import BaseOffset

from tinytsm.errors import InputError
from tinytsm.inputs import MAX_STEPS
from tinytsm.stamps import exact_alias

_DAY = 86_400_000_000_000  # ns
_ADVICE = "give --freq (freq= in Python) such as h, D, MS or 15min"
# pandas 2.2 renamed these; tables, papers and other forecasters still say them
_OLD_NAMES = {
    "H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns",
    "M": "ME", "BM": "BME", "Q": "QE", "BQ": "BQE", "A": "YE", "Y": "YE", "AS": "YS", "BA": "BYE",
}  # fmt: skip
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """Stamps laid on a grid of T equal steps.

    grid: (T,) DatetimeIndex (with the stamps' time zone) or integer index.
    cells: (rows,) the grid position of each stamp, in the order given.
    moved: stamps that lay between two steps and went to the nearer one.
    freq: the step, as a person would write it.
    future: n -> (n,) index that continues the grid.
    """

    grid: pd.Index
    cells: np.ndarray
    moved: int
    freq: str
    future: Callable[[int], pd.Index]

    def until(self, newest: Any) -> "Timeline":
        """The same grid with the steps that follow it up to a stamp. Raises InputError where these are too many."""
        count, ahead = 1, self.future(1)
        while ahead[-1] <= newest:
            count *= 2
            if count > MAX_STEPS:
                raise InputError(
                    f"{newest} lies more than {MAX_STEPS:,} steps of {self.freq} ahead"
                )
            ahead = self.future(count)
        more = int((ahead <= newest).sum())
        if not more:
            return self
        return dataclasses.replace(
            self,
            grid=self.grid.append(ahead[:more]),
            future=lambda steps: self.future(more + steps)[more:],
        )


def parse_freq(freq: Any) -> BaseOffset | int:
    """A pandas alias, old or new spelling, some days of the week such as W-TUE-FRI, or a whole number for integer stamps;
    offsets and time differences too.

    Raises InputError.
    """
    if isinstance(freq, datetime.timedelta | np.timedelta64):
        freq = to_offset(pd.Timedelta(freq))
    # as df.index.freq has it
    text = str(getattr(freq, "freqstr", freq)).strip()
    if text.isdecimal() and 0 < int(text) < 2**53:
        return int(text)
    days = text.upper().split("-")
    if len(days) > 2 and days[0] == "W" and set(days[1:]) <= set(_WEEKDAYS):
        return _some_weekdays([day for day in _WEEKDAYS if day in days])
    match = re.fullmatch(r"(\d*)([A-Za-z]+)(-\w+)?", text)
    if match:
        count, unit, anchor = match.groups(default="")
        text = count + _OLD_NAMES.get(unit, unit) + anchor
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            offset = to_offset(text)
    except (ValueError, KeyError, OverflowError, TypeError):
        offset = None
    if offset is None or offset.n < 1:
        raise InputError(
            f"unknown frequency {str(freq)!r}; use one such as min, h, D, B, W, MS, ME, QS, YE or 15min"
        )
    return offset


def lay_out(stamps: pd.Index, *, freq: str | int | None, name: str) -> Timeline:
    """Lay stamps (rows,), in any order and all different, on a grid that ends at the newest.

    freq: the step, or None to infer it: the exact pandas frequency if there is one, else what most of the distances say.
    name: words for the series in errors. Raises InputError where the step is unknown or does not fit.
    """
    step = None if freq is None else parse_freq(freq)
    if not isinstance(stamps, pd.DatetimeIndex):
        return _lay_out_whole(stamps.to_numpy(np.int64), step, freq, name)
    if isinstance(step, int):
        raise InputError(
            f"{name}: frequency {step} is a number but the stamps are dates; {_ADVICE}"
        )
    # pandas 3 counts in microseconds unless told
    stamps = stamps.as_unit("ns")
    zone = stamps.tz
    wall = stamps.tz_localize(None)
    if step is None:
        step = _infer_step(stamps.sort_values())
        if step is None:
            raise InputError(
                f"{name}: frequency cannot be inferred from {len(stamps)} row(s); {_ADVICE}"
            )
    label = _label(step)
    fixed = _nanos(step)
    # summer time breaks equal distances on the clock below a day, and in absolute time from a day up
    absolute = zone is not None and fixed is not None and fixed < _DAY
    naive = stamps.tz_convert("UTC").tz_localize(None) if absolute else wall

    def restore(index: pd.DatetimeIndex) -> pd.DatetimeIndex:
        if zone is None:
            return index
        if absolute:
            return index.tz_localize("UTC").tz_convert(zone)
        first = np.ones(len(index), dtype=bool)
        return index.tz_localize(zone, ambiguous=first, nonexistent="shift_forward")

    if fixed is not None:
        grid, cells, moved = _fixed_grid(naive.asi8, fixed, name)
        index = pd.DatetimeIndex(grid.view("M8[ns]"))

        def ahead(count: int) -> pd.DatetimeIndex:
            # Python integers do not wrap around at the end of the representable years
            if int(grid[-1]) + count * fixed > pd.Timestamp.max.value:
                raise pd.errors.OutOfBoundsDatetime
            coming = grid[-1] + fixed * np.arange(1, count + 1)
            return pd.DatetimeIndex(coming.view("M8[ns]"))
    else:
        step = _aligned(step, naive)
        try:
            index, cells, moved = _calendar_grid(naive, step)
        except (pd.errors.OutOfBoundsDatetime, OverflowError):
            raise InputError(
                f"{name}: steps of {label} around {stamps.min()} or {stamps.max()} lead beyond the years 1678 to 2261"
            ) from None

        def ahead(count: int) -> pd.DatetimeIndex:
            return _walk(index[-1], step, count + 1)[1:]

    _check_coarse(cells, label, name)

    def future(count: int) -> pd.DatetimeIndex:
        try:
            return restore(ahead(count))
        except (pd.errors.OutOfBoundsDatetime, OverflowError):
            raise InputError(
                f"{name}: {count} steps of {label} lead beyond the year 2262; ask for a shorter horizon"
            ) from None

    return Timeline(grid=restore(index), cells=cells, moved=moved, freq=label, future=future)


def _lay_out_whole(
    ticks: np.ndarray, step: BaseOffset | int | None, freq: str | int | None, name: str
) -> Timeline:
    if step is not None and not isinstance(step, int):
        raise InputError(
            f"{name}: stamps are whole numbers, so the frequency must be one too, got {freq!r}"
        )
    if step is None:
        step = _common(np.diff(np.sort(ticks))) if len(ticks) > 1 else 1
    grid, cells, moved = _fixed_grid(ticks, step, name)
    _check_coarse(cells, str(step), name)

    def future(count: int) -> pd.Index:
        return pd.Index(grid[-1] + step * np.arange(1, count + 1))

    return Timeline(grid=pd.Index(grid), cells=cells, moved=moved, freq=str(step), future=future)


def _check_coarse(cells: np.ndarray, label: str, name: str) -> None:
    # whether sales want a sum and temperatures a mean is not ours to guess
    steps = len(np.unique(cells))
    if 2 * steps <= len(cells):
        raise InputError(
            f"{name}: {len(cells)} rows fall on {steps} steps of {label}; sum or average the rows of each step "
            "first, or give their own --freq (freq= in Python)"
        )


def _common(gaps: np.ndarray) -> int:
    """The most common distance if it holds the majority; else the one that all are multiples of, if it is there often.

    Else the median, rounded where that changes little.
    """
    sizes, counts = np.unique(gaps, return_counts=True)
    if 2 * counts.max() >= counts.sum():
        return int(sizes[counts.argmax()])
    # where most steps have no row, the median is several steps, and would move rows and average them
    finest = np.gcd.reduce(gaps)
    if 10 * np.count_nonzero(gaps == finest) >= len(gaps):
        return int(finest)
    median = int(np.median(gaps))
    for unit in (_DAY, _DAY // 24, _DAY // 1440, _DAY // 86400):
        rounded = round(median / unit) * unit
        if abs(rounded - median) <= 0.05 * median:
            return rounded
    return median


def _infer_step(stamps: pd.DatetimeIndex) -> BaseOffset | None:
    """The step of ordered stamps, None where fewer than 3 leave it open."""
    if len(stamps) < 3:
        return None
    alias = exact_alias(stamps)
    if alias is not None:
        return to_offset(alias)
    absolute = _common(np.diff(stamps.asi8))
    wall = stamps.tz_localize(None)
    gap = _common(np.diff(wall.asi8)) if absolute > _DAY // 2 else absolute
    if gap >= 28 * _DAY:
        months = _month_step(wall)
        if months is not None:
            return months
    if 13 * _DAY <= gap <= 17 * _DAY:
        for halves in (pd.offsets.SemiMonthBegin(), pd.offsets.SemiMonthEnd()):
            if _all_on(halves, wall):
                return halves
    if gap >= _DAY:
        days = _days_of_the_week(wall, gap)
        if days is not None:
            return days
    on_weekdays = (wall.day_of_week < 5).all() and wall[-1] - wall[0] >= pd.Timedelta(days=7)
    if gap == _DAY and on_weekdays:
        return pd.offsets.BusinessDay()
    return (
        pd.offsets.Day(gap // _DAY) if gap % _DAY == 0 else to_offset(pd.Timedelta(gap, unit="ns"))
    )


def _days_of_the_week(stamps: pd.DatetimeIndex, gap: int) -> BaseOffset | None:
    """The step between some days of the week, such as Tuesdays and Fridays: three weeks of them, four in five with a row,
    and one row in ten at most on another day.

    gap: the usual distance. Four days and more that mostly follow each other are a week with gaps.
    """
    at = _nearest_days(stamps)
    which = at.day_of_week.to_numpy()
    usual = 10 * np.bincount(which, minlength=7) >= len(at)
    count, rows = int(usual.sum()), int(usual[which].sum())
    if not 1 < count < (4 if gap == _DAY else 7):
        return None
    first, last = at[[0, -1]].to_numpy().astype("M8[D]")
    there = np.busday_count(first, last + 1, weekmask=usual)
    if there < 3 * count or rows < 0.8 * there or rows < 0.9 * len(at):
        return None
    return _some_weekdays([_WEEKDAYS[i] for i in np.flatnonzero(usual)])


def _nearest_days(stamps: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """The days of ordered stamps, each read at the newest one's time of day: a minute past midnight may be a day's end."""
    return (stamps - (stamps[-1] - stamps[-1].normalize())).round("D")


def _some_weekdays(names: list[str]) -> BaseOffset:
    return pd.offsets.CustomBusinessDay(weekmask=" ".join(name.title() for name in names))


def _month_step(stamps: pd.DatetimeIndex, months: int | None = None) -> BaseOffset | None:
    """The step of so many months (None: the most common) that hits every stamp; None where there is none."""
    if months is None:
        count = np.diff(np.asarray(stamps.year * 12 + stamps.month))
        if not count.any():
            return None
        months = _common(count[count > 0])
    kinds = (
        pd.offsets.MonthBegin,
        pd.offsets.MonthEnd,
        pd.offsets.BMonthEnd,
        pd.offsets.BMonthBegin,
    )
    for kind in kinds:
        if _all_on(kind(), stamps):
            return kind(months)
    # the 30th, and the end of February
    full = int(stamps.day.max())
    on_day = stamps.day == np.minimum(full, stamps.days_in_month)
    return pd.DateOffset(months=months, day=full) if on_day.all() else None


def _all_on(step: BaseOffset, stamps: pd.DatetimeIndex) -> bool:
    return all(step.is_on_offset(stamp) for stamp in stamps)


def _aligned(step: BaseOffset, stamps: pd.DatetimeIndex) -> BaseOffset:
    """The same calendar step, anchored where the stamps are: "M" also serves the first of each month."""
    if _all_on(step, stamps):
        return step
    for months, letter in ((1, "M"), (3, "Q"), (12, "Y")):
        if step.rule_code.split("-")[0] in (letter + "S", letter + "E"):
            return _month_step(stamps, months * step.n) or step
    return step


def _label(step: BaseOffset) -> str:
    """Text that `parse_freq` reads; `_aligned` finds the day of the month again."""
    if type(step) is pd.DateOffset:
        return pd.offsets.MonthBegin(step.kwds["months"]).freqstr
    if isinstance(step, pd.offsets.CustomBusinessDay) and step.n == 1:
        return "-".join(["W", *step.weekmask.upper().split()])
    return step.freqstr


def _nanos(step: BaseOffset) -> int | None:
    """Length of a step that is always equally long on the clock, else None."""
    # the grid ends at the newest stamp, so that the weekday of a weekly step comes from there
    if isinstance(step, pd.offsets.Week):
        return 7 * step.n * _DAY
    if isinstance(step, pd.offsets.Day):
        return step.n * _DAY
    try:
        return int(step.nanos)
    except ValueError:
        return None


def _fixed_grid(ticks: np.ndarray, step: int, name: str) -> tuple[np.ndarray, np.ndarray, int]:
    last = int(ticks.max())
    if (last - int(ticks.min())) // step >= MAX_STEPS:
        raise InputError(
            f"{name}: {len(ticks)} rows span more than {MAX_STEPS:,} steps of the inferred or given frequency; "
            "correct the oldest and newest stamp, or give a longer --freq (freq= in Python)"
        )
    back = (last - ticks + step // 2) // step  # (rows,) steps before the newest
    moved = int(np.count_nonzero((last - ticks) % step))
    length = int(back.max()) + 1
    return last - step * np.arange(length - 1, -1, -1), length - 1 - back, moved


def _calendar_grid(
    stamps: pd.DatetimeIndex, step: BaseOffset
) -> tuple[pd.DatetimeIndex, np.ndarray, int]:
    first, last = stamps.min(), stamps.max()
    if isinstance(step, pd.offsets.CustomBusinessDay):
        # its steps keep the time of day that they start from, and the grid ends at the newest stamp's
        first = first.normalize() - pd.Timedelta(days=1) + (last - last.normalize())
    grid = _span(step.rollback(first), step.rollforward(last), step)
    right = np.clip(grid.searchsorted(stamps), 1, len(grid) - 1)
    distance = stamps.asi8 - grid.asi8[right - 1], grid.asi8[right] - stamps.asi8
    cells = np.where(distance[0] < distance[1], right - 1, right)
    moved = int(np.count_nonzero(grid.asi8[cells] != stamps.asi8))
    low, high = int(cells.min()), int(cells.max())
    return grid[low : high + 1], cells - low, moved


def _span(start: pd.Timestamp, stop: pd.Timestamp, step: BaseOffset) -> pd.DatetimeIndex:
    """At least two grid stamps from `start` to `stop` or beyond."""
    if type(step) is pd.DateOffset:
        months = (stop.year - start.year) * 12 + stop.month - start.month
        return _walk(start, step, months // step.kwds["months"] + 2)
    grid = pd.date_range(start, stop, freq=step).as_unit("ns")
    return grid.append(_walk(grid[-1], step, 2)[1:])


def _walk(start: pd.Timestamp, step: BaseOffset, count: int) -> pd.DatetimeIndex:
    # one stamp at a time would let the 31st drift to the 28th for good
    if type(step) is pd.DateOffset:
        months, day = step.kwds["months"], step.kwds["day"]
        ahead = [start + pd.DateOffset(months=months * i, day=day) for i in range(count)]
        return pd.DatetimeIndex(ahead).as_unit("ns")
    return pd.date_range(start, periods=count, freq=step).as_unit("ns")
