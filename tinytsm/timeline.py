"""Time stamps to a regular grid.

A forecaster sees values at equal steps; stamps in the world have gaps, jitter, months of unequal length and summer
time. `parse_stamps` reads them, `lay_out` finds the step, assigns each stamp a cell and can continue the grid.
The grid ends at the newest stamp, so that a forecast begins one step after it.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset
from pandas.tseries.offsets import BaseOffset

from tinytsm.errors import Doubt, InputError

# a grid this long comes from a wrong date or a wrong step, and would fill the memory with missing values
MAX_STEPS = 10_000_000
_DAY = 86_400_000_000_000  # ns
_ADVICE = "give --freq (freq= in Python) such as h, D, MS or 15min"
_DATE_LIKE = re.compile(r"\d{4}|\d{1,2}[/.\-]\d{1,2}[/.\-]\d{2}|\d:\d\d")
_DAY_OR_MONTH_FIRST = re.compile(r"\s*\d{1,2}[/.\-]\d{1,2}[/.\-]\d{2,4}\b")
_CLOCK = r"(?i:\s*\d{1,2}:\d\d(:\d\d([.,]\d+)?)?\s*([ap]\.?m\.?)?\s*(Z|[+-]\d\d:?\d\d)?\s*)"
# pandas 2.2 renamed these; tables, papers and other forecasters still say them
_OLD_NAMES = {
    "H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns",
    "M": "ME", "BM": "BME", "Q": "QE", "BQ": "BQE", "A": "YE", "Y": "YE", "AS": "YS", "BA": "BYE",
}  # fmt: skip


_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")


@dataclass(frozen=True, kw_only=True, eq=False)
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


def parse_freq(freq: str | int) -> BaseOffset | int:
    """A pandas alias, old or new spelling, some days of the week such as W-TUE-FRI, or a whole number for integer stamps.

    Raises InputError.
    """
    text = str(freq).strip()
    if text.isdecimal() and int(text) > 0:
        return int(text)
    days = text.upper().split("-")
    if len(days) > 2 and days[0] == "W" and set(days[1:]) <= set(_WEEKDAYS):
        return _some_weekdays(days[1:])
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


def looks_like_dates(column: pd.Series) -> bool:
    """Whether most of the first texts of a column are dates; a name alone says nothing."""
    if isinstance(column.dtype, pd.DatetimeTZDtype | pd.PeriodDtype) or column.dtype.kind == "M":
        return True
    if pd.api.types.is_numeric_dtype(column):
        return False
    sample = column.dropna().iloc[:50].astype(str)
    if sample.map(lambda s: bool(_DATE_LIKE.search(s))).sum() * 2 <= len(sample):
        return False
    # SKU-1001 has four digits too
    return bool(_parse_text(sample)[0].notna().mean() > 0.5)


def looks_like_clock(column: pd.Series) -> bool:
    """Whether most of the first texts of a column are times of day, such as 15:00."""
    sample = column.dropna().iloc[:50].astype(str)
    return bool(sample.str.fullmatch(_CLOCK).sum() * 2 > len(sample))


def parse_stamps(column: pd.Series, where: Callable[[int], str]) -> tuple[pd.Index, str | None]:
    """Read a column as stamps: (rows,) DatetimeIndex in ns, or int64 index; and a note or None.

    where: row position -> words that name the row. Raises InputError for the first row that is no stamp.
    """
    label = f"column {str(column.name)!r}"
    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0])
        raise InputError(
            f"{where(row)}, {label}: time stamp is missing; fill it in or delete the row"
        )
    if pd.api.types.is_bool_dtype(column) or column.dtype.kind in "cm":
        raise InputError(f"{label} holds {column.dtype}, not time stamps; name another column")
    if pd.api.types.is_numeric_dtype(column):
        return _parse_numbers(column, label, where)
    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.to_timestamp()
    note = None
    if not pd.api.types.is_datetime64_any_dtype(column):
        text = column.astype(object).astype(str)
        column, note = _parse_text(text)
        if column.isna().any():
            row = int(np.flatnonzero(column.isna())[0])
            raise InputError(
                f"{where(row)}, {label}: {_short(text.iloc[row])} is not a date; write it as 2024-01-31 or "
                "2024-01-31 15:00"
            )
        note = note and type(note)(f"{label}: {note}")
    try:
        return pd.DatetimeIndex(column).as_unit("ns"), note
    except (pd.errors.OutOfBoundsDatetime, OverflowError):
        raise InputError(f"{label}: dates must lie between the years 1678 and 2261") from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _parse_numbers(
    column: pd.Series, label: str, where: Callable[[int], str]
) -> tuple[pd.Index, str | None]:
    values = column.to_numpy(np.float64)
    wrong = ~(np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < 2**53))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        if 2**53 <= abs(values[row]) < np.inf:
            raise InputError(
                f"{where(row)}, {label}: {column.iloc[row]} is too large for a whole number of steps; convert the column "
                "with pd.to_datetime if it counts nanoseconds, or divide it"
            )
        raise InputError(
            f"{where(row)}, {label}: {values[row]:g} is neither a date nor a whole number; "
            "name another time stamp column or leave it out"
        )
    whole = values.astype(np.int64)
    dates, written = _dates_in_digits(whole)
    # within one year, months may as well be numbers that happen to end in 01 to 12
    if dates is None or (written == "YYYYMM" and whole.min() // 100 == whole.max() // 100):
        return pd.Index(whole), None
    return pd.DatetimeIndex(dates).as_unit("ns"), f"{label}: read as dates {written}"


def _dates_in_digits(whole: np.ndarray) -> tuple[pd.Series | None, str]:
    """Dates written as whole numbers, None where some are no dates; and how they are written."""
    low, high = whole.min(), whole.max()
    for oldest, newest, form, written in (
        (1900_01_01_00_00, 2200_12_31_23_59, "%Y%m%d%H%M", "YYYYMMDDHHMM"),
        (1900_01_01_00, 2200_12_31_23, "%Y%m%d%H", "YYYYMMDDHH"),
        (1900_01_01, 2200_12_31, "%Y%m%d", "YYYYMMDD"),
        (1900_01, 2200_12, "%Y%m", "YYYYMM"),
    ):
        if oldest <= low and high <= newest:
            dates = pd.to_datetime(pd.Series(whole.astype(str)), format=form, errors="coerce")
            if dates.notna().all():
                return dates, written
    return None, ""


def _parse_text(text: pd.Series) -> tuple[pd.Series, str | None]:
    """Dates of a text column, NaT where there is none; the reading that understands most rows wins."""
    if text.str.fullmatch(r"(\d{6}|\d{10})").all():
        # pandas takes 200101 for the 20th of January 2001
        dates, written = _dates_in_digits(text.to_numpy(np.int64))
        if dates is None:
            return pd.Series(pd.NaT, index=text.index), None
        return dates.set_axis(text.index), f"read as dates {written}"
    # pandas reads words such as "now" and times of day such as 12:00 as dates of today
    text = text.where(text.str.contains(r"\d", regex=True) & ~text.str.fullmatch(_CLOCK))
    best = _to_datetime(text)
    note: str | None = None
    if not best.isna().any():
        if text.str.match(_DAY_OR_MONTH_FIRST).all():
            other = _to_datetime(text, dayfirst=True)
            if not other.isna().any() and not other.equals(best):
                # nobody who writes dots puts the month first
                dotted = text.str.match(r"\s*\d+\.").all()
                day_first = dotted or (_is_regular(other) and not _is_regular(best))
                best, first = (other, "day") if day_first else (best, "month")
                note = Doubt(f"dates are read as {first} first; write 2024-01-31 if that is wrong")
        return best, note
    for reading, remark in (
        ({"format": "ISO8601"}, None),
        ({"dayfirst": True}, "dates are read as day first"),
        ({"format": "ISO8601", "utc": True}, "UTC offsets differ, so all stamps are in UTC"),
    ):
        parsed = _to_datetime(text, **reading)
        if parsed.isna().sum() < best.isna().sum():
            best, note = parsed, remark
    return best, note


def _is_regular(dates: pd.Series) -> bool:
    distinct = pd.DatetimeIndex(dates.drop_duplicates().sort_values())
    return len(distinct) > 2 and _exact_alias(distinct) is not None


def _to_datetime(text: pd.Series, **options: object) -> pd.Series:
    unread = pd.Series(pd.NaT, index=text.index)
    with warnings.catch_warnings():
        # mixed formats and mixed offsets warn; they are told apart by what could be read
        warnings.simplefilter("ignore")
        try:
            parsed = pd.to_datetime(text, errors="coerce", **options)
        except (ValueError, OverflowError, TypeError):
            return unread
    return parsed if pd.api.types.is_datetime64_any_dtype(parsed) else unread


def stamp_text(stamp: Any) -> str:
    """A stamp for messages: midnight goes without its zeros."""
    if not isinstance(stamp, pd.Timestamp):
        return str(stamp)
    return str(stamp.date()) if stamp == stamp.normalize() else str(stamp)


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
        index, cells, moved = _calendar_grid(naive, step)

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


def _exact_alias(stamps: pd.DatetimeIndex) -> str | None:
    with warnings.catch_warnings():
        # pandas 4 will give the offset itself, which serves as well
        warnings.simplefilter("ignore", DeprecationWarning)
        return pd.infer_freq(stamps)


def _infer_step(stamps: pd.DatetimeIndex) -> BaseOffset | None:
    """The step of ordered stamps, None where fewer than 3 leave it open."""
    if len(stamps) < 3:
        return None
    alias = _exact_alias(stamps)
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
    # where most follow another day, the days that are left out are gaps
    if gap > _DAY or gap == _DAY and wall.day_of_week.nunique() < 4:
        days = _days_of_the_week(wall)
        if days is not None:
            return days
    on_weekdays = (wall.day_of_week < 5).all() and wall[-1] - wall[0] >= pd.Timedelta(days=7)
    if gap == _DAY and on_weekdays:
        return pd.offsets.BusinessDay()
    return (
        pd.offsets.Day(gap // _DAY) if gap % _DAY == 0 else to_offset(pd.Timedelta(gap, unit="ns"))
    )


def _days_of_the_week(stamps: pd.DatetimeIndex) -> BaseOffset | None:
    """The step between some days of the week, such as Tuesdays and Fridays: three weeks of them, four in five with a row."""
    days = np.unique(stamps.day_of_week)
    if len(days) in (1, 7) or len(np.unique(stamps.asi8 % _DAY)) > 1:
        return None
    first, last = stamps[[0, -1]].to_numpy().astype("M8[D]")
    there = np.busday_count(first, last + 1, weekmask=np.isin(np.arange(7), days))
    if there < 3 * len(days) or len(stamps) < 0.8 * there:
        return None
    return _some_weekdays([_WEEKDAYS[i] for i in days])


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
    if isinstance(step, pd.offsets.CustomBusinessDay):
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
