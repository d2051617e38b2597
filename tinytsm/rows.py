"""Series to the rows that the model reads: centred without losing a digit. Letters: R rows."""

from typing import NamedTuple

import numpy as np

from tinytsm.ops import DEGENERATE_ULPS


class Centred(NamedTuple):
    """Rows as the model wants them, and what maps its forecasts back: value = origin + x / unit.

    x: (R, T) float32. origin, unit, resolution: (R,) float64; resolution is what rounding had lost before, as x.
    """

    x: np.ndarray
    origin: np.ndarray
    unit: np.ndarray
    resolution: np.ndarray


def centre(values: np.ndarray, eps: np.ndarray) -> Centred:
    """Subtract each row's first shown value, scale by a power of two.

    values: (R, T) float64, NaN where missing. eps: (R,), of the dtype that each row came in. Done in float64, so that a
    level of 1e9 costs no digits; a power of two keeps the data's bits, and keeps squares of 1e30 from overflowing.
    """
    shown = ~np.isnan(values)
    rows = np.arange(len(values))
    origin = np.where(shown.any(1), values[rows, shown.argmax(1)], 0.0)
    # halves, because the difference of two large numbers may overflow
    half = values / 2 - origin[:, None] / 2
    largest = np.max(np.abs(half), axis=1, initial=0.0, where=shown)
    # 2^1020 at most: the smallest numbers have no representable inverse
    unit = np.ldexp(1.0, np.minimum(1020, -np.frexp(largest)[1]))
    x = (half * unit[:, None]).astype(np.float32)
    unit /= 2
    resolution = np.minimum(1e30, DEGENERATE_ULPS * eps * np.abs(origin) * unit)
    return Centred(x, origin, unit, resolution)
