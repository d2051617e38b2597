"""Series to the rows that the model reads, and back: centring, and the two maps between steps and slots.

A token has P slots and holds the `per_token` newest steps that fit it, in its first slots; the other slots are missing.
The same slots of a horizon patch are the steps that it forecasts. Letters: R rows, P slots of a token.
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

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


def to_slots(steps: np.ndarray, per_token: np.ndarray, patch: int) -> np.ndarray:
    """Steps, newest last, to the slots of tokens, newest token last.

    steps: (R, N * P). per_token: (R,) steps that a token of the row holds, P at most. Returns (R, N * P): of each row
    its newest N * per_token steps, the slots beyond per_token NaN.
    """
    if (per_token == patch).all():
        return steps
    slots = np.full_like(steps, np.nan)
    tokens = steps.shape[1] // patch
    for width in np.unique(per_token):
        rows = per_token == width
        held = steps[rows, steps.shape[1] - tokens * width :].reshape(-1, tokens, width)
        inside = slots[rows].reshape(-1, tokens, patch)
        inside[..., :width] = held
        slots[rows] = inside.reshape(len(held), -1)
    return slots


def to_steps(slots: Tensor, per_token: int, patch: int) -> Tensor:
    """Slots of horizon patches to the steps that they forecast. slots: (R, K * P, ...). Returns (R, K * per_token, ...)."""
    if per_token == patch:
        return slots
    return slots.unflatten(1, (-1, patch))[:, :, :per_token].flatten(1, 2)
