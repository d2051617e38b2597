"""Training batches: windows of made-up series, filled by threads ahead of the trainer.

A batch is a pure function of (settings, batch number), so the stream's whole state is one integer. The filling is
jitted and holds no interpreter lock; on CUDA the buffers are pinned and copied on a side stream.
"""

import functools
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import numba
import numpy as np
import torch
from torch import Tensor

from tinytsm.config import STRETCHES, TOKEN_MULTIPLE, ModelConfig, TrainConfig
from tinytsm.synth import dispatch, philox
from tinytsm.synth.generator import fill_prepared
from tinytsm.synth.mixture import MIXTURE_VERSION

# What a seed's batches are: another one wherever the mixture or this module changes them.
BATCHES_VERSION = f"{MIXTURE_VERSION}.1"
# Sub-streams of this module; the generator's own purposes are small numbers.
_WINDOW, _BUCKET = 1_000_001, 1_000_002
# Item indices of one batch start here times its number, so no two batches share an item.
_ITEMS_APART = 1 << 20
# Variates of an item on the multivariate steps.
_VARIATES = 4
# Longest run of hidden patches, and the largest share hidden (contiguous patch masking as in TiRex and Toto 2.0; runs
# as long as the horizon, because forecasts beyond it append that many missing tokens).
_LONGEST_RUN, _MOST_HIDDEN = 24, 0.4
# Patches that a history must have for any to be hidden.
_LEAST_MASKED = 4
# Share of contexts of less than three patches, and on the steps for short contexts.
_BRIEF_SHARE, _BRIEF_SHARE_SHORT = 0.15, 0.45
# Share of short records whose values are held.
_HELD_SHARE = 0.3
# A target further out than this many powers of the context's range is a runaway and is not scored.
_RUNAWAY = 1e18


class Bucket(NamedTuple):
    """One static batch shape: S series of N tokens, `variates` to an item."""

    series: int
    tokens: int
    variates: int


class Batch(NamedTuple):
    """x: (S, N * P) centred context, NaN where missing or hidden. target: (S, N + K, P), the same series and what
    follows. resolution: (S,). offset: (S,) start on the coarse grid. number: which batch this is."""

    x: Tensor
    target: Tensor
    resolution: Tensor
    offset: Tensor
    variates: int
    number: int


class GeneratorError(RuntimeError):
    """A batch could not be made; the message names the item and its family."""


@numba.njit(nogil=True, cache=True)
def _context_length(rng, longest, patch, brief_share):
    """Observed points of a context: less than three patches, as yearly tables have, log-uniform, or all."""
    u = philox.uniform(rng)
    if u < brief_share:
        return min(longest, int(philox.between(rng, 4.0, 3.0 * patch)))
    if u < brief_share + 0.35:
        return min(longest, int(philox.log_uniform(rng, 8.0, float(longest))))
    return longest


@numba.njit(nogil=True, cache=True)
def _future(rng, observed, horizon, patch):
    """Steps made after a context. A short record is the whole of what its trend and seasons span: made over the full
    horizon, a dozen yearly values would never show a trend."""
    if philox.uniform(rng) < 0.3:
        return horizon
    return min(horizon, max(patch, int(observed * philox.log_uniform(rng, 0.5, 4.0))))


@numba.njit(nogil=True, cache=True)
def _held(rng, observed, future, stretches):
    """For how many steps each value of a short record is held, mostly one: so are short histories forecast."""
    if philox.uniform(rng) < _HELD_SHARE:
        held = stretches[philox.integer(rng, 0, len(stretches))]
        if observed >= 4 * held and future >= held:
            return held
    return 1


@numba.njit(nogil=True, cache=True)
def _hide(rng, hidden):
    """Mark random runs of patches."""
    tokens = hidden.shape[0]
    wanted = philox.between(rng, 0.05, _MOST_HIDDEN) * tokens
    longest = max(1, min(_LONGEST_RUN, tokens // 2))
    total = 0
    while total < wanted:
        run = philox.integer(rng, 1, longest + 1)
        start = philox.integer(rng, 0, tokens)
        for i in range(start, min(start + run, tokens)):
            hidden[i] = True
        total += run


@numba.njit(nogil=True, cache=True)
def _write_window(series, lead, start, hidden, x, target):
    """One series into its rows, centred on its first shown value and scaled by a power of two; its resolution.

    series: the values from step `lead` on; what they do not reach is missing. Steps before `start` are not shown.
    """
    patch = target.shape[1]
    context = x.shape[0]
    origin = np.nan
    largest = 0.0
    last = min(lead + series.shape[0], target.shape[0] * patch)
    for t in range(start, min(context, last)):
        value = series[t - lead]
        if not hidden[t // patch] and not np.isnan(value):
            if np.isnan(origin):
                origin = value
            largest = max(largest, abs(value - origin))
    if np.isnan(origin):
        x[:] = np.nan
        target[:] = np.nan
        return 0.0
    unit = 1.0
    if largest > 0.0:
        unit = 2.0 ** -math.frexp(largest)[1]
    x[:] = np.nan
    target[:] = np.nan
    for t in range(lead, last):
        value = (series[t - lead] - origin) * unit
        if abs(value) > _RUNAWAY:
            value = np.nan
        target[t // patch, t % patch] = value
        if t < context:
            shown = t >= start and not hidden[t // patch]
            x[t] = value if shown else np.nan
    return 8.0 * 2.220446049250313e-16 * abs(origin) * unit


@numba.njit(nogil=True, cache=True)
def fill_windows(
    seed, first_item, variates, mask_share, brief_share, stretches, x, target, resolution, trace
):
    """Fill a batch with the items from `first_item` on.

    brief_share: of contexts of less than three patches. stretches: for how many steps values may be held; an argument,
    because compiled code that is kept would not see a constant change in another file. x: (S, N * P) and target:
    (S, N + K, P) float32, resolution: (S,) float32. All variates of an item share their truncation and hidden patches.
    trace: as `dispatch` has it, to tell where an error came from.
    """
    patch = target.shape[2]
    context = x.shape[1]
    tokens = context // patch
    horizon = target.shape[1] * patch - context
    hidden = np.zeros(tokens, np.bool_)
    for item in range(x.shape[0] // variates):
        index = first_item + item
        rng = philox.stream(seed, index, _WINDOW)
        observed = _context_length(rng, context, patch, brief_share)
        lead, future, held = 0, horizon, 1
        if observed < context:
            future = _future(rng, observed, horizon, patch)
            if future < horizon:
                held = _held(rng, observed, future, stretches)
                # whole values on both sides of the end
                observed -= observed % held
                lead = context - observed
        start = context - observed
        drawn = np.empty((variates, (context - lead + future) // held))
        fill_prepared(seed, index, drawn, trace)
        series = drawn if held == 1 else np.repeat(drawn, held).reshape(variates, -1)
        hidden[:] = False
        # of a history of few patches a run of them would leave nothing
        if philox.uniform(rng) < mask_share and observed >= _LEAST_MASKED * patch:
            _hide(rng, hidden[start // patch :])
        for v in range(variates):
            row = item * variates + v
            resolution[row] = _write_window(series[v], lead, start, hidden, x[row], target[row])


@functools.cache
def prepare() -> None:
    """Compile the generator and the filling of batches, or load them from Numba's cache."""
    dispatch.prepare()
    patch = 8
    fill_windows(
        0,
        0,
        1,
        0.5,
        0.5,
        STRETCHES,
        np.empty((1, patch), np.float32),
        np.empty((1, 2, patch), np.float32),
        np.empty(1, np.float32),
        dispatch.new_trace(),
    )


def buckets(model: ModelConfig, train: TrainConfig, processes: int) -> dict[Bucket, float]:
    """The shapes of a process's part of the batches, and how often each is drawn; ValueError where none can be shared out."""
    short = min(TOKEN_MULTIPLE, model.context_patches)
    plain = 1.0 - train.short_share - train.multivariate_share
    shapes = (
        (model.context_patches, 1, plain),
        (short, 1, train.short_share),
        (model.context_patches, _VARIATES, train.multivariate_share),
    )
    shares: dict[Bucket, float] = {}
    for tokens, variates, share in shapes:
        if share <= 0:
            continue
        series = train.batch_tokens // tokens
        rows = series // processes
        if series < 1 or series % processes or rows % variates:
            raise ValueError(
                f"batch_tokens must give each of {processes} processes whole items of {variates} x {tokens} tokens, "
                f"got {train.batch_tokens}: make it a multiple of {variates * tokens * processes}"
            )
        shape = Bucket(rows, tokens, variates)
        # a context may be no longer than a short one
        shares[shape] = shares.get(shape, 0.0) + share
    return shares


class Plan:
    """What batch number b holds, for one process of `world`."""

    def __init__(self, model: ModelConfig, train: TrainConfig, *, rank: int = 0, world: int = 1):
        self.model, self.train, self.rank, self.world = model, train, rank, world
        prepare()
        shares = buckets(model, train, world)
        self.buckets, self.shares = list(shares), list(shares.values())

    def bucket(self, number: int) -> Bucket:
        """The shape of batch `number`."""
        u = philox.uniform(philox.stream(self.train.seed, number, _BUCKET)) * sum(self.shares)
        for bucket, share in zip(self.buckets, self.shares, strict=True):
            u -= share
            if u < 0:
                return bucket
        return self.buckets[-1]

    def values(self, bucket: Bucket) -> int:
        """float32 values of a batch."""
        horizon = self.model.horizon_patches
        return bucket.series * ((2 * bucket.tokens + horizon) * self.model.patch + 1)

    def views(self, buffer: Tensor, bucket: Bucket) -> tuple[Tensor, Tensor, Tensor]:
        """x, target and resolution of a batch as parts of one flat buffer."""
        patch, total = self.model.patch, bucket.tokens + self.model.horizon_patches
        sizes = (
            bucket.series * bucket.tokens * patch,
            bucket.series * total * patch,
            bucket.series,
        )
        x, target, resolution = buffer[: sum(sizes)].split(sizes)
        shape = (bucket.series, total, patch)
        return x.view(bucket.series, -1), target.view(shape), resolution

    def first_item(self, number: int) -> int:
        """Index of the first item that batch `number` draws on this rank."""
        bucket = self.bucket(number)
        return number * _ITEMS_APART + self.rank * (bucket.series // bucket.variates)

    def fill(self, number: int, buffer: Tensor) -> None:
        """Write batch `number` into a flat buffer. Raises GeneratorError."""
        bucket, seed = self.bucket(number), self.train.seed
        x, target, resolution = (view.numpy() for view in self.views(buffer, bucket))
        first, trace = self.first_item(number), dispatch.new_trace()
        short = bucket.tokens < self.model.context_patches
        brief_share = _BRIEF_SHARE_SHORT if short else _BRIEF_SHARE
        try:
            fill_windows(
                seed, first, bucket.variates, self.train.mask_share, brief_share, STRETCHES,
                x, target, resolution, trace,
            )  # fmt: skip
        # whatever it is, the message must name the item
        except Exception as error:
            where = dispatch.describe_trace(trace)
            raise GeneratorError(
                f"batch {number} of seed {seed} failed at {where}: {error!r}"
            ) from error

    def batch(self, number: int, device: torch.device) -> Batch:
        """Batch `number`, made at once. Raises GeneratorError."""
        bucket = self.bucket(number)
        buffer = torch.empty(self.values(bucket))
        self.fill(number, buffer)
        tensors = (*self.views(buffer, bucket), self.offsets(number))
        x, target, resolution, offset = (t.to(device) for t in tensors)
        return Batch(x, target, resolution, offset, bucket.variates, number)

    def offsets(self, number: int) -> Tensor:
        """Where each series starts on the coarse grid: every start equally often in a batch."""
        bucket = self.bucket(number)
        first = self.rank * bucket.series + number
        return (first + torch.arange(bucket.series)) % TOKEN_MULTIPLE


class Feeder:
    """Batches from `start` on, made by worker threads into a bounded ring of buffers.

    Worker w of W makes batches start + w, start + w + W, ...; the consumer takes them in order, so the order does not
    depend on W. A batch's tensors are valid until the next one is taken. `wait_seconds` is the time that the
    consumer spent waiting. An error in a worker is raised where the batch is taken.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        start: int,
        device: torch.device,
        workers: int = 1,
        prefetch: int = 4,
        fill: Callable[[int, Tensor], None] | None = None,
    ):
        self.plan, self.device, self.number = plan, device, start
        self.wait_seconds = 0.0
        self._fill = fill or plan.fill
        self._pinned = device.type == "cuda"
        size = max(plan.values(bucket) for bucket in plan.buckets)
        self._free: list[queue.Queue[Tensor | None]] = [queue.Queue() for _ in range(workers)]
        self._ready: list[queue.Queue[Tensor | BaseException]] = [
            queue.Queue() for _ in range(workers)
        ]
        for free in self._free:
            for _ in range(prefetch):
                free.put(torch.empty(size, pin_memory=self._pinned))
        # buffers whose copy to the device is still under way, oldest first
        self._copying: deque[tuple[Any, int, Tensor]] = deque()
        self._held: tuple[int, Tensor] | None = None
        self._side = torch.cuda.Stream(device) if self._pinned else None
        self._start = start
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(w,), name=f"synth-{w}", daemon=True)
            for w in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, worker: int) -> None:
        number = self._start + worker
        while (buffer := self._free[worker].get()) is not None and not self._stop.is_set():
            try:
                self._fill(number, buffer)
            # carried to the consumer, which raises it
            except BaseException as error:  # noqa: BLE001
                self._ready[worker].put(error)
                return
            self._ready[worker].put(buffer)
            number += len(self._threads)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        number, worker = self.number, (self.number - self._start) % len(self._threads)
        self._release()
        if self._copying and self._ready[worker].empty():
            # the worker may be waiting for the buffer that is still being copied
            self._copying[0][0].synchronize()
            self._release()
        began = time.perf_counter()
        result = self._ready[worker].get()
        self.wait_seconds += time.perf_counter() - began
        if isinstance(result, BaseException):
            self.close()
            raise result
        self.number += 1
        bucket = self.plan.bucket(number)
        tensors: tuple[Tensor, ...] = self.plan.views(result, bucket)
        offset = self.plan.offsets(number)
        # from pageable memory the copy would wait for those before it
        tensors += (offset.pin_memory() if self._pinned else offset,)
        if self._side is None:
            self._held = (worker, result)
        else:
            tensors = self._to_device(tensors, worker, result)
        x, target, resolution, offset = tensors
        return Batch(x, target, resolution, offset, bucket.variates, number)

    def _to_device(
        self, tensors: tuple[Tensor, ...], worker: int, buffer: Tensor
    ) -> tuple[Tensor, ...]:
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._side):
            moved = tuple(t.to(self.device, non_blocking=True) for t in tensors)
            done = torch.cuda.Event()
            done.record(self._side)
        current.wait_event(done)
        for t in moved:
            t.record_stream(current)
        self._copying.append((done, worker, buffer))
        return moved

    def _release(self) -> None:
        if self._held is not None:
            worker, buffer = self._held
            self._free[worker].put(buffer)
            self._held = None
        while self._copying and self._copying[0][0].query():
            _, worker, buffer = self._copying.popleft()
            self._free[worker].put(buffer)

    def close(self) -> None:
        """Stop the workers and wait for them; what they had made is dropped."""
        self._stop.set()
        for free in self._free:
            free.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
