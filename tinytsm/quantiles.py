"""Sets of quantiles: at any level, over rolled horizons, averaged, of counts. They never cross and never overflow."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from tinytsm.config import QUANTILES

MEDIAN = len(QUANTILES) // 2
# Zeros that make zero a floor: more than chance would make, and few enough for a street that is empty at three in the morning
# now and then. One to ten score alike (docs/ablations.md).
_ZEROS = 3
# Share of zeros from which on what lies between zero and the least value above it is a gap, as in counts, not chance.
_MANY = 1 / 3


def interpolate_levels(quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """Quantiles at any levels from those the model is trained on.

    quantiles: (..., Q) at QUANTILES, rising, float64. Linear in the normal score of the level, so that the tails go on
    as a normal's would. Returns (..., len(levels)), rising in the level.
    """
    score = NormalDist().inv_cdf
    knots = [score(q) for q in QUANTILES]
    most = torch.finfo(quantiles.dtype).max
    columns = []
    for level in levels:
        if level in QUANTILES:
            columns.append(quantiles[..., QUANTILES.index(level)])
            continue
        z = score(level)
        i = min(max(1, int(np.searchsorted(knots, z))), len(knots) - 1)
        low, high = quantiles[..., i - 1], quantiles[..., i]
        share = (z - knots[i - 1]) / (knots[i] - knots[i - 1])
        # half the difference, twice, because the difference of the largest numbers is infinite; each operation rises
        # with the share, and rounding must not carry a level past its neighbours
        half = high / 2 - low / 2
        if share > 1:
            value = torch.maximum(high + half * (share - 1) + half * (share - 1), high)
        elif share < 0:
            value = torch.minimum(low + half * share + half * share, low)
        else:
            value = (low + half * share + half * share).clamp(low, high)
        value = value.clamp(-most, most)
        columns.append(value)
    return torch.stack(columns, -1)


def accumulate(quantiles: Tensor, *, patch: int, roll: int, stage: int) -> Tensor:
    """Make the spread around the median reflect how far ahead each step is.

    quantiles: (R, H, Q), `patch` steps to a token. From `stage` to `stage` steps the forecast took its own medians for
    observations, so the spread of the stage before is added: independent errors, in quadrature. And after each `roll`
    steps, where another token takes over, the spread is at least the mean of the last patch before.
    Returns (R, H, Q); nothing after a step enters it.
    """
    length = quantiles.shape[1]
    if length <= roll:
        return quantiles
    # which side of the median a level lies on; spreads of the largest numbers may be infinite, and are cut at the end
    levels = torch.arange(quantiles.shape[-1], device=quantiles.device)
    side = torch.sign(levels - MEDIAN).to(quantiles.dtype)
    middle = quantiles[..., MEDIAN, None]
    spread = (quantiles - middle).abs()
    for start in range(roll, length, roll):
        before = spread[:, start - patch : start].mean(1, keepdim=True)
        if start % stage == 0:
            whole = spread[:, start : start + stage]
            spread[:, start : start + stage] = torch.hypot(whole, before)
        block = spread[:, start : start + roll]
        spread[:, start : start + roll] = torch.maximum(block, before)
    most = torch.finfo(quantiles.dtype).max
    # the median's own spread is 0, and 0 times infinity must not arise; hypot may be out of order by a rounding error
    moved = torch.where(side == 0, 0.0, side * spread.clamp_max(most))
    return (middle + moved).clamp(-most, most).cummax(-1).values


def average(members: Sequence[Tensor]) -> Tensor:
    """Mean of several forecasts of one thing, (V, H, Q) or (V, H) each, level by level.

    Equal members give themselves, and the mean of rising sequences rises, after rounding too: it is kept between the
    least and the largest member, which rise.
    """
    if len(members) == 1:
        return members[0]
    total, least, largest = members[0] / len(members), members[0], members[0]
    for member in members[1:]:
        # each divided first: a sum of the largest numbers would overflow
        total = total + member / len(members)
        least, largest = torch.minimum(least, member), torch.maximum(largest, member)
    return total.clamp(least, largest)


def zero_below(values: np.ndarray, nonnegative: bool | None = None) -> np.ndarray:
    """Below what a forecast of each row is zero (R,): -inf where zero is not its floor, because something is below it or it
    was not met several times; 0 where it is; and where many values are zero, half of the least value above it. What is
    nearer to zero than to anything seen above it is zero then, as the quantiles of small counts are.

    values: (R, T), NaN where missing. nonnegative: whether zero is the floor, whatever the values; None: as they say.
    """
    if nonnegative is not None:
        return np.full(len(values), 0.0 if nonnegative else -np.inf)
    zeros = (values == 0.0).sum(1)
    rests = (zeros >= _ZEROS) & ~(values < 0.0).any(1)
    least = np.min(values, axis=1, where=values > 0.0, initial=np.inf)
    gap = (zeros >= _MANY * (~np.isnan(values)).sum(1)) & np.isfinite(least)
    return np.where(rests, np.where(gap, least / 2, 0.0), -np.inf)


def as_counts(values: Tensor, *, zero_below: Tensor, integer: bool) -> Tensor:
    """Quantiles of counts from those of Y: zero below `zero_below`, and rounded to whole numbers if asked for.

    values: (R, ...). zero_below: (R,), -inf where nothing is cut. Both maps rise, so the quantile of the mapped value is
    the mapped quantile, whatever the distribution.
    """
    rows = zero_below.view(-1, *[1] * (values.ndim - 1))
    values = torch.where(values < rows, 0.0, values)
    # adding zero leaves no negative one
    return (values.round() if integer else values) + 0.0
