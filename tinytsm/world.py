"""The processes that train together: what they tell one another, and how those of one machine are started.

On a CPU a process for each core is faster than a thread for each: threads meet at every op, processes a few times a step.
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
# Which network interface gloo's messages take.
_INTERFACE = "GLOO_SOCKET_IFNAME"
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

    def meet(self, device: torch.device) -> None:
        """Wait until all processes have come here."""
        self.of_first(0.0, device)

    @contextlib.contextmanager
    def first_alone(self, device: torch.device) -> Iterator[None]:
        """Let the others in once the first process is through, and all out together."""
        if self.rank > 0:
            self.meet(device)
        yield
        if self.rank == 0:
            self.meet(device)
        self.meet(device)


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
    except torch.AcceleratorError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise LostProcessError(f"another process of the run is gone ({reason})") from error


@contextlib.contextmanager
def joined(device: torch.device, *, processes: int, command: Sequence[str]) -> Iterator[World]:
    """The processes that torchrun started; where it did not, this one and `processes - 1` more that run `command` here.

    Those end with this process, however it ends: at once where an exception leaves the context. Raises TrainingError where
    they do not come together.
    """
    with contextlib.ExitStack() as others:
        world = World()
        if "RANK" in os.environ:
            world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
            _come(world, device)
        elif processes > 1:
            world = World(0, processes)
            others.enter_context(_company(world, command))
        try:
            yield world
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def _come(world: World, device: torch.device) -> None:
    """Join those that started this process, or the others that torchrun did."""
    meeting = os.environ.get(_MEETING)
    if meeting is None:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    (Path(meeting) / str(world.rank)).touch()
    _meet(meeting, world)


def _end_with_parent() -> None:
    """Wait for the end of standard input, a pipe that the parent holds open for as long as it lives."""
    os.read(0, 1)
    os._exit(1)


def _meet(meeting: str, world: World) -> None:
    """Join the processes that meet in a folder of this machine; TrainingError where they cannot reach one another."""
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    ours = loopback is not None and _INTERFACE not in os.environ
    if ours:
        # nothing of it need leave the machine
        os.environ[_INTERFACE] = str(loopback)
    try:
        store = dist.FileStore(str(Path(meeting) / "store"), world.size)
        dist.init_process_group("gloo", store=store, rank=world.rank, world_size=world.size)
        # once all are here nobody needs the folder
        world.meet(torch.device("cpu"))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"the processes of this run cannot reach one another ({reason}): name a network interface in {_INTERFACE}, "
            "or do without them by --processes 1"
        ) from error
    finally:
        if ours:
            del os.environ[_INTERFACE]


@contextlib.contextmanager
def _company(world: World, command: Sequence[str]) -> Iterator[None]:
    """Start the other processes and meet them; wait for their end, or kill them where an exception comes."""
    others: list[subprocess.Popen[bytes]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="tinytsm-") as meeting:
            shared = os.environ | {"WORLD_SIZE": str(world.size), _MEETING: meeting}
            for rank in range(1, world.size):
                other = subprocess.Popen(
                    command,
                    env=shared | {"RANK": str(rank)},
                    stdin=subprocess.PIPE,
                    # Ctrl-C is for the first process, which agrees with the others on when to stop
                    start_new_session=True,
                )
                others.append(other)
            _wait_for(others, Path(meeting))
            _meet(meeting, world)
        yield
        deadline = time.monotonic() + _GRACE
        for other in others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                other.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for other in others:
            other.kill()
            other.communicate()


def _wait_for(others: list[subprocess.Popen[bytes]], meeting: Path) -> None:
    """Until each has left its mark; TrainingError where one ends without."""
    missing = dict(enumerate(others, 1))
    while missing := {k: p for k, p in missing.items() if not (meeting / str(k)).exists()}:
        for rank, process in missing.items():
            if process.poll() is not None:
                raise TrainingError(
                    f"process {rank} of {len(others) + 1} ended with exit code {process.returncode} before the run began; "
                    "--processes 1 does without"
                )
        time.sleep(0.02)
