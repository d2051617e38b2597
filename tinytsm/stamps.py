"""Columns to time stamps: texts, numbers and dates as people write them."""

import contextlib
import datetime
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from tinytsm.errors import Doubt, InputError

_DATE_LIKE = re.compile(
    r"\d{4}|\d{1,2}[/.\-]\d{1,2}[/.\-]\d{2}|\d:\d\d|\d{1,2}[ \-][A-Za-z]{3,9}[ \-]\d{2}|^[A-Za-z]{3,9}[ \-']\d{2}$"
)
_DAY_OR_MONTH_FIRST = re.compile(r"(?:^|.*\s)\d{1,2}([/.\-])\d{1,2}\1\d{2,4}\b")
_MONTH_NAMES = ("date", "month", "yearmonth", "year_month", "yyyymm", "period")
# What pandas does not read: a pattern, what to make of it, and the format of that.
_PERIODS = (
    (r"([A-Za-z]{3})[a-z]*[ \-']+(\d{2})", r"\1 \2", "%b %y"),
    (r"(\d{1,2})[./\-](\d{4})", r"\2-\1", "%Y-%m"),
    (r"(\d{4})-?M(\d{1,2})", r"\1-\2", "%Y-%m"),
    (r"(\d{4})[- ]?W(\d{2})", r"\1-W\2-1", "%G-W%V-%u"),
)
_QUARTER = r"(?:Q([1-4])[- /]?(\d{4})|(\d{4})[- /]?Q([1-4]))"
# From here on until there, as markets write: the beginning counts.
_INTERVAL = r"(\S.*\d:\d\d\S*)\s+[-\u2013]\s+(?:\S.*)?\d:\d\d.*"
_CLOCK = r"(?i:\s*\d{1,2}:\d\d(:\d\d([.,]\d+)?)?\s*([ap]\.?m\.?)?\s*(Z|[+-]\d\d:?\d\d)?\s*)"


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
    native = pd.api.types.is_datetime64_any_dtype(column)
    if not native and all(isinstance(cell, datetime.datetime) for cell in column):
        # Arrow's or Python's own, whose texts would lose the time zone
        with contextlib.suppress(ValueError, TypeError):
            column = pd.Series(pd.DatetimeIndex(column), column.index, name=column.name)
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
    one_year = written == "YYYYMM" and whole.min() // 100 == whole.max() // 100
    if dates is None or (one_year and str(column.name).lower() not in _MONTH_NAMES):
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
    periods, note = _parse_periods(text)
    if periods is not None:
        return periods, note
    if re.fullmatch(_INTERVAL, text.iloc[0]) and text.str.fullmatch(_INTERVAL).all():
        text = text.str.replace(_INTERVAL, r"\1", regex=True)
    # pandas reads words such as "now" and times of day such as 12:00 as dates of today
    text = text.where(text.str.contains(r"\d", regex=True) & ~text.str.fullmatch(_CLOCK))
    best = _to_datetime(text)
    if not best.isna().any():
        if text.str.match(_DAY_OR_MONTH_FIRST).all():
            other = _to_datetime(text, dayfirst=True)
            if not other.isna().any() and not other.equals(best):
                # nobody who writes dots puts the month first
                dotted = text.str.contains(r"\d\.\d+\.\d", regex=True).all()
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


def _parse_periods(text: pd.Series) -> tuple[pd.Series | None, str | None]:
    """The first day of months, weeks or quarters, None where some text is none; and a note or None."""
    text = text.str.strip()
    for pattern, written, form in _PERIODS:
        # of one first, because most tables have dates
        if not re.fullmatch(pattern, text.iloc[0]) or not text.str.fullmatch(pattern).all():
            continue
        found = _to_datetime(text.str.replace(pattern, written, regex=True), format=form)
        if found.isna().any():
            return None, None
        if form == "%b %y":
            # of days, which May 18 may be too, those of one month follow one another
            if (found.dt.month.diff()[1:] == 0).mean() > 0.1 or found.dt.month.nunique() == 1:
                return None, None
            return found, Doubt("dates are read as month and year; write 2024-01 or 2024-01-31")
        if form == "%G-W%V-%u" and (found.dt.isocalendar().week != text.str[-2:].astype(int)).any():
            # not every year has a week 53
            return None, None
        return found, None
    if re.fullmatch(_QUARTER, text.iloc[0]) and text.str.fullmatch(_QUARTER).all():
        parts = text.str.extract(_QUARTER)
        year, quarter = parts[1].fillna(parts[2]), parts[0].fillna(parts[3])
        first = year + "-" + (3 * quarter.astype(int) - 2).astype(str)
        return _to_datetime(first, format="%Y-%m"), None
    return None, None


def _is_regular(dates: pd.Series) -> bool:
    distinct = pd.DatetimeIndex(dates.drop_duplicates().sort_values())
    return len(distinct) > 2 and exact_alias(distinct) is not None


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


def advice_on_repeats(stamps: pd.Index, *, named: bool) -> str:
    """What to do about stamps that are there twice. named: whether a column holds ids."""
    again = stamps[stamps.duplicated()]
    if len(again) > max(1, len(stamps) // 20):
        advice = f"{len(again):,} of {len(stamps):,} rows repeat one: sum or average them first"
        return advice + ("" if named else ", or name the ids' column with --id-column (id_column=)")
    if isinstance(stamps, pd.DatetimeIndex) and stamps.tz is None:
        # on Sundays in autumn clocks go back
        autumn = again.month.isin((10, 11)) & (again.day_of_week == 6) & again.hour.isin((1, 2))
        if autumn.all() and (again != again.normalize()).any():
            return (
                "if the clocks went back, write both with their offset, 2024-10-27T02:00+02:00, or all in UTC "
                '(in pandas column.dt.tz_localize("Europe/Berlin", ambiguous="infer"))'
            )
    advice = "delete one of the rows"
    if named:
        return advice
    return f"{advice}, join date and hour to one column, or name the ids' column with --id-column (id_column=)"


def exact_alias(stamps: pd.DatetimeIndex) -> str | None:
    """The pandas frequency of ordered stamps, None where they have none."""
    with warnings.catch_warnings():
        # pandas 4 will give the offset itself, which serves as well
        warnings.simplefilter("ignore", DeprecationWarning)
        return pd.infer_freq(stamps)
