"""Many series through the network in a few fixed shapes, over any horizon.

A query is computed in one of a few fixed shapes, chosen by its own length, variates and horizon alone, beside filler
rows where the batch is not full: on CPU its forecast is the same bits whatever shares its batch. A CPU computes a batch on
each of torch's threads at once, and each batch on one thread: a batch is too little work to share out, and the bits then
do not depend on how many threads there are.
"""

import functools
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tinytsm.config import TOKEN_MULTIPLE
from tinytsm.model import Model, Tokens
from tinytsm.quantiles import MEDIAN, accumulate, average
from tinytsm.rows import LARGEST, centre

# Tokens computed at once. On CPU few enough for activations to stay in the second-level cache.
_TOKENS_AT_ONCE = 512
_TOKENS_AT_ONCE_CUDA = 131072

# Quantiles and mean of each item.
_Forecasts = list[tuple[Tensor, Tensor]]


class Query(NamedTuple):
    """One item to forecast.

    values: (V, T) float64, newest last, NaN where missing. length: steps to forecast. span: the number of steps that
    chooses the shape, T or more.
    """

    values: np.ndarray
    length: int
    span: int


class Shape(NamedTuple):
    """A fixed compute shape.

    tokens: of a row. variates: rows of an item. extra: missing tokens after the context. patches: of the horizon.
    """

    tokens: int
    variates: int
    extra: int
    patches: int


class Forward:
    """Runs a model over queries. Knows shapes, batches, rolling and memory; nothing of strategies."""

    def __init__(
        self, model: Model, *, device: torch.device, batch_size: int | None, symmetric: bool
    ):
        """batch_size: rows computed at once, None for what suits the device; symmetric: average with the mirror image."""
        self.model, self.config, self.device = model, model.config, device
        self.batch_size, self.symmetric = batch_size, symmetric

    def run(self, queries: Sequence[Query]) -> _Forecasts:
        """Quantiles (V, H, Q) and mean (V, H) of each query, float64, in its units.

        Batches are halved where memory runs out, and stay so; raises the allocator's error where one item is too much.
        """
        results: _Forecasts = [(torch.empty(0), torch.empty(0))] * len(queries)
        groups: dict[Shape, list[int]] = {}
        for i, query in enumerate(queries):
            groups.setdefault(self.shape(query), []).append(i)
        for shape, members in groups.items():
            waiting = members
            while waiting:
                at_once = self.items_at_once(shape)
                chunks = [waiting[i : i + at_once] for i in range(0, len(waiting), at_once)]
                forecast = functools.partial(self._chunk, queries, shape, at_once)
                try:
                    each = _side_by_side(self.device, forecast, chunks)
                    for chunk, forecasts in zip(chunks, each, strict=True):
                        for i, one in zip(chunk, forecasts, strict=True):
                            results[i] = one
                        waiting = waiting[len(chunk) :]
                except (MemoryError, RuntimeError) as error:
                    if at_once == 1 or not _out_of_memory(error):
                        raise
                    self.batch_size = at_once // 2 * self._rows_of_item(shape)
                    if self.device.type == "cuda":
                        torch.cuda.empty_cache()
        return results

    # -- shapes

    def shape(self, query: Query) -> Shape:
        """The shape that a query is computed in."""
        config = self.config
        patches = math.ceil(query.length / config.patch)
        beyond = patches - config.horizon_patches
        # so that the last of them reaches a horizon beyond one token's; more than half of the context is read, because
        # a missing end may be as long as half of it
        extra = max(0, min(beyond, config.horizon_patches, config.context_patches // 2 - 1))
        wanted = math.ceil(query.span / config.patch) + extra
        tokens = TOKEN_MULTIPLE
        while tokens < min(wanted, config.context_patches):
            tokens *= 2
        variates = 1 << (len(query.values) - 1).bit_length()
        return Shape(min(tokens, config.context_patches), variates, extra, patches)

    def items_at_once(self, shape: Shape) -> int:
        """Items of a batch; a batch that is not full is filled up to it."""
        rows = self.batch_size
        if rows is None:
            tokens = _TOKENS_AT_ONCE if self.device.type == "cpu" else _TOKENS_AT_ONCE_CUDA
            rows = tokens // shape.tokens
        return max(1, rows // self._rows_of_item(shape))

    def _rows_of_item(self, shape: Shape) -> int:
        return shape.variates * (2 if self.symmetric else 1)

    # -- computing

    def _chunk(
        self, queries: Sequence[Query], shape: Shape, at_once: int, members: Sequence[int]
    ) -> _Forecasts:
        """Forecasts of the queries with these numbers, at most one batch of them."""
        if self.device.type == "cuda":
            # no promise of the same bits there, so few items need not cost what a full batch does
            at_once = min(at_once, 1 << (len(members) - 1).bit_length())
        return self._forecast([queries[i] for i in members], shape, at_once)

    def _forecast(self, queries: list[Query], shape: Shape, at_once: int) -> _Forecasts:
        """Quantiles and mean of the queries of one batch, in their units, from as many stages as the horizon takes."""
        config = self.config
        whole_stage = config.horizon_patches + shape.extra
        # where the rows of each query are
        places = [
            slice(j * shape.variates, j * shape.variates + len(query.values))
            for j, query in enumerate(queries)
        ]
        histories = [query.values for query in queries]
        stages: list[tuple[Tensor, Tensor]] = []
        for done in range(0, shape.patches, whole_stage):
            patches = min(whole_stage, shape.patches - done)
            stages.append(self._stage(histories, places, shape, at_once, patches))
            if done + patches < shape.patches:
                medians = stages[-1][0][..., MEDIAN].numpy()
                histories = [
                    np.concatenate((history[:, -shape.tokens * config.patch :], medians[at]), 1)
                    for history, at in zip(histories, places, strict=True)
                ]
        quantiles = accumulate(
            torch.cat([q for q, _ in stages], 1),
            patch=config.patch,
            roll=config.horizon_length,
            stage=whole_stage * config.patch,
        )
        mean = torch.cat([m for _, m in stages], 1)
        return [
            (quantiles[at, : query.length], mean[at, : query.length])
            for query, at in zip(queries, places, strict=True)
        ]

    @torch.no_grad()
    def _stage(
        self,
        histories: list[np.ndarray],
        places: list[slice],
        shape: Shape,
        at_once: int,
        patches: int,
    ) -> tuple[Tensor, Tensor]:
        """The next `patches` patches of every row of the batch, in one pass: (R, patches * P, Q) and without Q."""
        patch, rows = self.config.patch, at_once * shape.variates
        context = (shape.tokens - shape.extra) * patch
        steps = np.full((rows, context), np.nan)
        present = torch.zeros(rows, dtype=torch.bool, device="cpu")
        for history, at in zip(histories, places, strict=True):
            newest = history[:, -context:]
            steps[at, context - newest.shape[1] :] = newest
            present[at] = True
        centred = centre(steps)
        x = np.full((rows, shape.tokens * patch), np.nan, np.float32)
        x[:, :context] = centred.x
        mean, quantiles = self._compute(x, centred.resolution, present, shape, patches)
        origin, unit = torch.from_numpy(centred.origin), torch.from_numpy(centred.unit)
        quantiles = (origin[:, None, None] + quantiles / unit[:, None, None]).clamp(
            -LARGEST, LARGEST
        )
        mean = (origin[:, None] + mean / unit[:, None]).clamp(-LARGEST, LARGEST)
        return quantiles, mean

    def _compute(
        self, x: np.ndarray, resolution: np.ndarray, present: Tensor, shape: Shape, patches: int
    ) -> tuple[Tensor, Tensor]:
        """Mean (R, patches * P) and quantiles (R, patches * P, Q) in float64 of centred rows, mirrored ones averaged in."""
        rows = torch.from_numpy(x)
        lost = torch.from_numpy(resolution.astype(np.float32))
        if self.symmetric:
            rows, lost, present = torch.cat((rows, -rows)), lost.repeat(2), present.repeat(2)
        # the last missing token is read where the newest one does not reach
        newest, last = shape.tokens - shape.extra - 1, shape.tokens - 1
        # the model's own precision, whatever the caller casts to
        with torch.autocast(self.device.type, enabled=False):
            tokens = self.model(
                rows.to(self.device),
                lost.to(self.device),
                shape.variates,
                present.to(self.device) if shape.variates > 1 else None,
                [newest] if patches <= self.config.horizon_patches else [newest, last],
            )
            mean, quantiles = self._read(tokens, shape, patches)
        mean, quantiles = mean.cpu().double(), quantiles.cpu().double()
        if self.symmetric:
            (up, down), (high, low) = mean.chunk(2), quantiles.chunk(2)
            return average((up, -down)), average((high, -low.flip(-1)))
        return mean, quantiles

    def _read(self, tokens: Tokens, shape: Shape, patches: int) -> tuple[Tensor, Tensor]:
        """Mean and quantiles of the next patches: the newest token's, then those of the last missing one."""
        near = min(patches, self.config.horizon_patches)
        mean, quantiles = self.model.forecast(tokens, 0, near)
        if patches == near:
            return mean, quantiles
        # the last missing token says nothing of the patches that it stands on
        far_mean, far = self.model.forecast(tokens, 1, patches - shape.extra)
        start = (near - shape.extra) * self.config.patch
        return (
            torch.cat((mean, far_mean[:, start:]), 1),
            torch.cat((quantiles, far[:, start:]), 1),
        )


def _side_by_side(
    device: torch.device, call: Callable[[list[int]], _Forecasts], chunks: list[list[int]]
) -> Iterator[_Forecasts]:
    """What `map` is; on CPU as many calls at once as torch has threads, each on one thread."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield from map(call, chunks)
        return
    pool = _pool(threads)
    futures = [pool.submit(call, chunk) for chunk in chunks]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


# by the number of workers
_pools: dict[int, ThreadPoolExecutor] = {}
_making = threading.Lock()


def _pool(workers: int) -> ThreadPoolExecutor:
    """So many threads, as many as torch has, each of which computes on itself alone."""
    with _making:
        if workers not in _pools:
            pool = ThreadPoolExecutor(workers)
            try:
                # on a thread of its own, because who sets the number sets its own too
                with ThreadPoolExecutor(1) as maker:
                    maker.submit(_start, pool, workers).result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            _pools[workers] = pool
        return _pools[workers]


def _start(pool: ThreadPoolExecutor, workers: int) -> None:
    """Start a pool's threads, with one thread of torch each.

    A thread keeps for life the number that it finds when it first asks. The number is the process's: it is changed once and
    not for each forecast, because threads that others start would find it too.
    """
    meeting = threading.Barrier(workers)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        list(pool.map(lambda _: (torch.get_num_threads(), meeting.wait()), range(workers)))
    except BaseException:
        # those that came would wait for the others until the process ends, and longer
        meeting.abort()
        raise
    finally:
        torch.set_num_threads(before)


def _forget_pools() -> None:
    _pools.clear()
    _making.release()


# a forked process has none of the threads
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_making.acquire, after_in_parent=_making.release, after_in_child=_forget_pools
    )


def _out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: PyTorch's CPU allocator says so in words only."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "can't allocate memory" in str(error)
    )
