"""The `grid_loss` kernel against its definition, on a GPU or in Triton's interpreter.

Without a GPU, tests/test_interpreter.py runs this file under TRITON_INTERPRET=1.
"""

import math
from typing import NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tinytsm import ops
from tinytsm.kernels import reference
from tinytsm.testing import assert_as_good_as_eager, kernel_device

DEVICE = kernel_device()
pytestmark = [
    pytest.mark.skipif(DEVICE is None, reason="needs a GPU or TRITON_INTERPRET=1"),
    pytest.mark.usefixtures("silent_overflow"),
]
if DEVICE is not None:
    from tinytsm.kernels import grid_loss as kernel

NAMES = ("sum", "count", "h_grad", "weight_grad")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Inputs(NamedTuple):
    h: Tensor
    weight: Tensor
    target: Tensor
    loc: Tensor
    scale: Tensor
    token_weight: Tensor
    offset: Tensor
    levels: Tensor

    def map(self, f) -> "Inputs":
        return Inputs(*map(f, self))

    def double(self) -> "Inputs":
        return self.map(lambda t: t.double() if t.is_floating_point() else t)


def inputs(
    rng, *, series=3, tokens=16, rank=24, patch=16, horizon=3, quantiles=9, missing=0.1,
    dtype=torch.float32,
) -> Inputs:  # fmt: skip
    target = rng.standard_normal((series, tokens + horizon, patch)).cumsum(1)
    target[rng.random(target.shape) < missing] = np.nan
    scale = rng.random((series, tokens)) + 0.5
    scale[rng.random(scale.shape) < 0.1] = 0.0
    weight = rng.standard_normal((horizon, rank, patch * (1 + quantiles))) * rank**-0.5
    arrays = (
        rng.standard_normal((series, tokens, rank)),
        weight,
        target,
        rng.standard_normal((series, tokens)),
        scale,
        rng.random((series, tokens)),
    )
    h, weight, *rest = (torch.from_numpy(a).float() for a in arrays)
    offset = torch.from_numpy(rng.integers(0, 16, series))
    levels = torch.arange(1, quantiles + 1) / (quantiles + 1)
    tensors = (h.to(dtype), weight.to(dtype), *rest, offset, levels)
    return Inputs(*(t.to(DEVICE) for t in tensors))


def run(loss, data: Inputs, upstream: Tensor) -> list[Tensor]:
    """Sum and count, then the gradients of h and weight."""
    h, weight = (t.detach().clone().requires_grad_() for t in data[:2])
    total, count = loss(h, weight, *data[2:])
    (total * upstream.to(total)).sum().backward()
    return [total.detach(), count, h.grad, weight.grad]


def compare(loss, data: Inputs) -> list[Tensor]:
    """Hold a loss and its gradients to eager's error; returns them."""
    # octaves of different weight, as their counts make them
    octaves = len(reference.octaves(len(data.weight)))
    upstream = torch.linspace(0.5, 2, octaves, device=data.h.device)
    ours = run(loss, data, upstream)
    eager = run(reference.grid_loss, data, upstream)
    truth = run(reference.grid_loss, data.double(), upstream)
    assert_as_good_as_eager(ours, eager, truth, names=NAMES)
    assert [t.dtype for t in ours[2:]] == [t.dtype for t in eager[2:]]
    return ours


def check(data: Inputs) -> None:
    compare(kernel.grid_loss, data)


def far_away(data: Inputs) -> Inputs:
    """Targets far from their frames, and huge outputs."""
    data.target[0, 4:6] = 5e4
    data.target[1, 3] = -1e18
    data.h[2] *= 300
    return data


def tied(data: Inputs) -> Inputs:
    """Outputs of zero and targets at the location: median and mean sit on the target exactly."""
    ones = {name: torch.ones_like(getattr(data, name)) for name in ("target", "loc", "weight")}
    return data._replace(h=torch.zeros_like(data.h), **ones)


def strided(data: Inputs) -> Inputs:
    return data._replace(
        h=data.h.transpose(0, 1).contiguous().transpose(0, 1),
        weight=data.weight.transpose(1, 2).contiguous().transpose(1, 2),
        target=data.target.repeat_interleave(2, 0)[::2],
        levels=data.levels.repeat_interleave(2)[::2],
    )


def assert_refuses_wrong_shapes(loss, data: Inputs) -> None:
    """data: of 3 series, 16 tokens, rank 24, 160 outputs."""
    for wrong, message in (
        ({"h": data.h[:, 1:]}, "multiple of 16 tokens, got 15"),
        ({"weight": data.weight[:, 1:]}, r"weight must be \(K, 24, 160\), got \(3, 23, 160\)"),
        ({"target": data.target[:, 1:]}, r"target must be \(3, 19, P\)"),
        ({"loc": data.loc[:1]}, r"loc must be \(3, 16\), got \(1, 16\)"),
        ({"scale": data.scale[:1]}, r"scale must be \(3, 16\), got \(1, 16\)"),
        ({"token_weight": data.token_weight[:1]}, r"token_weight must be \(3, 16\), got \(1, 16\)"),
        ({"offset": data.offset[:2]}, r"offset must be \(3,\), got \(2,\)"),
        (
            {"levels": data.levels[:2], "weight": data.weight[..., :48]},
            "levels must be odd in number, .* got 2",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            loss(*data._replace(**wrong))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch", [16, 32, 48, 64])
def test_every_patch_length_and_dtype(rng, patch, dtype):
    check(inputs(rng, patch=patch, dtype=dtype))


@pytest.mark.gpu
@pytest.mark.usefixtures("poisoned", "tf32")
@pytest.mark.parametrize("patch", [16, 32])
def test_as_coarse_as_torch_is_told_to_multiply(rng, patch):
    check(inputs(rng, patch=patch, series=32))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("horizon", [1, 2, 5, 24])
def test_horizons(rng, horizon):
    check(inputs(rng, horizon=horizon, tokens=32, rank=16, series=5))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("rank", [1, 31, 33, 64])
def test_ranks_that_no_tile_divides(rng, rank):
    check(inputs(rng, rank=rank, series=1, tokens=48))


@pytest.mark.parametrize("quantiles", [1, 3, 5, 11])
def test_numbers_of_quantiles(rng, quantiles):
    check(inputs(rng, quantiles=quantiles))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.data())
def test_random_shapes_and_masks(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    check(
        inputs(
            rng,
            series=data.draw(st.integers(1, 6)),
            tokens=16 * data.draw(st.integers(1, 3)),
            rank=data.draw(st.integers(1, 40)),
            horizon=data.draw(st.integers(1, 6)),
            quantiles=2 * data.draw(st.integers(0, 4)) + 1,
            missing=data.draw(st.floats(0, 1)),
        )
    )


@pytest.mark.usefixtures("poisoned")
def test_chunks_add_up(rng, monkeypatch):
    data = inputs(rng, series=9, tokens=32)
    monkeypatch.setattr(kernel, "CHUNK_BYTES", 1)
    check(data)


def test_targets_far_away_and_huge_outputs(rng):
    check(far_away(inputs(rng)))


def test_nothing_scored_is_zero(rng):
    data = inputs(rng, missing=0.0)
    for name in ("target", "scale"):
        empty = data._replace(**{name: torch.full_like(getattr(data, name), math.nan)})
        if name == "scale":
            empty = empty._replace(scale=torch.zeros_like(data.scale))
        outputs = run(kernel.grid_loss, empty, torch.ones((), device=DEVICE))
        assert all((t == 0).all() for t in outputs)


def test_ties_split_the_slope(rng):
    check(tied(inputs(rng, missing=0.0)))


def test_a_degenerate_frame_is_not_scored_wherever_it_lies(rng):
    data, upstream = inputs(rng), torch.ones((), device=DEVICE)
    before = run(kernel.grid_loss, data, upstream)
    assert (data.scale == 0).any()
    data.loc[data.scale == 0] = 1e30
    after = run(kernel.grid_loss, data, upstream)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_every_run_gives_the_same_bits(rng):
    data, upstream = inputs(rng, series=7), torch.ones((), device=DEVICE)
    first, second = (run(kernel.grid_loss, data, upstream) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_strided_inputs(rng):
    data, upstream = inputs(rng), torch.ones((), device=DEVICE)
    a, b = (run(kernel.grid_loss, d, upstream) for d in (data, strided(data)))
    assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_op_is_registered_as_pytorch_wants_it(rng):
    data = inputs(rng, rank=16, horizon=2)
    data.h.requires_grad_(), data.weight.requires_grad_()
    torch.library.opcheck(torch.ops.tinytsm.grid_loss.default, tuple(data))
    backward = torch.ops.tinytsm.grid_loss_backward.default
    grad = torch.ones(2, device=DEVICE)
    torch.library.opcheck(backward, (*(t.detach() for t in data), grad))


def test_compiles_in_one_graph(rng):
    data, upstream = inputs(rng), torch.ones((), device=DEVICE)
    compiled = torch.compile(kernel.grid_loss, fullgraph=True, backend="aot_eager")
    a, b = (run(f, data, upstream) for f in (compiled, kernel.grid_loss))
    assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_autocast_changes_no_bit(rng):
    data, upstream = inputs(rng), torch.ones((), device=DEVICE)
    with torch.autocast(torch.device(DEVICE).type, torch.bfloat16):
        a = run(ops.grid_loss, data, upstream)
    b = run(ops.grid_loss, data, upstream)
    assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_shapes_are_known_without_running(rng):
    data = inputs(rng, horizon=5).map(lambda t: t.to("meta"))
    total, count = kernel.grid_loss(*data)
    assert total.shape == count.shape == (4,) and total.dtype == torch.float32


def test_dispatch_takes_the_kernel_only_for_what_it_computes(rng, monkeypatch):
    calls = []
    launch = kernel.grid_loss
    monkeypatch.setattr(kernel, "grid_loss", lambda *a: calls.append(1) or launch(*a))
    data = inputs(rng)
    ops.grid_loss(*data)
    assert len(calls) == 1
    ops.grid_loss(*data.double())
    ops.grid_loss(*inputs(rng, patch=12))
    assert len(calls) == 1


def test_errors_say_what_is_wanted(rng):
    assert_refuses_wrong_shapes(kernel.grid_loss, inputs(rng))


@pytest.mark.gpu
def test_memory_does_not_depend_on_the_horizon(rng):
    peaks = []
    for loss, horizon in ((reference.grid_loss, 24), (kernel.grid_loss, 24), (kernel.grid_loss, 6)):
        data = inputs(rng, series=512, tokens=64, rank=64, patch=32, horizon=horizon)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(loss, data, torch.ones((), device=DEVICE))
        # the weight's gradient is an output
        peaks.append(torch.cuda.max_memory_allocated() - before - data.weight.nbytes)
    assert peaks[1] < peaks[0] / 5
    assert peaks[1] < 1.2 * peaks[2]
