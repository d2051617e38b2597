"""Checkpoints: a folder of safetensors and JSON, written whole or not at all.

    config.json            what the network is
    model.safetensors      the averaged weights, the ones that forecast
    training.safetensors   raw weights and optimizer state (absent in a release)
    state.json             step, batch, clock, settings, versions (absent in a release)

Tensors that do not fit in one file of MAX_SHARD bytes lie in several, model-00001-of-00003.safetensors and so on, with
model.safetensors.index.json to say which tensor lies where (the layout of the Hugging Face hub).

A run keeps its newest checkpoints under `checkpoints/`, and one from before its learning rate fell under
`before_decay/`; its folder may be given wherever a checkpoint is wanted.
"""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tinytsm.config import SHIPPED, ModelConfig, from_dict, shipped, to_dict
from tinytsm.files import usual_permissions
from tinytsm.model import Model

FORMAT = 1
# Bytes of a file of tensors: what git hosts and code review take without special means.
MAX_SHARD = 15 << 20
BEFORE_DECAY = "before_decay"
_KEEP = 2
# What `save` writes without a training state.
_RELEASED = re.compile(
    r"(config|card)\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
)
# What a run needs to go on.
_STATE = {"step", "next_batch", "seconds", "decay_start", "skipped", "mixture", "train"}


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged; the message says which file and why."""


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None


def _read_shard(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"cannot read {path}: No such file or directory") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None


def _read_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """The tensors of one file, or of the shards that its index names."""
    index = folder / f"{stem}.safetensors.index.json"
    if not index.exists():
        return _read_shard(folder / f"{stem}.safetensors")
    content = _read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in places.values()
    ):
        raise CheckpointError(f"{index} must map each tensor to a file beside it in weight_map")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        tensors |= _read_shard(folder / name)
    if tensors.keys() != places.keys():
        wrong = sorted(tensors.keys() ^ places.keys())
        raise CheckpointError(f"{index} and its shards disagree about {', '.join(wrong[:3])}")
    return tensors


def _write_shard(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path)
        usual_permissions(path)
    except SafetensorError as error:
        # its word for every fault of the disk
        raise OSError(f"cannot write {path.name}: {error}") from None


def _write_tensors(
    folder: Path, stem: str, tensors: dict[str, Tensor], max_shard: int = MAX_SHARD
) -> None:
    """One file, or shards of at most `max_shard` bytes of tensors with an index; one tensor is never cut."""
    shards: list[dict[str, Tensor]] = [{}]
    room = max_shard
    for name, tensor in tensors.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = max_shard
        shards[-1][name] = tensor.detach().cpu().contiguous()
        room -= tensor.nbytes
    if len(shards) == 1:
        _write_shard(folder / f"{stem}.safetensors", shards[0])
        return
    places: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        name = f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / name, shard)
        places |= dict.fromkeys(shard, name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    _write_json(folder / f"{stem}.safetensors.index.json", index)


def check_target(folder: Path) -> None:
    """Raise ValueError unless a release can be written there: to a new or empty folder, or over an older release."""
    place = folder.resolve()
    try:
        if place.is_dir() and place.samefile("."):
            # who stands in a folder does not follow when another takes its place
            raise ValueError(f"{folder} is the working folder; name a new folder")
        if place.exists() and not _is_replaceable(place):
            raise ValueError(f"{folder} is there and is not a saved model alone; name a new folder")
        nearest = next(parent for parent in place.parents if parent.exists())
        tempfile.TemporaryDirectory(prefix=".", dir=nearest).cleanup()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{folder} cannot be written ({reason}); name another folder") from None


def _is_replaceable(place: Path) -> bool:
    if not place.is_dir():
        return False
    entries = list(place.iterdir())
    if not entries:
        return True
    try:
        load_config(place)
    except CheckpointError:
        return False
    return all(p.is_file() and _RELEASED.fullmatch(p.name) for p in entries)


def save(
    folder: Path,
    config: ModelConfig,
    weights: dict[str, Tensor],
    *,
    training: dict[str, Tensor] | None = None,
    state: dict[str, Any] | None = None,
    card: dict[str, Any] | None = None,
    max_shard: int = MAX_SHARD,
) -> Path:
    """Write one checkpoint folder atomically: it appears complete, or not at all. Returns its path.

    training, state: what a run needs to go on; its folders are its own, and replaced whatever they hold. card: where a
    release comes from, written as card.json. max_shard: bytes of tensors in one file, at most. Raises ValueError where
    a release may not be written (`check_target`), OSError where the disk fails.
    """
    if training is None:
        check_target(folder)
    # of a link, the folder that it leads to
    place = folder.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        content = {"format": FORMAT, "model": to_dict(config)}
        _write_json(scratch / "config.json", content)
        _write_tensors(scratch, "model", weights, max_shard)
        if training is not None:
            _write_tensors(scratch, "training", training, max_shard)
            _write_json(scratch / "state.json", state)
        if card is not None:
            _write_json(scratch / "card.json", card)
        for path in scratch.iterdir():
            _sync(path)
        if place.exists():
            # set aside rather than deleted first: the old one is lost only when the new one is in place
            aside = place.with_name(f".{place.name}.{os.getpid()}.old")
            place.rename(aside)
            scratch.rename(place)
            shutil.rmtree(aside)
        else:
            scratch.rename(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _sync(place.parent)
    return folder


def save_step(
    run: Path,
    step: int,
    config: ModelConfig,
    weights: dict[str, Tensor],
    *,
    training: dict[str, Tensor],
    state: dict[str, Any],
) -> Path:
    """Write the checkpoint of one training step into a run and drop all but the newest few."""
    folder = run / "checkpoints" / f"step-{step:09d}"
    if folder.is_dir():
        # resumed and stopped again before a step: it is there already, whole
        return folder
    save(folder, config, weights, training=training, state=state)
    for old in _steps(run)[:-_KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    for leftover in folder.parent.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    return folder


def _steps(run: Path) -> list[Path]:
    return sorted(p for p in (run / "checkpoints").glob("step-*") if p.is_dir())


def newest(run: Path) -> Path | None:
    """The newest checkpoint folder of a run, or None."""
    steps = _steps(run)
    return steps[-1] if steps else None


def resolve(path: str | Path) -> Path:
    """The checkpoint folder that a path means: itself, or the newest one of a run. Raises CheckpointError.

    A text that is the name of a shipped model means that model, wherever the caller stands; "./nano" means a folder. A
    Path means the folder first.
    """
    if isinstance(path, str) and path in shipped():
        return SHIPPED / path
    path = Path(path)
    if (path / "config.json").is_file():
        return path
    found = newest(path)
    if found is None and str(path) in shipped():
        found = SHIPPED / path
    if found is None:
        raise CheckpointError(
            f"no checkpoint at {path}: wanted a folder with config.json and model.safetensors, a run with "
            f"checkpoints/, or the name of a shipped model ({', '.join(shipped())})"
        )
    return found


def load_config(path: str | Path) -> ModelConfig:
    """The network's settings in a checkpoint or run. Raises CheckpointError."""
    file = resolve(path) / "config.json"
    content = _read_json(file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else content
        raise CheckpointError(f"{file}: wanted checkpoint format {FORMAT}, got {found!r}")
    try:
        return from_dict(ModelConfig, content.get("model"))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from None


def check_weights(model: Model, weights: dict[str, Tensor], source: Path) -> None:
    """Raise CheckpointError unless `weights` fit the model, name by name and shape by shape, and are finite."""
    wanted = {name: p.shape for name, p in model.state_dict().items()}
    if missing := sorted(wanted.keys() - weights.keys()):
        raise CheckpointError(f"{source}: weights are missing: {', '.join(missing[:3])}")
    if surplus := sorted(weights.keys() - wanted.keys()):
        raise CheckpointError(f"{source}: weights that the model has not: {', '.join(surplus[:3])}")
    for name, shape in wanted.items():
        if weights[name].shape != shape:
            raise CheckpointError(
                f"{source}: {name} must have shape {tuple(shape)}, got {tuple(weights[name].shape)}"
            )
        if not weights[name].isfinite().all():
            raise CheckpointError(f"{source}: {name} holds values that are not finite")


def load_model(path: str | Path) -> Model:
    """The forecasting model of a checkpoint or run: averaged weights in float32, evaluation mode.

    Raises CheckpointError where a file is missing, damaged or of another shape.
    """
    folder = resolve(path)
    config = load_config(folder)
    model = Model.without_weights(config)
    weights = _read_tensors(folder, "model")
    check_weights(model, weights, folder / "model.safetensors")
    # copied: what was read is the file itself, and would change with it
    weights = {name: tensor.to(torch.float32, copy=True) for name, tensor in weights.items()}
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval()


def forecasting_files(path: str | Path) -> list[Path]:
    """The files that make a checkpoint's forecasts what they are."""
    folder = resolve(path)
    return [folder / "config.json", *folder.glob("model*.safetensors")]


def is_release(path: str | Path) -> bool:
    """Whether a checkpoint was made without a training state, rather than having lost a part of it."""
    folder = resolve(path)
    return not (folder / "state.json").exists() and not any(folder.glob("training*"))


def load_card(folder: Path) -> dict[str, Any]:
    """What a release says of where it comes from; empty where it has no card. Raises CheckpointError."""
    file = folder / "card.json"
    card = _read_json(file) if file.exists() else {}
    if not isinstance(card, dict):
        raise CheckpointError(f"{file} must hold a JSON object")
    return card


def before_decay(run: Path) -> Path:
    """The newest checkpoint of a run whose learning rate had not begun to fall. Raises CheckpointError."""
    kept = run / BEFORE_DECAY
    if (kept / "config.json").is_file():
        return kept
    folder = resolve(run)
    if _read_json(folder / "state.json").get("decay_start") is not None:
        raise CheckpointError(
            f"{run} has begun its decay and kept no checkpoint from before it; use --init-from for its weights alone"
        )
    return folder


def load_training(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Averaged weights, raw weights with optimizer state, and the state of a run. Raises CheckpointError."""
    folder = resolve(path)
    state = _read_json(folder / "state.json")
    if not isinstance(state, dict):
        raise CheckpointError(f"{folder / 'state.json'} must hold a JSON object")
    if missing := sorted(_STATE - state.keys()):
        raise CheckpointError(f"{folder / 'state.json'} lacks {', '.join(missing)}")
    # not counted by older versions
    state.setdefault("tokens", state["step"] * state["train"]["batch_tokens"])
    return (
        _read_tensors(folder, "model"),
        _read_tensors(folder, "training"),
        state,
    )


def fingerprint() -> dict[str, str | int]:
    """What else a bit-exact resume depends on: library versions and threads."""
    import numba
    import numpy

    return {
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "threads": torch.get_num_threads(),
    }
