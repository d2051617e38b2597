"""Training batches: windows of made-up series, filled by threads ahead of the trainer.

A batch is a pure function of (settings, batch number), so the stream's whole state is one integer. The filling is
jitted and holds no interpreter lock; on CUDA the buffers are pinned and copied on a side stream.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from tinytsm.config import STRETCHES, TOKEN_MULTIPLE, ModelConfig, TrainConfig
from tinytsm.synth import dispatch, philox, windows
from tinytsm.synth.mixture import MIXTURE_VERSION

# What a seed's batches are: another one wherever the mixture, `synth.windows` or this module changes them.
BATCHES_VERSION = f"{MIXTURE_VERSION}.1"
# A sub-stream of this module, beside that of `synth.windows`; the generator's own purposes are small numbers.
_BUCKET = 1_000_002
# Item indices of one batch start here times its number, so no two batches share an item.
_ITEMS_APART = 1 << 20
# Variates of an item on the multivariate steps.
_VARIATES = 4
# Share of contexts of less than three patches, and on the steps for short contexts.
_BRIEF_SHARE, _BRIEF_SHARE_SHORT = 0.15, 0.45


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


def prepare() -> None:
    """Compile what fills batches, or load it from Numba's cache."""
    windows.prepare(STRETCHES)


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
            windows.fill_windows(
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
