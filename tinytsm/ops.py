"""The one place that chooses how an op is computed: kernel, library or definition, by device.

Signatures are those of `tinytsm.kernels.reference`. On CPU the definitions are called directly, so that the compiler
can fuse them; only attention goes to PyTorch's fused kernel, because the definition materialises the scores. The
Triton kernels run on CUDA devices; TRITON_INTERPRET=1 in the environment runs them on CPU, slowly, for tests.
"""

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tinytsm.kernels import reference
from tinytsm.kernels.reference import (
    DEGENERATE_ULPS,
    FRAME_FEATURES,
    quantile_outputs,
    rms_norm,
    rotary,
    swiglu,
)

_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "y", "on")
_HAVE_KERNELS = (torch.version.cuda is not None or _INTERPRETED) and find_spec("triton") is not None

if TYPE_CHECKING or _HAVE_KERNELS:
    from tinytsm.kernels import dart_patch_embed as _embed_kernel
    from tinytsm.kernels import grid_loss as _loss_kernel

__all__ = [
    "ATTENTION_BACKENDS",
    "DEGENERATE_ULPS",
    "FRAME_FEATURES",
    "AttentionBackend",
    "causal_attention",
    "dart_patch_embed",
    "feature_attention",
    "grid_loss",
    "pick_precision",
    "quantile_outputs",
    "rms_norm",
    "swiglu",
]

AttentionBackend = Literal["sdpa", "reference"]
ATTENTION_BACKENDS: tuple[AttentionBackend, ...] = ("sdpa", "reference")


def _runs_kernels(x: Tensor) -> bool:
    return _HAVE_KERNELS and (x.is_cuda or _INTERPRETED)


def dart_patch_embed(
    x: Tensor,
    resolution: Tensor,
    weight: Tensor,
    *,
    patch: int,
    half_life_loc: float,
    half_life_scale: float,
    norm: str = "dart",
    features: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`reference.dart_patch_embed`; the kernel gives a gradient to `weight` alone, the series being data."""
    if _runs_kernels(x) and _embed_kernel.supports(x, weight, patch=patch, norm=norm):
        return _embed_kernel.dart_patch_embed(
            x,
            resolution,
            weight,
            patch=patch,
            half_life_loc=half_life_loc,
            half_life_scale=half_life_scale,
            features=features,
        )
    return reference.dart_patch_embed(
        x,
        resolution,
        weight,
        patch=patch,
        half_life_loc=half_life_loc,
        half_life_scale=half_life_scale,
        norm=norm,
        features=features,
    )


def grid_loss(
    h: Tensor,
    weight: Tensor,
    target: Tensor,
    loc: Tensor,
    scale: Tensor,
    token_weight: Tensor,
    offset: Tensor,
    levels: Tensor,
) -> tuple[Tensor, Tensor]:
    """`reference.grid_loss`; the kernel gives gradients to `h` and `weight` alone."""
    if _runs_kernels(h) and _loss_kernel.supports(h, weight, target):
        return _loss_kernel.grid_loss(h, weight, target, loc, scale, token_weight, offset, levels)
    return reference.grid_loss(h, weight, target, loc, scale, token_weight, offset, levels)


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_gain: Tensor,
    k_gain: Tensor,
    *,
    backend: AttentionBackend = "sdpa",
) -> Tensor:
    """`reference.causal_attention`; `sdpa` hands the softmax to PyTorch's fused attention."""
    if backend == "reference":
        return reference.causal_attention(q, k, v, q_gain, k_gain)
    q, k = rotary(rms_norm(q, q_gain)), rotary(rms_norm(k, k_gain))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (S, H, N, E)
    if v.dtype == torch.bfloat16 and not v.is_cuda:
        return _matmul_attention(q, k, v).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def _matmul_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention as two batched matmuls. q, k, v and the result: (S, H, N, E).

    On CPU the backward pass of PyTorch's fused attention is slow in bfloat16: 67 ms against 6 at the training shape of
    `nano` (one core, Zen 4, torch 2.13).
    """
    n_tokens, width = q.shape[-2:]
    scores = (q @ k.transpose(-1, -2)).float() * width**-0.5
    hidden = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(hidden, float("-inf")).softmax(-1).to(v.dtype) @ v


feature_attention = reference.feature_attention


def pick_precision(device: torch.device) -> torch.dtype:
    """What the blocks' matmuls run in: bfloat16 where the hardware multiplies it fast, else float32."""
    if device.type == "cuda" or torch.backends.mkldnn.is_available() and _cpu_has_bf16():
        return torch.bfloat16
    return torch.float32


def _cpu_has_bf16() -> bool:
    # true for AVX512_BF16 and AMX; emulated bfloat16 is many times slower than float32
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
