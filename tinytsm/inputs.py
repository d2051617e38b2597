"""What callers hand in, checked once: inputs, horizons, quantile levels. Every message says what was wanted and got."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Item(NamedTuple):
    """One input: `values` (V, T), NaN where missing, in float64; `eps` of the dtype that it came in."""

    values: np.ndarray
    eps: float


def as_item(value: Any, position: int, *, newest: int, longest_tail: int) -> tuple[Item, bool]:
    """Check one input, and keep its `newest` steps: what is older is not looked at.

    value: (T,) or (V, T), an array, tensor or nested list of numbers. longest_tail: a missing end that is longer counts
    as so long. Returns it and whether it was (T,). Raises ValueError that names it by its position.
    """
    name = f"inputs[{position}]"
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        # NumPy has no bfloat16
        coarse = torch.finfo(value.dtype).eps if value.dtype == torch.bfloat16 else 0.0
        value = value.float().numpy() if coarse else value.numpy()
    else:
        coarse = 0.0
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name} must have shape (T,) or (V, T), got rows of unequal lengths"
        ) from None
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold numbers, NaN where missing, got dtype {array.dtype}")
    if array.ndim not in (1, 2):
        hint = ": put a series of its own in a list" if array.ndim == 0 else ""
        raise ValueError(f"{name} must have shape (T,) or (V, T), got {array.shape}{hint}")
    if array.size == 0:
        raise ValueError(
            f"{name} is empty, shape {array.shape}: a forecast needs at least one step"
        )
    eps = float(np.finfo(float).eps)
    if array.dtype.kind == "f":
        eps = max(eps, coarse, float(np.finfo(array.dtype).eps))
    end = _end(array, newest=newest, longest_tail=longest_tail)
    skipped = max(0, end - newest)
    # a long double may exceed what a double holds, and is then infinite
    with np.errstate(over="ignore"):
        values = np.atleast_2d(array[..., skipped:end]).astype(np.float64, copy=False)
    infinite = np.isinf(values)
    if infinite.any():
        row, step = (int(i[0]) for i in np.nonzero(infinite))
        raise ValueError(
            f"{name} is infinite at variate {row}, step {skipped + step}; write NaN for missing values"
        )
    return Item(values, eps), array.ndim == 1


def _end(array: np.ndarray, *, newest: int, longest_tail: int) -> int:
    """How many steps to take up: all but those by which a missing end exceeds `longest_tail`."""
    steps = array.shape[-1]
    if array.dtype.kind != "f" or not np.isnan(array[..., -1]).all():
        return steps
    # backwards in blocks, so that a long history is not read
    for stop in range(steps, 0, -newest):
        start = max(0, stop - newest)
        shown = ~np.isnan(array[..., start:stop]).reshape(-1, stop - start).all(0)
        if shown.any():
            last = start + int(np.flatnonzero(shown)[-1])
            return min(steps, last + 1 + longest_tail)
    return steps


def check_length(prediction_length: Any) -> int:
    """The horizon in steps. Raises ValueError unless it is an integer of at least 1."""
    try:
        length = operator.index(prediction_length)
    except TypeError:
        raise ValueError(
            f"prediction_length must be an integer, got {prediction_length!r}"
        ) from None
    if length < 1:
        raise ValueError(f"prediction_length must be at least 1, got {length}")
    return length


def check_levels(quantile_levels: Sequence[float]) -> list[float]:
    """Quantile levels as floats, in the caller's order. Raises ValueError unless all lie inside (0, 1)."""
    levels = [float(level) for level in quantile_levels]
    if not levels:
        raise ValueError("quantile_levels is empty: wanted at least one level")
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"quantile levels must lie strictly between 0 and 1, got {level}")
    return levels
