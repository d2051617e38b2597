"""Several processes that train together: the run of one, and an end of all whatever ends one of them."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from tests.test_train import CPU, FLAGS, MODEL, ROOT, SMALL, assert_same_weights
from tinytsm import checkpoint, train
from tinytsm.config import TrainConfig
from tinytsm.errors import TrainingError
from tinytsm.trainer import Trainer, find_culprit, pick_processes
from tinytsm.world import World, joined


def as_one_of_several(
    rank: int, world: int, port: int, function: Callable[[World, Path], None], path: Path
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined(CPU, processes=1, command=[]) as together:
        assert together == World(rank, world)
        function(together, path)


def in_several_processes(world: int, function: Callable[[World, Path], None], path: Path) -> None:
    """Call function(world, path) in each of so many processes that are joined."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mp.spawn(as_one_of_several, args=(world, port, function, path), nprocs=world)


def seen_in_training(together: World, path: Path) -> None:
    """Losses and gradients of batches of each kind, then the weights after steps on them, written by the first process."""
    # so do boxes that end by the clock
    assert together.of_first(7.5 + together.rank, CPU) == 7.5
    with together.first_alone(CPU):
        mark = path.with_suffix(".mark")
        assert mark.exists() == (together.rank > 0)
        mark.touch()
    config = TrainConfig(**(SMALL | {"batch_tokens": 512, "multivariate_share": 0.4}))
    run = Trainer(MODEL, config, path, device=CPU, world=together)
    # float32, so that only the order of sums differs
    run.model.block_dtype = torch.float32
    batches = [run.plan.batch(number, CPU) for number in range(4)]
    assert {batch.variates for batch in batches} == {1, 4}
    result = {}
    for batch in batches:
        result[f"loss of {batch.number}"] = run.forward_backward(batch)
        for name, p in run.model.named_parameters():
            if p.grad is not None:
                result[f"gradient of {batch.number}: {name}"] = p.grad.clone()
    for batch in batches:
        run.step(batch)
    result |= run.model.state_dict()
    if together.rank == 0:
        torch.save(result, path)


# of the six matrices of a shape four processes cannot have equally many
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_have_the_loss_gradients_and_weights_of_one(
    tmp_path: Path, world: int
) -> None:
    alone, together = tmp_path / "alone.pt", tmp_path / "together.pt"
    with joined(CPU, processes=1, command=[]) as one_alone:
        assert one_alone == World(0, 1)
        seen_in_training(one_alone, alone)
    in_several_processes(world, seen_in_training, together)
    one, many = torch.load(alone), torch.load(together)
    assert one.keys() == many.keys()
    for name, value in one.items():
        error = (many[name] - value).norm() / value.norm().clamp_min(1e-12)
        # updates are rounded to bfloat16
        bound = 1e-6 if " of " in name else 1e-3
        assert error < bound, (name, float(error))


def command(*flags: str) -> list[str]:
    """A run of two processes."""
    flags = (*FLAGS, "--processes", "2", *flags)
    return [sys.executable, "-m", "tinytsm.train", *flags]


def ended(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


def test_torchrun_trains(tmp_path: Path) -> None:
    out = tmp_path / "run"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    box = ["--steps", "3", "--max-seconds", "600", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "tinytsm.train", *FLAGS, *box],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1 and json.loads(lines[0])["step"] == 3
    checkpoint.load_model(out)


def test_a_run_of_two_processes_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    done = ended(command("--steps", "8", "--out", str(whole)))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1 and json.loads(lines[0])["step"] == 8
    assert "processes: 2" in done.stderr and done.stderr.count("prepared in") == 1
    state = json.loads((checkpoint.resolve(whole) / "state.json").read_text())
    assert state["processes"] == 2
    flags = ["--steps", "8", "--out", str(pieces), "--piece-seconds", "0"]
    piece = ended(command(*flags))
    assert piece.returncode == 75, piece.stderr
    resume = [sys.executable, "-m", "tinytsm.train", "--resume", "--out"]
    resumed = ended([*resume, str(pieces)])
    assert resumed.returncode == 0, resumed.stderr
    assert_same_weights(whole, pieces)
    # other sums, but it goes on
    longer = ended([*resume, str(whole), "--steps", "9", "--processes", "1"])
    assert longer.returncode == 0 and json.loads(longer.stdout)["step"] == 9, longer.stderr


def status(pid: int | str) -> tuple[str, int]:
    """State and parent of a process; a zombie's where there is none."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "Z", 0
    return state, int(parent)


def others_of(pid: int) -> list[int]:
    """The processes that one of the trainer's has started, but for those of libraries."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        if status(folder.name)[1] == pid:
            with contextlib.suppress(OSError):
                if b"tinytsm.train" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("whom", "how", "code"),
    [
        ("first", signal.SIGTERM, 128 + signal.SIGTERM),
        ("first", signal.SIGKILL, -signal.SIGKILL),
        ("other", signal.SIGKILL, 1),
    ],
)
def test_all_end_where_one_does(tmp_path: Path, whom: str, how: int, code: int) -> None:
    out = tmp_path / "run"
    flags = ["--steps", "100000", "--save-seconds", "0", "--out", str(out)]
    with subprocess.Popen(command(*flags), cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 120
        log = out / "log.csv"
        while not (log.exists() and len(log.read_text().splitlines()) > 3):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        (other,) = others_of(run.pid)
        os.kill(run.pid if whom == "first" else other, how)
        assert run.stderr is not None
        message = run.stderr.read()
    assert run.returncode == code, message
    while status(other)[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    checkpoint.load_model(out)
    assert "Traceback" not in message
    if whom == "other":
        assert "another process of the run is gone" in message
        assert f"--resume --out {out}" in message


def test_one_that_never_comes_is_told() -> None:
    began = time.monotonic()
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    with (
        pytest.raises(TrainingError, match=r"process [12] of 3 ended with exit code 3 before the"),
        joined(CPU, processes=3, command=command),
    ):
        pass
    assert time.monotonic() - began < 20


def test_processes_that_cannot_meet_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch")
    # it leaves its mark, and that is all
    command = ["sh", "-c", "touch $TINYTSM_MEETING/1; sleep 60"]
    began = time.monotonic()
    with (
        pytest.raises(TrainingError, match=r"cannot reach one another .* GLOO_SOCKET_IFNAME"),
        joined(CPU, processes=2, command=command),
    ):
        pass
    assert time.monotonic() - began < 20
    assert os.environ["GLOO_SOCKET_IFNAME"] == "nosuch"


def test_the_others_run_the_same_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Begun(Exception): ...

    def begin(device: torch.device, *, processes: int, command: list[str]) -> World:
        commands.append(command[3:])
        raise Begun

    commands: list[list[str]] = []
    monkeypatch.setattr(train, "joined", begin)
    monkeypatch.chdir(tmp_path)
    # as of `tinytsm train`, whose first word is not the trainer's
    monkeypatch.setattr(sys, "argv", ["tinytsm", "train"])
    flags = ["--processes", "2", "--threads", "3"]
    threads = torch.get_num_threads()
    for argv in ([], flags):
        with pytest.raises(Begun):
            train.main(argv)
    assert commands[0][:-1] == ["--threads"] and commands[1] == [*flags, "--threads", "3"]
    assert torch.get_num_threads() == threads


def test_what_is_wrong_is_said_once_and_soon(tmp_path: Path) -> None:
    done = ended(command("--seed", str(1 << 62), "--out", str(tmp_path / "run")))
    assert done.returncode == 2 and done.stderr.count("error:") == 1, done.stderr
    diverging = command("--lr", "1e30", "--steps", "40", "--out", str(tmp_path / "diverging"))
    done = ended(diverging)
    assert done.returncode == 1 and done.stderr.count("the last 20 steps") == 1, done.stderr
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr
    # where nothing can be written
    (tmp_path / "full" / "log.csv").mkdir(parents=True)
    began = time.monotonic()
    done = ended(command("--out", str(tmp_path / "full")))
    assert done.returncode == 1 and done.stderr.count("cannot write the run") == 1, done.stderr
    # the other process does not know; it is not waited for
    assert time.monotonic() - began < 25


def find_in_the_other(together: World, path: Path) -> None:
    run = Trainer(MODEL, TrainConfig(**SMALL), path, device=CPU, world=together)
    batch = run.plan.batch(0, CPU)
    healthy = find_culprit(run.model, batch, together)
    if together.rank == 1:
        batch.target[3] = math.inf
    culprit = find_culprit(run.model, batch, together)
    assert healthy == "every loss of batch 0 is finite, its gradient is not"
    assert culprit == f"series {len(batch.x) + 3} of batch 0 gives a loss that is not finite"


def test_a_bad_series_of_another_process_is_named(tmp_path: Path) -> None:
    in_several_processes(2, find_in_the_other, tmp_path)


def test_processes_are_as_many_as_cores_and_batches_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    def picked(cores: int, device: str = "cpu", **changes: Any) -> int:
        monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
        config = TrainConfig(**({"batch_tokens": 256} | changes))
        return pick_processes(MODEL, config, torch.device(device))

    # of six threads three each, and none idle
    assert [picked(n) for n in (1, 2, 3, 4, 5, 6, 8, 64)] == [1, 2, 2, 4, 4, 2, 4, 4]
    # sixteen tokens of four variates to an item
    assert picked(4, batch_tokens=64) == 1 and picked(4, batch_tokens=192) == 3
    assert picked(4, threads=2) == 1 and picked(4, threads=2, processes=2) == 2
    assert picked(4, device="cuda") == 1
    with pytest.raises(ValueError, match="a multiple of 48"):
        picked(1, processes=3)
    with pytest.raises(ValueError, match="use torchrun for several GPUs"):
        picked(4, device="cuda", processes=2)
    # whoever was started starts no more
    monkeypatch.setenv("RANK", "0")
    assert picked(4) == 1 and picked(4, processes=2) == 1
