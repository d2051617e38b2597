"""Several processes that train together: the run of one, and an end of all whatever ends one of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from tests.test_train import CPU, FLAGS, MODEL, ROOT, SMALL, assert_same_weights
from tinytsm import checkpoint, trainer
from tinytsm.config import TrainConfig
from tinytsm.data import Batch
from tinytsm.trainer import Trainer, pick_processes
from tinytsm.world import LostProcessError, World, joined


def three_steps(rank: int, world: int, port: int, path: str) -> None:
    """Losses, gradients and weights of three steps, written by the first process."""
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    config = TrainConfig(**(SMALL | {"batch_tokens": 512}))
    with joined(CPU, processes=1, threads=1, command=[]) as together:
        assert together == World(rank, world)
        # so do boxes that end by the clock
        assert together.of_first(7.5 + rank, CPU) == 7.5
        with together.first_alone(CPU):
            mark = Path(f"{path}.{world}")
            assert mark.exists() == (rank > 0)
            mark.touch()
        run = Trainer(MODEL, config, Path(path), device=CPU, world=together)
        # float32, so that only the order of sums differs
        run.model.block_dtype = torch.float32
        result = {}
        for number in range(3):
            bucket = run.plan.bucket(number)
            buffer = torch.empty(run.plan.values(bucket))
            run.plan.fill(number, buffer)
            x, target, resolution = run.plan.views(buffer, bucket)
            offset = run.plan.offsets(number)
            batch = Batch(x, target, resolution, offset, bucket.variates, number)
            result[f"{number}.loss"] = run.forward_backward(batch)
            for name, p in run.model.named_parameters():
                if p.grad is not None:
                    result[f"{number}.{name}"] = p.grad.clone()
            run.step(batch)
        result |= run.model.state_dict()
    if rank == 0:
        torch.save(result, path)


# more than the matrices of a shape can be dealt out to evenly
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_have_the_loss_gradients_and_weights_of_one(
    tmp_path: Path, world: int
) -> None:
    alone, together = tmp_path / "alone.pt", tmp_path / "together.pt"
    three_steps(0, 1, 0, str(alone))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mp.spawn(three_steps, args=(world, port, str(together)), nprocs=world)
    one, many = torch.load(alone), torch.load(together)
    assert one.keys() == many.keys()
    for name, value in one.items():
        error = (many[name] - value).norm() / value.norm().clamp_min(1e-12)
        # an orthogonal update is in bfloat16: a sum of another order moves it by more than itself
        bound = 1e-6 if name.startswith("0.") else 2e-3
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
    resumed = ended([sys.executable, "-m", "tinytsm.train", "--resume", "--out", str(pieces)])
    assert resumed.returncode == 0, resumed.stderr
    assert_same_weights(whole, pieces)


def children(pid: int) -> list[int]:
    """Those that are the trainer: Numba and torch may have started others."""
    own = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(k) for k in own if b"tinytsm.train" in Path(f"/proc/{k}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


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
        (other,) = children(run.pid)
        os.kill(run.pid if whom == "first" else other, how)
        assert run.stderr is not None
        message = run.stderr.read()
    assert run.returncode == code, message
    while alive(other):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    checkpoint.load_model(out)
    assert "Traceback" not in message
    if whom == "other":
        assert "another process of the run is gone" in message
        assert f"--resume --out {out}" in message


def test_one_that_never_comes_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    begin: dict[str, Any] = {"processes": 3, "threads": 1}
    began = time.monotonic()
    with (
        pytest.raises(LostProcessError, match=r"process [12] of 3 ended with exit code 3 before"),
        joined(CPU, command=[sys.executable, "-c", "raise SystemExit(3)"], **begin),
    ):
        pass
    assert time.monotonic() - began < 20 and torch.get_num_threads() == threads


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    done = ended(command("--seed", str(1 << 62), "--out", str(tmp_path / "run")))
    assert done.returncode == 2 and done.stderr.count("error:") == 1, done.stderr


def test_processes_are_as_many_as_cores_and_batches_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    def picked(cores: int, device: str = "cpu", **changes: Any) -> int:
        monkeypatch.setattr(trainer, "usable_cores", lambda: cores)
        config = TrainConfig(**({"batch_tokens": 256} | changes))
        return pick_processes(MODEL, config, torch.device(device))

    assert [picked(cores) for cores in (1, 2, 3, 4, 64)] == [1, 2, 2, 4, 4]
    # sixteen tokens of four variates to an item
    assert picked(4, batch_tokens=64) == 1 and picked(4, batch_tokens=192) == 3
    assert picked(4, threads=2) == 1 and picked(4, threads=2, processes=2) == 2
    assert picked(4, device="cuda") == 1
    with pytest.raises(ValueError, match="a multiple of 48"):
        picked(1, processes=3)
    with pytest.raises(ValueError, match="use torchrun for several GPUs"):
        picked(4, device="cuda", processes=2)
