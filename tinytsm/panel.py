"""Frames or arrays to named, regular series: the way in of everything that walks through a history.

Forecasts need the newest steps alone; backtests, anomaly scores and imputation need every step and its stamp, and give
frames back whatever came in.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tinytsm.columns import Layout
from tinytsm.errors import InputError
from tinytsm.frames import Series, read_frame, warn_of_doubts
from tinytsm.inputs import as_series, plain


def split(
    data: Any,
    *,
    id_column: str | None = "item_id",
    timestamp_column: str | None = "timestamp",
    target: str | list[str] | None = "target",
    freq: str | int | None = None,
    fill: float | None = None,
    covariates: Sequence[str] = (),
) -> tuple[list[Series], Layout]:
    """Series of a frame or of arrays.

    data: a frame, read as `tinytsm.frames.predict_frame` reads it; one array (T,) or a list of arrays of any lengths,
    which become items 0, 1, ... with time stamps 0, 1, .... covariates: columns of the frame to keep beside the series.
    Raises InputError, a ValueError.
    """
    if not isinstance(data, pd.DataFrame):
        data = _long_frame(data)
        id_column, timestamp_column, target = "item_id", "timestamp", "target"
    series, layout, notes = read_frame(
        data,
        id_column=id_column,
        timestamp_column=timestamp_column,
        target=target,
        freq=freq,
        fill=fill,
        covariates=covariates,
    )
    warn_of_doubts(notes)
    return series, layout


def _long_frame(data: Any) -> pd.DataFrame:
    rows, _ = as_series(data, "data")
    arrays = [np.asarray(plain(row)) for row in rows]
    for i, array in enumerate(arrays):
        if array.ndim != 1:
            raise ValueError(f"series {i} must have shape (T,), got {array.shape}")
        if array.size == 0:
            raise InputError(f"series {i} is empty; give it at least one step, or leave it out")
    lengths = [len(array) for array in arrays]
    return pd.DataFrame(
        {
            "item_id": np.repeat(np.arange(len(arrays)), lengths),
            "timestamp": np.concatenate([np.arange(n) for n in lengths]),
            "target": np.concatenate(arrays),
        }
    )


def head_columns(series: list[Series], layout: Layout, counts: list[int]) -> dict[str, Any]:
    """The columns that name a row, under the names they came with; time stamps are the caller's to fill in.

    counts: rows of each series.
    """
    return {
        layout.id_name: pd.Index([one.item for one in series]).repeat(counts),
        layout.stamp_name: None,
        "target_name": np.repeat([str(one.target) for one in series], counts),
    }
