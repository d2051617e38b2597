"""The level of a series by its periods: their means, which are a short series of their own, and what its forecast does to
that of every step.

The mean of each day of an hourly series keeps nothing of the day, and years of it are read in one pass: the season of the
year shows, which is too slow for the hours that the network reads. Such temporal aggregation is usual in forecasting
(Athanasopoulos, Hyndman, Kourentzes and Petropoulos 2017, doi:10.1016/j.ejor.2017.02.046); how the two forecasts become
one is our definition. Letters: V variates, T steps, H steps ahead, Q quantiles, N periods ahead.
"""

import numpy as np
import torch
from torch import Tensor

from tinytsm.quantiles import MEDIAN
from tinytsm.rows import LARGEST

# So many periods ahead the means count as much as the steps, further on more (docs/ablations.md).
_EQUAL = 4.0


def period_means(values: np.ndarray, period: int) -> np.ndarray:
    """Means of (V, T) over the periods that end with the newest step, (V, T // period); NaN where nothing is known."""
    variates, steps = values.shape
    whole = values[:, steps % period :].reshape(variates, -1, period)
    known = ~np.isnan(whole)
    number = known.sum(-1)
    # divided first: the sum of the largest numbers is none; and rounding may still lead beyond them
    parts = np.where(known, whole, 0.0) / np.maximum(number, 1)[..., None]
    with np.errstate(over="ignore"):
        means = np.clip(parts.sum(-1), -LARGEST, LARGEST)
    return np.where(number > 0, means, np.nan)


def draw(forecast: tuple[Tensor, Tensor], means: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """A forecast moved towards that of its means over periods, the more the further ahead; its spread stays.

    forecast: quantiles (V, H, Q), rising, and mean (V, H). means: quantiles of the next N means (V, N, Q), N periods at
    most H steps. Of the distance between what the means are forecast to be and what the medians of their steps come to, the
    share x / (x + 4) is added x periods ahead: none at the newest step, straight between the middles of periods, and
    after the last one as much as there.
    """
    quantiles, mean = forecast
    variates, length = mean.shape
    count = means.shape[1]
    medians = quantiles[:, : count * period, MEDIAN].numpy()
    own = (medians / period).reshape(variates, count, period).sum(-1)
    middles = np.arange(count) + 0.5
    share = middles / (middles + _EQUAL)
    with np.errstate(over="ignore"):
        distance = share * (means[..., MEDIAN].numpy() / 2 - own / 2) * 2
    distance = np.clip(distance, -LARGEST, LARGEST)
    steps = (np.arange(length) + 0.5) / period
    knots = np.concatenate(([0.0], middles))
    added = torch.from_numpy(
        np.stack([np.interp(steps, knots, np.concatenate(([0.0], row))) for row in distance])
    )
    moved = (quantiles + added[..., None], mean + added)
    return moved[0].clamp(-LARGEST, LARGEST), moved[1].clamp(-LARGEST, LARGEST)
