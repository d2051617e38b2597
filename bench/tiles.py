"""Tiles of the kernels, timed on a GPU: which to keep is read off, not guessed.

    python -m bench.tiles                       # nano and tiny, what training multiplies in (TF32)
    python -m bench.tiles --preset nano --seconds 30
    TRITON_INTERPRET=1 TINYTSM_BENCH_TINY=1 python -m bench.tiles    # small and slow, without a GPU: proves that it runs

Embedding, loss and causal attention at the shapes of training. A choice for the embedding is checked first: its largest
error against the definition in float64 is printed beside that of the compiled definition. Those that do not fit the chip are left out and said so; what a kernel's own table has is marked. Nothing is
started after --seconds. A choice that pays must pass `python -m tinytsm.gate --full` before it goes into a table.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench import timing
from bench.record import TINY, pick_device
from tinytsm.config import PRESETS, QUANTILES, ModelConfig
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


def embedding(preset: str, config: ModelConfig, device: torch.device) -> None:
    """Forward and backward of a batch of whole contexts."""
    generator = torch.Generator(device).manual_seed(0)
    series = 2 if TINY else (1 << 17) // config.context_patches
    # hidden and skip of the embedding's MLP
    columns = 3 * config.d_model
    x = torch.randn(series, config.context_length, device=device, generator=generator).cumsum(1)
    resolution = torch.zeros(series, device=device)
    weight = 0.1 * torch.randn(2 * config.patch + 4, columns, device=device, generator=generator)
    settings: dict[str, Any] = {
        "patch": config.patch, "half_life_loc": config.half_life_loc, "half_life_scale": config.half_life_scale,
    }  # fmt: skip
    few = [t.double() for t in (x[:64], resolution[:64], weight)]
    truth = reference.dart_patch_embed(*few, **settings)[0]
    compiled = torch.compile(
        reference.dart_patch_embed, dynamic=False, backend="aot_eager" if TINY else "inductor"
    )
    key = config.patch, product_of(weight.dtype)
    variants = {"definition, compiled": lambda: compiled(x, resolution, weight, **settings)[0]}
    variants |= _choosing(
        dart_patch_embed._FORWARD_TILES,
        key,
        _FORWARD,
        lambda: dart_patch_embed.dart_patch_embed(x, resolution, weight, **settings)[0],
    )
    _show(f"{preset} embedding forward", variants, truth, device)
    h, loc, scale, _, moves = dart_patch_embed.launch_forward(
        x, resolution, weight, config.patch, config.half_life_loc, config.half_life_scale, True
    )
    grad = torch.randn(h.shape, device=device, generator=generator)
    variants = _choosing(
        dart_patch_embed._BACKWARD_TILES,
        key,
        _BACKWARD,
        lambda: dart_patch_embed.launch_backward(x, loc, scale, moves, grad, config.patch),
    )
    _show(f"{preset} embedding backward", variants, None, device)


def loss(preset: str, config: ModelConfig, device: torch.device) -> None:
    """Forward and backward of a batch of whole contexts."""
    generator = torch.Generator(device).manual_seed(0)
    tokens, rank = config.context_patches, config.head_rank
    series = 2 if TINY else (1 << 16) // tokens
    horizon, outputs = config.horizon_patches, config.patch * (1 + len(QUANTILES))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator)

    h = normal(series, tokens, rank).requires_grad_()
    weight = (normal(horizon, rank, outputs) * rank**-0.5).requires_grad_()
    rest = (
        normal(series, tokens + horizon, config.patch),
        *(torch.full((series, tokens), fill, device=device) for fill in (0.0, 1.0, 1.0)),
        torch.arange(series, device=device) % 16,
        torch.tensor(QUANTILES, device=device),
    )

    def both(compute: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        total, count = compute(h, weight, *rest)
        return torch.autograd.grad((total / count).mean(), (h, weight))[0]

    compiled = torch.compile(
        reference.grid_loss, dynamic=False, backend="aot_eager" if TINY else "inductor"
    )
    variants: Variants = {"definition, compiled": lambda: both(compiled)}
    variants |= _choosing(
        grid_loss._RANKS, product_of(h.dtype), _RANKS, lambda: both(grid_loss.grid_loss)
    )
    _show(f"{preset} loss, both ways", variants, None, device)


def causal(preset: str, config: ModelConfig, device: torch.device) -> None:
    """Attention over the tokens of whole contexts in bfloat16: whole tiles or streamed blocks, forward and both ways."""
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
            part(preset, PRESETS[preset], device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
