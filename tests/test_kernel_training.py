"""A training step of a miniature model through every kernel, on a GPU or in Triton's interpreter.

Without a GPU, tests/test_interpreter.py runs this file under TRITON_INTERPRET=1.
"""

import dataclasses

import numpy as np
import pytest
import torch

from tinytsm import ops
from tinytsm.config import ModelConfig, TrainConfig
from tinytsm.data import Batch
from tinytsm.kernels import reference
from tinytsm.model import Model
from tinytsm.testing import assert_as_good_as_eager, kernel_device
from tinytsm.trainer import Trainer, World, batch_loss

DEVICE = kernel_device()
pytestmark = pytest.mark.skipif(DEVICE is None, reason="needs a GPU or TRITON_INTERPRET=1")
OPS = ("causal_attention", "dart_patch_embed", "feature_attention", "grid_loss")

MINIATURE = ModelConfig(
    d_model=64, n_layers=3, n_heads=2, d_ff=48, head_rank=16, patch=16, context_patches=32,
    horizon_patches=6,
)  # fmt: skip
TRAIN = TrainConfig(batch_tokens=8 * 32, warmup_steps=1)


def batch(rng: np.random.Generator) -> Batch:
    series, tokens = 8, MINIATURE.context_patches
    target = rng.standard_normal((series, tokens + MINIATURE.horizon_patches, MINIATURE.patch))
    target = target.cumsum(1) + rng.standard_normal((series, 1, 1))
    target[rng.random(target.shape) < 0.05] = np.nan
    x = target[:, :tokens].copy()
    x[:, rng.random(tokens) < 0.2] = np.nan
    x[2, :-1] = np.nan
    x[3] = 0.0
    return Batch(
        torch.from_numpy(x).float().flatten(1).to(DEVICE),
        torch.from_numpy(target).float().to(DEVICE),
        torch.zeros(series, device=DEVICE),
        torch.from_numpy(rng.integers(0, 16, series)).to(DEVICE),
        variates=4,
        number=0,
    )


def use_definitions(monkeypatch) -> None:
    for name in OPS:
        definition = getattr(reference, name)

        def run(*inputs, backend=None, dtype=None, definition=definition, **settings):
            return definition(*inputs, **settings)

        monkeypatch.setattr(ops, name, run)


def gradients(model: Model, data: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = batch_loss(model, data, World())
    loss.backward()
    found = {"loss": loss.detach()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    return found


def test_gradients_of_every_parameter(rng, monkeypatch):
    data = batch(rng)
    model = Model(MINIATURE, torch.Generator().manual_seed(0)).to(DEVICE)
    with torch.profiler.profile() as profile:
        ours = gradients(model, data)
    calls = {event.name for event in profile.events()}
    for name in OPS:
        assert {f"tinytsm::{name}", f"tinytsm::{name}_backward"} <= calls

    use_definitions(monkeypatch)
    eager = gradients(model, data)
    wide = data._replace(
        **{
            name: value.double()
            for name, value in data._asdict().items()
            if isinstance(value, torch.Tensor) and value.is_floating_point()
        }
    )
    truth = gradients(model.double(), wide)
    assert_as_good_as_eager(
        list(ours.values()), list(eager.values()), list(truth.values()), names=list(ours)
    )


def test_a_whole_step(rng, monkeypatch, tmp_path):
    data = batch(rng)

    def step():
        trainer = Trainer(MINIATURE, TRAIN, tmp_path, device=DEVICE)
        trainer.model.block_dtype = torch.float32
        loss, norm, _ = trainer.step(data)
        return loss, norm, {k: v.clone() for k, v in trainer.model.state_dict().items()}

    loss, norm, weights = step()
    use_definitions(monkeypatch)
    true_loss, true_norm, true_weights = step()
    torch.testing.assert_close(loss, true_loss)
    torch.testing.assert_close(norm, true_norm, rtol=1e-5, atol=0)
    fresh = Model(MINIATURE, torch.Generator().manual_seed(TRAIN.seed)).state_dict()
    for name, value in weights.items():
        # the optimizers divide by the gradient's size, one of them in bfloat16: tiny gradients may differ in their first
        # digits, the step as a whole may not
        moved = (true_weights[name].cpu() - fresh[name]).norm()
        assert moved > 0
        assert (value - true_weights[name]).norm().cpu() < 0.03 * moved, name


def test_settings_without_a_kernel_still_train(rng):
    data = batch(rng)
    config = dataclasses.replace(MINIATURE, norm="last", frame_features=False)
    model = Model(config, torch.Generator().manual_seed(0)).to(DEVICE)
    assert all(g.isfinite().all() for g in gradients(model, data).values())
