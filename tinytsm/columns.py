"""Which column means what.

A table is *long* (id, time stamp, one or more target columns) or *wide* (one time stamp column, each number column
a series). `infer_layout` finds the roles that the user did not name, and says what it guessed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tinytsm.errors import Doubt, InputError
from tinytsm.stamps import looks_like_clock, looks_like_dates
from tinytsm.tables import ID_NAMES, is_text

_TIME_NAMES = ("timestamp", "date", "datetime", "ds", "time", "year")
_TARGET_NAMES = ("target", "y", "value", "values")
# Numbers as people write them.
_NUMBER = r"\s*[-+(]?[$€£]?\s*\d{1,3}(\d*|([.,']\d{3})*)([.,]\d+)?\s*[%$€£)]?\s*"
# What some write where a value is missing, and how many ranges of the other values it is away from them.
_MARKS, _FAR = (999.0, 9999.0, 99999.0, 999999.0), 5
# Columns of results, which ids and time stamps stand beside.
_RESULTS = (
    "target_name", "predictions", "mean", "cutoff", "actual", "value", "imputed", "z", "probability", "anomaly",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which columns mean what. id_column None: wide; timestamp_column None: rows are steps 0, 1, 2, ..."""

    id_column: str | None
    timestamp_column: str | None
    targets: tuple[str, ...]
    covariates: tuple[str, ...] = ()

    @property
    def id_name(self) -> str:
        """The ids' column in a result."""
        return "item_id" if self.id_column is None else self.id_column

    @property
    def stamp_name(self) -> str:
        """The time stamps' column in a result."""
        return "timestamp" if self.timestamp_column is None else self.timestamp_column


def infer_layout(
    df: pd.DataFrame,
    *,
    id_column: Any = None,
    timestamp_column: Any = None,
    target: Any = None,
    covariates: Sequence[str] = (),
) -> tuple[Layout, list[str]]:
    """Find the columns that were not named; returns the layout and notes on what was guessed.

    id_column, timestamp_column: a label. target: one, or several. covariates: columns that are no targets; those that turn
        out to be ids, stamps or row numbers are no covariates either.
    Raises InputError where a named column is absent, a name is there twice or no number column is left.
    """
    if df.columns.has_duplicates:
        twice = df.columns[df.columns.duplicated()][0]
        raise InputError(f"column {twice!r} appears twice; rename or drop one of the two")
    notes: list[str] = []
    # a label may be a number too, as frames made of arrays have them
    if target is None:
        target = ()
    several = isinstance(target, Iterable) and not isinstance(target, str)
    targets: tuple[Any, ...] = tuple(target) if several else (target,)
    for column, role in (
        (id_column, "ids"),
        (timestamp_column, "time stamps"),
        *((t, "target") for t in targets),
        *((c, "covariates") for c in covariates),
    ):
        if column is not None and column not in df.columns:
            known = ", ".join(map(str, df.columns[:20]))
            found = "" if role == "covariates" else " (None in Python) to have it found"
            raise InputError(
                f"column {column!r} for the {role} is missing; the table has: {known}; "
                f"name one of these, or leave it out{found}"
            )
    taken = [c for c in (id_column, timestamp_column, *targets) if c is not None]
    if len(set(taken)) < len(taken):
        twice = next(c for c in taken if taken.count(c) > 1)
        raise InputError(f"column {twice!r} is named for two roles; name a different one for each")
    free = [c for c in df.columns if c not in taken]

    if timestamp_column is None:
        timestamp_column = _find_stamps(df, free)
        if timestamp_column is None:
            if not targets:
                _check_not_transposed(df)
            notes.append(_no_stamps(df, [c for c in free if c not in covariates]))
        else:
            free.remove(timestamp_column)
    if id_column is None:
        id_column = _find_ids(df, free, timestamp_column, notes)
        free = [c for c in free if c != id_column]
    covariates = tuple(c for c in covariates if c in free or c in targets)
    if both := [c for c in covariates if c in targets]:
        raise InputError(f"column {both[0]!r} is the target and cannot be a covariate too")
    if not targets:
        left = [c for c in free if c not in covariates]
        if covariates and not left:
            raise InputError(
                f"no column is left to forecast: {', '.join(map(str, covariates))} are covariates; leave the target out "
                "of them"
            )
        targets = _find_targets(df, left, id_column, notes)
    for column in (id_column, timestamp_column):
        if column in _RESULTS:
            raise InputError(
                f"column {column!r} would meet one of that name in the result; rename it"
            )
    layout = Layout(
        id_column=id_column,
        timestamp_column=timestamp_column,
        targets=targets,
        covariates=covariates,
    )
    return layout, notes


def levels_as_columns(
    df: pd.DataFrame, id_column: str | None, timestamp_column: str | None
) -> pd.DataFrame:
    """The frame with index levels that are no columns yet as columns: the named ones, and dates where they may be meant.

    An index of dates without a name gets `timestamp_column`'s, or "timestamp". Where no column is named for the time
    stamps, all levels beside dates are taken.
    """
    index = df.index
    if isinstance(index, pd.DatetimeIndex | pd.PeriodIndex):
        name = timestamp_column or index.name or "timestamp"
        fits = index.name in (None, name) and name not in df.columns
        return df.reset_index(names=name) if fits else df
    dated = timestamp_column is None and any(
        isinstance(level, pd.DatetimeIndex | pd.PeriodIndex)
        for level in getattr(index, "levels", ())
    )
    levels = [
        name
        for name in index.names
        if name is not None
        and name not in df.columns
        and (dated or name in (id_column, timestamp_column))
    ]
    return df.reset_index(levels) if levels else df


def _named(columns: list[str], names: tuple[str, ...]) -> str | None:
    by_name = {str(c).lower(): c for c in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def _find_stamps(df: pd.DataFrame, free: list[str]) -> str | None:
    named = _named(free, _TIME_NAMES)
    if named is not None:
        return named
    # ids such as 2001 are years, too
    return next(
        (c for c in free if str(c).lower() not in ID_NAMES and looks_like_dates(df[c])), None
    )


def _no_stamps(df: pd.DataFrame, free: list[str]) -> str:
    """What is said where no column holds dates; a doubt where texts with digits in every row may be some."""
    note = "no time stamp column found: rows are numbered 0, 1, 2, ..."
    for column in free:
        texts = df[column].dropna().astype(str)
        if is_text(df[column]) and texts.str.contains(r"\d").all() and texts.nunique() > 2:
            return Doubt(
                f"{note} in their order; if column {str(column)!r} ({texts.iloc[0][:40]!r}) holds their dates, write them as "
                "2024-01-31"
            )
    return note


def _check_not_transposed(df: pd.DataFrame) -> None:
    names = pd.Series([str(c) for c in df.columns[1:]])
    if len(names) > 1 and not names.str.fullmatch(r"\d+").any() and looks_like_dates(names):
        raise InputError(
            f"most columns are dates ({names.iloc[-1]}): turn the table, so that each row is a date (df.set_index(...).T in "
            "pandas), or name the columns to forecast with --target (target=)"
        )


def _find_ids(
    df: pd.DataFrame, free: list[str], timestamp_column: str | None, notes: list[str]
) -> str | None:
    named = _named(free, ID_NAMES)
    if named is not None:
        if df[named].nunique() < max(len(df), 2) or is_text(df[named]):
            return named
        notes.append(Doubt(f"column {str(named)!r} differs in every row: row numbers, left out"))
        free.remove(named)
    if timestamp_column is None or not df[timestamp_column].duplicated().any():
        return None
    texts = [c for c in free if is_text(df[c]) and not looks_like_dates(df[c])]
    clocks = [c for c in texts if looks_like_clock(df[c])]
    # a series has each time stamp once, but for a mistake or two: a column where most are there again names something else
    stamps = timestamp_column
    words = [c for c in texts if c not in clocks]
    repeats = {c: df.duplicated([c, stamps]).mean() for c in words}
    texts = [c for c in words if repeats[c] < 0.5]
    # of two columns that together tell all rows apart neither is the ids
    alone = [c for c in words if repeats[c] < 0.02]
    if not alone and len(words) > 1 and not df.duplicated([*words, stamps]).any():
        # without those that the others do without
        for one in words[:]:
            others = [c for c in words if c != one]
            if not df.duplicated([*others, stamps]).any():
                words = others
        raise InputError(
            f"time stamps repeat and only {', '.join(map(repr, words))} together name the series; join them to one "
            "column and name it with --id-column (id_column=)"
        )
    if not texts and clocks:
        raise InputError(
            f"time stamps repeat and column {str(clocks[0])!r} holds times of day; join the two to one column such as "
            "2024-01-31 15:00, or choose the series with --id-column (id_column=)"
        )
    if not texts:
        return None
    if len(texts) > 1:
        listed = ", ".join(map(repr, texts[:5]))
        raise InputError(
            f"time stamps repeat and {listed} could name the series; choose with --id-column (id_column=)"
        )
    notes.append(
        Doubt(f"time stamps repeat: column {str(texts[0])!r} is taken for the series' ids")
    )
    return texts[0]


def _find_targets(
    df: pd.DataFrame, free: list[str], id_column: str | None, notes: list[str]
) -> tuple[str, ...]:
    if id_column is not None and (named := _named(free, _TARGET_NAMES)) is not None:
        return (named,)
    unused = [c for c in free if is_text(df[c]) or looks_like_dates(df[c])]
    targets = tuple(c for c in free if c not in unused)
    if not targets:
        if unused:
            where, bad = _first_text(df, unused[0])
            raise InputError(
                f"no number column to forecast: {where}, column {str(unused[0])!r} holds {bad!r}; "
                "the table needs a column of numbers, written as 1234.5"
            )
        raise InputError("no number column to forecast; the table needs a column of numbers")
    if unused:
        notes.append(f"columns that hold no numbers are left out: {', '.join(map(str, unused))}")
        notes += [Doubt(words) for column in unused if (words := _like_numbers(df, column))]
    return targets


def _like_numbers(df: pd.DataFrame, column: str) -> str:
    """Words on a column of texts that are numbers to a person, such as 1.234,5 or 12 %; none for any other."""
    if df[column].dtype.kind != "O" and not isinstance(df[column].dtype, pd.StringDtype):
        return ""
    given = df[column].notna()
    texts = df[column].astype(str)
    found = given & texts.str.fullmatch(_NUMBER) & pd.to_numeric(texts, errors="coerce").isna()
    if 2 * found.sum() <= given.sum():
        return ""
    row = int(np.flatnonzero(found)[0])
    return f"{place(df, row)}, column {str(column)!r}: {texts.iloc[row]!r} is not read as a number; write it as 1234.5"


def _first_text(df: pd.DataFrame, column: str) -> tuple[str, str]:
    given = df[column].notna()
    # the first that is no number: of 950 and 1,032 the second
    wrong = given & pd.to_numeric(df[column].astype(str), errors="coerce").isna()
    row = int(np.flatnonzero(wrong if wrong.any() else given)[0])
    return place(df, row), str(df[column].iloc[row])[:40]


def place(df: pd.DataFrame, row: int) -> str:
    """Words for the place of a row: the file's line where `read_table` made the frame, else the index label."""
    kind = df.index.name if df.index.name in ("line", "row") else "row"
    return f"{kind} {df.index[row]}"


def numbers(df: pd.DataFrame, column: str) -> np.ndarray:
    """(rows,) float64 of a column, NaN where missing; InputError at the first text or infinity."""
    given = df[column]
    label = f"column {str(column)!r}"
    if given.dtype.kind in "mMc" or isinstance(given.dtype, pd.DatetimeTZDtype | pd.PeriodDtype):
        raise InputError(f"{label} holds {given.dtype}, not numbers; name another target column")
    if isinstance(given.dtype, pd.CategoricalDtype):
        given = given.astype(object)
    try:
        values = pd.to_numeric(given, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{label} holds {given.dtype} that cannot be read ({error})") from None
    wrong = np.isnan(values) & given.notna().to_numpy()
    if wrong.any():
        # a cell of blanks is an empty cell; a float NaN is missing whatever the column's type
        texts = given[wrong].astype(str).str.strip().str.lower()
        wrong[wrong] = ~texts.isin(("", "nan", "na", "null", "none")).to_numpy()
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{place(df, row)}, {label}: {str(given.iloc[row])[:40]!r} is not a number; "
            "write it as 1234.5, or leave it empty where it is missing"
        )
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise InputError(
            f"{place(df, row)}, {label}: the value is infinite; correct it, or leave it empty"
        )
    return values


def doubt_marks(df: pd.DataFrame, column: str, values: np.ndarray) -> list[str]:
    """A doubt where (rows,) numbers of a column hold what marks missing values elsewhere, far from all others."""
    marks = np.isin(np.abs(values), _MARKS)
    others = values[~marks & ~np.isnan(values)]
    if not marks.any() or not len(others):
        return []
    low, high = others.min(), others.max()
    # halved, because the largest numbers have no difference
    beyond = np.maximum(values / 2 - high / 2, low / 2 - values / 2)
    far = marks & (beyond / _FAR > high / 2 - low / 2)
    if not far.any() or low == high:
        return []
    row = int(np.flatnonzero(far)[0])
    return [
        Doubt(
            f"{place(df, row)}, column {str(column)!r}: {values[row]:g} is far from all other values ({int(far.sum()):,} of "
            f"{len(values):,} rows are); leave it empty if it marks a missing value"
        )
    ]
