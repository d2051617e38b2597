"""The one place that chooses how an op is computed: kernel, library or definition, by device.

Signatures are those of `tinytsm.kernels.reference`. On CPU the definitions are called directly, so that the compiler
can fuse them; only attention goes to PyTorch's fused kernel, because the definition materialises the scores. The
Triton kernels run on CUDA devices; TRITON_INTERPRET=1 in the environment runs them on CPU, slowly, for tests. Attention
alone has rivals to choose from: `choose_attention` does, for both kinds.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

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
    from tinytsm.kernels import attention as _attention_kernels
    from tinytsm.kernels import causal_attention as _causal_kernel
    from tinytsm.kernels import dart_patch_embed as _embed_kernel
    from tinytsm.kernels import feature_attention as _feature_kernel
    from tinytsm.kernels import grid_loss as _loss_kernel

__all__ = [
    "ATTENTION_BACKENDS",
    "DEGENERATE_ULPS",
    "FRAME_FEATURES",
    "AttentionBackend",
    "causal_attention",
    "choose_attention",
    "dart_patch_embed",
    "feature_attention",
    "grid_loss",
    "pick_precision",
    "quantile_outputs",
    "rms_norm",
    "swiglu",
]

AttentionBackend = Literal["triton", "flash-attn", "sdpa", "reference"]
# In the order in which `auto` asks them.
ATTENTION_BACKENDS: tuple[AttentionBackend, ...] = ("triton", "flash-attn", "sdpa", "reference")


def _find_flash_attention() -> Callable[..., Tensor] | None:
    """flash-attn's function where it is installed; FlashAttention-4 owns the package's name and lacks it."""
    if torch.version.cuda is None or find_spec("flash_attn") is None:
        return None
    try:
        from flash_attn import flash_attn_func
    except ImportError:
        return None
    return flash_attn_func


_flash_attention: Any = _find_flash_attention()


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


def choose_attention(wanted: str, qkv: Tensor) -> AttentionBackend:
    """The back end that computes attention on tensors like qkv (..., E): the one wanted, or for `auto` the first that can.

    Raises ValueError where the one wanted cannot, or is unknown.
    """
    half = qkv.dtype in (torch.bfloat16, torch.float16)
    able = {
        "triton": _runs_kernels(qkv) and _attention_kernels.supports(qkv),
        "flash-attn": _flash_attention is not None
        and qkv.is_cuda
        and half
        and qkv.shape[-1] % 8 == 0
        and qkv.shape[-1] <= 256,
        "sdpa": True,
        "reference": True,
    }
    for name in ATTENTION_BACKENDS:
        if able[name] and wanted in ("auto", name):
            return name
    if wanted not in ATTENTION_BACKENDS:
        raise ValueError(
            f"attention must be auto or one of {', '.join(ATTENTION_BACKENDS)}, got {wanted!r}"
        )
    needs = {
        "triton": "Triton, a CUDA device and heads of width 32, 64 or, in 16 bits, 128",
        "flash-attn": "the package flash-attn, a CUDA device, 16-bit blocks and heads of a multiple of 8",
    }[wanted]
    raise ValueError(
        f"attention {wanted} needs {needs}, got {qkv.dtype} and head width {qkv.shape[-1]} on {qkv.device.type}; "
        "use auto or sdpa"
    )


def causal_attention(
    qkv: Tensor, q_gain: Tensor, k_gain: Tensor, *, backend: str = "auto"
) -> Tensor:
    """`reference.causal_attention`; only `triton` has norms and positions inside the kernel."""
    chosen = choose_attention(backend, qkv)
    if chosen == "triton":
        return _causal_kernel.causal_attention(qkv, q_gain, k_gain)
    if chosen == "reference":
        return reference.causal_attention(qkv, q_gain, k_gain)
    q, k, v = qkv.unbind(2)
    q, k = rotary(rms_norm(q, q_gain)), rotary(rms_norm(k, k_gain))
    if chosen == "flash-attn":
        return _flash_attention(q, k, v, causal=True)
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


def feature_attention(
    qkv: Tensor,
    q_gain: Tensor,
    k_gain: Tensor,
    *,
    variates: int,
    present: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """`reference.feature_attention`; flash-attn knows no absent variates, and leaves those to `sdpa`."""
    if variates == 1:
        return qkv[:, :, 2]
    chosen = choose_attention(backend, qkv)
    if backend == "auto" and not qkv.is_cuda and chosen == "sdpa":
        # a few variates: the compiler fuses the definition, whose backward pass is faster on CPU
        chosen = "reference"
    if chosen == "triton":
        return _feature_kernel.feature_attention(
            qkv, q_gain, k_gain, variates=variates, present=present
        )
    if chosen == "reference":
        return reference.feature_attention(qkv, q_gain, k_gain, variates=variates, present=present)
    tokens = qkv.shape[1]
    q, k, v = qkv.unbind(2)
    q, k = rms_norm(q, q_gain), rms_norm(k, k_gain)
    # (items * N, V, H, E)
    q, k, v = (t.unflatten(0, (-1, variates)).transpose(1, 2).flatten(0, 1) for t in (q, k, v))
    if chosen == "flash-attn" and present is None:
        attended = _flash_attention(q, k, v)
    else:
        mask = None
        if present is not None:
            absent = ~present.unflatten(0, (-1, variates)).repeat_interleave(tokens, 0)
            # an item without any variate weighs all alike, as in the definition: zero scores instead of a mask, which
            # would swallow the softmax's sum
            empty = absent.all(1)[:, None]
            q = q.masked_fill(empty[..., None, None], 0.0)
            mask = torch.zeros(absent.shape, dtype=q.dtype, device=q.device)
            mask = mask.masked_fill(absent & ~empty, -1e30)[:, None, None, :]
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
    return attended.unflatten(0, (-1, tokens)).transpose(1, 2).flatten(0, 1)


def pick_precision(device: torch.device) -> torch.dtype:
    """What the blocks' matmuls run in: bfloat16 where the hardware multiplies it fast, else float32."""
    if device.type == "cuda" or torch.backends.mkldnn.is_available() and _cpu_has_bf16():
        return torch.bfloat16
    return torch.float32


def _cpu_has_bf16() -> bool:
    # true for AVX512_BF16 and AMX; emulated bfloat16 is many times slower than float32
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
