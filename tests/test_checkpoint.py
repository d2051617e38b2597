"""Checkpoints: whole or not at all, and every damage named."""

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tinytsm import TinyTSM, checkpoint, export
from tinytsm.checkpoint import CheckpointError
from tinytsm.config import QUANTILES, ModelConfig
from tinytsm.model import Model

SMALL = ModelConfig(
    d_model=32, n_heads=2, d_ff=64, n_layers=3, head_rank=16, context_patches=16, horizon_patches=4
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = Model(SMALL, torch.Generator().manual_seed(1))
    return checkpoint.save(tmp_path / "model", SMALL, model.state_dict())


def save_step(run: Path, step: int) -> Path:
    weights = Model(SMALL, torch.Generator().manual_seed(step)).state_dict()
    training = {f"weight.{k}": v for k, v in weights.items()}
    return checkpoint.save_step(run, step, SMALL, weights, training=training, state={"step": step})


def test_a_model_comes_back(saved: Path) -> None:
    model = checkpoint.load_model(saved)
    assert model.config == SMALL and not model.training
    for name, weight in Model(SMALL, torch.Generator().manual_seed(1)).state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_others_may_read_what_the_mask_allows(tmp_path: Path) -> None:
    weights = Model(SMALL, torch.Generator().manual_seed(1)).state_dict()
    before = os.umask(0o027)
    try:
        folder = checkpoint.save(tmp_path / "model", SMALL, weights, max_shard=64 << 10)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o640}


def test_loading_draws_no_weights_to_throw_away(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Model, "init_weights")
    before = torch.get_rng_state()
    model = checkpoint.load_model(saved)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.levels.tolist() == pytest.approx(QUANTILES)


def test_a_loaded_model_does_not_change_with_its_file(saved: Path) -> None:
    model, file = checkpoint.load_model(saved), saved / "model.safetensors"
    before = model.head.clone()
    size = file.stat().st_size
    with file.open("r+b") as writing:
        writing.write(bytes(size))
    assert torch.equal(model.head, before)


def test_a_config_is_strict_json(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, half_life_scale=math.inf)
    file = checkpoint.save(tmp_path / "model", config, Model(config).state_dict()) / "config.json"
    # called for what JSON has not
    json.loads(file.read_text(), parse_constant=pytest.fail)
    assert checkpoint.load_config(file.parent) == config
    # as it was written once
    file.write_text(file.read_text().replace('"inf"', "Infinity"))
    assert checkpoint.load_config(file.parent) == config


def test_half_precision_weights_load(saved: Path) -> None:
    file = saved / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(file).items()}, file)
    assert all(p.dtype == torch.float32 for p in checkpoint.load_model(saved).parameters())


def test_shards_come_back_and_stay_small(tmp_path: Path) -> None:
    weights = Model(SMALL, torch.Generator().manual_seed(1)).state_dict()
    limit = 64 << 10
    folder = checkpoint.save(tmp_path / "model", SMALL, weights, max_shard=limit)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2 and not (folder / "model.safetensors").exists()
    # the head is larger than a shard and has one of its own
    large = [file for file in shards if file.stat().st_size > limit + 4096]
    assert [list(load_file(file)) for file in large] == [["head"]]
    loaded = checkpoint.load_model(folder).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())
    TinyTSM.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("lost", "cannot read .*model-00002-of"),
        ("swapped", "and its shards disagree about"),
        ("outside", "must map each tensor to a file beside it"),
    ],
)
def test_damaged_shards_are_named(tmp_path: Path, damage: str, message: str) -> None:
    weights = Model(SMALL).state_dict()
    folder = checkpoint.save(tmp_path / "model", SMALL, weights, max_shard=64 << 10)
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    if damage == "lost":
        second.unlink()
    elif damage == "swapped":
        shutil.copy(first, second)
    else:
        index = folder / "model.safetensors.index.json"
        index.write_text(index.read_text().replace(second.name, f"../{second.name}"))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_model(folder)


def test_a_run_stands_for_its_newest_checkpoint_and_keeps_few(tmp_path: Path) -> None:
    for step in (5, 20, 100):
        save_step(tmp_path, step)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000000020", "step-000000100"]
    assert checkpoint.resolve(tmp_path).name == "step-000000100"
    TinyTSM.from_pretrained(tmp_path, device="cpu")


def test_an_interrupted_write_is_never_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_step(tmp_path, 5)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "_write_json", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_step(tmp_path, 6)
    monkeypatch.undo()
    assert checkpoint.resolve(tmp_path).name == "step-000000005"
    save_step(tmp_path, 7)
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_replacing_a_folder_keeps_one(saved: Path) -> None:
    other = Model(SMALL, torch.Generator().manual_seed(9))
    checkpoint.save(saved, SMALL, other.state_dict())
    loaded = checkpoint.load_model(saved).state_dict()
    assert torch.equal(loaded["head"], other.head)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("start", "names"),
    [
        ("nothing", ["config.json", "notebooks/a.ipynb", "README.md"]),
        ("nothing", ["config.json"]),
        ("nothing", ["x.csv"]),
        ("release", ["notes.md"]),
        ("release", ["checkpoints/a.txt"]),
        ("training", []),
    ],
)
def test_a_release_replaces_nothing_but_a_release(
    tmp_path: Path, saved: Path, start: str, names: list[str]
) -> None:
    target = tmp_path / "target"
    if start == "training":
        target = save_step(tmp_path / "run", 5)
    elif start == "release":
        shutil.copytree(saved, target)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text('{"my": "web app"}')
    before = {p: p.read_bytes() for p in target.rglob("*") if p.is_file()}
    model = TinyTSM(Model(SMALL))
    ways = (
        lambda: model.save_pretrained(target),
        lambda: export.export(saved, target, dtype=torch.float32),
        lambda: model.check_folder(target),
    )
    for save in ways:
        with pytest.raises(ValueError, match="is not a saved model alone; name a new folder"):
            save()
    assert before == {p: p.read_bytes() for p in target.rglob("*") if p.is_file()}


def test_a_run_replaces_its_own_folders(tmp_path: Path) -> None:
    weights = Model(SMALL).state_dict()
    for step in (1, 2):
        folder = checkpoint.save(
            tmp_path / "before_decay", SMALL, weights, training=weights, state={"step": step}
        )
    assert json.loads((folder / "state.json").read_text()) == {"step": 2}


def test_of_a_link_the_folder_behind_it_is_replaced(tmp_path: Path, saved: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(saved)
    assert checkpoint.save(link, SMALL, Model(SMALL).state_dict()) == link
    assert link.is_symlink() and {p.name for p in tmp_path.iterdir()} == {"model", "link"}


def test_where_nothing_can_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for place, message in (
        (Path("."), r"^\. is the working folder; name a new folder"),
        (tmp_path / "file", "file is there and is not a saved model alone"),
        (tmp_path / "file" / "model", r"model cannot be written \(Not a directory\); name another"),
    ):
        with pytest.raises(ValueError, match=message):
            TinyTSM.check_folder(place)
    TinyTSM.check_folder(tmp_path / "new" / "model")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["empty", "file"]


@pytest.mark.parametrize("error", [OSError, SafetensorError])
def test_a_full_disk_leaves_nothing_behind(
    saved: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def full_disk(*_: object) -> None:
        raise error("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(saved, SMALL, Model(SMALL).state_dict())
    assert [p.name for p in saved.parent.iterdir()] == ["model"]
    checkpoint.load_model(saved)


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    content = json.loads(file.read_text())
    content["model"] |= changes
    file.write_text(json.dumps(content))


def test_missing_files_are_named(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at .*nowhere"):
        checkpoint.load_model(tmp_path / "nowhere")
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read .*model.safetensors"):
        checkpoint.load_model(saved)


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 200, b"\x10" + b"\0" * 7 + b"{}"])
def test_a_damaged_weights_file_is_named(saved: Path, content: bytes) -> None:
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="model.safetensors is not a safetensors file"):
        checkpoint.load_model(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[]", "wanted checkpoint format 1, got"),
        (b'{"format": 2}', "wanted checkpoint format 1, got 2"),
        (b'{"format": 1}', "ModelConfig must be a JSON object, got NoneType"),
        (b'{"format": 1, "model": {"depth": 3}}', "has no setting 'depth'"),
        (b'{"format": 1, "model": {"patch": -1}}', "patch must be positive, got -1"),
    ],
)
def test_a_damaged_config_is_named(saved: Path, content: bytes, message: str) -> None:
    (saved / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_model(saved)


def test_weights_of_another_model_are_refused(saved: Path) -> None:
    edit_config(saved, head_rank=32)
    with pytest.raises(CheckpointError, match=r"head must have shape \(4, 32, 320\), got"):
        checkpoint.load_model(saved)
    edit_config(saved, head_rank=16, n_layers=6)
    with pytest.raises(CheckpointError, match="weights are missing: blocks.3"):
        checkpoint.load_model(saved)
    edit_config(saved, n_layers=2)
    with pytest.raises(CheckpointError, match="weights that the model has not: blocks.2"):
        checkpoint.load_model(saved)


def test_weights_that_are_not_finite_are_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    weights = load_file(file)
    weights["head"][0, 0, 0] = float("nan")
    save_file(weights, file)
    with pytest.raises(CheckpointError, match="head holds values that are not finite"):
        checkpoint.load_model(saved)


def test_a_copied_folder_is_a_release(tmp_path: Path) -> None:
    step = save_step(tmp_path / "run", 5)
    shutil.copytree(
        step, tmp_path / "release", ignore=shutil.ignore_patterns("training*", "state*")
    )
    TinyTSM.from_pretrained(tmp_path / "release")
    with pytest.raises(CheckpointError, match="cannot read .*state.json"):
        checkpoint.load_training(tmp_path / "release")


def test_shipped_models_are_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"nano", "tiny"} <= set(checkpoint.shipped())
    for name in checkpoint.shipped():
        folder = checkpoint.resolve(name)
        assert folder == checkpoint.SHIPPED / name
        # what is not needed to forecast stays at home
        weights = {p.name for p in folder.glob("model*.safetensors*")}
        assert {p.name for p in folder.iterdir()} == {"card.json", "config.json"} | weights
        # what git hosts take without special means
        assert all(p.stat().st_size < 16 << 20 for p in folder.iterdir())
        assert all(p.isfinite().all() for p in checkpoint.load_model(name).parameters())
    # a folder of that name hides no shipped model, and is reached as a path
    monkeypatch.chdir(tmp_path)
    assert checkpoint.resolve(Path("nano")) == checkpoint.SHIPPED / "nano"
    checkpoint.save(tmp_path / "nano", SMALL, Model(SMALL).state_dict())
    assert checkpoint.resolve("nano") == checkpoint.SHIPPED / "nano"
    assert checkpoint.resolve("./nano") == checkpoint.resolve(Path("nano")) == Path("nano")
    with pytest.raises(CheckpointError, match=r"or the name of a shipped model \(.*nano.*\)"):
        checkpoint.resolve("micro")


def test_the_default_is_the_shipped_nano() -> None:

    model = TinyTSM.from_pretrained(device_map="cpu")
    named = TinyTSM.from_pretrained(checkpoint.SHIPPED / "nano", device="cpu")
    ours, theirs = (m.predict_quantiles([[1.0, 2.0, 3.0]], 4)[0] for m in (model, named))
    assert torch.equal(ours, theirs)  # type: ignore[arg-type]
    assert model.device.type == "cpu"
