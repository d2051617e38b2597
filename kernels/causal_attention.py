"""Causal attention over a series' tokens, with QK-norm and rotary positions inside; formulas in `attention_tiles`.

Bytes that nobody can save, at d = H E values a token: forward reads 3d and writes d, backward reads 4d and writes 3d.
"""

import torch
from torch import Tensor
from torch.library import custom_op

from tinytsm.kernels.attention import check, launch_backward, launch_forward
from tinytsm.kernels.reference import rotary_table


@custom_op("tinytsm::causal_attention", mutates_args=())
def _forward(qkv: Tensor, q_gain: Tensor, k_gain: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    # without variates there is no state to read: any tensor stands in for it
    return launch_forward(qkv, q_gain, k_gain, table, table, qkv.shape[1], causal=True)


@_forward.register_fake
def _(qkv, q_gain, k_gain, table):
    series, tokens, _, heads, width = qkv.shape
    lse = qkv.new_empty(heads, series * tokens, dtype=torch.float32)
    return qkv.new_empty(series, tokens, heads, width), lse


@custom_op("tinytsm::causal_attention_backward", mutates_args=())
def _backward(
    qkv: Tensor, q_gain: Tensor, k_gain: Tensor, table: Tensor, out: Tensor, lse: Tensor, grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return launch_backward(
        qkv, q_gain, k_gain, table, table, out, lse, grad, qkv.shape[1], causal=True
    )


@_backward.register_fake
def _(qkv, q_gain, k_gain, table, out, lse, grad):
    return qkv.new_empty(qkv.shape), torch.empty_like(q_gain), torch.empty_like(k_gain)


def _setup_context(ctx, inputs, output):
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, *output)


def _gradients(ctx, grad, _):
    if grad is None:
        return None, None, None, None
    return *_backward(*ctx.saved_tensors, grad.contiguous()), None


_forward.register_autograd(_gradients, setup_context=_setup_context)


def causal_attention(qkv: Tensor, q_gain: Tensor, k_gain: Tensor) -> Tensor:
    """`reference.causal_attention` by the kernels, which read qkv where it lies unless its last axis is strided.

    qkv: (S, N, 3, H, E), as `attention.supports` has it. q_gain, k_gain: (E,).
    Returns (S, N, H, E) in qkv's dtype. Raises ValueError for what does not fit.
    """
    check(qkv, q_gain, k_gain)
    if qkv.stride(-1) != 1:
        qkv = qkv.contiguous()
    half = qkv.shape[-1] // 2
    table = rotary_table(qkv.shape[1], half, dtype=torch.float32, device=qkv.device)
    return _forward(qkv, q_gain.contiguous(), k_gain.contiguous(), table)[0]
