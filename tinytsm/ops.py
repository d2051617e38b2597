"""The one place that chooses how an op is computed: kernel, library or definition, by device.

Signatures are those of `tinytsm.kernels.reference`. On CPU the definitions are called directly, so that the compiler
can fuse them, but for the loss, in float32, and attention over time, in bfloat16, which are Numba's; where nothing is
trained or compiled, as in forecasting, Numba's kernels take the place of those of the blocks. The Triton kernels run on
CUDA devices; TRITON_INTERPRET=1 in the environment runs them on CPU, slowly, for tests. Attention alone has rivals to
choose from, on CPU too: `choose_attention` does, for each of its two kinds.
"""

import functools
import os
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from tinytsm.kernels import reference
from tinytsm.kernels.reference import (
    DEGENERATE_ULPS,
    FRAME_FEATURES,
    quantile_outputs,
    rotary,
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
    "AttentionKind",
    "cast_once",
    "causal_attention",
    "choose_attention",
    "computed_by",
    "dart_patch_embed",
    "feature_attention",
    "grid_loss",
    "pick_precision",
    "quantile_outputs",
    "rms_norm",
    "swiglu",
]

AttentionBackend = Literal["triton", "flash-attn", "numba", "sdpa", "matmul", "reference"]
ATTENTION_BACKENDS: tuple[AttentionBackend, ...] = get_args(AttentionBackend)
# Over a series' tokens, or over an item's variates.
AttentionKind = Literal["causal", "feature"]


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


def _runs_numba(x: Tensor) -> bool:
    """Whether Numba's kernels for forecasting compute: without gradients, and torch.compile fuses the definitions."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or x.device.type != "cpu":
        return False
    # imported where it is used, here and below: Numba takes a fifth of a second
    from tinytsm.kernels import cpu

    return cpu.supports(x)


def _trains_numba(x: Tensor) -> bool:
    """Whether Numba computes attention over time with gradients, or inside what torch.compile makes."""
    if x.device.type != "cpu":
        return False
    from tinytsm.kernels import cpu_training

    return cpu_training.supports_attention(x)


def computed_by(device: torch.device) -> str:
    """What computes the ops on a device, in words."""
    x = torch.empty(0, 2, device=device)
    if _runs_kernels(x):
        return "Triton kernels"
    with torch.no_grad():
        numba = _runs_numba(x)
    return "Numba kernels and PyTorch definitions" if numba else "PyTorch definitions"


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
    embed: Callable[..., Any]
    if _runs_kernels(x) and _embed_kernel.supports(x, weight, patch=patch, norm=norm):
        embed = _embed_kernel.dart_patch_embed
    elif _runs_numba(x) and weight.dtype == x.dtype and norm == "dart":
        from tinytsm.kernels import cpu

        embed = cpu.dart_patch_embed
    else:
        embed = functools.partial(reference.dart_patch_embed, norm=norm)
    h, loc, scale, token_weight = embed(
        x,
        resolution,
        weight,
        patch=patch,
        half_life_loc=half_life_loc,
        half_life_scale=half_life_scale,
        features=features,
    )
    return h, loc, scale, token_weight


def grid_loss(
    h: Tensor,
    weight: Tensor,
    target: Tensor,
    loc: Tensor,
    scale: Tensor,
    token_weight: Tensor,
    offset: Tensor,
    levels: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """`reference.grid_loss`; the kernels give gradients to `h` and `weight` alone.

    dtype: what its matmuls may run in; the kernel for training on CPU follows it.
    """
    if _runs_kernels(h) and _loss_kernel.supports(h, weight, target):
        return _loss_kernel.grid_loss(h, weight, target, loc, scale, token_weight, offset, levels)
    if h.device.type == "cpu":
        from tinytsm.kernels import cpu_training

        if cpu_training.supports_loss(h, weight, target):
            return cpu_training.grid_loss(
                h, weight, target, loc, scale, token_weight, offset, levels, dtype=dtype
            )
    return reference.grid_loss(h, weight, target, loc, scale, token_weight, offset, levels)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """`reference.rms_norm`."""
    if _runs_numba(x):
        from tinytsm.kernels import cpu

        return cpu.rms_norm(x, gain)
    return reference.rms_norm(x, gain)


def swiglu(x: Tensor) -> Tensor:
    """`reference.swiglu`."""
    if _runs_numba(x):
        from tinytsm.kernels import cpu

        return cpu.swiglu(x)
    return reference.swiglu(x)


# Weights to what they were when they were cast, and the cast. Not on the weights: they would take it along in pickles.
_CASTS: Any = WeakIdKeyDictionary()
_CASTS_LOCK = threading.Lock()


def cast_once(weight: Tensor) -> Tensor:
    """A frozen weight in what autocast makes of it, kept until it is written or replaced.

    Autocast casts it at every call: a fifth of the time of a forecast by 23 M parameters on a CPU. What learns
    (`requires_grad`), is computed from others, or is compiled comes back as it is. Writing through `.data` or NumPy goes
    unnoticed.
    """
    device = weight.device.type
    if (
        torch.compiler.is_compiling()
        or weight.requires_grad
        or not isinstance(weight, torch.nn.Parameter)
        # autocast leaves float64 alone, and inference tensors have no version
        or weight.dtype != torch.float32
        or weight.is_inference()
        or not torch.is_autocast_enabled(device)
    ):
        return weight
    dtype = torch.get_autocast_dtype(device)
    # where it lies changes where it is replaced, its version where it is written
    state = dtype, weight.data_ptr(), weight._version
    # what inference mode makes is refused wherever gradients are wanted later
    with _CASTS_LOCK, torch.inference_mode(False):
        kept = _CASTS.get(weight)
        if kept is None or kept[0] != state:
            kept = _CASTS[weight] = state, weight.detach().to(dtype)
    cast: Tensor = kept[1]
    return cast


def choose_attention(wanted: str, qkv: Tensor, *, kind: AttentionKind) -> AttentionBackend:
    """The back end that computes attention on tensors like qkv (..., E): the one wanted, or for `auto` the fastest known.

    Raises ValueError where the one wanted cannot, or is unknown.
    """
    if wanted not in ("auto", *ATTENTION_BACKENDS):
        raise ValueError(
            f"attention must be auto or one of {', '.join(ATTENTION_BACKENDS)}, got {wanted!r}"
        )
    half = qkv.dtype in (torch.bfloat16, torch.float16)
    able: dict[AttentionBackend, bool] = {
        "triton": _runs_kernels(qkv) and _attention_kernels.supports(qkv),
        "flash-attn": _flash_attention is not None
        and qkv.is_cuda
        and half
        and qkv.shape[-1] % 8 == 0
        and qkv.shape[-1] <= 256,
        "numba": qkv.shape[-1] % 2 == 0
        and (_runs_numba(qkv) or kind == "causal" and _trains_numba(qkv)),
    }
    for name in ATTENTION_BACKENDS:
        if wanted == name and able.get(name, True):
            return name
        if wanted == "auto" and able.get(name, False):
            return name
    if wanted == "auto":
        return _favourite(qkv, kind)
    needs = {
        "triton": "Triton, a CUDA device and heads of width 32, 64 or, in 16 bits, 128",
        "flash-attn": "the package flash-attn, a CUDA device, 16-bit blocks and heads of a multiple of 8",
        "numba": "a CPU, Numba switched on, heads of an even width, and float32 or bfloat16; with gradients or "
        "torch.compile, bfloat16 and attention over tokens",
    }[wanted]
    raise ValueError(
        f"attention {wanted} needs {needs}, got {qkv.dtype} and head width {qkv.shape[-1]} on {qkv.device.type}; "
        "use auto or sdpa"
    )


def _favourite(qkv: Tensor, kind: AttentionKind) -> AttentionBackend:
    """The fastest of those that need nothing but PyTorch."""
    if qkv.is_cuda:
        return "sdpa"
    # the backward pass of PyTorch's fused attention is slow in bfloat16 on CPU. Forward and backward at the training
    # shapes of `nano` (one core, Zen 4, torch 2.13): causal attention alone 67 ms, by matmuls 6; a compiled block over
    # four variates 161 ms, 142 by the definition, 112 by matmuls
    if qkv.dtype == torch.bfloat16:
        return "matmul"
    # the definition of a few variates is within a tenth of the others; that of many tokens would hold all scores in memory
    return "reference" if kind == "feature" else "sdpa"


def causal_attention(
    qkv: Tensor, q_gain: Tensor, k_gain: Tensor, *, backend: str = "auto"
) -> Tensor:
    """`reference.causal_attention`; only `triton`, and `numba` in forecasts, have norms and positions inside the kernel."""
    if qkv.shape[1] == 1:
        # a lone token attends to itself alone
        return qkv[:, :, 2]
    chosen = choose_attention(backend, qkv, kind="causal")
    if chosen == "triton":
        return _causal_kernel.causal_attention(qkv, q_gain, k_gain)
    if chosen == "numba" and _runs_numba(qkv):
        from tinytsm.kernels import cpu

        return cpu.causal_attention(qkv, q_gain, k_gain)
    if chosen == "reference":
        return reference.causal_attention(qkv, q_gain, k_gain)
    q, k, v = qkv.unbind(2)
    q, k = rotary(rms_norm(q, q_gain)), rotary(rms_norm(k, k_gain))
    if chosen == "flash-attn":
        return _flash_attention(q, k, v, causal=True)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (S, H, N, E)
    if chosen == "numba":
        from tinytsm.kernels import cpu_training

        return cpu_training.causal_attention(q, k, v).transpose(1, 2)
    attend = _matmul_attention if chosen == "matmul" else F.scaled_dot_product_attention
    return attend(q, k, v, is_causal=True).transpose(1, 2)


def _matmul_attention(
    q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """`scaled_dot_product_attention` as two batched matmuls in the tensors' dtype. All: (..., N, E)."""
    n_tokens, width = q.shape[-2:]
    scores = (q @ k.transpose(-1, -2)).float() * width**-0.5
    if attn_mask is not None:
        scores = scores + attn_mask
    if is_causal:
        hidden = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return scores.softmax(-1).to(v.dtype) @ v


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
    chosen = choose_attention(backend, qkv, kind="feature")
    if chosen == "triton":
        return _feature_kernel.feature_attention(
            qkv, q_gain, k_gain, variates=variates, present=present
        )
    if chosen == "numba":
        from tinytsm.kernels import cpu

        return cpu.feature_attention(qkv, q_gain, k_gain, variates=variates, present=present)
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
        attend = _matmul_attention if chosen == "matmul" else F.scaled_dot_product_attention
        attended = attend(q, k, v, attn_mask=mask).transpose(1, 2)
    return attended.unflatten(0, (-1, tokens)).transpose(1, 2).flatten(0, 1)


def pick_precision(device: torch.device) -> torch.dtype:
    """What the blocks' matmuls run in: bfloat16 where the hardware multiplies it fast, else float32."""
    if device.type == "cuda" or torch.backends.mkldnn.is_available() and _cpu_has_bf16():
        return torch.bfloat16
    return torch.float32


def _cpu_has_bf16() -> bool:
    # true for AVX512_BF16 and AMX; emulated bfloat16 is many times slower than float32
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
