"""Optimizer and schedule: Muon with AdamW, warm-up, stable, decay."""

import time
from collections import defaultdict

import torch
from torch import Tensor
from torch.nn import Parameter

from tinytsm import checkpoint
from tinytsm.config import TrainConfig
from tinytsm.model import Model
from tinytsm.world import World


def split_parameters(
    model: Model,
) -> tuple[dict[str, Parameter], dict[str, Parameter], dict[str, Parameter]]:
    """The blocks' matrices, all other matrices, and the gains."""
    hidden, matrices, gains = {}, {}, {}
    for name, p in model.named_parameters():
        if p.ndim < 2:
            gains[name] = p
        elif name.startswith("blocks."):
            hidden[name] = p
        else:
            matrices[name] = p
    return hidden, matrices, gains


def orthogonalised(matrices: Tensor) -> Tensor:
    """Each matrix with its singular values brought near 1, in bfloat16; rows and columns are not told apart.

    matrices: (M, A, B). Five Newton-Schulz steps of fifth order (Jordan 2024, https://kellerjordan.github.io/posts/muon).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonalised; all matrices of a shape at once, torch.optim.Muon takes them one by one.

    Steps have the size that AdamW's have (Liu et al. 2025, arXiv:2502.16982, eq. 4), so that one learning rate serves both.
    Of several processes each orthogonalises a part of the matrices for all.
    """

    def __init__(self, matrices: list[Parameter], world: World, *, lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})
        self.world = world

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient, in place."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            stacks = [self._ahead(matrices, group["momentum"]) for matrices in alike.values()]
            updates = self._shared_out(stacks)
            for (shape, matrices), update in zip(alike.items(), updates, strict=True):
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                size = -0.2 * max(shape) ** 0.5 * group["lr"]
                torch._foreach_add_(matrices, update.float().unbind(), alpha=size)

    def _ahead(self, matrices: list[Tensor], momentum: float) -> Tensor:
        """Nesterov's look ahead of each matrix, stacked; the momenta move."""
        grads = [p.grad for p in matrices if p.grad is not None]
        for p in matrices:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum_buffer"] for p in matrices]
        torch._foreach_lerp_(momenta, grads, 1 - momentum)
        return torch.stack(torch._foreach_lerp(grads, momenta, momentum))

    def _shared_out(self, stacks: list[Tensor]) -> list[Tensor]:
        """`orthogonalised` of each stack, of which each process computes a part."""
        if self.world.size == 1:
            return [orthogonalised(stack) for stack in stacks]
        parts = []
        for stack in stacks:
            share = -(-len(stack) // self.world.size)
            own = stack[self.world.rank * share :][:share]
            # where they cannot be dealt out evenly the last processes have zeros
            own = torch.nn.functional.pad(own, (0, 0, 0, 0, 0, share - len(own)))
            parts.append(orthogonalised(own).flatten())
        # in one message
        everyones = self.world.gather(torch.cat(parts)[None]).split([len(p) for p in parts], 1)
        return [
            flat.reshape(-1, *stack.shape[1:])[: len(stack)]
            for flat, stack in zip(everyones, stacks, strict=True)
        ]


class Optimizer:
    """Muon for the blocks' matrices and AdamW for the rest, or AdamW for all; state addressed by parameter name."""

    def __init__(self, model: Model, config: TrainConfig, world: World):
        hidden, matrices, gains = split_parameters(model)
        if config.optimizer == "adamw":
            hidden, matrices = {}, hidden | matrices
        decay = config.weight_decay
        fused = next(model.parameters()).is_cuda
        groups = [
            {"params": list(matrices.values()), "weight_decay": decay},
            {"params": list(gains.values()), "weight_decay": 0.0},
        ]
        self.names = {p: name for name, p in model.named_parameters()}
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=fused)
        ]
        if hidden:
            self.parts.append(Muon(list(hidden.values()), world, lr=config.lr, weight_decay=decay))

    def step(self, lr: float) -> None:
        """Move every weight that has a gradient, at this learning rate."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: tensors named `optimizer.WEIGHT.KEY`."""
        return {
            f"optimizer.{self.names[p]}.{key}": torch.as_tensor(value)
            for part in self.parts
            for p, entries in part.state.items()
            if isinstance(p, Parameter)
            for key, value in entries.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `state` gave; other names are left. Raises CheckpointError for the state of an unknown weight."""
        by_name = {name: p for p, name in self.names.items()}
        owner = {p: part for part in self.parts for g in part.param_groups for p in g["params"]}
        for full, value in tensors.items():
            if not full.startswith("optimizer."):
                continue
            name, key = full.removeprefix("optimizer.").rsplit(".", 1)
            if name not in by_name:
                raise checkpoint.CheckpointError(f"optimizer state of an unknown weight: {name}")
            p = by_name[name]
            # step counters stay on the host, as the optimizers keep them, unless they are fused
            fused = owner[p].param_groups[0].get("fused")
            owner[p].state[p][key] = value if key == "step" and not fused else value.to(p.device)


class Clock:
    """Progress of a run, in steps or in seconds of its time box, whichever is further; compilation not counted.

    `seconds` stands still between two calls that set it, so that all of a step, and all processes, see one time.
    """

    def __init__(self, config: TrainConfig, *, step: int = 0, seconds: float = 0.0):
        self.config, self.step, self.seconds = config, step, seconds
        self._origin: float | None = None
        self.decay_start: int | None = None

    def start(self) -> None:
        """Count seconds from now on."""
        self._origin = time.perf_counter() - self.seconds

    def elapsed(self) -> float:
        """Seconds of the whole run up to now."""
        return self.seconds if self._origin is None else time.perf_counter() - self._origin

    @property
    def progress(self) -> float:
        """Share of the run that is done, at least 1 at its end."""
        by_steps = self.step / self.config.steps
        box = self.config.max_seconds
        return max(by_steps, self.seconds / box) if box else by_steps

    @property
    def decays(self) -> bool:
        """Whether the run is in its last part, in which the learning rate falls."""
        fraction = self.config.decay_fraction
        return fraction > 0 and self.progress > 1 - fraction

    def learning_rate(self) -> float:
        """Warm-up, stable, linear decay to zero over the last part of the run; notes where the decay began."""
        config = self.config
        rise = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        fall = 1.0
        if self.decays:
            fall = max(0.0, (1 - self.progress) / config.decay_fraction)
            if self.decay_start is None:
                self.decay_start = self.step
        return config.lr * rise * fall
