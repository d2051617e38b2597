"""Companions: series made from a series, which stand beside it as further variates.

Multivariate feature augmentation (our definition of what Tiny-TSM, arXiv 2511.19272, names): attention over variates
then reads the season before, the change and the level at every step, instead of finding them in the history.
"""

import numpy as np

COUNT = 3


def companions(x: np.ndarray, period: int) -> np.ndarray:
    """The companions of a series: (COUNT, T) float64, NaN where missing.

    x: (T,) float64 within [-1, 1], NaN where missing. period: steps, 1 or more. In this order: the value one period
    before, the change since the step before, the mean of the shown values of the last period. None looks ahead.
    """
    found = np.full((COUNT, len(x)), np.nan)
    found[0, period:] = x[:-period]
    found[1, 1:] = x[1:] - x[:-1]
    shown = ~np.isnan(x)
    count = _window_sum(shown.astype(np.float64), period)
    total = _window_sum(np.where(shown, x, 0.0), period)
    np.divide(total, count, out=found[2], where=count > 0)
    return found


def _window_sum(x: np.ndarray, width: int) -> np.ndarray:
    """Sum of the newest `width` values at each step of x (T,), fewer at the start.

    From the sums of each block's head and of the tail of the block before: the difference of two running sums would
    carry a spike's rounding error for ever.
    """
    blocks = -(-len(x) // width)
    padded = np.zeros((blocks + 1, width))
    padded.reshape(-1)[width : width + len(x)] = x
    heads = padded.cumsum(1)
    tails = np.zeros_like(padded)
    tails[:, :-1] = padded[:, :0:-1].cumsum(1)[:, ::-1]
    return (heads[1:] + tails[:-1]).reshape(-1)[: len(x)]
