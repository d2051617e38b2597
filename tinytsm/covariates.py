"""Known future values of other columns (`future_df`): checked as Chronos-2 would, and said not to be used.

tinytsm forecasts a target from its own past. A caller who passes a frame of what is known about the future must hear
that it has no effect, and hear of the mistakes in it that another forecaster would have stumbled over.
"""

import warnings
from typing import TYPE_CHECKING

import pandas as pd

from tinytsm.columns import levels_as_columns
from tinytsm.tables import InputError

if TYPE_CHECKING:
    from tinytsm.frames import Forecast


class UnusedCovariates(UserWarning):
    """Columns that were given to be used, and are not."""


def check_future(
    future_df: pd.DataFrame,
    forecasts: "list[Forecast]",
    *,
    id_column: str | None,
    timestamp_column: str | None,
    targets: tuple[str, ...],
) -> None:
    """Warn that the future's columns are not used.

    Raises InputError where a column is missing, a target is among them, or the stamps of an item are not those that
    are forecast.
    """
    future = levels_as_columns(future_df, id_column, timestamp_column)
    for column in (id_column, timestamp_column):
        if column is not None and column not in future.columns:
            raise InputError(
                f"future_df has no column {column!r}; it has: {', '.join(map(str, future.columns))}"
            )
    if known := [t for t in targets if t in future.columns]:
        raise InputError(f"future_df holds the target {known[0]!r}; drop that column")
    if timestamp_column is not None:
        by_item = {} if id_column is None else dict(list(future.groupby(id_column, sort=False)))
        for one in {forecast.series.item: forecast for forecast in forecasts}.values():
            item = one.series.item
            rows = future if id_column is None else by_item.get(item, future.iloc[:0])
            stamps = pd.Index(rows[timestamp_column])
            if hasattr(one.index, "tz"):
                stamps = pd.to_datetime(stamps)
            # in any order, in any unit
            if len(stamps) != len(one.index) or not (stamps.sort_values() == one.index).all():
                raise InputError(
                    f"future_df must have the {len(one.index)} steps from {one.index[0]} to {one.index[-1]} for "
                    f"series {str(item)!r}, got {len(stamps)} rows"
                )
    unused = [str(c) for c in future.columns if c not in (id_column, timestamp_column)]
    warnings.warn(
        f"future_df is not used: tinytsm forecasts from the target's past alone ({', '.join(unused)})",
        UnusedCovariates,
        stacklevel=4,
    )
