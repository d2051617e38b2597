"""What `TinyTSM.forecast` gives back: mean and quantiles as arrays, with names for the usual readings."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from tinytsm.config import QUANTILES
from tinytsm.inputs import as_array, as_series, check_levels


class Prediction(NamedTuple):
    """A forecast of H steps at Q quantile levels, of one series or of n.

    mean: (H,) or (n, H). quantiles: (H, Q) or (n, H, Q), rising along the levels. levels: (Q,), as asked for.
    """

    mean: np.ndarray
    quantiles: np.ndarray
    levels: tuple[float, ...]

    @property
    def median(self) -> np.ndarray:
        """(H,) or (n, H)."""
        return self.quantile(0.5)

    def quantile(self, level: float) -> np.ndarray:
        """(H,) or (n, H) at one of the levels. Raises ValueError for a level that was not asked for."""
        nearest = min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - level))
        # a level that was computed may be off by a rounding error
        if not math.isclose(self.levels[nearest], level):
            listed = ", ".join(f"{q:g}" for q in self.levels)
            raise ValueError(
                f"level {level:g} was not forecast, only {listed}; name it in quantile_levels"
            )
        return self.quantiles[..., nearest]

    def interval(self, coverage: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end, (H,) or (n, H) each, of the central interval that should hold `coverage` of the values.

        Raises ValueError where its two levels were not asked for, or there are none.
        """
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must lie between 0 and 1, such as 0.8, got {coverage!r}")
        low = (1 - coverage) / 2
        return self.quantile(low), self.quantile(1 - low)


class Forecaster(Protocol):
    """What forecasts; `tinytsm.TinyTSM` does."""

    def predict_quantiles(
        self, inputs: Any, prediction_length: int, quantile_levels: Any
    ) -> tuple[Any, Any]:
        """inputs: n arrays (T,), NaN where missing. Returns quantiles (n, H, Q) and mean (n, H)."""
        ...


@runtime_checkable
class InformedForecaster(Forecaster, Protocol):
    """What forecasts with covariates too; `tinytsm.TinyTSM` does."""

    def predict_with_covariates(
        self, inputs: Any, covariates: Any, prediction_length: int, quantile_levels: Any
    ) -> tuple[Any, Any, Any]:
        """covariates: (T + H, C) of each input. Returns quantiles, mean, and the weight (n,) of the covariates."""
        ...


def forecast(
    forecaster: Forecaster, x: Any, horizon: int, quantile_levels: Sequence[float] = QUANTILES
) -> Prediction:
    """Forecast one series, or many, each on its own.

    x: numbers (T,), a list, an array or a pandas Series, None or NaN where missing: one series. An array (n, T) or a
    list of such series of any lengths: n of them. Returns arrays without the first axis for one series.
    Raises ValueError for what is no series of numbers, and for horizons and levels out of range.
    """
    levels = check_levels(quantile_levels)
    rows, single = as_series(x, "x")
    series = [_one(row, f"x[{i}]") for i, row in enumerate(rows)]
    quantiles, mean = forecaster.predict_quantiles(
        series, prediction_length=horizon, quantile_levels=levels
    )
    q, m = np.asarray(quantiles), np.asarray(mean)
    return Prediction(m[0], q[0], levels) if single else Prediction(m, q, levels)


def _one(row: Any, name: str) -> Any:
    # a tensor as it is, because its dtype says how exact it is
    array = row if hasattr(row, "detach") else as_array(row, name)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be one series (T,), got shape {tuple(array.shape)}; variates that belong "
            "together are forecast by predict_quantiles"
        )
    return array
