"""The processes that train together: what they tell one another, and how those of one machine are started.

On a CPU a process for each core is faster than a thread for each: threads meet at every op, processes twice a step.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from tinytsm.errors import TrainingError
from tinytsm.model import Model

# Tells a process that `joined` started where it meets the others; those of torchrun meet where that says.
_MEETING = "TINYTSM_MEETING"
# Seconds that the others have to end in, once the first process is done.
_GRACE = 30.0
_newest: dist.Work | None = None


class LostProcessError(TrainingError):
    """Another process of the run is gone, and with it its part of every batch."""


class World(NamedTuple):
    """The processes that train together; this is number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over processes, in place."""
        if self.size > 1:
            with _noticing():
                _receive(dist.all_reduce(tensor, async_op=True))
        return tensor

    def add_up_gradients(self, model: Model) -> None:
        """Sum the gradients over processes, in one message."""
        if self.size == 1:
            return
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        flat = self.add_up(torch.cat([g.flatten() for g in grads]))
        for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, alike in shape, one behind the other along the first axis."""
        if self.size == 1:
            return tensor
        together = tensor.new_empty((self.size * len(tensor), *tensor.shape[1:]))
        with _noticing():
            _receive(dist.all_gather(list(together.chunk(self.size)), tensor, async_op=True))
        return together

    def of_first(self, value: float, device: torch.device) -> float:
        """What the first process has, in all of them."""
        if self.size == 1:
            return value
        shared = torch.tensor(value * (self.rank == 0), device=device, dtype=torch.float64)
        return float(self.add_up(shared))

    @contextlib.contextmanager
    def first_alone(self, device: torch.device) -> Iterator[None]:
        """Let the others in once the first process is through, and all out together."""
        if self.rank > 0:
            self.of_first(0.0, device)
        yield
        if self.rank == 0:
            self.of_first(0.0, device)
        self.of_first(0.0, device)


def _receive(message: dist.Work) -> None:
    """Wait for a message of all processes.

    Gloo's thread lets go of it a little later. Were it the last to, it would need Python to drop the tensors, which may be
    ending by then: that aborts the process. So the newest message is kept.
    """
    global _newest
    message.wait()
    _newest = message


@contextlib.contextmanager
def _noticing() -> Iterator[None]:
    """Say what a back end's error means."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise LostProcessError(f"another process of the run is gone ({reason})") from error


@contextlib.contextmanager
def joined(
    device: torch.device, *, processes: int, threads: int, command: Sequence[str]
) -> Iterator[World]:
    """The processes that torchrun started; where it did not, this one and `processes - 1` more that run `command` here.

    threads: of each process that this one starts, and of this one meanwhile. Those end with this process, however it
    ends. Raises LostProcessError where one ends before it has come.
    """
    if "RANK" in os.environ:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        backend = "nccl" if device.type == "cuda" else "gloo"
        meeting = os.environ.get(_MEETING)
        if meeting is not None:
            threading.Thread(target=_end_with_parent, daemon=True).start()
            (Path(meeting) / str(rank)).touch()
        with _member(backend, rank, size, meeting) as world:
            yield world
    elif processes == 1:
        yield World()
    else:
        with (
            _company(processes, threads, command) as meeting,
            _member("gloo", 0, processes, meeting) as world,
        ):
            yield world


@contextlib.contextmanager
def _member(backend: str, rank: int, size: int, meeting: str | None) -> Iterator[World]:
    """One of the processes that meet in a folder, or where torchrun says."""
    if meeting is None:
        dist.init_process_group(backend)
    else:
        # nothing of it leaves this machine
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        where = (Path(meeting) / "store").as_uri()
        dist.init_process_group(backend, init_method=where, rank=rank, world_size=size)
    try:
        yield World(rank, size)
    finally:
        dist.destroy_process_group()


def _end_with_parent() -> None:
    """Wait for the end of standard input, a pipe that the parent holds open for as long as it lives."""
    os.read(0, 1)
    os._exit(1)


@contextlib.contextmanager
def _company(processes: int, threads: int, command: Sequence[str]) -> Iterator[str]:
    """Start the others of so many processes and wait until all have come to the folder where they meet."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    others: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="tinytsm-") as meeting:
        environment = os.environ | {
            "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": str(threads), _MEETING: meeting,
        }  # fmt: skip
        try:
            for rank in range(1, processes):
                other = subprocess.Popen(
                    command,
                    env=environment | {"RANK": str(rank)},
                    stdin=subprocess.PIPE,
                    # Ctrl-C is for the first process, which agrees with the others on when to stop
                    start_new_session=True,
                )
                others.append(other)
            _wait_for(others, Path(meeting))
            yield meeting
            deadline = time.monotonic() + _GRACE
            for other in others:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    other.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for other in others:
                other.kill()
                other.communicate()
            torch.set_num_threads(threads_before)


def _wait_for(others: "list[subprocess.Popen[bytes]]", meeting: Path) -> None:
    """Until each has left its mark; LostProcessError where one ends without."""
    missing = dict(enumerate(others, 1))
    while missing := {k: p for k, p in missing.items() if not (meeting / str(k)).exists()}:
        for rank, process in missing.items():
            if process.poll() is not None:
                raise LostProcessError(
                    f"process {rank} of {len(others) + 1} ended with exit code {process.returncode} before it could begin"
                )
        time.sleep(0.02)
