"""All settings: two frozen dataclasses, the presets, and the flags made from them."""

import argparse
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The quantile levels that the model is trained on; any others are interpolated at forecast time.
QUANTILES: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Time and feature blocks alternate in this order.
LAYER_PATTERN = ("time", "time", "feature")
# Runs have seeds below this one, which is the held-out set's.
HELD_OUT_SEED = 1 << 31
# The coarse-grid loss evaluates the farthest octaves at every 16th token.
TOKEN_MULTIPLE = 16
# Short histories, and the newest steps of longer ones, are read with each value held for so many steps too, and some short
# ones are trained on so. Other sets of factors did as well (docs/ablations.md).
STRETCHES: tuple[int, ...] = (4, 8, 12)
# Models that come with the package: a folder each, named as `from_pretrained` takes them.
SHIPPED = Path(__file__).parent / "weights"


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))


def _setting(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the network is; stored in every checkpoint."""

    d_model: int = _setting(128, "width of the residual stream")
    n_layers: int = _setting(6, "blocks, in the order time, time, feature")
    n_heads: int = _setting(4, "attention heads")
    d_ff: int = _setting(352, "feed-forward width")
    head_rank: int = _setting(64, "width of the horizon head's bottleneck")
    patch: int = _setting(32, "steps of a patch")
    context_patches: int = _setting(64, "tokens of the trained context")
    horizon_patches: int = _setting(24, "patches that one forward pass forecasts")
    norm: str = _setting(
        "dart", "input normalisation", choices=("dart", "last", "prefix", "revin", "none")
    )
    half_life_loc: float = _setting(
        32.0, "DART-Norm: half-life of the location, in observed points"
    )
    half_life_scale: float = _setting(
        512.0, "DART-Norm: half-life of the scale, in observed points; inf for the whole past"
    )
    frame_features: bool = _setting(True, "tell each token how its frame moved")
    adjusted_weight: float = _setting(
        1.0, "seasonal adjustment, when forecasting: weight of the forecast without seasons where they are clear"
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layers", "n_heads", "d_ff", "head_rank", "patch"):
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        _require(
            self.d_model % (2 * self.n_heads) == 0,
            f"d_model must be a multiple of 2 n_heads, got {self.d_model} and {self.n_heads}",
        )
        _require(
            self.context_patches > 0 and self.context_patches % TOKEN_MULTIPLE == 0,
            f"context_patches must be a positive multiple of {TOKEN_MULTIPLE}, got {self.context_patches}",
        )
        _require(
            self.horizon_patches > 0,
            f"horizon_patches must be positive, got {self.horizon_patches}",
        )
        for name in ("half_life_loc", "half_life_scale"):
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        _require(
            0 <= self.adjusted_weight <= 1,
            f"adjusted_weight must lie in [0, 1], got {self.adjusted_weight}",
        )
        choices = type(self).__dataclass_fields__["norm"].metadata["choices"]
        _require(
            self.norm in choices, f"norm must be one of {', '.join(choices)}, got {self.norm!r}"
        )

    @property
    def context_length(self) -> int:
        """Steps of the trained context."""
        return self.context_patches * self.patch

    @property
    def horizon_length(self) -> int:
        """Steps that one forward pass forecasts."""
        return self.horizon_patches * self.patch


PRESETS: dict[str, ModelConfig] = {
    "nano": ModelConfig(),
    "mini": ModelConfig(d_model=256, n_heads=4, d_ff=704, head_rank=128),
    "tiny": ModelConfig(
        d_model=512, n_heads=8, d_ff=1408, head_rank=384, context_patches=128, adjusted_weight=0.7
    ),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a run trains; stored in its checkpoints."""

    steps: int = _setting(100_000, "optimizer steps of the whole run")
    max_seconds: float = _setting(
        0.0,
        "time box of the whole run, compilation not counted; 0 for none, else steps only bounds",
    )
    batch_tokens: int = _setting(4096, "tokens of one step, over all processes")
    lr: float = _setting(3e-3, "peak learning rate")
    optimizer: str = _setting(
        "muon", "muon: orthogonalised momentum for the blocks' matrices, AdamW for the rest",
        choices=("muon", "adamw"),
    )  # fmt: skip
    weight_decay: float = _setting(0.05, "decoupled weight decay of the matrices")
    warmup_steps: int = _setting(200, "steps in which the learning rate rises")
    decay_fraction: float = _setting(0.2, "last part of the run in which the learning rate falls")
    grad_clip: float = _setting(1.0, "largest gradient norm")
    ema: float = _setting(0.9995, "decay of the averaged weights, which are the ones that forecast")
    seed: int = _setting(0, "seed of weights and generator")
    mask_share: float = _setting(
        0.25, "share of items of which runs of patches are hidden from the input, short ones aside"
    )
    multivariate_share: float = _setting(0.15, "share of steps on items of several variates")
    short_share: float = _setting(0.2, "share of steps on short contexts")
    workers: int = _setting(0, "generator threads; 0 takes one on CPU and most cores beside a GPU")
    prefetch: int = _setting(4, "batches generated ahead, at most, by each worker")
    processes: int = _setting(
        0,
        "processes that share out each batch on a CPU; 0 takes one for each of a few cores, or one where --threads is given",
    )
    threads: int = _setting(0, "compute threads of each process on CPU; 0 takes every core")
    compile: bool = _setting(False, "compile the blocks and the loss (needs a C++ compiler on CPU)")
    attention: str = _setting(
        "auto", "what computes attention; auto takes the fastest that this machine and model allow",
        choices=("auto", "triton", "flash-attn", "sdpa", "matmul", "reference"),
    )  # fmt: skip
    cuda_graphs: bool = _setting(
        False,
        "replay each step's forward and backward pass as one recorded graph (one CUDA device)",
    )
    device: str = _setting("auto", "where to train", choices=("auto", "cpu", "cuda"))
    save_seconds: float = _setting(120.0, "seconds between checkpoints")
    log_steps: int = _setting(10, "steps between rows of the log")
    eval_seconds: float = _setting(
        300.0, "seconds between scores of the averaged weights on held-out series; 0 for none"
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch_tokens", "prefetch", "log_steps"):
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in (
            "max_seconds",
            "weight_decay",
            "warmup_steps",
            "seed",
            "workers",
            "processes",
            "threads",
            "save_seconds",
            "eval_seconds",
        ):
            _require(
                getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}"
            )
        for name in ("lr", "grad_clip"):
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("decay_fraction", "ema", "mask_share", "multivariate_share", "short_share"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"{name} must lie in [0, 1], got {value}")
        _require(
            self.multivariate_share + self.short_share <= 1,
            "multivariate_share and short_share must not exceed 1 together, got "
            f"{self.multivariate_share} and {self.short_share}",
        )
        for name in ("optimizer", "attention", "device"):
            choices = type(self).__dataclass_fields__[name].metadata["choices"]
            value = getattr(self, name)
            _require(value in choices, f"{name} must be one of {', '.join(choices)}, got {value!r}")


def add_flags(parser: argparse.ArgumentParser, config: type, *, title: str) -> None:
    """One flag for each field of a settings dataclass; a flag that is not given stays out of the namespace."""
    group = parser.add_argument_group(title)
    for field in dataclasses.fields(config):
        kind: Any = field.type
        flag = "--" + field.name.replace("_", "-")
        help = f"{field.metadata['help']} (default: {field.default})".replace("%", "%%")
        if kind is bool:
            group.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help
            )
        else:
            group.add_argument(
                flag,
                type=kind,
                choices=field.metadata["choices"],
                default=argparse.SUPPRESS,
                metavar=None if field.metadata["choices"] else kind.__name__.upper(),
                help=help,
            )


def given(args: argparse.Namespace, config: type) -> dict[str, Any]:
    """The fields of `config` that were set on the command line."""
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in vars(args).items() if name in names}


def to_dict(settings: Any) -> dict[str, Any]:
    """A settings dataclass for JSON, which has no infinity: "inf" stands for it. `from_dict` reads both."""
    values = dataclasses.asdict(settings)
    return {name: "inf" if value == math.inf else value for name, value in values.items()}


def from_dict(config: type, values: Any) -> Any:
    """A settings dataclass from parsed JSON, checked field by field.

    Raises ValueError for anything but a mapping of known fields to values of their types.
    """
    if not isinstance(values, dict):
        # content of a file, not an argument: ValueError like all its other faults
        raise ValueError(  # noqa: TRY004
            f"{config.__name__} must be a JSON object, got {type(values).__name__}"
        )
    fields = {field.name: field for field in dataclasses.fields(config)}
    values = {name: math.inf if value == "inf" else value for name, value in values.items()}
    for name, value in values.items():
        if name not in fields:
            raise ValueError(
                f"{config.__name__} has no setting {name!r}; it has {', '.join(fields)}"
            )
        wanted: Any = fields[name].type
        accepted = (int, float) if wanted is float else (wanted,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
            raise ValueError(f"{config.__name__}.{name} must be {wanted.__name__}, got {value!r}")
    return config(**values)
