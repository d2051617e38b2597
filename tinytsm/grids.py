"""The series of a table on their grids: which step each has, what stands where it has no row, and what is said of it."""

import collections
import contextlib
from typing import Any

import numpy as np
import pandas as pd

from tinytsm.columns import place
from tinytsm.errors import Doubt, InputError
from tinytsm.stamps import advice_on_repeats, stamp_text
from tinytsm.timeline import Timeline, lay_out

# A series of which more stamps than this share lie beside its steps has no step of its own.
_ASTRAY = 0.1


def lay_out_all(
    df: pd.DataFrame,
    label: str,
    items: list[Any],
    rows_of: list[np.ndarray],
    stamps: pd.Index | None,
    *,
    freq: str | int | None,
) -> tuple[list[Timeline], list[str]]:
    """The timeline of each item, whose rows these are, and notes.

    label: the stamps' column. freq: the step of all, or None to infer each. A series too short to tell, and one without a
    step of its own whose rows lie on the steps that most others have, take theirs. Raises InputError.
    """
    # panels repeat the same stamps for every item, and inferring a frequency takes a millisecond
    known: dict[bytes, Timeline] = {}

    def build(item: Any, rows: np.ndarray, step: str | int | None) -> Timeline:
        own = pd.RangeIndex(len(rows)) if stamps is None else stamps[rows]
        key = repr(step).encode() + own.astype(np.int64).to_numpy().tobytes()
        if key not in known:
            name = "the table" if item is None else f"series {str(item)!r}"
            if own.has_duplicates:
                row = int(rows[np.flatnonzero(own.duplicated())[0]])
                whose = "" if item is None else f" of {name}"
                raise InputError(
                    f"{place(df, row)}, column {label!r}: time stamp {stamp_text(own[own.duplicated()][0])}{whose} is "
                    f"there twice; {advice_on_repeats(own, named=item is not None)}"
                )
            known[key] = lay_out(own, freq=step, name=name)
        return known[key]

    short = stamps is not None and freq is None
    first = [
        None if short and len(rows) < 3 else build(item, rows, freq)
        for item, rows in zip(items, rows_of, strict=True)
    ]
    steps = collections.Counter(line.freq for line in first if line is not None)
    usual, count = steps.most_common(1)[0] if steps else (None, 0)
    if freq is not None or 2 * count <= steps.total():
        usual = None
    dated = isinstance(stamps, pd.DatetimeIndex)
    lines, astray = [], []
    for item, rows, line in zip(items, rows_of, first, strict=True):
        taken = line
        if line is None and usual is not None:
            # whole numbers need no step
            with contextlib.nullcontext() if dated else contextlib.suppress(InputError):
                taken = build(item, rows, usual)
        elif (
            line is not None and usual not in (None, line.freq) and line.moved > _ASTRAY * len(rows)
        ):
            with contextlib.suppress(InputError):
                others = build(item, rows, usual)
                if not others.moved:
                    taken = others
                    astray.append(item)
        lines.append(build(item, rows, None) if taken is None else taken)
    if not astray:
        return lines, []
    note = f"{len(astray):,} series without a frequency of their own, such as {str(astray[0])!r}, take that of most others, {usual}"
    return lines, [Doubt(note)]


def until_newest(lines: list[Timeline], newest: Any) -> list[Timeline]:
    """The same timelines up to the newest stamp of a table. Raises InputError."""
    # many are the same one
    distinct = {id(line): line for line in lines}
    longer = {key: line.until(newest) for key, line in distinct.items()}
    return [longer[id(line)] for line in lines]


def onto_grid(values: np.ndarray, line: Timeline, blank: float = np.nan) -> np.ndarray:
    """(rows,) values to (T,) cells: the mean where several meet, `blank` where none came."""
    grid = np.full(len(line.grid), blank)
    if len(np.unique(line.cells)) == len(line.cells):
        grid[line.cells] = values
        return grid
    means = pd.Series(values).groupby(line.cells).mean()
    grid[means.index] = means.to_numpy()
    return grid


def grid_notes(
    lines: list[Timeline],
    stamps: pd.Index | None,
    rows_of: list[np.ndarray],
    fill: float | None,
) -> list[str]:
    """What is said of the steps: their frequency, those without a row, stamps that moved, rows that met."""
    if stamps is None:
        return []
    found = sorted({line.freq for line in lines})
    notes = [f"frequency {', '.join(found[:5])}{', ...' if len(found) > 5 else ''}"]
    filled = [len(line.grid) - len(np.unique(line.cells)) for line in lines]
    if any(filled):
        steps = sum(len(line.grid) for line in lines)
        note = f"{sum(filled):,} of {steps:,} steps have no row and count as "
        note += "missing, not as 0 (--fill 0, fill=0)" if fill is None else f"{fill:g}"
        notes.append(Doubt(note) if fill is None and 2 * sum(filled) > steps else note)
    moved = sum(line.moved for line in lines)
    if moved:
        notes.append(
            Doubt(
                f"{moved:,} of {len(stamps):,} time stamps lie between steps, moved to the nearest"
            )
        )
    shared = sum(len(line.cells) - len(np.unique(line.cells)) for line in lines)
    if shared:
        notes.append(Doubt(f"{shared:,} rows share a step with another; their values are averaged"))
    if not all(stamps[rows].is_monotonic_increasing for rows in rows_of):
        notes.append("rows were not in order of time and have been sorted")
    return notes
