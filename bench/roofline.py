"""What one training step must cost on paper: bytes and operations of each part against the limits of an H100.

    python -m bench.roofline                 # the preset tiny
    python -m bench.roofline --preset nano
    python -m bench.roofline --epilogues     # as if SwiGLU were computed inside the products beside it

Nothing is measured. Each part takes the longer of its operations at the tensor cores' dense peak and its bytes at the
memory's (H100 SXM data sheet); launches, tails of tiles, clocks and all that overlaps are left out, so a real step takes
longer. Counted is the step as the code runs it: blocks in bfloat16 on a float32 residual stream, pointwise work fused as
torch.compile does, norms and positions inside attention, embedding and head in float32 on TF32 tensor cores.
"""

import argparse
import json
import sys
from typing import NamedTuple

from tinytsm.config import LAYER_PATTERN, PRESETS, QUANTILES, ModelConfig, TrainConfig
from tinytsm.kernels import reference

BYTES_PER_SECOND = 3.35e12
# Dense operations a second.
PEAK = {"bf16": 989e12, "tf32": 494.7e12}


class Part(NamedTuple):
    """Per token of a step, forward and backward: bytes moved and operations by the precision they run in."""

    name: str
    bytes: float
    operations: dict[str, float]

    def seconds(self) -> float:
        work = sum(count / PEAK[kind] for kind, count in self.operations.items())
        return max(work, self.bytes / BYTES_PER_SECOND)


def _matmul(name: str, inputs: int, outputs: int, layers: int) -> Part:
    """Forward, and two products backward: each reads two of (inputs, outputs) and writes the third or weights."""
    moved = 2 * 3 * (inputs + outputs)
    return Part(name, layers * moved, {"bf16": layers * 6.0 * inputs * outputs})


def _attention(name: str, seen: float, width: int, layers: int) -> Part:
    """Two products forward, five backward, each over `seen` rows; q, k, v and the answer, and back."""
    moved = 2 * (4 + 7) * width
    return Part(name, layers * moved, {"bf16": layers * 14.0 * seen * width})


def _muon(d: int, f: int) -> float:
    """Operations of five Newton-Schulz iterations on a block's matrices (Jordan 2024), of m x n with m <= n."""
    shapes = ((d, 3 * d), (d, d), (d, 2 * f), (min(d, f), max(d, f)))
    return sum(5.0 * (4 * m * m * n + 2 * m**3) for m, n in shapes)


def _feed_forward(d: int, f: int, layers: int, *, epilogues: bool) -> list[Part]:
    """Both products and SwiGLU between them, in bfloat16."""
    gate_up, down = _matmul("gate and up", d, 2 * f, layers), _matmul("down", f, d, layers)
    if not epilogues:
        # forward reads 2F and writes F, backward reads 3F and writes 2F
        return [gate_up, down, Part("SwiGLU", layers * 2 * 8 * f, {})]
    # what backward reads is still written, and the activation with it. In return the product that would write the
    # activation's gradient reads gate and up, and writes theirs
    return [
        gate_up._replace(name="gate, up, SwiGLU", bytes=gate_up.bytes + layers * 2 * f),
        down._replace(name="down, SwiGLU", bytes=down.bytes + layers * 2 * (2 + 2 - 1) * f),
    ]


def parts(
    config: ModelConfig, *, batch_tokens: int, variates: int = 4, epilogues: bool = False
) -> list[Part]:
    """The step of a model, part by part; weights are read from the cache but for the optimizer's pass.

    epilogues: SwiGLU, forward and backward, is computed inside the products beside it.
    """
    d, f, layers, patch = config.d_model, config.d_ff, config.n_layers, config.patch
    time = sum(LAYER_PATTERN[i % len(LAYER_PATTERN)] == "time" for i in range(layers))
    into, hidden, outputs = 2 * patch + 4, 2 * d, patch * (1 + len(QUANTILES))
    # horizon patches that a token meets on the coarse grid
    met = sum(len(ks) / stride for ks, stride in reference.octaves(config.horizon_patches))
    head = 2.0 * met * config.head_rank * outputs
    weights = layers * (4 * d * d + 3 * d * f) + into * (hidden + d) + hidden * d
    weights += d * config.head_rank + config.horizon_patches * config.head_rank * outputs
    return [
        _matmul("qkv", d, 3 * d, layers),
        _matmul("attention out", d, d, layers),
        *_feed_forward(d, f, layers, epilogues=epilogues),
        _attention("causal attention", config.context_patches / 2, d, time),
        _attention("feature attention", variates, d, layers - time),
        # twice a layer. Forward reads stream and branch, writes stream and normed; backward reads the stream, its
        # gradient and the normed one's, writes the stream's
        Part("norm and residual", layers * 2 * ((4 + 2 + 4 + 2) + (4 + 4 + 2 + 4)) * d, {}),
        Part(
            "embedding",
            4 * (patch + 3 * (hidden + d) + 3 * hidden + 3 * (hidden + d)),
            {"tf32": 4.0 * into * (hidden + d) + 6.0 * hidden * d},
        ),
        # what the loss reads is made of the stream in float32
        Part(
            "bottleneck",
            4 * 3 * (d + config.head_rank),
            {"tf32": 6.0 * d * config.head_rank},
        ),
        # the outputs are made twice by the kernel, and two library products follow
        Part(
            "head and loss",
            4 * (2 * config.head_rank * (1 + met) + 3 * met * outputs),
            {"tf32": 4 * head},
        ),
        # gradient, weight, two moments, average: read, and all but the gradient written, once a step
        Part("optimizer", 4 * 9 * weights / batch_tokens, {}),
        Part("Muon's iterations", 0, {"bf16": layers * _muon(d, f) / batch_tokens}),
    ]


def main(argv: list[str] | None = None) -> int:
    """The command; returns the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.roofline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument(
        "--batch-tokens", type=int, default=TrainConfig().batch_tokens, help="tokens of a step"
    )
    parser.add_argument(
        "--epilogues", action="store_true", help="as if SwiGLU were inside the products beside it"
    )
    args = parser.parse_args(argv)
    done = parts(PRESETS[args.preset], batch_tokens=args.batch_tokens, epilogues=args.epilogues)
    total = sum(p.seconds() for p in done)
    print("part                  kB/token  kFLOP/token  FLOP/byte  ns/token  share  bound by")
    for p in done:
        flop = sum(p.operations.values())
        by = "memory" if p.bytes / BYTES_PER_SECOND >= p.seconds() else "products"
        print(
            f"{p.name:20} {p.bytes / 1e3:9.1f} {flop / 1e3:12.0f} {flop / p.bytes if p.bytes else 0:10.0f} "
            f"{p.seconds() * 1e9:9.2f} {p.seconds() / total:6.1%}  {by}"
        )
    flop = sum(sum(p.operations.values()) for p in done)
    summary = {
        "preset": args.preset,
        "batch_tokens": args.batch_tokens,
        "epilogues": args.epilogues,
        "on paper, tokens/s": round(1 / total),
        "MFLOP/token": round(flop / 1e6, 1),
        "share of the bf16 peak": round(flop / total / PEAK["bf16"], 3),
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
