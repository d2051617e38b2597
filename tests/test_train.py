"""Training: it learns, resumes to the bit, survives any kill, and says what is wrong."""

import csv
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tinytsm import checkpoint, data, ops, train
from tinytsm.config import ModelConfig, TrainConfig
from tinytsm.data import Plan
from tinytsm.errors import TrainingError
from tinytsm.trainer import Trainer, find_compiler, pick_attention
from tinytsm.validation import HeldOut

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
MODEL = ModelConfig(
    d_model=32, n_heads=2, d_ff=64, n_layers=3, head_rank=16, context_patches=16, horizon_patches=4
)
SMALL: dict[str, Any] = {
    "batch_tokens": 256, "threads": 1, "warmup_steps": 2, "log_steps": 1, "eval_seconds": 0.0,
}  # fmt: skip
FLAGS = [
    *("--d-model", "32", "--n-heads", "2", "--d-ff", "64", "--n-layers", "3", "--head-rank", "16"),
    *("--context-patches", "16", "--horizon-patches", "4", "--batch-tokens", "256"),
    *("--threads", "1", "--warmup-steps", "2", "--log-steps", "1", "--eval-seconds", "0"),
]


def make_trainer(out: Path, **changes: Any) -> Trainer:
    trainer = Trainer(MODEL, TrainConfig(**(SMALL | changes)), out, device=CPU)
    trainer.clock.start()
    return trainer


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "tinytsm.train", *FLAGS, *flags]


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = checkpoint.resolve(run)
    return load_file(folder / "model.safetensors") | load_file(folder / "training.safetensors")


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen steps without an interruption."""
    out = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command("--steps", "16", "--out", str(out)), cwd=ROOT, check=True)
    return out


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_it_learns(tmp_path: Path, optimizer: str) -> None:
    trainer = make_trainer(tmp_path, steps=60, lr=3e-3, optimizer=optimizer)
    # batches differ from one another by more than a short run learns
    held_out = HeldOut(MODEL, device=CPU, block_dtype=torch.float32)
    before = held_out.score(trainer.model.state_dict()).loss
    assert trainer.run(None) == "complete"
    assert held_out.score(trainer.averaged).loss < 0.98 * before


def test_the_command_leaves_a_whole_run(whole_run: Path) -> None:
    assert (whole_run / "loss.png").stat().st_size > 10_000
    with (whole_run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 17))
    assert float(rows[-1]["lr"]) < float(rows[8]["lr"])
    state = json.loads((checkpoint.resolve(whole_run) / "state.json").read_text())
    assert state["step"] == 16 and state["decay_start"] == 13
    assert state["versions"]["threads"] == 1
    # the very back ends that the ops take, not what was asked for
    assert state["attention"] == pick_attention("auto", MODEL, CPU)
    assert set(state["attention"].values()) <= set(ops.ATTENTION_BACKENDS)


def test_sigterm_saves_and_the_resumed_run_equals_the_uninterrupted_one(
    tmp_path: Path, whole_run: Path
) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(
        command("--steps", "16", "--out", str(out)), cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (out / "log.csv").exists() and len((out / "log.csv").read_text().splitlines()) > 3:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        message = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM, message
    assert f"python -m tinytsm.train --resume --out {out}" in message
    for kind, by in pick_attention("auto", MODEL, CPU).items():
        assert f"{kind} attention by {by}" in message
    stopped_at = json.loads((checkpoint.resolve(out) / "state.json").read_text())["step"]
    assert 3 <= stopped_at < 16
    subprocess.run(
        [sys.executable, "-m", "tinytsm.train", "--resume", "--out", str(out)], cwd=ROOT, check=True
    )
    assert_same_weights(out, whole_run)


def test_kill_9_at_any_moment_leaves_a_loadable_checkpoint(tmp_path: Path, whole_run: Path) -> None:
    out, rng = tmp_path / "run", random.Random(0)
    base = command("--steps", "16", "--save-seconds", "0", "--out", str(out))
    kills = 0
    for _ in range(4):
        flags = ["--resume"] if checkpoint.newest(out) else []
        with subprocess.Popen(
            [*base, *flags] if not flags else [sys.executable, "-m", "tinytsm.train", "--resume", "--out", str(out)],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            log, before = out / "log.csv", 0
            if log.exists():
                before = log.stat().st_size
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                if log.exists() and log.stat().st_size > before + 60:
                    break
                time.sleep(0.002)
            # anywhere in a step or a write
            time.sleep(rng.uniform(0, 0.08))
            process.kill()
        kills += process.returncode == -signal.SIGKILL
        if checkpoint.newest(out):
            checkpoint.load_model(out)
    assert kills >= 2
    subprocess.run(
        [sys.executable, "-m", "tinytsm.train", "--resume", "--out", str(out)],
        cwd=ROOT,
        check=True,
        stderr=subprocess.DEVNULL,
    )
    assert_same_weights(out, whole_run)
    assert not list((out / "checkpoints").glob(".*"))
    with (out / "log.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, 17))


def test_init_from_takes_the_weights_and_the_next_items(tmp_path: Path, whole_run: Path) -> None:
    args = train.parse(["--init-from", str(whole_run), "--out", str(tmp_path / "new")])
    model, _, found = train.settle(args, tmp_path / "new")
    assert model == MODEL and found is None
    trainer = Trainer(model, TrainConfig(**SMALL), tmp_path / "new", device=CPU)
    trainer.init_from(checkpoint.resolve(whole_run))
    assert trainer.next_batch == 16 and trainer.clock.step == 0
    assert not trainer.optimizer.state()
    raw = weights(whole_run)
    assert all(torch.equal(v, raw[f"weight.{k}"]) for k, v in trainer.model.state_dict().items())
    # another seed has other items: it starts at their first
    other = Trainer(model, TrainConfig(**SMALL, seed=3), tmp_path / "new", device=CPU)
    other.init_from(checkpoint.resolve(whole_run))
    assert other.next_batch == 0


@pytest.mark.parametrize("damaged", ["state.json", "training.safetensors"])
@pytest.mark.parametrize("how", ["lost", "cut"])
def test_a_damaged_training_state_is_no_release(
    tmp_path: Path, whole_run: Path, damaged: str, how: str
) -> None:
    shutil.copytree(checkpoint.resolve(whole_run), tmp_path / "copy")
    file = tmp_path / "copy" / damaged
    if how == "lost":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(checkpoint.CheckpointError, match=damaged):
        make_trainer(tmp_path / "new").init_from(tmp_path / "copy")


def test_a_branch_equals_a_run_that_was_longer_from_the_start(
    tmp_path: Path, whole_run: Path
) -> None:
    state = json.loads((whole_run / "before_decay" / "state.json").read_text())
    assert state["step"] == 13 and state["decay_start"] is None
    longer, branch = tmp_path / "longer", tmp_path / "branch"
    subprocess.run(command("--steps", "20", "--out", str(longer)), cwd=ROOT, check=True)
    flags = ["--branch-from", str(whole_run), "--out", str(branch), "--steps", "20"]
    assert train.main(flags) == 0
    assert_same_weights(longer, branch)
    # a run that has decayed without keeping a checkpoint has nothing to branch from
    shutil.rmtree(longer / "before_decay")
    with pytest.raises(checkpoint.CheckpointError, match="kept no checkpoint from before it"):
        checkpoint.before_decay(longer)


def test_pieces_make_the_run_that_was_never_stopped(tmp_path: Path, whole_run: Path) -> None:
    out = tmp_path / "run"
    # over before the first step is done, every time
    assert train.main([*FLAGS, "--steps", "16", "--out", str(out), "--piece-seconds", "0"]) == 75
    assert json.loads((checkpoint.resolve(out) / "state.json").read_text())["step"] == 1
    assert train.main(["--resume", "--out", str(out), "--piece-seconds", "0"]) == 75
    assert train.main(["--resume", "--out", str(out)]) == 0
    assert_same_weights(out, whole_run)


def test_a_run_ends_by_the_clock_with_its_decay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    data.prepare()
    began = time.perf_counter()
    assert train.main([*FLAGS, "--out", str(out), "--end-in", "4", "--decay-fraction", "0.5"]) == 0
    # what it takes to start is a part of it; saving comes after
    assert 4 <= time.perf_counter() - began < 30
    state = json.loads((checkpoint.resolve(out) / "state.json").read_text())
    assert 0 < state["train"]["max_seconds"] < 4 and state["seconds"] < 5
    rows = list(csv.DictReader((out / "log.csv").read_text().splitlines()))
    assert float(rows[-1]["lr"]) < 0.5 * max(float(row["lr"]) for row in rows)
    # gone on with, it is compiled although its old box is spent, and has a new one
    compiled: list[Trainer] = []
    monkeypatch.setattr(Trainer, "compile", lambda trainer: compiled.append(trainer))
    monkeypatch.setattr(train, "find_compiler", lambda: "c++")
    assert train.main(["--resume", "--out", str(out), "--end-in", "2", "--compile"]) == 0
    later = json.loads((checkpoint.resolve(out) / "state.json").read_text())
    assert len(compiled) == 1 and later["step"] > state["step"]
    assert state["seconds"] < later["train"]["max_seconds"] < state["seconds"] + 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--end-in", "4", "--max-seconds", "4"), "give --max-seconds or --end-in, not both"),
        (("--end-in", "0"), "--end-in must be a positive number of seconds, got 0.0"),
        (("--end-in", "inf"), "--end-in must be a positive number of seconds, got inf"),
    ],
)
def test_an_end_that_cannot_be_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert train.main([*FLAGS, "--out", str(tmp_path / "run"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_release_can_be_trained_on(tmp_path: Path, whole_run: Path) -> None:
    folder = checkpoint.resolve(whole_run)
    release = tmp_path / "release"
    shutil.copytree(folder, release, ignore=shutil.ignore_patterns("training*", "state*"))
    trainer = make_trainer(tmp_path / "new")
    trainer.init_from(release)
    averaged = load_file(folder / "model.safetensors")
    assert all(torch.equal(v, averaged[k]) for k, v in trainer.model.state_dict().items())


# -- what goes wrong


class Bar:
    """Collects what the trainer tells the user."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.n = 0

    def write(self, text: str) -> None:
        self.lines.append(text)

    def set_postfix_str(self, *_: object, **__: object) -> None: ...

    def refresh(self) -> None: ...


def poison(monkeypatch: pytest.MonkeyPatch, bad: Any) -> None:
    fill = Plan.fill

    def poisoned(self: Plan, number: int, buffer: torch.Tensor) -> None:
        fill(self, number, buffer)
        if bad(number):
            _, target, _ = self.views(buffer, self.bucket(number))
            # One alone may follow a constant history, which is not scored
            target[3:] = math.inf

    monkeypatch.setattr(Plan, "fill", poisoned)


def test_a_bad_batch_is_named_and_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, lambda number: number == 2)
    trainer, bar = make_trainer(tmp_path, steps=5), Bar()
    assert trainer.run(bar) == "complete"
    assert trainer.skipped == 1
    assert len(bar.lines) == 1
    assert "series 3 of batch 2 gives a loss that is not finite" in bar.lines[0]
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    checkpoint.load_model(tmp_path)


def test_bad_batches_that_persist_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, lambda number: number >= 2)
    trainer = make_trainer(tmp_path, steps=100)
    with pytest.raises(TrainingError, match="the last 20 steps .* lower --lr"):
        trainer.run(None)
    assert trainer.clock.step == 22


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert train.main(list(flags)) == 2
    return capsys.readouterr().err


def test_starting_and_resuming_are_checked(
    tmp_path: Path, whole_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds a run already: --resume it" in refused(capsys, "--out", str(whole_run))
    assert "nothing to resume in" in refused(capsys, "--resume", "--out", str(tmp_path))
    text = refused(capsys, "--resume", "--out", str(whole_run), "--d-model", "64")
    assert "a run that goes on keeps its model; drop --d-model" in text
    assert "no checkpoint at" in refused(
        capsys, "--init-from", str(tmp_path), "--out", str(tmp_path)
    )
    assert "lr must be positive" in refused(capsys, "--lr", "-1", "--out", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_another_mixture_is_refused_unless_told(
    tmp_path: Path, whole_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole_run, out)
    file = checkpoint.resolve(out) / "state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps(state | {"mixture": "an older one"}))
    text = refused(capsys, "--resume", "--out", str(out), "--steps", "17")
    assert "was trained on mixture an older one" in text and "--new-mixture" in text
    assert train.main(["--resume", "--out", str(out), "--steps", "17", "--new-mixture"]) == 0


def test_a_damaged_state_is_named(
    tmp_path: Path, whole_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole_run, out)
    (checkpoint.resolve(out) / "state.json").write_text('{"step": 3}')
    assert "state.json lacks" in refused(capsys, "--resume", "--out", str(out))


def test_without_a_compiler_it_goes_on_in_eager_mode(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--compile", "--steps", "1", "--out", str(tmp_path / "run")),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if k != "CXX"} | {"PATH": str(tmp_path)},
    )
    assert done.stderr.count("no C++ compiler found (g++ or clang++): going on without") == 1
    assert json.loads(done.stdout)["compile_seconds"] == 0


@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
# the compiler's own tracing
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_gradients_are_the_eager_ones(tmp_path: Path) -> None:
    eager, compiled = make_trainer(tmp_path), make_trainer(tmp_path)
    for trainer in (eager, compiled):
        trainer.model.block_dtype = torch.float32
    compiled.compile()
    assert compiled.compile_seconds > 0
    batch = eager.plan.batch(0, CPU)
    losses = [trainer.forward_backward(batch) for trainer in (eager, compiled)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
    pairs = zip(eager.model.named_parameters(), compiled.model.parameters(), strict=True)
    for (name, p), q in pairs:
        if p.grad is None:
            continue
        assert q.grad is not None, name
        # the pinball loss has a step in its slope: a target within rounding of a quantile may fall on either side
        assert (q.grad - p.grad).norm() <= 1e-2 * p.grad.norm() + 1e-9, name


HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE.exists() or "[never]" in HUGE.read_text(), reason="a system without huge pages"
)
def test_large_tensors_lie_in_huge_pages() -> None:
    code = (
        "import torch; from tinytsm import train; train.main(['--end-in', '-1']); x = torch.zeros(1 << 24); "
        "print(*(line for line in open('/proc/self/smaps_rollup') if 'AnonHuge' in line))"
    )
    plain = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    for env, huge in ((plain, True), (plain | {"THP_MEM_ALLOC_ENABLE": "0"}, False)):
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
        )
        kilobytes = int(run.stdout.split()[1])
        # what 64 MB may lack at its ends
        assert (kilobytes > 60_000) is huge, run.stdout
