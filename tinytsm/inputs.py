"""What callers hand in, checked once: inputs, horizons, quantile levels. Every message says what was wanted and got."""

import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinytsm.errors import InputError
from tinytsm.period import detect

# A horizon or a grid this long comes from a mistake, and would fill the memory.
MAX_STEPS = 10_000_000


class Item(NamedTuple):
    """One input: `values` (V, T), NaN where missing, in float64."""

    values: np.ndarray


def as_series(x: Any, name: str) -> tuple[list[Any], bool]:
    """One series, or each of many, and whether it was one.

    x: numbers (T,), or an array (n, T) or an iterable of series, which are not looked at. Raises ValueError for what is
    neither, and for a frame or a mapping, of which an iterator gives the labels.
    """
    if isinstance(x, Mapping) or hasattr(x, "columns"):
        raise ValueError(
            f"{name} must be a series of numbers or a list of them, got a {type(x).__name__}: give a list of its "
            "columns, or a frame to predict_df"
        )
    if not hasattr(x, "__iter__") or getattr(x, "ndim", 1) == 0:
        raise ValueError(f"{name} must be a series of numbers or a list of them, got {x!r}")
    if _of_objects(x):
        x = _listed(x)
    rows = list(x)
    if any(isinstance(row, list | tuple) or np.ndim(row) for row in rows):
        return rows, False
    # an array whole, because its numbers one by one know of no mask and no dtype
    return [x if hasattr(x, "ndim") else rows], True


def plain(value: Any) -> Any:
    """Tensors, masked arrays and pandas columns, in lists too, as arrays, NaN where missing; all else as it is."""
    if isinstance(value, list | tuple):
        return [plain(one) if hasattr(one, "__len__") else one for one in value]
    if isinstance(value, np.ma.MaskedArray):
        if value.dtype.kind in "iub":
            value = value.astype(np.float64)
        return value.filled(np.nan) if value.dtype.kind in "fO" else np.asarray(value)
    # a tensor; torch is not imported, because bad input is answered before
    if hasattr(value, "detach"):
        try:
            # NumPy has no bfloat16
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value
            return value.numpy(force=True)
        except (TypeError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"no plain tensor of numbers ({error})") from None
    if _of_objects(value):
        return np.asarray(_listed(value))
    return value


def _of_objects(value: Any) -> bool:
    """Whether it is a pandas column of anything but plain numbers."""
    return hasattr(value, "isna") and np.asarray(value).dtype.kind == "O"


def _listed(column: Any) -> list[Any]:
    # NumPy cannot read pandas' NA
    return column.to_numpy(object, na_value=np.nan).tolist()


def as_array(value: Any, name: str, *, table: bool = False) -> np.ndarray:
    """Numbers of any shape, NaN for None. Raises ValueError that says `name` for what holds something else.

    table: whether a frame will do, of which every row is a step.
    """
    if not table and hasattr(value, "columns"):
        raise ValueError(
            f"{name} is a {type(value).__name__}, whose columns may be steps or series: give arrays, or the frame to predict_df"
        )
    try:
        value = plain(value)
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from None
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name} must have shape (T,) or (V, T), got rows of unequal lengths"
        ) from None
    try:
        # a list that holds None
        array = array.astype(np.float64) if array.dtype.kind == "O" else array
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name} must hold numbers, NaN where missing, got {value!r:.60}"
        ) from None
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold numbers, NaN where missing, got dtype {array.dtype}")
    return array


def as_inputs(inputs: Any) -> Any:
    """Inputs one by one: an array or tensor (T,), (n, T) or (n, V, T), or any iterable. Raises ValueError for what is neither."""
    if isinstance(inputs, np.ndarray) or hasattr(inputs, "detach"):
        return list(inputs) if inputs.ndim > 1 else [inputs]
    if isinstance(inputs, str) or not isinstance(inputs, Iterable):
        raise ValueError(  # noqa: TRY004 - like every other fault of the input
            f"inputs must be an array or a list of arrays, got {inputs!r}"
        )
    return inputs


def as_item(value: Any, position: int, *, newest: int, longest_tail: int) -> tuple[Item, bool]:
    """Check one input, and copy its `newest` steps, from the first that shows anything: what is older is not looked at.

    value: (T,) or (V, T), an array, tensor or nested list of numbers. longest_tail: a missing end that is longer counts
    as so long or some whole periods less, of the item and of each of its variates. Returns it and whether it was (T,).
    Raises ValueError that names it by its position.
    """
    name = f"inputs[{position}]"
    array = as_array(value, name)
    if array.ndim not in (1, 2):
        hint = ": put a series of its own in a list" if array.ndim == 0 else ""
        raise ValueError(f"{name} must have shape (T,) or (V, T), got {array.shape}{hint}")
    if array.size == 0:
        raise ValueError(
            f"{name} is empty, shape {array.shape}: a forecast needs at least one step"
        )
    rows = np.atleast_2d(array)
    rows = rows[:, : newest_end(rows, newest=newest, longest_tail=longest_tail)]
    # a variate that ended long ago stands where it is seen
    ends = [newest_end(row[None], newest=newest, longest_tail=longest_tail) for row in rows]
    values = np.full((len(rows), min(rows.shape[1], newest)), np.nan)
    steps = values.shape[1]
    # a long double may exceed what a double holds, and is then infinite
    with np.errstate(over="ignore"):
        for one, row, end in zip(values, rows, ends, strict=True):
            kept = row[max(0, end - steps) : end]
            one[steps - len(kept) :] = kept
    infinite = np.isinf(values)
    if infinite.any():
        variate, step = (int(i[0]) for i in np.nonzero(infinite))
        raise ValueError(
            f"{name} is infinite at variate {variate}, step {ends[variate] - steps + step}; "
            "write NaN for missing values"
        )
    shown = (~np.isnan(values)).any(0)
    if not shown.any():
        raise ValueError(f"{name} has no observed value: a forecast needs at least one")
    # what is missing before the first value is no history
    first = int(shown.argmax())
    return Item(values[:, first:].copy() if first else values), array.ndim == 1


def blank_as_zeros(values: np.ndarray) -> np.ndarray:
    """Zeros in place of a history (T,) without any observed value: a leaderboard asks for a forecast of it too."""
    # the newest first, because a long history is costly to read
    blank = np.isnan(values[-1:]).all() and np.isnan(values).all()
    return np.zeros_like(values) if blank else values


def newest_end(rows: np.ndarray, *, newest: int, longest_tail: int) -> int:
    """How many steps of (V, T) to take up: all but those by which a missing end exceeds `longest_tail`, in whole periods.

    Else a forecast would begin at another hour of the day than it is for.
    """
    steps = rows.shape[1]
    if rows.dtype.kind != "f" or not np.isnan(rows[:, -1]).all():
        return steps
    # backwards in blocks, so that a long history is not read
    for stop in range(steps, 0, -newest):
        start = max(0, stop - newest)
        shown = ~np.isnan(rows[:, start:stop]).all(0)
        if shown.any():
            last = start + int(np.flatnonzero(shown)[-1])
            excess = steps - (last + 1 + longest_tail)
            if excess <= 0:
                return steps
            unit = _unit(rows[:, max(0, last + 1 - newest) : last + 1], longest_tail)
            return steps - -(-excess // unit) * unit
    return steps


def _unit(seen: np.ndarray, most: int) -> int:
    """Steps after which the seasons of (V, T) repeat, at most `most`: seven periods (a week of days), one, or 1 for none."""
    # it is checked later
    with np.errstate(over="ignore", invalid="ignore"):
        x = seen.astype(np.float64)
        period = int(detect(np.where(np.isfinite(x), x, np.nan), len(x))[0][0])
    return next((unit for unit in (7 * period, period) if 0 < unit <= most), 1)


def check_count(value: Any, name: str) -> int:
    """An int of at least 1, from an integer or its digits. Raises InputError that says `name`."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        count = int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r:.60}")
    return count


def check_horizon(value: Any) -> int:
    """The horizon as an int from 1 to `MAX_STEPS`, from an integer or its digits. Raises InputError."""
    name = "horizon (prediction_length)"
    count = check_count(value, name)
    if count > MAX_STEPS:
        raise InputError(f"{name} must be at most {MAX_STEPS:,}, got {value!s:.30}")
    return count


def check_fill(value: Any) -> float:
    """The value of steps without a row, from a number or its digits. Raises InputError."""
    try:
        fill = np.nan if isinstance(value, bool | np.bool_) else float(value)
    except (TypeError, ValueError):
        fill = np.nan
    if not np.isfinite(fill):
        raise InputError(f"fill must be a number such as 0, got {value!r:.60}")
    return fill


def check_levels(levels: Any) -> tuple[float, ...]:
    """Quantile levels as floats inside (0, 1), in the caller's order. Raises InputError."""
    try:
        checked = tuple(_level(float(level)) for level in levels)
    except (TypeError, ValueError):
        raise InputError(
            f"quantile levels must be numbers such as 0.1, 0.5, 0.9, got {levels!r:.60}"
        ) from None
    if not checked:
        raise InputError("quantile levels are empty; give at least one such as 0.5")
    for level in checked:
        if not 0 < level < 1:
            raise InputError(
                f"quantile level {level:g} is outside (0, 1); write the 90 % quantile as 0.9"
            )
    return checked


def _level(level: float) -> float:
    """The decimal that was meant: 0.1 as float32 has it is 0.10000000149."""
    decimal = round(level, 6)
    return decimal if 0 < decimal < 1 and abs(decimal - level) < 5e-8 else level
