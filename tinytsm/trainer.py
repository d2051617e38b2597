"""One training run: step, checkpoint, resume, stop.

`tinytsm.train` is the command around it.
"""

import contextlib
import dataclasses
import functools
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from tinytsm import checkpoint, ops
from tinytsm.config import HELD_OUT_SEED, TOKEN_MULTIPLE, ModelConfig, TrainConfig, to_dict
from tinytsm.data import BATCHES_VERSION, Batch, Bucket, Feeder, Plan, buckets
from tinytsm.device import pick_device
from tinytsm.errors import TrainingError
from tinytsm.graphs import Recorder
from tinytsm.model import Model
from tinytsm.optim import Clock, Optimizer
from tinytsm.synth.dispatch import usable_cores
from tinytsm.validation import HeldOut, Scores
from tinytsm.world import World

# A run stops when this many steps in a row had a loss or gradient that is not finite.
_PATIENCE = 20
# More processes than this have too small a part of a batch each; further cores are threads of theirs.
_MOST_PROCESSES = 4
_LOG_COLUMNS = ("step", "tokens", "seconds", "loss", "lr", "grad_norm", "tokens_per_second", "wait_share", "skipped")  # fmt: skip

_SCORE_COLUMNS = ("step", "seconds", "loss", "score")


def batch_loss(model: Model, batch: Batch, world: World) -> Tensor:
    """Mean of the octaves' losses over the global batch, or this process's share of it: the shares add up."""
    tokens = model(batch.x, batch.resolution, batch.variates)
    total, count = model.loss(tokens, batch.target, batch.offset)
    count = world.add_up(count.detach().clone())
    return (total / count.clamp_min(1)).mean()


def find_culprit(model: Model, batch: Batch, world: World) -> str:
    """Which series of the global batch gives a loss that is not finite, or that only the gradient is not."""
    # what each process finds first, counted from 1
    found = torch.zeros(world.size, dtype=torch.int64, device=batch.x.device)
    with torch.no_grad():
        tokens = model(batch.x, batch.resolution, batch.variates)
        for i in range(len(batch.x)):
            row = slice(i, i + 1)
            part = type(tokens)(*(t[row] for t in tokens))
            # the uncompiled loss: one series is a shape of its own
            total, _ = Model.loss(model, part, batch.target[row], batch.offset[row])
            if not total.isfinite().all():
                found[world.rank] = world.rank * len(batch.x) + i + 1
                break
    culprits = [int(number) - 1 for number in world.add_up(found) if number]
    if culprits:
        return f"series {culprits[0]} of batch {batch.number} gives a loss that is not finite"
    if not all(p.isfinite().all() for p in model.parameters()):
        return "the weights themselves are not finite"
    return f"every loss of batch {batch.number} is finite, its gradient is not"


class Trainer:
    """One run: model, averaged weights, optimizer, clock, and the loop over batches."""

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        out: Path,
        *,
        device: torch.device,
        world: World | None = None,
    ):
        if config.seed >= HELD_OUT_SEED:
            raise ValueError(
                f"seed must be below {HELD_OUT_SEED}, which is the held-out set's, got {config.seed}"
            )
        self.config, self.out, self.device = config, out, device
        if device.type == "cuda":
            # embedding and head multiply in TensorFloat-32, blocks in bfloat16
            torch.set_float32_matmul_precision("high")
        self.world = world or World()
        self.plan = Plan(model_config, config, rank=self.world.rank, world=self.world.size)
        generator = torch.Generator().manual_seed(config.seed)
        self.model = Model(model_config, generator).to(device)
        self.averaged = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.optimizer = Optimizer(self.model, config, self.world)
        self.clock = Clock(config)
        self.next_batch = self.tokens = self.skipped = 0
        # loss, gradient norm and batch of the steps since the last review
        self._pending: list[tuple[Tensor, Tensor, int]] = []
        self.stop_signal: int | None = None
        self.model.block_dtype = ops.pick_precision(device)
        self.model.attention = config.attention
        # what that comes to here, said in the log and in checkpoints
        self.attention = pick_attention(config.attention, model_config, device)
        self.recorder = Recorder(device, self.world.size) if config.cuda_graphs else None
        self.compile_seconds = 0.0
        self.scores: Scores | None = None
        self._held_out: HeldOut | None = None

    # -- one step

    def forward_backward(self, batch: Batch) -> Tensor:
        """Gradients of the global batch into the parameters; returns the global loss."""
        part = functools.partial(self._own_part, world=self.world)
        # what is recorded is of one process
        loss = part(batch) if self.recorder is None else self.recorder.run(part, self.model, batch)
        self.world.add_up_gradients(self.model)
        return self.world.add_up(loss)

    def _own_part(self, batch: Batch, world: World) -> Tensor:
        """Gradients of the batch into the parameters; returns the loss. Both are this process's part of the world's."""
        self.model.zero_grad(set_to_none=True)
        loss = batch_loss(self.model, batch, world)
        loss.backward()
        return loss.detach().clone()

    def step(self, batch: Batch) -> tuple[Tensor, Tensor, float]:
        """One optimizer step; returns loss, gradient norm (inf or NaN if the step was skipped) and learning rate."""
        loss = self.forward_backward(batch)
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        good = loss.isfinite() & norm.isfinite()
        # decided on the device, without waiting for it: a bad step contributes nothing
        bad, clip = ~good, (self.config.grad_clip / norm).clamp_max(1.0)
        for grad in grads:
            grad.masked_fill_(bad, 0.0)
        torch._foreach_mul_(grads, torch.where(good, clip, 0.0))
        lr = self.clock.learning_rate()
        self.optimizer.step(lr)
        self.clock.step += 1
        self.tokens += self.config.batch_tokens
        self.next_batch = batch.number + 1
        keep = min(self.config.ema, (1 + self.clock.step) / (10 + self.clock.step))
        with torch.no_grad():
            ema = list(self.averaged.values())
            torch._foreach_lerp_(ema, list(self.model.state_dict().values()), 1 - keep)
        return loss, torch.where(good, norm, float("nan")), lr

    # -- compile, save, restore

    def compile(self) -> None:
        """Compile and warm up every batch shape; the weights are not touched."""
        began = time.perf_counter()
        self.model.compile_parts()
        self.warm_up()
        self.compile_seconds = time.perf_counter() - began

    def warm_up(self) -> None:
        """Run every batch shape once, so that kernels are compiled or loaded; the weights are not touched."""
        # on a CPU one process compiles and the others find its code in the cache; code for a GPU is for that one alone
        on_cpu = self.device.type == "cpu"
        with self.world.first_alone(self.device) if on_cpu else contextlib.nullcontext():
            for bucket in self.plan.buckets:
                batch = _blank_batch(bucket, self.plan, self.device)
                if self.recorder is None:
                    self._own_part(batch, World())
                else:
                    self.forward_backward(batch)
        self.model.zero_grad(set_to_none=True)

    def save(self) -> bool:
        """Write a checkpoint of the current step into the run, on one process; False and none if its weights diverged."""
        # no run can go on from what is not finite, and it would take the place of a checkpoint that one can
        if not torch.nn.utils.get_total_norm(list(self.averaged.values())).isfinite():
            return False
        contents = self._contents()
        checkpoint.save_step(self.out, self.clock.step, self.plan.model, self.averaged, **contents)
        return True

    def _contents(self) -> dict[str, Any]:
        """What a checkpoint holds beside the averaged weights."""
        raw = {f"weight.{k}": v for k, v in self.model.state_dict().items()}
        state = {
            "step": self.clock.step,
            "tokens": self.tokens,
            "next_batch": self.next_batch,
            "seconds": self.clock.seconds,
            "decay_start": self.clock.decay_start,
            "skipped": self.skipped + sum(not norm.isfinite() for _, norm, _ in self._pending),
            "mixture": BATCHES_VERSION,
            "precision": str(self.model.block_dtype).removeprefix("torch."),
            "attention": self.attention,
            "processes": self.world.size,
            "train": to_dict(self.config),
            "versions": checkpoint.fingerprint(),
        }
        return {"training": raw | self.optimizer.state(), "state": state}

    def _load_weights(
        self, averaged: dict[str, Tensor], raw: dict[str, Tensor], source: Path
    ) -> None:
        checkpoint.check_weights(self.model, averaged, source)
        checkpoint.check_weights(self.model, raw, source)
        self.model.load_state_dict(raw)
        self.averaged = {k: averaged[k].to(self.device) for k in self.model.state_dict()}

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint as if the run had never stopped."""
        averaged, training, state = checkpoint.load_training(folder)
        raw = _raw_weights(training)
        self._load_weights(averaged, raw, folder)
        self.optimizer.load_state(training)
        self.clock = Clock(self.config, step=state["step"], seconds=state["seconds"])
        self.clock.decay_start = state["decay_start"]
        self.next_batch, self.skipped = state["next_batch"], state["skipped"]
        self.tokens = state["tokens"]

    def init_from(self, folder: Path) -> None:
        """Take another run's weights and go on after the items that it has seen; optimizer and clock are fresh."""
        if checkpoint.is_release(folder):
            averaged = raw = checkpoint.load_model(folder).state_dict()
            seen = checkpoint.load_card(folder)
        else:
            averaged, training, seen = checkpoint.load_training(folder)
            raw = _raw_weights(training)
        self._load_weights(averaged, raw, folder)
        if seen.get("train", {}).get("seed") == self.config.seed:
            # older cards do not say
            self.next_batch = seen.get("next_batch", 0)

    def end_at(self, moment: float) -> None:
        """Let the run's time box end at this moment on `time.perf_counter`'s clock."""
        # processes whose boxes differed would learn at different rates
        left = self.world.of_first(max(1.0, moment - time.perf_counter()), self.device)
        self.config = dataclasses.replace(self.config, max_seconds=self.clock.seconds + left)
        self.clock.config = self.config

    # -- the loop

    def run(self, progress: Any, *, until: float = math.inf) -> str:
        """Train until the run is complete, a signal arrives or the piece is over.

        progress: a tqdm bar, or None on all processes but the first. until: where the piece is over, on
        `time.perf_counter`'s clock. Returns `complete`, `stopped` or `paused`.
        """
        log = score_log = None
        if self.world.rank == 0:
            log = _Log(self.out / "log.csv", _LOG_COLUMNS, self.clock.step)
            score_log = _Log(self.out / "validation.csv", _SCORE_COLUMNS, self.clock.step)
        config = self.config
        last_saved = last_logged = last_scored = time.perf_counter()
        last_wait, bad_in_a_row = 0.0, 0
        lr = 0.0
        feeder = Feeder(
            self.plan,
            start=self.next_batch,
            device=self.device,
            workers=config.workers or pick_workers(self.device),
            prefetch=config.prefetch,
        )
        with feeder:
            outcome = "complete"
            while self.clock.progress < 1:
                decay_begins = self.clock.decays and self.clock.decay_start is None
                # as a step too: what is kept for other runs never stands alone
                if decay_begins and self.world.rank == 0 and self.save():
                    # a later run can go on from here as if this one had been longer
                    kept = self.out / checkpoint.BEFORE_DECAY
                    checkpoint.save(kept, self.plan.model, self.averaged, **self._contents())
                batch = next(feeder)
                loss, norm, lr = self.step(batch)
                self._pending.append((loss, norm, batch.number))
                # who is asked to stop at the last step is done
                stop = self._agree(until) and self.clock.progress < 1
                done = stop or self.clock.progress >= 1
                if self.clock.step % config.log_steps == 0 or done:
                    bad_in_a_row = self._review(bad_in_a_row, batch, progress)
                    now = time.perf_counter()
                    rate = len(self._pending) * config.batch_tokens / (now - last_logged)
                    wait = (feeder.wait_seconds - last_wait) / (now - last_logged)
                    losses = [x for x in (float(p[0]) for p in self._pending) if math.isfinite(x)]
                    row = {
                        "step": self.clock.step,
                        "tokens": self.tokens,
                        "seconds": round(self.clock.seconds, 3),
                        "loss": sum(losses) / max(1, len(losses)),
                        "lr": lr,
                        "grad_norm": float(norm),
                        "tokens_per_second": round(rate),
                        "wait_share": round(wait, 4),
                        "skipped": self.skipped,
                    }
                    if log is not None:
                        log.write(row)
                    if progress is not None:
                        _show(progress, self.clock, row)
                    last_logged, last_wait = now, feeder.wait_seconds
                    self._pending.clear()
                if self.world.rank == 0 and time.perf_counter() - last_saved > config.save_seconds:
                    self.save()
                    last_saved = time.perf_counter()
                if score_log is not None and config.eval_seconds:
                    over = self.clock.progress >= 1
                    if over:
                        # scoring takes seconds in which a machine may be lost
                        self.save()
                    if over or time.perf_counter() - last_scored > config.eval_seconds:
                        self._score(score_log)
                        last_scored = time.perf_counter()
                if stop:
                    outcome = "stopped" if self.stop_signal is not None else "paused"
                    break
        if self.world.rank == 0 and not self.save():
            raise TrainingError(
                f"the weights are not finite and were not saved; {self._way_back()}"
            )
        return outcome

    def _score(self, log: "_Log") -> None:
        """Score the averaged weights on the held-out series, which are made at the first call."""
        if self._held_out is None:
            self._held_out = HeldOut(
                self.plan.model, device=self.device, block_dtype=self.model.block_dtype
            )
        self.scores = self._held_out.score(self.averaged)
        row = {"step": self.clock.step, "seconds": self.clock.elapsed()}
        log.write(row | self.scores._asdict())

    def _agree(self, until: float) -> bool:
        """Set the clock, the first process's for all, and tell whether any process must stop.

        Processes that disagreed would learn at different rates, or wait for one that has left.
        """
        told = self.stop_signal is not None or time.perf_counter() >= until
        seconds = self.clock.elapsed()
        if self.world.size > 1:
            first = self.world.rank == 0
            shared = torch.tensor([seconds * first, told], device=self.device, dtype=torch.float64)
            seconds, votes = self.world.add_up(shared).tolist()
            told = votes > 0
        self.clock.seconds = seconds
        return told

    def _review(self, bad: int, batch: Batch, progress: Any) -> int:
        """Count skipped steps, say what caused the latest, and stop the run if they persist."""
        for _, norm, number in self._pending:
            if norm.isfinite():
                bad = 0
                continue
            bad += 1
            self.skipped += 1
            cause = f"batch {number}"
            if number == batch.number:
                cause = find_culprit(self.model, batch, self.world)
            if progress is not None:
                progress.write(f"step with a loss or gradient that is not finite, skipped: {cause}")
        if bad >= _PATIENCE:
            raise TrainingError(
                f"the last {bad} steps had a loss or gradient that is not finite (the last was batch "
                f"{batch.number}); {self._way_back()}"
            )
        return bad

    def _way_back(self) -> str:
        return f"lower --lr (it is {self.config.lr}) and resume from the last checkpoint"


def _raw_weights(training: dict[str, Tensor]) -> dict[str, Tensor]:
    """The raw weights among a checkpoint's training tensors, as `Trainer.save` names them."""
    return {k.removeprefix("weight."): v for k, v in training.items() if k.startswith("weight.")}


class _Log:
    """A CSV of the run. A resumed run drops the rows past the step that it starts from, and goes on."""

    def __init__(self, path: Path, columns: tuple[str, ...], step: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.columns = path, columns
        rows = path.read_text().splitlines()[1:] if path.exists() else []
        kept = [row for row in rows if row.count(",") == len(columns) - 1]
        kept = [row for row in kept if float(row.split(",")[0]) <= step]
        scratch = path.with_suffix(".tmp")
        scratch.write_text("\n".join([",".join(columns), *kept]) + "\n")
        scratch.replace(path)

    def write(self, row: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(",".join(f"{row[name]:.8g}" for name in self.columns) + "\n")


def _show(progress: Any, clock: Clock, row: dict[str, float]) -> None:
    progress.set_postfix_str(
        f"step {clock.step} loss {row['loss']:.4f} {row['tokens_per_second'] / 1e3:.1f}k tokens/s "
        f"wait {100 * row['wait_share']:.0f}%",
        refresh=False,
    )
    # a time box counts in thousandths, a number of steps in steps
    boxed = clock.config.max_seconds > 0
    progress.n = round(1000 * min(1.0, clock.progress)) if boxed else clock.step
    progress.refresh()


def _blank_batch(bucket: Bucket, plan: Plan, device: torch.device) -> Batch:
    """A batch of the bucket's shape, for warming up the compiler."""
    generator = torch.Generator().manual_seed(0)
    x, target, resolution = plan.views(
        torch.randn(plan.values(bucket), generator=generator), bucket
    )
    offset = torch.arange(bucket.series) % TOKEN_MULTIPLE
    return Batch(
        x.to(device),
        target.to(device),
        resolution.zero_().to(device),
        offset.to(device),
        bucket.variates,
        0,
    )


def own_device(name: str) -> torch.device:
    """The device of a name, as `device.pick_device`; a process started by torchrun takes a GPU of its own."""
    device = pick_device(name)
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    return device


def use_huge_pages() -> None:
    """Have torch ask for huge pages for large tensors on a CPU, if it has not allocated any tensor yet.

    A step's activations come and go, and in pages of the usual size each time by many page faults. What the environment
    says already stays.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def pick_attention(
    wanted: str, config: ModelConfig, device: torch.device
) -> dict[ops.AttentionKind, ops.AttentionBackend]:
    """The back ends of a model's attentions on a device; ValueError where the one wanted cannot compute it."""
    width = config.d_model // config.n_heads
    heads = torch.empty(0, width, dtype=ops.pick_precision(device), device=device)
    kinds = get_args(ops.AttentionKind)
    return {kind: ops.choose_attention(wanted, heads, kind=kind) for kind in kinds}


def pick_processes(model: ModelConfig, config: TrainConfig, device: torch.device) -> int:
    """How many processes this one is to be with those that it starts; ValueError where they cannot share out a batch.

    One that was started itself, by torchrun or by another, starts none. Where the settings do not say, nor does one for a
    GPU or with a given number of threads; on a CPU they are as many as keep most of its cores busy.
    """
    if "RANK" in os.environ:
        return 1
    if config.processes:
        if device.type != "cpu":
            raise ValueError(
                f"processes are for a CPU, got {config.processes} and {device}: give --processes 0, and use torchrun for several GPUs"
            )
        buckets(model, config, config.processes)
        return config.processes
    if device.type != "cpu" or config.threads:
        return 1
    threads = torch.get_num_threads()
    possible = []
    for processes in range(2, min(threads, _MOST_PROCESSES) + 1):
        with contextlib.suppress(ValueError):
            buckets(model, config, processes)
            possible.append(processes)
    return max(possible, key=lambda n: (threads // n * n, n), default=1)


def pick_workers(device: torch.device) -> int:
    """Generator threads where the settings name none: beside a GPU, all of this process's cores but two."""
    if device.type == "cpu":
        return 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, usable_cores() // processes - 2)


def find_compiler() -> str | None:
    """The C++ compiler that torch.compile would use on CPU, or None."""
    return next(
        (c for c in (os.environ.get("CXX"), "g++", "clang++") if c and shutil.which(c)), None
    )
