"""Covariates of frames: columns beside the targets, and what is known of them in the steps to come (`future_df`).

Here they are checked, as Chronos-2 would, and become numbers; `tinytsm.exogenous` forecasts with them.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tinytsm.columns import Layout, numbers, place
from tinytsm.errors import Doubt, InputError
from tinytsm.stamps import parse_stamps, stamp_text
from tinytsm.tables import is_text

if TYPE_CHECKING:
    from tinytsm.frames import Series

# What holds them, as a caller from Python knows it and as the command's flag.
FUTURE = "future_df (--future)"
# Each text of a column is a covariate of its own; with more it is a name or a remark.
_MOST_TEXTS = 50


def shared_columns(future: pd.DataFrame, df: pd.DataFrame) -> tuple[tuple[str, ...], list[str]]:
    """Columns that the future and the history both have, and those of the future alone: nothing tells what they do.

    A column of the future that holds nothing, as that of the target may, is none. Raises InputError where it has no rows.
    """
    if future.empty:
        raise InputError(
            f"{FUTURE} has no rows; give the steps to come of each series, or leave it out"
        )
    known = [c for c in future.columns if future[c].notna().any()]
    return (
        tuple(c for c in known if c in df.columns),
        [str(c) for c in known if c not in df.columns],
    )


def check_roles(future: pd.DataFrame, layout: Layout) -> None:
    """Raise InputError where the future lacks the ids or the time stamps."""
    for column in (layout.id_column, layout.timestamp_column):
        if column is not None and column not in future.columns:
            listed = ", ".join(map(str, future.columns))
            raise InputError(
                f"{FUTURE} has no column {column!r}; it has: {listed}; add it, with a row for each step to come of each series"
            )


def encode(
    df: pd.DataFrame, names: Sequence[str], future: pd.DataFrame | None
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Covariates as numbers, NaN where missing: (rows, C) of the history and of the future, None where there is none; and
    notes.

    A column of texts becomes one for each text of the history, 1 where it stands; a text that only the future has counts as
    missing. Raises InputError for dates, infinities, text among numbers and too many texts.
    """
    notes: list[str] = []
    tables = [df] if future is None else [df, future]
    encoded: list[list[np.ndarray]] = [[] for _ in tables]
    for name in names:
        column = df[name]
        if not (is_text(column) or isinstance(column.dtype, pd.CategoricalDtype)):
            for table, columns in zip(tables, encoded, strict=True):
                columns.append(_numbers(table, name, ours=table is df))
            continue
        texts = column.dropna().astype(str).unique()
        if len(texts) > _MOST_TEXTS:
            raise InputError(
                f"covariate {name!r} has {len(texts)} different texts, more than {_MOST_TEXTS}, such as {texts[0]!r:.40}; "
                "leave it out, give fewer kinds, or write numbers as 1234.5"
            )
        for table, columns in zip(tables, encoded, strict=True):
            own = table[name].astype(str)
            given = table[name].notna()
            known = given & own.isin(texts)
            columns += [np.where(known, own == text, np.nan) for text in texts]
            if new := sorted(set(own[given & ~known])):
                listed, seen = (", ".join(map(repr, some[:5])) for some in (new, list(texts)))
                notes.append(
                    Doubt(
                        f"covariate {name!r} of {FUTURE}: {listed} not in the history ({seen}), so without effect"
                    )
                )
    past, *coming = (np.stack(columns, 1) for columns in encoded)
    return past, coming[0] if coming else None, notes


def _numbers(table: pd.DataFrame, name: str, *, ours: bool) -> np.ndarray:
    """(rows,) of a column of numbers. ours: whether the table is the history."""
    try:
        return numbers(table, name)
    except InputError as error:
        raise InputError(f"covariate {name!r}{'' if ours else f' of {FUTURE}'}: {error}") from None


def go_on(
    series: "list[Series]",
    future: pd.DataFrame,
    coming: np.ndarray,
    df: pd.DataFrame,
    layout: Layout,
    *,
    horizon: int,
) -> "list[Series]":
    """The series with what is known of their next `horizon` steps: `known` (T + H, C).

    coming: (rows, C) of the future. df: the history, whose stamps say how the future's are read. Raises InputError where
    the stamps of an item are not those that are forecast.
    """
    stamps = None
    if layout.timestamp_column is not None:
        stamps = _read_like(df[layout.timestamp_column], future, layout.timestamp_column)
    by_item = {}
    if layout.id_column is not None:
        by_item = pd.RangeIndex(len(future)).groupby(future[layout.id_column].to_numpy())
    every = np.arange(len(future))
    result = []
    for one in series:
        rows = (
            every if layout.id_column is None else np.asarray(by_item.get(one.item, []), np.int64)
        )
        index = one.timeline.future(horizon)
        if stamps is not None:
            # in any order, in any unit
            rows = rows[np.argsort(stamps[rows], kind="stable")]
        got = one.timeline.future(len(rows)) if stamps is None else stamps[rows]
        if not len(rows):
            listed = ", ".join(map(repr, list(by_item)[:5]))
            raise InputError(f"{FUTURE} has no row of series {one.item!r}; its ids are {listed}")
        if len(rows) != horizon or not (got == index).all():
            first, last = stamp_text(index[0]), stamp_text(index[-1])
            raise InputError(
                f"{FUTURE} must have the {horizon} steps from {first} to {last} once each for series "
                f"{str(one.item)!r}, got {len(rows)} rows: {_difference(got, index)}"
            )
        assert one.known is not None, "the history was split with its covariates"
        result.append(dataclasses.replace(one, known=np.concatenate((one.known, coming[rows]))))
    return result


def _difference(got: pd.Index, wanted: pd.Index) -> str:
    """Words for how stamps that are not those wanted differ from them."""
    zones = ["no" if getattr(index, "tz", None) is None else "a" for index in (got, wanted)]
    if zones[0] != zones[1]:
        return f"its stamps have {zones[0]} time zone, those of the data have {zones[1]} time zone"
    faults = [
        f"{words.format(len(stamps))}, the first {stamp_text(stamps[0])}"
        for words, stamps in (
            ("add {}", wanted.difference(got)),
            ("leave out {}", got.difference(wanted)),
            ("{} are there twice", got[got.duplicated()]),
        )
        if len(stamps)
    ]
    return "; ".join(faults)


def _read_like(given: pd.Series, future: pd.DataFrame, column: str) -> pd.Index:
    """(rows,) stamps of the future, read together with those given where they can be: 03/02 alone may be either month."""
    own = future[column]
    stamps, _ = parse_stamps(own, lambda row: f"{FUTURE}, {place(future, row)}")
    if not pd.api.types.is_datetime64_any_dtype(own):
        with suppress(InputError):
            stamps = parse_stamps(pd.concat([given, own]), str)[0][len(given) :]
    return stamps
