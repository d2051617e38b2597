"""An sktime forecaster, zero-shot: `fit` remembers the series, `predict` forecasts it.

forecaster = TinyTSMForecaster()
forecaster.fit(y, fh=range(1, 13))
forecaster.predict(), forecaster.predict_quantiles(alpha=[0.1, 0.9])
"""

import functools
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from tinytsm.adapters import require
from tinytsm.forecast import TinyTSM

require("sktime")

from sktime.forecasting.base import BaseForecaster


@functools.lru_cache(maxsize=4)
def _load(path: str, device: str) -> TinyTSM:
    # sktime copies and fits a forecaster for every series and fold
    return TinyTSM.from_pretrained(path, device=device)


def on_every_step(y: pd.Series, freq: Any) -> pd.Series:
    """The series with NaN where a step of its index has no row: without them the season would shift.

    freq: of dates whose index has none. Dates that it does not hit, or of which none is known, stay as they are.
    """
    index = y.index
    whole = None
    if isinstance(index, pd.PeriodIndex):
        whole = pd.period_range(index[0], index[-1], freq=index.freq)
    elif isinstance(index, pd.DatetimeIndex):
        freq = index.freq or freq
        whole = None if freq is None else pd.date_range(index[0], index[-1], freq=freq)
    elif pd.api.types.is_integer_dtype(index):
        whole = pd.RangeIndex(index[0], index[-1] + 1)
    return y if whole is None or not index.isin(whole).all() else y.reindex(whole)


class TinyTSMForecaster(BaseForecaster):
    """Point forecasts (the median), intervals and quantiles. Frames and panels are forecast column by column.

    Examples
    --------
    >>> from sktime.datasets import load_airline
    >>> from tinytsm.adapters.sktime import TinyTSMForecaster
    >>> forecaster = TinyTSMForecaster(device="cpu")
    >>> y_pred = forecaster.fit(load_airline(), fh=[1, 2, 3]).predict()
    """

    _tags: ClassVar[dict[str, Any]] = {
        "y_inner_mtype": "pd.Series",
        "X_inner_mtype": "pd.DataFrame",
        "capability:multivariate": False,
        "capability:exogenous": False,
        "capability:missing_values": True,
        "capability:insample": False,
        "capability:update": True,
        "capability:pred_int": True,
        "capability:pred_int:insample": False,
        "requires-fh-in-fit": False,
    }

    def __init__(
        self, path: str = "nano", device: str = "auto", options: dict[str, Any] | None = None
    ):
        """path, device: as `TinyTSM.from_pretrained` takes them. options: keywords of `ForecastOptions`."""
        self.path = path
        self.device = device
        self.options = options
        super().__init__()

    # a copy of the series, because sktime will stop keeping its own (its `remember_data`)
    def _fit(self, y: pd.Series, X: Any, fh: Any) -> "TinyTSMForecaster":
        self._history = y
        return self

    def _update(
        self, y: pd.Series, X: Any = None, update_params: bool = True
    ) -> "TinyTSMForecaster":
        # a value that is told again replaces the older one
        self._history = y.combine_first(self._history)
        return self

    def _quantiles(self, fh: Any, levels: list[float]) -> tuple[pd.Index, np.ndarray]:
        """The horizon's stamps (n,) and quantiles (n, Q)."""
        ahead = np.asarray(fh.to_relative(self.cutoff), dtype=np.int64)
        freq = fh.freq or getattr(self.cutoff, "freq", None)
        values = on_every_step(self._history, freq).to_numpy(np.float64)
        quantiles, _ = _load(self.path, self.device).predict_quantiles(
            [values], int(ahead.max()), levels, **(self.options or {})
        )
        return fh.to_absolute_index(self.cutoff), np.asarray(quantiles)[0, ahead - 1]

    def _predict(self, fh: Any, X: Any) -> pd.Series:
        index, quantiles = self._quantiles(fh, [0.5])
        return pd.Series(quantiles[:, 0], index=index, name=self._history.name)

    def _predict_quantiles(self, fh: Any, X: Any, alpha: list[float]) -> pd.DataFrame:
        index, quantiles = self._quantiles(fh, list(alpha))
        columns = pd.MultiIndex.from_product([self._get_varnames(), alpha])
        return pd.DataFrame(quantiles, index=index, columns=columns)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Arguments that sktime's `check_estimator` builds forecasters with."""
        return [{}, {"device": "cpu", "options": {"effort": "fast"}}]
