"""Make a release of a run: its averaged weights, in shards, with a card of where they come from; or one ONNX file.

    tinytsm export runs/tiny weights/tiny --dtype bfloat16
    tinytsm export nano nano.onnx

The folder holds config.json, card.json and the weights, and loads like any checkpoint (in float32, whatever it is
stored in). An ONNX file holds the network of one forward pass, for runtimes without PyTorch (docs/onnx.md). The last
line printed is one JSON document.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from tinytsm import __version__, checkpoint, onnx

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# What a card tells of a run's state, or repeats of another card.
_CARD = (
    "step", "tokens", "next_batch", "seconds", "decay_start", "skipped", "mixture", "precision", "train", "versions",
    # of the releases that are means of others
    "weights", "runs",
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
    parser.add_argument("source", help="checkpoint or run folder, or the name of a shipped model")
    parser.add_argument(
        "target", type=Path, help="folder of the release, or a file that ends in .onnx"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of a release's weights (default: bfloat16); an ONNX file's are float32",
    )
    args = parser.parse_args(argv)
    try:
        if args.target.suffix.lower() == ".onnx":
            if args.dtype not in (None, "float32"):
                raise ValueError(f"an ONNX file holds float32, got --dtype {args.dtype}")
            model = checkpoint.load_model(args.source)
            print("tinytsm export: torch traces the network, half a minute", file=sys.stderr)
            card = onnx.export(model, args.target)
        else:
            card = export(args.source, args.target, dtype=DTYPES[args.dtype or "bfloat16"])
    except (ValueError, OSError) as error:
        print(f"tinytsm export: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"out": str(args.target)} | card))
    return 0


if __name__ == "__main__":
    sys.exit(main())
