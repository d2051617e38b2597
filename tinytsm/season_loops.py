"""The loops of seasonal adjustment, compiled by Numba; what they compute is said in `tinytsm.season`.

All stand in this file, because compiled code that is kept sees no change in another. They hold no lock of the interpreter.
Letters as in `tinytsm.season`; L is the longest period.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# A season counts where its mean square is this many times what noise alone would make of it (the F statistic).
_CLEAR = 5.0
# Of one period and its multiples, which F tells apart by chance, the shortest whose F is this share of the largest.
_NEARLY = 0.9
# How many seasons come out.
_SEASONS = 2
# A season changes: half of it is that of so many newest periods.
_RECENT = 6
# Values that must be left to judge a season by, after one for each of its places.
_FREE = 8
# Smallest season, root mean square over the series' largest deviation: below, it may be rounding. And the largest F.
_LEAST, _MOST = 1e-6, 1e9
# Of the values of each place of a period, rows of a table (5, L).
_NUMBER, _SUM, _LOW, _HIGH, _SQUARES = range(5)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """At its first call, and kept for other processes where there is a place to write; the kernels, which stand alone, have
    a `jit` of their own."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)


@_compiled
def fold(x: Any, sums: Any, counts: Any, period: int, cycles: int, table: Any) -> None:
    """What a series is above its trend at each place of a period, in its newest `cycles` periods: how many values, their
    sum, the least, the largest, the sum of their squares. Place 0 is that of the first step ahead.

    x: (T,). sums, counts: (T + 1,), of the shown values before each step. table: (5, L), written up to the period. A
    place that was seen but once counts for nothing: it explains itself, an outlier there as well.
    """
    steps, half = len(x), period // 2
    for place in range(period):
        table[_NUMBER, place] = table[_SUM, place] = table[_SQUARES, place] = 0.0
        table[_LOW, place], table[_HIGH, place] = np.inf, -np.inf
    first = max(0, steps - (cycles + 1) * period) + half
    place = (first - steps) % period
    for t in range(first, steps - half):
        low, high = t - half, t + half + 1
        shown, around = counts[high] - counts[low], sums[high] - sums[low]
        if period % 2 == 0:
            # the mean of an even period's two nearest placings
            shown = (shown + counts[high - 1] - counts[low + 1]) / 2
            around = (around + sums[high - 1] - sums[low + 1]) / 2
        if not np.isnan(x[t]) and shown >= 0.5 * period:
            above = x[t] - around / shown
            table[_NUMBER, place] += 1
            table[_SUM, place] += above
            table[_LOW, place] = min(table[_LOW, place], above)
            table[_HIGH, place] = max(table[_HIGH, place], above)
            table[_SQUARES, place] += above * above
        place = place + 1 if place + 1 < period else 0
    for place in range(period):
        if table[_NUMBER, place] == 1:
            table[_NUMBER, place] = table[_SUM, place] = table[_SQUARES, place] = 0.0


@_compiled
def clarity(period: int, table: Any) -> float:
    """F of a season: what the places of a period explain against what they leave, 0 where it cannot be told or is too
    small. table: as `fold` writes it."""
    every = places = explained = level = square = 0.0
    for place in range(period):
        number, total = table[_NUMBER, place], table[_SUM, place]
        if number > 0:
            every += number
            places += 1
            explained += total * total / number
            level += total
            square += table[_SQUARES, place]
    free = every - places
    if places < 2 or free < max(_FREE, period // 2):
        return 0.0
    rest = max(square - explained, 0.0) / free
    explained -= level * level / every
    if explained < _LEAST * _LEAST * every:
        return 0.0
    explained /= places - 1
    # of seasons without noise the first one tried is the clearest, whatever rounding says
    return explained / rest if rest > explained / _MOST else _MOST


@_compiled
def shape(period: int, table: Any, values: Any) -> None:
    """A season: the mean at each place, without the largest and the smallest where there are three or more, around zero.

    table: as `fold` writes it. values: (L,), written up to the period; places that say nothing stay with the trend.
    """
    level = told = 0.0
    for place in range(period):
        number = table[_NUMBER, place]
        values[place] = table[_SUM, place]
        if number > 2:
            values[place] -= table[_LOW, place] + table[_HIGH, place]
            number -= 2
        if number > 0:
            values[place] /= number
            level += values[place]
            told += 1
    for place in range(period):
        if table[_NUMBER, place] > 0:
            values[place] -= level / told


@_compiled
def renew(period: int, table: Any, recent: Any, values: Any) -> None:
    """Make a season half that of its newest periods, at the places that they show and around the level of these places.

    table, recent: of the newest periods, as `fold` and `shape` write them. values: (L,) of all, written.
    """
    level = told = 0.0
    for place in range(period):
        if table[_NUMBER, place] > 0:
            level += values[place]
            told += 1
    for place in range(period):
        if table[_NUMBER, place] > 0:
            values[place] = (values[place] + recent[place] + level / told) / 2


@_compiled
def may_follow(period: int, taken: int) -> bool:
    """Whether a season may come out after another one, of `taken` steps: not the same again, and of its multiples only a week
    of days and a day of hours. Weather fits fifteen days in fifteen places out of a few hundred."""
    return period % taken != 0 or period == 7 * taken or period == 24 * taken


@_compiled
def take_out(
    x: Any,
    periods: Any,
    tried: Any,
    calendar: Any,
    cycles: int,
    season: Any,
    clear: Any,
    leading: Any,
) -> None:
    """Take the seasons out of rows, one after another, the clearest first.

    x: (R, T), NaN where missing, written. periods: (R,), one more to try than the calendars'. tried: all of them, rising;
    calendar: which of them are tried for every row. cycles: the newest periods that a season is estimated from. season: (R,
    T + H), to which theirs are added. clear, leading: (R,), F and the period of the clearest, written where there is one.
    """
    rows, steps = x.shape
    longest = tried[-1]
    table, values, recent = np.empty((5, longest)), np.empty(longest), np.empty(longest)
    found = np.empty(len(tried))
    sums, counts = np.zeros(steps + 1), np.zeros(steps + 1)
    for row in range(rows):
        own, taken = x[row], 0
        for turn in range(_SEASONS):
            for t in range(steps):
                missing = np.isnan(own[t])
                sums[t + 1] = sums[t] + (0.0 if missing else own[t])
                counts[t + 1] = counts[t] + (0.0 if missing else 1.0)
            best, chosen = _CLEAR, 0
            found[:] = 0.0
            for k in range(len(tried)):
                offered = calendar[k] or tried[k] == periods[row]
                if offered and (taken == 0 or may_follow(tried[k], taken)):
                    fold(own, sums, counts, tried[k], cycles, table)
                    found[k] = clarity(tried[k], table)
                    if found[k] > best:
                        best, chosen = found[k], tried[k]
            if chosen == 0:
                break
            for k in range(len(tried)):
                if chosen % tried[k] == 0 and found[k] >= max(_CLEAR, _NEARLY * best):
                    best, chosen = found[k], tried[k]
                    break
            if turn == 0:
                clear[row], leading[row] = best, chosen
            fold(own, sums, counts, chosen, cycles, table)
            shape(chosen, table, values)
            fold(own, sums, counts, chosen, _RECENT, table)
            shape(chosen, table, recent)
            renew(chosen, table, recent, values)
            place = -steps % chosen
            for t in range(season.shape[1]):
                part = values[place] * (1.0 - 1.0 / best)
                season[row, t] += part
                if t < steps:
                    own[t] -= part
                place = place + 1 if place + 1 < chosen else 0
            taken = chosen
