"""The held-out set: its score is what it says, and the trainer writes it down."""

import csv
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from tinytsm.config import HELD_OUT_SEED, ModelConfig, TrainConfig
from tinytsm.model import Model
from tinytsm.trainer import Trainer
from tinytsm.validation import HeldOut, normalised_pinball

CPU = torch.device("cpu")
MODEL = ModelConfig(
    d_model=32, n_heads=2, d_ff=64, n_layers=3, head_rank=16, context_patches=16, horizon_patches=4
)
LEVELS = torch.tensor([0.1, 0.5, 0.9])


def test_normalised_pinball_by_hand() -> None:
    context = torch.tensor([[0.0, 4.0, math.nan], [3.0, 3.0, 3.0], [0.0, 4.0, 0.0]])
    future = torch.tensor([[1.0, math.nan], [1.0, 1.0], [math.nan, math.nan]])
    quantiles = torch.tensor([0.0, 2.0, 4.0]).expand(3, 2, 3)
    ours = normalised_pinball(quantiles, future, context, LEVELS)
    # below 1 by a level of .1, above by .5 and by .1 of 3; twice the mean, over a mean deviation of 2
    assert float(ours[0]) == pytest.approx(2 * (0.1 + 0.5 + 0.3) / 3 / 2)
    # a context that does not vary, a future that is not known
    assert ours[1].isnan() and ours[2].isnan()
    far = normalised_pinball(quantiles, 1e9 * future, context, LEVELS)
    assert float(far[0]) == 5.0


def test_score_does_not_depend_on_the_unit() -> None:
    generator = torch.Generator().manual_seed(0)
    context, future = torch.randn(2, 3, 20, generator=generator)
    quantiles = torch.randn(3, 20, 3, generator=generator)
    one = normalised_pinball(quantiles, future, context, LEVELS)
    other = normalised_pinball(256 * quantiles, 256 * future, 256 * context + 512, LEVELS)
    torch.testing.assert_close(one, other)


def test_better_weights_score_better_and_the_log_says_so(tmp_path: Path) -> None:
    config = TrainConfig(
        steps=80, batch_tokens=1024, lr=1e-2, warmup_steps=2, threads=1, eval_seconds=3600, ema=0.5
    )
    trainer = Trainer(MODEL, config, tmp_path, device=CPU)
    trainer.model.block_dtype = torch.float32
    held_out = HeldOut(MODEL, device=CPU, block_dtype=torch.float32)
    before = held_out.score(trainer.averaged)
    trainer.clock.start()
    assert trainer.run(None) == "complete"
    after = held_out.score(trainer.averaged)
    assert after.loss < 0.97 * before.loss and after.score < 0.98 * before.score
    with (tmp_path / "validation.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert int(row["step"]) == 80
    assert float(row["loss"]) == pytest.approx(after.loss, rel=1e-6)
    assert float(row["score"]) == pytest.approx(after.score, rel=1e-6)


def test_scores_come_as_often_as_asked(tmp_path: Path) -> None:
    config = TrainConfig(steps=3, batch_tokens=256, threads=1, eval_seconds=1e-6)
    trainer = Trainer(MODEL, config, tmp_path, device=CPU)
    trainer.clock.start()
    trainer.run(None)
    with (tmp_path / "validation.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, 2, 3]


# whole items of four variates; the presets' contexts, 64 and 128, keep the set that they have been scored on
@pytest.mark.parametrize(("patches", "tokens"), [(48, 4032), (64, 4096), (128, 4096), (2048, 8192)])
def test_the_set_fits_any_context(patches: int, tokens: int) -> None:
    config = dataclasses.replace(MODEL, patch=1, context_patches=patches)
    held_out = HeldOut(config, device=CPU, block_dtype=torch.float32)
    assert max(batch.x.numel() for batch in held_out.batches) == tokens
    scores = held_out.score(Model(config, torch.Generator().manual_seed(0)).state_dict())
    assert all(math.isfinite(value) for value in scores)


def test_the_set_is_the_same_every_time_and_no_run_can_have_it(tmp_path: Path) -> None:
    weights = Model(MODEL, torch.Generator().manual_seed(0)).state_dict()
    sets = [HeldOut(MODEL, device=CPU, block_dtype=torch.float32) for _ in range(2)]
    assert sets[0].score(weights) == sets[1].score(weights)
    for a, b in zip(sets[0].batches, sets[1].batches, strict=True):
        assert a.target.equal(b.target) or torch.equal(a.target.isnan(), b.target.isnan())
    with pytest.raises(ValueError, match=f"seed must be below {HELD_OUT_SEED}"):
        Trainer(MODEL, TrainConfig(seed=HELD_OUT_SEED), tmp_path, device=CPU)
