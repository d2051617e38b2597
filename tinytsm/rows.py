"""Series to the rows that the model reads: centred without losing a digit. Letters: R rows."""

from collections.abc import Iterator, Mapping
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


# What would overflow is cut to it.
LARGEST = float(np.finfo(np.float64).max)
# What is this small beside the level may be float64's rounding. Of narrower numbers that is not looked for: a float16
# has so few digits that what they show would be lost with it.
_LOST = DEGENERATE_ULPS * float(np.finfo(np.float64).eps)
# Numbers that are worked on at once: few enough to stay in the cache.
_NUMBERS_AT_ONCE = 1 << 17


def alike(shapes: Mapping[int, tuple[int, ...]]) -> Iterator[list[int]]:
    """Items that can be worked on at once, in lists of as many as the cache holds: those of one shape.

    shapes: of each item its variates, its steps, and whatever else must be equal.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, shape in shapes.items():
        groups.setdefault(shape, []).append(i)
    for (variates, steps, *_), members in groups.items():
        at_once = max(1, _NUMBERS_AT_ONCE // (variates * steps))
        for start in range(0, len(members), at_once):
            yield members[start : start + at_once]


def deviations(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each row's first shown value (R,), 0 without any; half of what the row is above it (R, T); the largest of those (R,).

    values: (R, T) float64, NaN where missing. Halves, because the difference of two large numbers may overflow.
    """
    shown = ~np.isnan(values)
    origin = np.where(shown.any(1), values[np.arange(len(values)), shown.argmax(1)], 0.0)
    half = values / 2 - origin[:, None] / 2
    return origin, half, np.max(np.abs(half), axis=1, initial=0.0, where=shown)


def centre(values: np.ndarray) -> Centred:
    """Subtract each row's first shown value, scale by a power of two.

    values: (R, T) float64, NaN where missing. Done in float64, so that a level of 1e9 costs no digits; a power of two keeps
    the data's bits, and keeps squares of 1e30 from overflowing.
    """
    origin, half, largest = deviations(values)
    # 2^1020 at most: the smallest numbers have no representable inverse
    unit = np.ldexp(1.0, np.minimum(1020, -np.frexp(largest)[1]))
    x = (half * unit[:, None]).astype(np.float32)
    unit /= 2
    resolution = np.minimum(1e30, _LOST * np.abs(origin) * unit)
    return Centred(x, origin, unit, resolution)
