"""A GluonTS predictor: forecasts of GluonTS data sets, for `gluonts.model.evaluate_model` among others.

predictor = TinyTSMPredictor(prediction_length=24)
forecasts = list(predictor.predict(dataset))
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from tinytsm.adapters import require
from tinytsm.config import QUANTILES
from tinytsm.forecast import TinyTSM
from tinytsm.frames import ask
from tinytsm.inputs import blank_as_zeros

require("gluonts")

from gluonts.core.component import validated
from gluonts.model.forecast import QuantileForecast
from gluonts.model.predictor import RepresentablePredictor

# entries forecast at a time, which bounds the memory
_AT_ONCE = 256


class TinyTSMPredictor(RepresentablePredictor):
    """Quantile forecasts of univariate entries; serialises as its arguments."""

    @validated()
    def __init__(
        self,
        prediction_length: int,
        path: str = "nano",
        device: str = "auto",
        quantile_levels: list[float] = list(QUANTILES),  # noqa: B006 - GluonTS stores it as given
        options: dict[str, Any] | None = None,
    ):
        """path, device: as `TinyTSM.from_pretrained` takes them. options: keywords of `ForecastOptions`.

        Raises ValueError for an unusable model and for options that cannot be.
        """
        super().__init__(prediction_length=prediction_length)
        self.levels = list(quantile_levels)
        model = TinyTSM.from_pretrained(path, device=device)
        self.model = model.with_options(**(options or {}))

    def predict(self, dataset: Iterable[dict[str, Any]], **_: Any) -> Iterator[QuantileForecast]:
        """One forecast per entry, in order; `num_samples` and the like are not needed and not used.

        An entry's `feat_dynamic_real` (C, T + H) are covariates (`tinytsm.exogenous`).
        Raises ValueError for an entry whose target has variates: expand them to entries of their own first
        (`gluonts.dataset.multivariate_grouper` is what joined them).
        """
        entries = iter(dataset)
        while batch := list(islice(entries, _AT_ONCE)):
            targets = [blank_as_zeros(np.asarray(entry["target"], np.float64)) for entry in batch]
            for entry, target in zip(batch, targets, strict=True):
                if target.ndim != 1:
                    raise ValueError(
                        f"target of {entry.get('item_id')!r} must have shape (T,), got {target.shape}"
                    )
            features = [entry.get("feat_dynamic_real") for entry in batch]
            known = [None if rows is None else np.transpose(rows) for rows in features]
            windows = list(zip(targets, known, strict=True))
            quantiles, mean = ask(self.model, windows, self.prediction_length, self.levels)[:2]
            for entry, q, m in zip(batch, quantiles, mean, strict=True):
                yield QuantileForecast(
                    forecast_arrays=np.concatenate((m[None], q.T)),
                    start_date=entry["start"] + len(entry["target"]),
                    forecast_keys=["mean", *map(str, self.levels)],
                    item_id=entry.get("item_id"),
                )
