"""Forecasting strategies around one forward pass: which views of an item are forecast, and how they become one forecast.

Stride-interleaved forecasting inference (SIFI; our definition of what Tiny-TSM, arXiv 2511.19272, describes): with
stride s, phase r of s takes every s-th step, ending r steps before the newest. Its j-th forecast is step T - r + j s;
interleaved, the phases forecast every step, from s times the context and to s times the horizon. Strides are averaged
level by level. A short history, or the newest part of a longer one, is also read stretched, each step held for several:
a season that lay within a token then spans tokens, and what is small beside the past is large (our definition; a
stride below one). Symmetry ensembling averages a forecast with that of the mirrored series, mirrored back. Feature
augmentation forecasts a series beside companions made from it. Seasonal adjustment forecasts it without its seasons
(`season`), which are put back, and draws that forecast to the one of its means over periods (`levels`).
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tinytsm import levels, period, season
from tinytsm.companions import companions
from tinytsm.config import STRETCHES, ModelConfig
from tinytsm.forward import Forward, Query
from tinytsm.inputs import Item
from tinytsm.options import MAX_STRIDE, Strategy
from tinytsm.quantiles import average
from tinytsm.rows import alike, centre

# What the rule averages with stride 1, the first that fits, for horizons of at least this share of what one pass reaches.
# Powers of two: 3 and 6 did worse at every horizon, both together no better, and shorter horizons gain nothing
# (docs/ablations.md).
_RULE, _LONG = (MAX_STRIDE, 4), 0.5
# A phase with fewer tokens than this has too little to say.
_LEAST_TOKENS = 16
# A phase must show the dominant period in at least this many steps.
_LEAST_CYCLE = 4
# A history of at most so many patches is also read stretched as a whole; of a longer one its newest steps, where they are
# so many horizons or all there is, as so many patches.
_SHORT, _HORIZONS, _STRETCHED = 4, 4, 32
# Means over periods are forecast from so many ahead on, where those seen fill a token.
_PERIODS = 2


def choose_strides(
    steps: int, *, length: int, dominant_period: int, config: ModelConfig
) -> tuple[int, ...]:
    """The strides of SIFI by rule, from what every series has: no table of data sets.

    steps: T of the context. length: the horizon. dominant_period: in steps, 0 where there is none. A stride must leave
    the period a whole number of steps, and every phase enough of them. 1 is among them where one pass reaches the
    horizon, or where nothing else is left.
    """
    if length < _LONG * config.horizon_length:
        return (1,)
    for stride in _RULE:
        whole, rest = divmod(dominant_period, stride)
        shows_period = rest == 0 and (whole == 0 or whole >= _LEAST_CYCLE)
        if shows_period and steps >= stride * _LEAST_TOKENS * config.patch:
            return (1, stride) if length <= config.horizon_length else (stride,)
    return (1,)


def choose_stretches(
    steps: int, *, length: int, dominant_period: int, config: ModelConfig
) -> tuple[int, ...]:
    """How often each step is repeated where an item is also read stretched, by rule.

    Never so often that one pass would not see what is stretched or not reach the horizon, and not at all where a period
    shows or more is asked for than was seen. steps: T of the context. length: the horizon. dominant_period: in steps, 0
    where there is none.
    """
    if dominant_period or steps < length:
        return ()
    chosen = []
    for r in STRETCHES:
        newest = stretched_steps(steps, r, config)
        enough = newest >= min(steps, _HORIZONS * length)
        if enough and r * newest <= config.context_length and r * length <= config.horizon_length:
            chosen.append(r)
    return tuple(chosen)


def stretched_steps(steps: int, stretch: int, config: ModelConfig) -> int:
    """How many of T newest steps are read stretched."""
    if steps <= _SHORT * config.patch:
        return steps
    # half a context is what a pass reads at any horizon
    read = min(_STRETCHED * config.patch, config.context_length // 2)
    return min(steps, read // stretch)


# From the forecasts of some queries to that of every step.
_Read = Callable[[Sequence[tuple[Tensor, Tensor]]], tuple[Tensor, Tensor]]


def forecast_items(
    items: Sequence[Item], length: int, *, forward: Forward, strategy: Strategy, zeros: bool = True
) -> list[tuple[Tensor, Tensor]]:
    """Quantiles (V, H, Q) and mean (V, H) of each item; all phases of all items are run together.

    Symmetry is `forward`'s: it mirrors whatever it runs. zeros: whether seasonal adjustment has a series be zero where, in
    its period, it always was.
    """
    cycles, lags = _periods(items, length, config=forward.config, strategy=strategy)
    if not strategy.adjust:
        return _forecast(items, length, cycles, forward=forward, strategy=strategy)
    # the calendars' periods are tried anyway, so that the lag is the one that might be missed
    found = season.adjust([item.values for item in items], length, lags)
    adjusted = {i: without for i, without in enumerate(found) if without is not None}
    others = [items[i]._replace(values=without.values) for i, without in adjusted.items()]
    plain = strategy._replace(adjust=False)
    cycles += _periods(others, length, config=forward.config, strategy=plain)[0]
    forecasts = _forecast([*items, *others], length, cycles, forward=forward, strategy=plain)
    results, of_others = forecasts[: len(items)], forecasts[len(items) :]
    leading = [without.period for without in adjusted.values()]
    of_others = _levelled(others, of_others, leading, length, forward=forward, strategy=strategy)
    weight = forward.config.adjusted_weight
    for (i, without), other in zip(adjusted.items(), of_others, strict=True):
        results[i] = without.blend(results[i], other, weight, zeros=zeros)
    return results


def _levelled(
    items: Sequence[Item],
    forecasts: Sequence[tuple[Tensor, Tensor]],
    leading: Sequence[int],
    length: int,
    *,
    forward: Forward,
    strategy: Strategy,
) -> list[tuple[Tensor, Tensor]]:
    """Forecasts of items without their seasons, drawn to those of their means over the period of the clearest."""
    drawn = list(forecasts)
    # these have seasons of their own, weeks of days, and are adjusted in turn; more passes give little
    once = strategy._replace(strides=(1,))
    counts: dict[int, list[int]] = {}
    for i, (item, of_item) in enumerate(zip(items, leading, strict=True)):
        count = length // of_item
        if count >= _PERIODS and item.values.shape[1] >= of_item * forward.config.patch:
            counts.setdefault(count, []).append(i)
    for count, at in counts.items():
        means = [
            items[i]._replace(values=levels.period_means(items[i].values, leading[i])) for i in at
        ]
        of_means = forecast_items(means, count, forward=forward, strategy=once, zeros=False)
        for i, (quantiles, _) in zip(at, of_means, strict=True):
            drawn[i] = levels.draw(forecasts[i], quantiles, leading[i])
    return drawn


def _forecast(
    items: Sequence[Item],
    length: int,
    cycles: Sequence[int],
    *,
    forward: Forward,
    strategy: Strategy,
) -> list[tuple[Tensor, Tensor]]:
    """Quantiles and mean of each item, as it is, by all of a strategy but seasonal adjustment."""
    queries: list[Query] = []
    # of each item: how each of its averaged forecasts is read, and where the queries are
    plans: list[list[tuple[_Read, slice]]] = []
    for item, cycle in zip(items, cycles, strict=True):
        plan = []
        for read, view in _views(item, length, cycle, config=forward.config, strategy=strategy):
            plan.append((read, slice(len(queries), len(queries) + len(view))))
            queries += view
        plans.append(plan)
    forecasts = forward.run(queries)
    results = []
    for item, plan in zip(items, plans, strict=True):
        # companions come after an item's own variates, and have served
        own = len(item.values)
        members = [read(forecasts[at]) for read, at in plan]
        results.append(
            (average([q[:own] for q, _ in members]), average([m[:own] for _, m in members]))
        )
    return results


def _views(
    item: Item, length: int, cycle: int, *, config: ModelConfig, strategy: Strategy
) -> list[tuple[_Read, list[Query]]]:
    """The forecasts of an item that are averaged: how each is read, and from which queries."""
    wanted = strategy.strides or choose_strides(
        item.values.shape[1], length=length, dominant_period=cycle, config=config
    )
    shown = _beside_companions(item, cycle or config.patch) if strategy.augment else item
    views: list[tuple[_Read, list[Query]]] = [
        (functools.partial(interleave, stride=s, length=length), phases(shown, s, length))
        for s in [s for s in wanted if _shows_all(item, s, config.context_length)] or [1]
    ]
    if strategy.strides is None:
        steps = item.values.shape[1]
        for r in choose_stretches(steps, length=length, dominant_period=cycle, config=config):
            newest = stretched_steps(steps, r, config)
            # of old values alone it would look as calm as if they had gone on
            if _shows_as_much(shown.values[:, -(newest // 2) :], shown.values):
                part = shown._replace(values=shown.values[:, -newest:])
                read = functools.partial(read_stretched, stretch=r, length=length)
                views.append((read, [stretched(part, r, length)]))
    return views


def _beside_companions(item: Item, cycle: int) -> Item:
    """A single series and its companions as one item; an item with variates as it is."""
    if len(item.values) > 1:
        return item
    # each variate is read in a frame of its own, so that companions may have another unit than the series
    x = centre(item.values).x[0].astype(np.float64)
    return item._replace(values=np.concatenate((item.values, companions(x, cycle))))


def _periods(
    items: Sequence[Item], length: int, *, config: ModelConfig, strategy: Strategy
) -> tuple[list[int], list[int]]:
    """The dominant period of each item's newest steps and its lag, as `period.detect` gives them, 0 where there is none or
    where nothing depends on it."""
    periods, lags = [0] * len(items), [0] * len(items)
    # apart where values are missing, because they are then summed otherwise
    shapes: dict[int, tuple[int, ...]] = {}
    for i, item in enumerate(items):
        variates, steps = item.values.shape
        # looking for a period takes as long as a pass
        strides = choose_strides(steps, length=length, dominant_period=0, config=config)
        stretches = choose_stretches(steps, length=length, dominant_period=0, config=config)
        by_rule = strategy.strides is None and (strides != (1,) or stretches != ())
        if by_rule or strategy.adjust or strategy.augment and variates == 1:
            newest = item.values[:, -config.context_length :]
            shapes[i] = (*newest.shape, bool(np.isnan(newest).any()))
    for chunk in alike(shapes):
        variates, steps, _ = shapes[chunk[0]]
        rows = np.concatenate([items[i].values[:, -steps:] for i in chunk])
        # centred, so that squares of the largest numbers stay finite
        found = period.detect(centre(rows).x.astype(np.float64), variates)
        for i, one, lag in zip(chunk, *found, strict=True):
            periods[i], lags[i] = int(one), int(lag)
    return periods, lags


def _shows_all(item: Item, stride: int, context_length: int) -> bool:
    """Whether every phase of a stride shows something, where it is read, of each variate that shows anything."""
    if stride == 1:
        return True
    # a pass reads half a context of a phase, or more where the horizon is shorter
    read = item.values[:, -stride * (context_length // 2) :]
    return read.shape[1] >= stride and all(
        _shows_as_much(read[:, first::stride], item.values) for first in range(stride)
    )


def _shows_as_much(part: np.ndarray, whole: np.ndarray) -> bool:
    """Whether some steps of an item, (V, t), show something of each variate that shows anything in all, (V, T)."""
    seen, anything = (~np.isnan(values).all(1) for values in (part, whole))
    return bool((seen >= anything).all())


def phases(item: Item, stride: int, length: int) -> list[Query]:
    """The phases of one stride that forecast any of the next `length` steps, in the order of what they forecast first.

    All have the same length and span, so that they are computed in the same shape.
    """
    steps = item.values.shape[1]
    count, span = math.ceil(length / stride), math.ceil(steps / stride)
    queries = []
    for first in range(min(stride, length)):
        newest = steps - stride + first  # T - 1 - r, with r = stride - 1 - first
        values = item.values[:, newest % stride : newest + 1 : stride]
        queries.append(Query(values, count, span))
    return queries


def interleave(
    forecasts: Sequence[tuple[Tensor, Tensor]], stride: int, length: int
) -> tuple[Tensor, Tensor]:
    """The forecast of every step from those of a stride's phases, as `phases` orders them."""
    if stride == 1:
        return forecasts[0]
    quantiles = torch.stack([q for q, _ in forecasts], 2).flatten(1, 2)
    mean = torch.stack([m for _, m in forecasts], 2).flatten(1, 2)
    return quantiles[:, :length], mean[:, :length]


def stretched(item: Item, stretch: int, length: int) -> Query:
    """An item with every step repeated `stretch` times, asked for the next `length` steps as often."""
    values = np.repeat(item.values, stretch, axis=1)
    return Query(values, length * stretch, values.shape[1])


def read_stretched(
    forecasts: Sequence[tuple[Tensor, Tensor]], stretch: int, length: int
) -> tuple[Tensor, Tensor]:
    """The forecast of every step from that of a stretched item, the only one: the middle of its repetitions."""
    ((quantiles, mean),) = forecasts
    middle = slice(stretch // 2, length * stretch, stretch)
    return quantiles[:, middle], mean[:, middle]
