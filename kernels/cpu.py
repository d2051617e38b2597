"""Kernels for forecasting on CPU: frames, and all of a block but its matmuls, by the loops of `cpu_loops`; no gradients.

They compute in float32 whatever they read. Letters as in `tinytsm.kernels.reference`, whose functions these stand for.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from tinytsm.kernels import cpu_loops as loops
from tinytsm.kernels import reference


def supports(x: Tensor) -> bool:
    """Whether the kernels compute on such a tensor, its last axis being what they work along."""
    known = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return loops.compiles() and known and x.ndim > 1


def _array(x: Tensor) -> np.ndarray:
    """As float32 without gaps, copied only where it is not so already."""
    return x.detach().float().contiguous().numpy()


# Arguments, because compiled code that is kept would not see them change in another file.
_EPS = np.float32(reference.NORM_EPS)
_DEGENERATE = reference.DEGENERATE_ULPS * float(np.finfo(np.float32).eps)


@functools.cache
def _angles(n_tokens: int, half: int) -> tuple[np.ndarray, np.ndarray]:
    table = reference.rotary_table(n_tokens, half, dtype=torch.float32, device=torch.device("cpu"))
    return table[0].numpy(), table[1].numpy()


def dart_patch_embed(
    x: Tensor,
    resolution: Tensor,
    weight: Tensor,
    *,
    patch: int,
    half_life_loc: float,
    half_life_scale: float,
    features: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`reference.dart_patch_embed`, of the norm `dart`."""
    rows = _array(x).reshape(len(x), x.shape[1] // patch, patch)
    series, tokens, _ = rows.shape
    rates = np.array([[1 / half_life_loc], [1 / half_life_scale]])
    inputs = np.zeros((series, tokens, 2 * patch + reference.FRAME_FEATURES), np.float32)
    found, usable = np.empty((5, series, tokens), np.float32), np.empty((series, tokens), np.bool_)
    decays = np.exp2(-rates * np.arange(patch + 1))
    loops.frames(rows, _array(resolution), _DEGENERATE, decays, inputs, found, usable)
    frame = reference.Frames(*map(torch.from_numpy, (*found[:4], usable, found[4])))
    h = torch.from_numpy(inputs)
    if features:
        h[..., 2 * patch :] = reference.frame_features(frame)
    return h.to(weight.dtype) @ weight, *reference.token_frame(frame)


def causal_attention(qkv: Tensor, q_gain: Tensor, k_gain: Tensor) -> Tensor:
    """`reference.causal_attention`."""
    series, n_tokens, _, heads, width = qkv.shape
    out = np.empty((series, n_tokens, heads, width), np.float32)
    cos, sin = _angles(n_tokens, width // 2)
    shown = np.ones((series, n_tokens), np.bool_)
    gains = _array(torch.stack((q_gain, k_gain)))
    loops.attend(_array(qkv), gains, _EPS, cos, sin, shown, True, out)
    return torch.from_numpy(out).to(qkv.dtype)


def feature_attention(
    qkv: Tensor, q_gain: Tensor, k_gain: Tensor, *, variates: int, present: Tensor | None = None
) -> Tensor:
    """`reference.feature_attention`."""
    n_tokens, _, heads, width = qkv.shape[1:]
    # (items * N, V, 3, H, E)
    groups = _array(qkv.unflatten(0, (-1, variates)).transpose(1, 2).flatten(0, 1))
    out = np.empty((len(groups), variates, heads, width), np.float32)
    unturned = np.ones((variates, width // 2), np.float32)
    if present is None:
        shown = np.ones((len(groups), variates), np.bool_)
    else:
        shown = present.reshape(-1, variates).repeat_interleave(n_tokens, 0).numpy()
    gains = _array(torch.stack((q_gain, k_gain)))
    loops.attend(groups, gains, _EPS, unturned, np.zeros_like(unturned), shown, False, out)
    attended = torch.from_numpy(out).unflatten(0, (-1, n_tokens)).transpose(1, 2).flatten(0, 1)
    return attended.to(qkv.dtype)


def swiglu(x: Tensor) -> Tensor:
    """`reference.swiglu`."""
    rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
    out = torch.empty(len(rows), x.shape[-1] // 2, dtype=x.dtype, device=x.device)
    if x.dtype == torch.bfloat16:
        # a float32 copy, the other kernel and a copy back take half as long again; a function that both called for a row
        # costs a fifth, for the references to its arrays that Numba counts
        loops.swiglu_bfloat16(rows.view(torch.uint16).numpy(), out.view(torch.uint16).numpy())
    else:
        loops.swiglu(rows.numpy(), out.numpy())
    return out.view(*x.shape[:-1], out.shape[-1])


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """`reference.rms_norm`."""
    rows = _array(x).reshape(-1, x.shape[-1])
    out = np.empty_like(rows)
    loops.rms_norm(rows, _array(gain), _EPS, out)
    return torch.from_numpy(out).view(x.shape).to(x.dtype)
