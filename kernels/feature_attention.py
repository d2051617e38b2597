"""Attention over the variates of an item at one token index, with QK-norm inside; formulas in `attention_tiles`.

A tile of 64 rows takes as many items and token indices as it holds variates: 64 lone ones, 9 of 7, 3 of 21.
"""

import torch
from torch import Tensor
from torch.library import custom_op

from tinytsm.kernels.attention import check, launch_backward, launch_forward
from tinytsm.kernels.attention_tiles import ALONE, PRESENT


@custom_op("tinytsm::feature_attention", mutates_args=())
def _forward(
    qkv: Tensor, q_gain: Tensor, k_gain: Tensor, state: Tensor, variates: int
) -> tuple[Tensor, Tensor]:
    # variates have no positions: any tensor stands in for the table
    return launch_forward(qkv, q_gain, k_gain, q_gain, state, variates, causal=False)


@_forward.register_fake
def _(qkv, q_gain, k_gain, state, variates):
    series, tokens, _, heads, width = qkv.shape
    lse = qkv.new_empty(heads, series * tokens, dtype=torch.float32)
    return qkv.new_empty(series, tokens, heads, width), lse


@custom_op("tinytsm::feature_attention_backward", mutates_args=())
def _backward(
    qkv: Tensor, q_gain: Tensor, k_gain: Tensor, state: Tensor, variates: int,
    out: Tensor, lse: Tensor, grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return launch_backward(
        qkv, q_gain, k_gain, q_gain, state, out, lse, grad, variates, causal=False
    )


@_backward.register_fake
def _(qkv, q_gain, k_gain, state, variates, out, lse, grad):
    return qkv.new_empty(qkv.shape), torch.empty_like(q_gain), torch.empty_like(k_gain)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.variates = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)


def _gradients(ctx, grad, _):
    if grad is None:
        return None, None, None, None, None
    qkv, q_gain, k_gain, state, out, lse = ctx.saved_tensors
    grads = _backward(qkv, q_gain, k_gain, state, ctx.variates, out, lse, grad.contiguous())
    return *grads, None, None


_forward.register_autograd(_gradients, setup_context=_setup_context)


def feature_attention(
    qkv: Tensor,
    q_gain: Tensor,
    k_gain: Tensor,
    *,
    variates: int,
    present: Tensor | None = None,
) -> Tensor:
    """`reference.feature_attention` by the kernels, which read qkv where it lies unless its last axis is strided.

    qkv: (S, N, 3, H, E), S a multiple of `variates`, as `attention.supports` has it.
    q_gain, k_gain: (E,). present: (S,) bool. Returns (S, N, H, E) in qkv's dtype. Raises ValueError for what does not
    fit.
    """
    check(qkv, q_gain, k_gain)
    series = qkv.shape[0]
    if variates < 1 or series % variates:
        raise ValueError(f"variates must divide the {series} series, got {variates}")
    if present is not None and present.shape != (series,):
        raise ValueError(
            f"present must be ({series},), one for each series, got {tuple(present.shape)}"
        )
    if qkv.stride(-1) != 1:
        qkv = qkv.contiguous()
    if present is None:
        state = torch.full((series,), PRESENT, dtype=torch.int8, device=qkv.device)
    else:
        items = present.unflatten(0, (-1, variates))
        # in an item without any variate all weigh the same
        state = torch.where(items.any(1, keepdim=True), items.to(torch.int8), ALONE).flatten()
    return _forward(qkv, q_gain.contiguous(), k_gain.contiguous(), state, variates)[0]
