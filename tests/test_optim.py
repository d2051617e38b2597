"""Schedule and optimizer: warm-up, decay by steps and by the clock, one optimizer a weight, Muon as torch has it."""

import pytest
import torch

from tinytsm.config import PRESETS, TrainConfig
from tinytsm.model import Model
from tinytsm.optim import Clock, Muon, Optimizer, split_parameters
from tinytsm.world import World


def test_warm_up_stable_decay() -> None:
    clock = Clock(TrainConfig(steps=100, warmup_steps=10, decay_fraction=0.2, lr=1.0))
    rates = []
    for step in range(101):
        clock.step = step
        rates.append(clock.learning_rate())
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:81] == pytest.approx([1.0] * 71)
    assert rates[81:] == pytest.approx([(100 - s) / 20 for s in range(81, 101)])
    assert clock.decay_start == 81


def test_a_time_box_decays_in_its_last_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("tinytsm.optim.time.perf_counter", lambda: now[0])
    clock = Clock(TrainConfig(max_seconds=100, warmup_steps=0, lr=1.0), seconds=50.0)
    now[0] += 1000
    assert clock.elapsed() == 50 and clock.progress == 0.5
    clock.start()
    now[0] += 25
    clock.seconds, clock.step = clock.elapsed(), 7
    assert clock.learning_rate() == 1.0 and clock.decay_start is None
    now[0] += 10
    clock.seconds = clock.elapsed()
    assert clock.learning_rate() == pytest.approx(0.75) and clock.decay_start == 7
    now[0] += 30
    assert clock.learning_rate() == pytest.approx(0.75)
    clock.seconds = clock.elapsed()
    assert clock.learning_rate() == 0 and clock.progress > 1


def test_every_weight_has_one_optimizer() -> None:
    model = Model(PRESETS["nano"])
    parts = split_parameters(model)
    assert sum(len(part) for part in parts) == len(list(model.parameters()))
    assert all(p.ndim == 2 for p in parts[0].values())
    for name in ("muon", "adamw"):
        optimizer = Optimizer(model, TrainConfig(optimizer=name), World())
        owned = [p for o in optimizer.parts for g in o.param_groups for p in g["params"]]
        assert len(owned) == len(set(owned)) == len(list(model.parameters()))


def test_muon_takes_the_steps_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 8), (24, 8), (8, 24), (24, 8)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    reference = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    optimizer = Muon(ours, World(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
        reference.step()
    for p, q, first in zip(ours, theirs, start, strict=True):
        # products in bfloat16, in another order
        assert (p - q).norm() < 1e-2 * (q - first).norm()
