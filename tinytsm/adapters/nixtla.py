"""Nixtla's long frames: columns unique_id, ds, y in; the model's name, its -lo- and -hi- columns out.

    NixtlaForecaster().forecast(df, h=12, level=[80, 95])
    NixtlaForecaster().cross_validation(df, h=12, n_windows=3)

Column names as in statsforecast, neuralforecast and TimeGPT, so that utilsforecast's evaluation and plots take them.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import pandas as pd

from tinytsm.errors import InputError
from tinytsm.forecast import TinyTSM
from tinytsm.frames import predict_frame
from tinytsm.inputs import check_horizon
from tinytsm.options import OptionChanges


class NixtlaForecaster:
    """Zero-shot forecasts of Nixtla frames. alias: the name of the point forecast's column (the median)."""

    def __init__(
        self,
        model: TinyTSM | None = None,
        *,
        alias: str = "TinyTSM",
        **changes: Unpack[OptionChanges],
    ):
        """model: None for the shipped one. changes: of its options (`ForecastOptions`)."""
        model = TinyTSM.from_pretrained() if model is None else model
        self.model = model.with_options(**changes)
        self.alias = alias

    def forecast(
        self,
        df: pd.DataFrame,
        h: int,
        freq: str | int | None = None,
        level: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str = "y",
        X_df: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """The next h steps of each series.

        X_df: ids, stamps and covariates of these steps; the covariates' past is among df's columns.
        level: coverages in percent, each giving ALIAS-lo-LEVEL and ALIAS-hi-LEVEL. quantiles: levels in (0, 1), each
        giving ALIAS-q-PERCENT. freq: None to infer it. Raises InputError, a ValueError.
        """
        names = _names(self.alias, level, quantiles)
        result = predict_frame(
            self.model,
            df,
            prediction_length=h,
            quantile_levels=sorted({0.5, *names.values()}),
            id_column=id_col,
            timestamp_column=time_col,
            target=target_col,
            freq=freq,
            future_df=X_df,
        )
        columns = {id_col: result[id_col], time_col: result[time_col]}
        columns[self.alias] = result["predictions"]
        return pd.DataFrame(columns | {name: result[str(q)] for name, q in names.items()})

    def cross_validation(
        self,
        df: pd.DataFrame,
        h: int,
        n_windows: int = 1,
        step_size: int | None = None,
        freq: str | int | None = None,
        level: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str = "y",
    ) -> pd.DataFrame:
        """Forecasts from rolling origins `step_size` steps apart (None: h), with `cutoff` and the actual values."""
        names = _names(self.alias, level, quantiles)
        result = self.model.backtest(
            df,
            check_horizon(h),
            windows=n_windows,
            step=step_size,
            quantile_levels=sorted({0.5, *names.values()}),
            id_column=id_col,
            timestamp_column=time_col,
            target=target_col,
            freq=freq,
        ).forecasts
        columns = {name: result[name] for name in (id_col, time_col, "cutoff")}
        columns |= {target_col: result["actual"], self.alias: result["predictions"]}
        return pd.DataFrame(columns | {name: result[str(q)] for name, q in names.items()})


def _names(
    alias: str, level: Sequence[float] | None, quantiles: Sequence[float] | None
) -> dict[str, float]:
    """Column name -> quantile level, in Nixtla's order: intervals from narrow to wide, then quantiles."""
    names: dict[str, Any] = {}
    if level and max(level) <= 1:
        raise InputError(f"level is a coverage in percent such as 80, got {max(level)!r}")
    for one in sorted(level or ()):
        if not 0 < one < 100:
            raise InputError(f"level is a coverage in percent between 0 and 100, got {one!r}")
        # rounded, because 50 - 95 / 2 percent has no exact binary fraction
        names[f"{alias}-lo-{one:g}"] = round(0.5 - one / 200, 12)
        names[f"{alias}-hi-{one:g}"] = round(0.5 + one / 200, 12)
    for one in quantiles or ():
        names[f"{alias}-q-{100 * one:g}"] = float(one)
    return names
