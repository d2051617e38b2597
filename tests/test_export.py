"""Releases: the averaged weights alone, stored small, with a card."""

import json
from pathlib import Path

import pytest
import torch

from tinytsm import checkpoint, export
from tinytsm.config import ModelConfig, TrainConfig
from tinytsm.model import Model
from tinytsm.trainer import Trainer

MODEL = ModelConfig(
    d_model=32, n_heads=2, d_ff=64, n_layers=3, head_rank=16, context_patches=16, horizon_patches=4
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    config = TrainConfig(steps=7, batch_tokens=256, seed=5)
    trainer = Trainer(MODEL, config, tmp_path / "run", device=torch.device("cpu"))
    trainer.averaged = Model(MODEL, torch.Generator().manual_seed(9)).state_dict()
    trainer.clock.step, trainer.tokens, trainer.next_batch = 3, 3 * 256, 40
    trainer.save()
    return tmp_path / "run"


@pytest.mark.parametrize("dtype", list(export.DTYPES))
def test_a_release_holds_the_averaged_weights(
    tmp_path: Path, run: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "release"
    out.mkdir()
    assert export.main([str(run), str(out), "--dtype", dtype]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "card.json", "config.json", "model.safetensors",
    ]  # fmt: skip
    averaged = Model(MODEL, torch.Generator().manual_seed(9)).state_dict()
    loaded = checkpoint.load_model(out).state_dict()
    for name, weight in averaged.items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], weight.to(export.DTYPES[dtype]).float()), name
    card = json.loads((out / "card.json").read_text())
    assert card["tokens"] == 3 * 256 and card["train"]["seed"] == 5 and card["dtype"] == dtype
    assert json.loads(capsys.readouterr().out) == {"out": str(out)} | card
    # a release can be released again
    assert export.main([str(out), str(tmp_path / "again"), "--dtype", dtype]) == 0
    assert json.loads((tmp_path / "again" / "card.json").read_text()) == card


def test_training_goes_on_after_the_items_that_a_card_names(tmp_path: Path, run: Path) -> None:
    release = tmp_path / "release"
    export.export(run, release, dtype=torch.bfloat16)

    def first_batch(seed: int) -> int:
        config = TrainConfig(steps=7, batch_tokens=256, seed=seed)
        trainer = Trainer(MODEL, config, tmp_path / "new", device=torch.device("cpu"))
        trainer.init_from(release)
        return trainer.next_batch

    assert (first_batch(5), first_batch(6)) == (40, 0)
    card = release / "card.json"
    content = json.loads(card.read_text())
    # an older card
    del content["next_batch"]
    card.write_text(json.dumps(content))
    assert first_batch(5) == 0
    card.write_text("[]")
    with pytest.raises(checkpoint.CheckpointError, match=r"card.json must hold a JSON object"):
        first_batch(5)
    card.unlink()
    assert first_batch(5) == 0


def test_what_cannot_be_released_is_refused(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "no checkpoint at" in capsys.readouterr().err
    step = checkpoint.resolve(run)
    assert export.main([str(run), str(step)]) == 2
    assert f"error: {step} is there and is not a saved model alone" in capsys.readouterr().err
    checkpoint.load_training(run)
    weights = Model(MODEL).state_dict()
    weights["head"][0, 0, 0] = 1e9
    checkpoint.save(tmp_path / "large", MODEL, weights)
    assert export.main([str(tmp_path / "large"), str(tmp_path / "out"), "--dtype", "float16"]) == 2
    assert "head holds values that are not finite" in capsys.readouterr().err
