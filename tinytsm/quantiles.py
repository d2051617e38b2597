"""Sets of quantiles: at any level, over rolled horizons, averaged, of counts. They never cross and never overflow."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from tinytsm.config import QUANTILES

MEDIAN = len(QUANTILES) // 2


def interpolate_levels(quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """Quantiles at any levels from those the model is trained on.

    quantiles: (..., Q) at QUANTILES, rising, float64. Linear in the normal score of the level, so that the tails go on
    as a normal's would. Returns (..., len(levels)), rising in the level.
    """
    score = NormalDist().inv_cdf
    knots = [score(q) for q in QUANTILES]
    most = torch.finfo(quantiles.dtype).max / 4
    columns = []
    for level in levels:
        if level in QUANTILES:
            columns.append(quantiles[..., QUANTILES.index(level)])
            continue
        z = score(level)
        i = min(max(1, int(np.searchsorted(knots, z))), len(knots) - 1)
        # in quarters, so that differences of the largest numbers stay finite
        low, high = quantiles[..., i - 1] / 4, quantiles[..., i] / 4
        share = (z - knots[i - 1]) / (knots[i] - knots[i - 1])
        between = (low + (high - low) * share).clamp(-most, most)
        # rounding must not carry a level past its neighbours
        if z > knots[0]:
            between = torch.maximum(between, high if z > knots[-1] else low)
        if z < knots[-1]:
            between = torch.minimum(between, low if z < knots[0] else high)
        columns.append(between * 4)
    return torch.stack(columns, -1)


def accumulate(quantiles: Tensor, *, patch: int, roll: int, stage: int) -> Tensor:
    """Make the spread around the median reflect how far ahead each step is.

    quantiles: (V, H, Q), `patch` steps to a token. From `stage` to `stage` steps the forecast took its own medians for
    observations, so the spread of the stage before is added: independent errors, in quadrature. And after each `roll`
    steps, where another token takes over, the spread is at least the mean of the last patch before.
    Returns (V, H, Q).
    """
    length = quantiles.shape[1]
    if length <= roll:
        return quantiles
    # in quarters, so that differences of the largest numbers stay finite
    middle = quantiles[..., MEDIAN, None] / 4
    spread = quantiles / 4 - middle
    for start in range(roll, length, roll):
        before = spread[:, start - patch : start].mean(1, keepdim=True)
        block = spread[:, start : start + roll]
        if start % stage == 0:
            spread[:, start : start + stage] = torch.sign(before) * torch.hypot(
                spread[:, start : start + stage], before
            )
        wider = torch.where(before > 0, torch.maximum(block, before), torch.minimum(block, before))
        spread[:, start : start + roll] = wider
    most = torch.finfo(quantiles.dtype).max / 4
    # hypot may be out of order by a rounding error
    return (middle + spread).clamp(-most, most).cummax(-1).values * 4


def average(members: Sequence[Tensor]) -> Tensor:
    """Mean of several forecasts of one thing, (V, H, Q) or (V, H) each, level by level.

    The mean of rising sequences rises, after rounding too, so nothing has to be sorted.
    """
    # each divided first: a sum of the largest numbers would overflow; one after the other, so that every level's
    # sum is rounded alike
    total = members[0] / len(members)
    for member in members[1:]:
        total = total + member / len(members)
    return total


def as_counts(values: Tensor, *, nonnegative: bool, integer: bool) -> Tensor:
    """Quantiles of max(0, Y), and of Y rounded to whole numbers, from those of Y, in any shape.

    Both maps rise, so the quantile of the mapped value is the mapped quantile, whatever the distribution.
    """
    if integer:
        values = values.round()
    return values.clamp_min(0.0) if nonnegative else values
