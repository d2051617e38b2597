"""Code that calls Chronos-2's `predict_df`, with one import changed:

    from tinytsm.adapters.chronos import Chronos2Pipeline  # was: from chronos import Chronos2Pipeline

`from_pretrained` loads tinytsm's shipped weights where it is given the name of a Chronos model, and says so.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

import torch

from tinytsm.config import QUANTILES
from tinytsm.forecast import Precision, TinyTSM
from tinytsm.frames import predict_frame
from tinytsm.options import OptionChanges

if TYPE_CHECKING:
    import pandas as pd

_HUB = "amazon/chronos"


class Chronos2Pipeline(TinyTSM):
    """TinyTSM with the arguments of Chronos-2's pipeline (chronos-forecasting, `chronos2/pipeline.py`)."""

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path = "nano",
        *,
        device: str | torch.device = "auto",
        device_map: str | torch.device | None = None,
        precision: Precision = "auto",
        torch_dtype: Any = None,
        dtype: Any = None,
    ) -> Self:
        """path: as `TinyTSM.from_pretrained`, or the name of a Chronos model, for which the shipped one is loaded.

        torch_dtype, dtype: not used; `precision` says what the blocks compute in.
        """
        if str(path).startswith(_HUB) and not Path(path).exists():
            warnings.warn(
                f"{path} names a Chronos model; loading tinytsm's shipped weights instead",
                UserWarning,
                stacklevel=2,
            )
            path = "nano"
        return super().from_pretrained(
            path, device=device, device_map=device_map, precision=precision
        )

    def predict_df(  # type: ignore[override]
        self,
        df: "pd.DataFrame",
        *,
        future_df: "pd.DataFrame | None" = None,
        id_column: str = "item_id",
        timestamp_column: str = "timestamp",
        target: str | Sequence[str] = "target",
        prediction_length: int | None = None,
        quantile_levels: Sequence[float] = QUANTILES,
        context_length: int | None = None,
        cross_learning: bool = False,
        validate_inputs: bool = True,
        freq: str | None = None,
        **changes: Unpack[OptionChanges],
    ) -> "pd.DataFrame":
        """As Chronos-2's: columns id, time stamp, target_name, predictions and one per level.

        prediction_length: None for one pass of the model. cross_learning, validate_inputs: not used; a series is always
        forecast from its own past, and inputs are always checked. changes: of the options (`ForecastOptions`), for
        this call; batch_size, which Chronos-2 has too, is one of them.
        """
        horizon = self.config.horizon_length if prediction_length is None else prediction_length
        return predict_frame(
            self.with_options(**changes),
            df,
            prediction_length=horizon,
            future_df=future_df,
            id_column=id_column,
            timestamp_column=timestamp_column,
            target=target,
            quantile_levels=quantile_levels,
            context_length=context_length,
            freq=freq,
        )
