"""One run: what its checkpoints count, which it keeps, and how it ends and goes on."""

import csv
import errno
import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_train import FLAGS, MODEL, SMALL, make_trainer, poison
from tinytsm import checkpoint, train
from tinytsm.config import TrainConfig
from tinytsm.trainer import Trainer, TrainingError, World


def states(run: Path) -> dict[str, dict[str, Any]]:
    """What each of a run's checkpoints says of it, by its folder's name."""
    folders = sorted((run / "checkpoints").iterdir())
    return {folder.name: json.loads((folder / "state.json").read_text()) for folder in folders}


def test_a_checkpoint_counts_skipped_steps_that_are_not_reviewed_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, lambda number: number == 1)
    trainer = make_trainer(tmp_path, steps=3, log_steps=10, save_seconds=0.0, decay_fraction=0.0)
    trainer.run(None)
    assert [state["skipped"] for state in states(tmp_path).values()] == [1, 1]


def test_tokens_are_counted_where_batches_change_their_size(tmp_path: Path) -> None:
    first = make_trainer(tmp_path, steps=2)
    first.run(None)
    second = make_trainer(tmp_path, steps=3, batch_tokens=512)
    second.restore(checkpoint.resolve(tmp_path))
    second.run(None)
    assert second.tokens == states(tmp_path)["step-000000003"]["tokens"] == 2 * 256 + 512
    rows = csv.DictReader((tmp_path / "log.csv").read_text().splitlines())
    assert [int(row["tokens"]) for row in rows] == [256, 512, 1024]
    # an older checkpoint says how many steps it is away
    file = checkpoint.resolve(tmp_path) / "state.json"
    state = json.loads(file.read_text())
    del state["tokens"]
    file.write_text(json.dumps(state))
    assert checkpoint.load_training(tmp_path)[2]["tokens"] == 3 * 512


def test_weights_that_diverged_push_no_checkpoint_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, steps=8, log_steps=10, save_seconds=0.0)
    optimizer_step = trainer.optimizer.step

    def diverging(lr: float) -> None:
        optimizer_step(lr)
        if trainer.clock.step >= 2:
            torch.nn.init.constant_(trainer.model.head, math.inf)

    monkeypatch.setattr(trainer.optimizer, "step", diverging)
    message = "weights are not finite and were not saved; lower --lr .* from the last checkpoint"
    with pytest.raises(TrainingError, match=message):
        trainer.run(None)
    assert trainer.clock.step == 8
    assert list(states(tmp_path)) == ["step-000000001", "step-000000002"]
    assert not (tmp_path / checkpoint.BEFORE_DECAY).exists()
    make_trainer(tmp_path).restore(checkpoint.resolve(tmp_path))


def test_what_is_kept_from_before_the_decay_does_not_stand_alone(tmp_path: Path) -> None:
    make_trainer(tmp_path, steps=10).run(None)
    assert list(states(tmp_path)) == ["step-000000009", "step-000000010"]
    kept = json.loads((tmp_path / checkpoint.BEFORE_DECAY / "state.json").read_text())
    assert kept == states(tmp_path)["step-000000009"]


@pytest.mark.parametrize("asked", ["signal", "clock"])
def test_a_run_asked_to_stop_at_its_last_step_is_complete(tmp_path: Path, asked: str) -> None:
    trainer = make_trainer(tmp_path, steps=1, eval_seconds=3600.0)
    if asked == "signal":
        trainer.stop_signal = signal.SIGTERM
    assert trainer.run(None, until=0.0 if asked == "clock" else math.inf) == "complete"
    assert trainer.scores is not None


@pytest.mark.parametrize(("rank", "code"), [(0, 75), (1, 0)])
def test_of_several_processes_the_first_alone_says_that_there_is_more_to_do(
    tmp_path: Path, rank: int, code: int
) -> None:
    trainer = make_trainer(tmp_path, steps=3)
    trainer.world = World(rank=rank)
    assert train._train(trainer, train.parse(["--piece-seconds", "0"]), 0.0) == code
    assert trainer.clock.step == 1


@pytest.mark.parametrize("flag", ["--resume", "--branch-from"])
def test_a_run_keeps_its_optimizer(tmp_path: Path, flag: str) -> None:
    run = tmp_path / "run"
    make_trainer(run, optimizer="adamw").save()
    flags = ["--resume", "--out", str(run)]
    if flag == "--branch-from":
        flags = ["--branch-from", str(run), "--out", str(tmp_path / "branch")]
    args = train.parse([*flags, "--optimizer", "muon"])
    message = "keeps its optimizer, adamw, got muon: drop --optimizer, or take the weights alone"
    with pytest.raises(ValueError, match=message):
        train.settle(args, args.out)
    # what it has already may be said
    args = train.parse([*flags, "--optimizer", "adamw"])
    assert train.settle(args, args.out)[1].optimizer == "adamw"


def test_what_an_earlier_run_kept_is_no_new_runs(tmp_path: Path) -> None:
    (tmp_path / checkpoint.BEFORE_DECAY).mkdir()
    message = (
        "holds a run already, of which before_decay/ alone is left: remove that, or give another"
    )
    with pytest.raises(ValueError, match=message):
        train.settle(train.parse([]), tmp_path)


def test_a_full_disk_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    assert train.main([*FLAGS, "--steps", "1", "--out", str(tmp_path / "run")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("tinytsm.train: error: cannot write the run ([Errno 28] No space left")
    assert last.endswith(f"python -m tinytsm.train --resume --out {tmp_path / 'run'}")


def test_infinite_settings_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_seconds=math.inf)
    trainer.save()
    assert states(tmp_path)["step-000000000"]["train"]["max_seconds"] == "inf"
    _, config, _ = train.settle(train.parse(["--resume"]), tmp_path)
    assert config == trainer.config == TrainConfig(**SMALL, max_seconds=math.inf)
    assert Trainer(MODEL, config, tmp_path, device=trainer.device).clock.progress == 0


def test_a_run_is_whole_where_its_picture_cannot_be_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loss.png").mkdir()
    flags = [*FLAGS, "--steps", "1", "--out", str(tmp_path)]
    assert train.main(flags) == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["outcome"] == "complete"
    assert "no loss curve drawn: " in err
