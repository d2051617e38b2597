"""Known future values of other columns (`future_df`): checked as Chronos-2 would, and said not to be used.

tinytsm forecasts a target from its own past. A caller who passes a frame of what is known about the future must hear
that it has no effect, and hear of the mistakes in it that another forecaster would have stumbled over.
"""

import warnings
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING

import pandas as pd

from tinytsm.columns import levels_as_columns, place
from tinytsm.tables import InputError
from tinytsm.timeline import parse_stamps

if TYPE_CHECKING:
    from tinytsm.frames import Series


class UnusedCovariates(UserWarning):
    """Columns that were given to be used, and are not."""


def check_future(
    future_df: pd.DataFrame,
    df: pd.DataFrame,
    series: "list[Series]",
    *,
    horizon: int,
    id_column: str | None,
    timestamp_column: str | None,
    targets: tuple[str, ...],
) -> None:
    """Warn that the future's columns are not used.

    df: the history, whose stamps say how the future's are read. Raises InputError where a column is missing, a target is
    among them, or the stamps of an item are not those that are forecast.
    """
    future = levels_as_columns(future_df, id_column, timestamp_column)
    for column in (id_column, timestamp_column):
        if column is not None and column not in future.columns:
            raise InputError(
                f"future_df has no column {column!r}; it has: {', '.join(map(str, future.columns))}"
            )
    if future.empty:
        raise InputError(
            f"future_df has no rows; give the {horizon} steps of each series, or leave it out"
        )
    if known := [t for t in targets if t in future.columns]:
        raise InputError(f"future_df holds the target {known[0]!r}; drop that column")
    if timestamp_column is not None:
        stamps = _read_like(df[timestamp_column], future, timestamp_column)
        by_item = {} if id_column is None else stamps.groupby(future[id_column].to_numpy()).groups
        for one in {own.item: own for own in series}.values():
            index = one.timeline.future(horizon)
            rows = slice(None) if id_column is None else by_item.get(one.item, [])
            # in any order, in any unit
            got = pd.Index(stamps.loc[rows].sort_values())
            if len(got) != len(index) or not (got == index).all():
                pairs = zip_longest(got, index, fillvalue="none")
                first, wanted = next(pair for pair in pairs if pair[0] != pair[1])
                raise InputError(
                    f"future_df must have the {len(index)} steps from {index[0]} to {index[-1]} for series "
                    f"{str(one.item)!r}, got {len(got)} rows; the first that differs is {first} instead of {wanted}"
                )
    unused = [str(c) for c in future.columns if c not in (id_column, timestamp_column)]
    warnings.warn(
        f"future_df is not used: tinytsm forecasts from the target's past alone ({', '.join(unused)})",
        UnusedCovariates,
        stacklevel=4,
    )


def _read_like(given: pd.Series, future: pd.DataFrame, column: str) -> pd.Series:
    """(rows,) stamps of the future, read together with those given where they can be: 03/02 alone may be either month."""
    own = future[column]
    stamps, _ = parse_stamps(own, lambda row: f"future_df, {place(future, row)}")
    if not pd.api.types.is_datetime64_any_dtype(own):
        with suppress(InputError):
            stamps = parse_stamps(pd.concat([given, own]), str)[0][len(given) :]
    return pd.Series(stamps)
