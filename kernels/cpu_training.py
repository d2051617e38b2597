"""Kernels for training on CPU: the library's matmuls, and between them the loops of `cpu_loops`, with gradients.

Each stands for the function of its name in `tinytsm.kernels.reference`, whose letters these are, and is opaque to
torch.compile.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.library import custom_op

from tinytsm.kernels import cpu_loops as loops
from tinytsm.kernels.reference import (
    FAR_TARGET,
    GAP_SHIFT,
    HUBER_DELTA,
    MEAN_WEIGHT,
    check_grid,
    grid_rows,
    octaves,
)

# Bytes of the horizon head's outputs that exist at once; threads that wait for one another make small ones slow.
CHUNK_BYTES = 4 << 20
_CONSTANTS = tuple(np.float32(c) for c in (GAP_SHIFT, HUBER_DELTA, MEAN_WEIGHT, FAR_TARGET))


def _uncast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Its products are of the dtypes that it is given, whatever its caller's autocast."""

    @functools.wraps(function)
    def call(*inputs: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return function(*inputs)

    return call


def _share_out(count: int, run: Callable[[slice], None]) -> None:
    """Call `run` for all of `count` rows, a share of them on each of torch's threads."""
    threads = max(1, min(torch.get_num_threads(), count))
    each = -(-count // threads)
    shares = [slice(start, min(start + each, count)) for start in range(0, count, max(1, each))]
    if len(shares) < 2:
        # not worth a thread
        for share in shares:
            run(share)
        return
    with ThreadPoolExecutor(len(shares) - 1) as pool:
        others = [pool.submit(run, share) for share in shares[1:]]
        run(shares[0])
        for other in others:
            other.result()


def _pair_losses(
    tiles: np.ndarray, index: np.ndarray, first: int, target: np.ndarray, frame: np.ndarray,
    levels: np.ndarray, gradients: bool, out: np.ndarray,
) -> None:  # fmt: skip
    """`cpu_loops.pair_losses` on all threads."""

    def run(share: slice) -> None:
        loops.pair_losses(
            tiles[share], index[share], first, target, frame, levels, _CONSTANTS, gradients,
            out[:, share],
        )  # fmt: skip

    _share_out(len(tiles), run)


@custom_op("tinytsm::grid_loss_cpu", mutates_args=())
@_uncast
def _grid_loss(
    h: Tensor, weight: Tensor, target: Tensor, loc: Tensor, scale: Tensor, token_weight: Tensor,
    offset: Tensor, levels: Tensor, dtype: torch.dtype, gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Sum and count of each octave, and the sums' gradients: of h's rows octave by octave, and of weight."""
    rank, patch, outputs = h.shape[-1], target.shape[-1], 1 + len(levels)
    flat = h.reshape(-1, rank).to(dtype)
    frame = torch.stack([t.reshape(-1) for t in (loc, scale, token_weight)]).numpy()
    known = target.contiguous().numpy()
    # outputs before points, an octave's patches side by side, so that the loops run along all of them
    by_output = weight.to(dtype).unflatten(-1, (patch, outputs))
    by_output = by_output.permute(1, 3, 0, 2)  # (R, 1 + Q, K, P)
    totals, row_grads, weight_grads = [], [], []
    for ks, stride in octaves(len(weight)):
        index = grid_rows(offset, h.shape[1], stride)
        inputs = flat[index]
        part = by_output[:, :, ks.start : ks.stop].reshape(rank, -1)
        if gradients:
            row_grads.append(torch.empty_like(inputs))
            weight_grads.append(torch.zeros_like(part, dtype=weight.dtype))
        out = np.empty((2, len(index)))
        chunk = max(1, CHUNK_BYTES // (part.shape[1] * weight.itemsize))
        for start in range(0, len(index), chunk):
            rows = slice(start, min(start + chunk, len(index)))
            raw = (inputs[rows] @ part).to(weight.dtype)
            _pair_losses(
                raw.view(len(raw), outputs, -1).numpy(), index[rows].numpy(), ks.start, known, frame,
                levels.numpy(), gradients, out[:, rows],
            )  # fmt: skip
            if gradients:
                grads = raw.to(dtype)
                torch.mm(grads, part.t(), out=row_grads[-1][rows])
                weight_grads[-1] += inputs[rows].t() @ grads
        totals.append(torch.from_numpy(out).sum(1))
    total, count = torch.stack(totals, 1).to(h.dtype)
    if not gradients:
        return total.clone(), count.clone(), flat.new_empty(0, rank), torch.empty_like(weight[:0])
    weight_grad = torch.cat([g.view(rank, outputs, -1, patch) for g in weight_grads], 2)
    # patches of one step make the reshape a view, and the compiler was promised contiguous memory
    weight_grad = weight_grad.permute(2, 0, 3, 1).reshape(weight.shape).contiguous()
    return total.clone(), count.clone(), torch.cat(row_grads), weight_grad


@_grid_loss.register_fake
def _(h, weight, target, loc, scale, token_weight, offset, levels, dtype, gradients):
    grid = octaves(len(weight))
    rows = sum(len(offset) * (h.shape[1] // stride) for _, stride in grid) if gradients else 0
    sums = h.new_empty(len(grid)), h.new_empty(len(grid))
    patches = len(weight) if gradients else 0
    return (
        *sums,
        h.new_empty(rows, h.shape[-1], dtype=dtype),
        weight.new_empty(patches, *weight.shape[1:]),
    )


@custom_op("tinytsm::grid_loss_cpu_backward", mutates_args=())
def _grid_loss_backward(
    h: Tensor, weight: Tensor, offset: Tensor, row_grads: Tensor, weight_grad: Tensor, upstream: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of h and weight from those that the forward pass has found; upstream: (O,), of each octave's sum.

    h and weight give their shapes alone, and an error to whom would differentiate once more.
    """
    grid = octaves(len(weight))
    h_grad = h.new_zeros(h.shape)
    start = 0
    for (_, stride), factor in zip(grid, upstream, strict=True):
        rows = grid_rows(offset, h.shape[1], stride)
        part = row_grads[start : start + len(rows)].to(h.dtype)
        h_grad.flatten(0, 1).index_add_(0, rows, part * factor)
        start += len(rows)
    sizes = torch.tensor([len(ks) for ks, _ in grid])
    return h_grad, weight_grad * upstream.repeat_interleave(sizes)[:, None, None]


@_grid_loss_backward.register_fake
def _(h, weight, offset, row_grads, weight_grad, upstream):
    return h.new_empty(h.shape), weight.new_empty(weight.shape)


def _setup_grid_loss(ctx, inputs, output):
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    h, weight, offset = inputs[0], inputs[1], inputs[6]
    ctx.save_for_backward(h, weight, offset, *output[2:])


def _grid_loss_gradients(ctx, grad, *_):
    grads = (None, None) if grad is None else _grid_loss_backward(*ctx.saved_tensors, grad)
    return *grads, *[None] * 8


_grid_loss.register_autograd(_grid_loss_gradients, setup_context=_setup_grid_loss)


def supports_loss(h: Tensor, weight: Tensor, target: Tensor) -> bool:
    """Whether `grid_loss` computes this: float32 on a CPU, and Numba switched on."""
    tensors = (h, weight, target)
    return loops.compiles() and all(
        t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors
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
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """`reference.grid_loss` in float32; gradients, found in the forward pass, for `h` and `weight` alone.

    dtype: what its matmuls multiply and give; all else is float32. Raises ValueError for shapes that do not fit.
    """
    check_grid(h, weight, target, loc, scale, token_weight, offset, levels)
    wanted = torch.is_grad_enabled() and (h.requires_grad or weight.requires_grad)
    total, count, _, _ = _grid_loss(
        h, weight, target, loc, scale, token_weight, offset, levels, dtype, wanted
    )
    return total, count


def _bits(x: Tensor) -> np.ndarray:
    """bfloat16 without gaps as uint16, which NumPy knows."""
    return x.view(torch.uint16).numpy()


def supports_attention(x: Tensor) -> bool:
    """Whether `causal_attention` computes this: bfloat16 on a CPU, and Numba switched on."""
    return loops.compiles() and x.device.type == "cpu" and x.dtype == torch.bfloat16


@custom_op("tinytsm::causal_attention_cpu", mutates_args=())
@_uncast
def _causal_attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The answers and the weights, rounded and exact, of queries, keys and values without gaps."""
    weights = q @ k.transpose(-1, -2)
    exact = torch.empty_like(weights, dtype=torch.float32)
    factor = np.float32(q.shape[-1] ** -0.5 * loops.LOG2E)
    tiles, into = _bits(weights.flatten(0, 1)), exact.flatten(0, 1).flatten(1).numpy()

    def run(share: slice) -> None:
        loops.causal_softmax_bfloat16(tiles[share], factor, into[share])

    _share_out(len(tiles), run)
    return weights @ v, weights, exact


@_causal_attention.register_fake
def _(q, k, v):
    weights = q.new_empty(*q.shape[:-1], q.shape[-2])
    return torch.empty_like(v), weights, torch.empty_like(weights, dtype=torch.float32)


@custom_op("tinytsm::causal_attention_cpu_backward", mutates_args=())
@_uncast
def _causal_attention_backward(
    q: Tensor, k: Tensor, v: Tensor, weights: Tensor, exact: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    scores_grad = grad @ v.transpose(-1, -2)
    given, tiles = exact.flatten(0, 1).numpy(), _bits(scores_grad.flatten(0, 1))
    factor = np.float32(q.shape[-1] ** -0.5)

    def run(share: slice) -> None:
        loops.causal_softmax_backward_bfloat16(given[share], tiles[share], factor)

    _share_out(len(tiles), run)
    v_grad = weights.transpose(-1, -2) @ grad
    return scores_grad @ k, scores_grad.transpose(-1, -2) @ q, v_grad


@_causal_attention_backward.register_fake
def _(q, k, v, weights, exact, grad):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup_causal_attention(ctx, inputs, output):
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, *output[1:])


def _causal_attention_gradients(ctx, grad, *_):
    if grad is None:
        return None, None, None
    return _causal_attention_backward(*ctx.saved_tensors, grad.contiguous())


_causal_attention.register_autograd(
    _causal_attention_gradients, setup_context=_setup_causal_attention
)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention to a token itself and those before it, in bfloat16. All: (S, H, N, E); so is what it returns."""
    attended, _, _ = _causal_attention(q.contiguous(), k.contiguous(), v.contiguous())
    return attended
