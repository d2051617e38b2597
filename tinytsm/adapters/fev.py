"""A fev model: `TinyTSMModel().fit_predict(task)` forecasts every window of a fev task.

task = fev.Task(dataset_path="data.parquet", horizon=24, quantile_levels=[0.1, 0.5, 0.9])
model = TinyTSMModel()
summary = task.evaluation_summary(
    model.fit_predict(task), model_name=model.model_name, inference_time_s=model.inference_time
)
"""

from typing import Any, Unpack

import numpy as np

from tinytsm.adapters import require
from tinytsm.forecast import TinyTSM
from tinytsm.frames import ask
from tinytsm.inputs import blank_as_zeros
from tinytsm.options import OptionChanges

require("fev")

import datasets
import fev

# squared errors are least at the mean, all others at the median
_SQUARED = ("MSE", "RMSE", "RMSSE")


class TinyTSMModel(fev.ForecastingModel):
    """Zero-shot forecasts; each target column and each item on its own, with the known covariates that are numbers."""

    model_name = "tinytsm"
    # made-up series alone
    trained_on_datasets: list[str] = []  # noqa: RUF012 - fev's own declaration

    def __init__(
        self, path: str = "nano", *, device: str = "auto", **changes: Unpack[OptionChanges]
    ):
        """path, device: as `TinyTSM.from_pretrained` takes them. changes: of the options (`ForecastOptions`)."""
        super().__init__()
        self.model = TinyTSM.from_pretrained(path, device=device).with_options(**changes)

    def _fit_predict(self, task: Any) -> list[Any]:
        # a forecast at a level costs nothing, and some metrics want none
        levels = [*task.quantile_levels, 0.5]
        predictions = []
        for window in task.iter_windows():
            past, future = (half.with_format("numpy") for half in window.get_input_data())
            known = [c for c in task.known_dynamic_columns if past[0][c].dtype.kind in "fiub"]
            covariates = [
                np.stack([np.concatenate((old[c], new[c])) for c in known], 1) if known else None
                for old, new in zip(past, future, strict=True)
            ]
            columns = {}
            for column in task.target_columns:
                series = [blank_as_zeros(np.asarray(x, np.float64)) for x in past[column]]
                windows = list(zip(series, covariates, strict=True))
                with self._record_inference_time():
                    q, mean, _ = ask(self.model, windows, task.horizon, levels)
                point = mean if task.eval_metric in _SQUARED else q[..., -1]
                asked = {str(level): q[..., i] for i, level in enumerate(task.quantile_levels)}
                columns[column] = datasets.Dataset.from_dict({"predictions": point} | asked)
            predictions.append(datasets.DatasetDict(columns))
        return predictions
