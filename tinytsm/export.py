"""Make a release of a run: its averaged weights, in shards, with a card of where they come from.

    tinytsm export runs/tiny weights/tiny --dtype bfloat16

The folder holds config.json, card.json and the weights, and loads like any checkpoint (in float32, whatever it is
stored in). The last line printed is one JSON document.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from tinytsm import __version__, checkpoint

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# What a card tells of a run's state, or repeats of another card.
_CARD = (
    "step", "tokens", "next_batch", "seconds", "decay_start", "skipped", "mixture", "precision", "train", "versions",
)  # fmt: skip


def export(source: str | Path, target: Path, *, dtype: torch.dtype) -> dict[str, Any]:
    """Write a release of a checkpoint or run into `target`; returns its card.

    dtype: what the weights are stored in. Raises ValueError where the source is damaged, where float16 cannot hold a
    weight, or where the target is neither new, empty nor an older release.
    """
    folder = checkpoint.resolve(source)
    model = checkpoint.load_model(folder)
    weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    checkpoint.check_weights(model, weights, folder)
    card: dict[str, Any] = {
        "tinytsm": __version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(dtype).removeprefix("torch."),
        "data": "synthetic series alone, from the generator's mixture and seed named here",
        "licence": "Apache-2.0",
    }
    if checkpoint.is_release(folder):
        state = checkpoint.load_card(folder)
    else:
        _, _, state = checkpoint.load_training(folder)
    card |= {name: state[name] for name in _CARD if name in state}
    checkpoint.save(target, model.config, weights, card=card)
    return card


def main(argv: list[str] | None = None) -> int:
    """The command; returns the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="tinytsm export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="checkpoint or run folder")
    parser.add_argument("target", type=Path, help="folder of the release")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="bfloat16",
        help="of the stored weights (default: bfloat16)",
    )
    args = parser.parse_args(argv)
    try:
        card = export(args.source, args.target, dtype=DTYPES[args.dtype])
    except (ValueError, OSError) as error:
        print(f"tinytsm export: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"out": str(args.target)} | card))
    return 0


if __name__ == "__main__":
    sys.exit(main())
