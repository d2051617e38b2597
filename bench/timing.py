"""How everything here is timed: warmed up, in batches, interleaved, by the median.

A kernel of ten microseconds is shorter than its launch, so on a GPU a batch of calls is queued behind a pause that
the device sleeps through, and two events on the device's own clock enclose it: no gap between launches is left to
measure. Rivals take turns within a round, so that a clock that drifts or a neighbour that wakes up meets all of them,
and are compared round by round. Inputs are random, never zero (multiplying zeros raises the clock), and so many that
they do not fit the cache together.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
from torch import Tensor

# A batch should last this long: far above the resolution of any clock, and of the events.
_BATCH_SECONDS = 0.01
_MOST_CALLS = 500
# A GPU sleeps in cycles; two per nanosecond is at or above every clock now sold, so the pause is never too short.
_CYCLES_PER_SECOND = 2.0e9
_LONGEST_PAUSE = 0.25
# More copies of a small input than this would take longer to make than to time.
_MOST_COPIES = 64


class Ratio(NamedTuple):
    """How many times faster one is than another: the median over rounds, and the 10th and 90th percentile."""

    middle: float
    low: float
    high: float


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batch_seconds(fn: Callable[[], Any], calls: int, device: torch.device) -> float:
    """Seconds per call of `calls` calls in a row; on a GPU its own time, launches excluded."""
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(calls):
            fn()
        return (time.perf_counter() - began) / calls
    synchronize(device)
    # how long the host needs to queue the batch is how long the device must be kept waiting
    began = time.perf_counter()
    fn()
    pause = min(_LONGEST_PAUSE, 1.5 * calls * (time.perf_counter() - began))
    synchronize(device)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(int(pause * _CYCLES_PER_SECOND))
    start.record()
    for _ in range(calls):
        fn()
    stop.record()
    synchronize(device)
    return start.elapsed_time(stop) / 1e3 / calls


def calls_for(fn: Callable[[], Any], device: torch.device) -> int:
    """How many calls make a batch that is long enough to time; warms `fn` up."""
    for _ in range(2):
        fn()
    seconds = batch_seconds(fn, 1, device)
    return max(1, min(_MOST_CALLS, math.ceil(_BATCH_SECONDS / max(seconds, 1e-9))))


def interleave(
    variants: Mapping[str, Callable[[], Any]], *, device: torch.device, rounds: int
) -> dict[str, list[float]]:
    """Seconds per call of each variant, one per round; in each round all take their turn, another one first."""
    names = list(variants)
    calls = {name: calls_for(variants[name], device) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for r in range(rounds):
        first = r % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(batch_seconds(variants[name], calls[name], device))
    return seconds


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """Their time over ours, round by round: above 1 where ours is faster.

    Raises ValueError unless both were timed in the same rounds.
    """
    if len(theirs) != len(ours) or not ours:
        raise ValueError(f"wanted the same rounds of both, got {len(theirs)} and {len(ours)}")
    pairs = [a / b for a, b in zip(theirs, ours, strict=True)]
    if len(pairs) == 1:
        return Ratio(pairs[0], pairs[0], pairs[0])
    tenths = quantiles(pairs, n=10, method="inclusive")
    return Ratio(median(pairs), tenths[0], tenths[-1])


def cache_bytes(device: torch.device) -> int:
    """The largest cache between the processors and memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [32 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KM")) << {"K": 10, "M": 20}.get(text[-1], 0))
    return max(sizes)


def copies(nbytes: int, device: torch.device) -> int:
    """How many sets of inputs of this size to rotate, so that none is still cached when its turn comes again."""
    return max(2, min(_MOST_COPIES, math.ceil(2 * cache_bytes(device) / max(1, nbytes))))


class Rotation:
    """A function of no arguments that takes the next of several sets of inputs at each call."""

    def __init__(self, fn: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]):
        self.fn, self.inputs, self._next = fn, list(inputs), 0

    def __call__(self) -> Any:
        chosen = self.inputs[self._next]
        self._next = (self._next + 1) % len(self.inputs)
        return self.fn(*chosen)


class Peaks(NamedTuple):
    """What this device reaches in this run. copy: GB/s, read and written. matmul: TFLOP/s by dtype."""

    copy: float
    matmul: dict[str, float]


def measure_peaks(device: torch.device, *, tiny: bool) -> Peaks:
    """The two ceilings: a plain copy beyond the cache, and a square matmul in float32 and bfloat16.

    On a GPU float32 is what training uses there, TensorFloat-32, if the caller has switched it on.
    """
    rounds = 1 if tiny else 5
    gpu = device.type == "cuda"
    source = torch.randn(1 << (14 if tiny else 28 if gpu else 24), device=device)
    target = torch.empty_like(source)

    def copy() -> Tensor:
        return target.copy_(source)

    seconds = interleave({"copy": copy}, device=device, rounds=rounds)
    copied = 2 * source.nbytes / min(seconds["copy"]) / 1e9
    side = 64 if tiny else 8192 if gpu else 2048
    matmul = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out: Tensor = torch.empty(side, side, device=device, dtype=dtype)

        def multiply(a: Tensor = a, b: Tensor = b, out: Tensor = out) -> Tensor:
            return torch.mm(a, b, out=out)

        seconds = interleave({"mm": multiply}, device=device, rounds=rounds)
        name = str(dtype).removeprefix("torch.")
        matmul[name] = 2 * side**3 / min(seconds["mm"]) / 1e12
    return Peaks(copied, matmul)


def peak_bytes(fn: Callable[[], Any], device: torch.device) -> int | None:
    """Device memory that one call takes beyond what is allocated before it; None on CPU, which does not count."""
    if device.type != "cuda":
        return None
    fn()
    synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    fn()
    synchronize(device)
    return int(torch.cuda.max_memory_allocated(device) - before)
