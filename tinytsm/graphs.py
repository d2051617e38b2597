"""CUDA graphs: the forward and backward pass of each batch shape, recorded once and replayed without the host.

A small model's step is hundreds of kernels of a few microseconds each, which Python cannot launch as fast as a GPU runs
them. A recorded graph is one launch. What is recorded must never wait for the device, and reads and writes the same
memory at every replay: batches are copied into the recorded one's tensors, and gradients come out where the recorded ones lay.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tinytsm.data import Batch
from tinytsm.model import Model

# Runs before a recording: libraries choose their kernels and workspaces in the first, Triton and torch.compile compile.
_WARM_UPS = 3


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    batch: Batch
    loss: Tensor
    grads: list[Tensor | None]


class Recorder:
    """One graph for each shape of batch; all share a pool of memory, since only one of them runs at a time."""

    def __init__(self, device: torch.device, processes: int):
        """Raises ValueError where graphs cannot be used."""
        if device.type != "cuda" or processes > 1:
            raise ValueError(
                f"cuda_graphs needs one process on a CUDA device, got {processes} on {device}; use --no-cuda-graphs"
            )
        self._recordings: dict[tuple, _Recording] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, step: Callable[[Batch], Tensor], model: Model, batch: Batch) -> Tensor:
        """step(batch), which leaves gradients in the model's parameters and returns the loss, by the batch's recording.

        step must depend on the batch's tensors, its number of variates and the weights alone.
        """
        shape = (batch.x.shape, batch.target.shape, batch.variates)
        found = self._recordings.get(shape)
        if found is None:
            found = self._recordings[shape] = self._record(step, model, batch)
        for ours, new in zip(found.batch, batch, strict=True):
            if isinstance(ours, Tensor):
                ours.copy_(new)
        found.graph.replay()
        for parameter, grad in zip(model.parameters(), found.grads, strict=True):
            parameter.grad = grad
        # its next replay writes over it
        return found.loss.clone()

    def _record(self, step: Callable[[Batch], Tensor], model: Model, batch: Batch) -> _Recording:
        batch = Batch(*(t.clone() if isinstance(t, Tensor) else t for t in batch))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                step(batch)
        torch.cuda.current_stream().wait_stream(side)
        # gradients of the warm-ups go, so that the recorded pass makes its own, in the pool
        model.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        # other threads copy batches meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            loss = step(batch)
        return _Recording(graph, batch, loss, [p.grad for p in model.parameters()])
