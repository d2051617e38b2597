"""Tiles of the kernels, timed on a GPU: which to keep is read off, not guessed.

    python -m bench.tiles                       # nano and tiny, what training multiplies in (TF32)
    python -m bench.tiles --preset nano --seconds 30
    TRITON_INTERPRET=1 TINYTSM_BENCH_TINY=1 python -m bench.tiles    # small and slow, without a GPU: proves that it runs

Embedding, loss and causal attention at the shapes of training. A choice for the embedding is checked first: its
largest error against the definition in float64 is printed beside that of the compiled definition. Those that do not fit
the chip are left out and said so; what a kernel's own table has is marked. Nothing is started after --seconds. A choice
that pays must pass `python -m tinytsm.gate --full` before it goes into a table.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench import cases, timing
from bench.record import TINY, pick_device
from tinytsm.config import PRESETS
from tinytsm.kernels import attention, causal_attention, dart_patch_embed, grid_loss, reference
from tinytsm.kernels.triton_support import product_of

Variants = dict[str, Callable[[], Any]]
# Columns, warps, stages; token rows, columns, warps; columns of h at a time.
_FORWARD = ((16, 4, 3), (32, 4, 3), (64, 4, 2), (64, 4, 3), (128, 4, 2), (128, 4, 3))
_BACKWARD = ((32, 128, 4), (32, 128, 8), (64, 64, 4), (64, 128, 8))
_RANKS = (16, 32, 64)


def _choosing(table: dict[Any, Any], key: Any, choices: tuple[Any, ...], run: Callable[[], Any]) -> Variants:  # fmt: skip
    """`run` by each choice for a kernel's table, which has its own again afterwards; the table's own is marked."""
    kept = table[key]

    def by(choice: Any) -> Callable[[], Any]:
        def call() -> Any:
            table[key] = choice
            try:
                return run()
            finally:
                table[key] = kept

        return call

    return {f"{c}{' (kept)' if c == kept else ''}": by(c) for c in choices}


def _show(what: str, variants: Variants, truth: Tensor | None, device: torch.device) -> None:
    """Time the variants in turns and print them; truth: of the first numbers of what each returns."""
    fits: Variants = {}
    for name, run in variants.items():
        try:
            found = run()
        # whatever a compiler or a launch may throw
        except Exception as error:  # noqa: BLE001
            print(f"{what:28} {name:22} left out: {error!r:.120}")
            continue
        fits[name] = run
        if truth is not None:
            off = float((found[: len(truth)].double() - truth).abs().max())
            print(f"{what:28} {name:22} error {off:.2g}")
    for name, seconds in timing.interleave(fits, device=device, rounds=1 if TINY else 5).items():
        print(
            f"{what:28} {name:22} {1e6 * sorted(seconds)[len(seconds) // 2]:10.1f} us", flush=True
        )


def embedding(preset: str, device: torch.device) -> None:
    """The embedding forward, by tiles of its forward kernel, and both ways, by those of its backward kernel."""
    case, inputs, key = _drawn("dart_patch_embed", preset, device)
    few = [t.detach().double() for t in (inputs[0][:64], inputs[1][:64], inputs[2])]
    truth = reference.dart_patch_embed(*few, **case.settings)[0]
    for direction, table, choices, known in (
        ("forward", dart_patch_embed._FORWARD_TILES, _FORWARD, truth),
        ("forward and backward", dart_patch_embed._BACKWARD_TILES, _BACKWARD, None),
    ):
        place = PRESETS[preset].patch, key
        _show(*_contest(case, inputs, direction, table, place, choices), known, device)


def loss(preset: str, device: torch.device) -> None:
    """The loss both ways."""
    case, inputs, key = _drawn("grid_loss", preset, device)
    contest = _contest(case, inputs, "forward and backward", grid_loss._RANKS, key, _RANKS)
    _show(*contest, None, device)


def _drawn(
    op: str, preset: str, device: torch.device
) -> tuple[cases.Case, tuple[Tensor, ...], str]:
    """An op at a preset's shape, its inputs, and how they are multiplied."""
    case = cases.case(op, preset, tokens=None, device=device)
    return case, case.inputs(torch.Generator(device).manual_seed(0)), product_of(case.dtype)


def _contest(
    case: cases.Case, inputs: tuple[Tensor, ...], direction: str,
    table: dict[Any, Any], key: Any, choices: tuple[Any, ...],
) -> tuple[str, Variants]:  # fmt: skip
    """What is timed, and its variants: the compiled definition, and the kernel by each choice for its table."""

    def run(rival: str) -> Callable[[], Tensor]:
        compute = case.run(cases.implementation(case.op, rival), direction)
        return lambda: compute(*inputs)[0]

    variants: Variants = {"definition, compiled": run("compiled")}
    return f"{case.op} {direction} {case.shape}", variants | _choosing(
        table, key, choices, run("kernel")
    )


def causal(preset: str, device: torch.device) -> None:
    """Attention over the tokens of whole contexts in bfloat16: whole tiles or streamed blocks, forward and both ways."""
    config = PRESETS[preset]
    generator = torch.Generator(device).manual_seed(0)
    tokens, width = config.context_patches, config.d_model // config.n_heads
    shape = (2 if TINY else (1 << 16) // tokens, tokens, 3, 1 if TINY else config.n_heads, width)
    qkv = torch.randn(shape, device=device, generator=generator).bfloat16().requires_grad_()
    gain = torch.ones(width, device=device)
    grad = torch.randn(qkv[:, :, 0].shape, device=device, generator=generator).bfloat16()
    table, key = attention._table(), (qkv.itemsize, width)
    own = table[key]
    choices = {
        own,
        own._replace(whole=(0, own.whole[1])),
        own._replace(whole=(own.whole[0], 0)),
        own._replace(whole=(0, 0)),
        own._replace(whole=(0, 0), forward=(64, 64, 4, 1)),
        own._replace(whole=(0, 0), forward=(64, 64, 4, 3)),
        own._replace(whole=(0, 0), forward=(64, 32, 4, 2)),
    }

    def forward() -> Tensor:
        return causal_attention.causal_attention(qkv, gain, gain)

    def both() -> Tensor:
        return torch.autograd.grad(forward(), qkv, grad)[0]

    for what, run in (("forward", forward), ("both ways", both)):
        variants = _choosing(table, key, tuple(sorted(choices)), run)
        # a name tuple's own text is long
        short = {name.removeprefix("_Tiles"): call for name, call in variants.items()}
        _show(f"{preset} attention {what}", short, None, device)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tiles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", nargs="+", choices=list(PRESETS), default=["nano", "tiny"])
    parser.add_argument("--seconds", type=float, default=120, help="start nothing new after this")
    args = parser.parse_args(argv)
    end = time.monotonic() + args.seconds
    device = pick_device()
    for preset in args.preset:
        for part in (causal, embedding, loss):
            if time.monotonic() > end:
                print(f"out of time before {preset} {part.__name__}", file=sys.stderr)
                return 0
            part(preset, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
