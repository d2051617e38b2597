"""Numba's kernels for training against their definitions, gradients too."""

import functools
import math
import os
from collections.abc import Sequence

import numba
import pytest
import torch
from torch import Tensor

from tests.test_grid_loss import (
    NAMES,
    Inputs,
    assert_refuses_wrong_shapes,
    compare,
    far_away,
    inputs,
    run,
    strided,
    tied,
)
from tinytsm import ops
from tinytsm.kernels import cpu_training as kernel
from tinytsm.kernels import reference
from tinytsm.testing import ODD_LENGTHS, assert_as_good_as_eager

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(
        bool(numba.config.DISABLE_JIT),  # type: ignore[attr-defined]
        reason="Numba is switched off, and the definitions run",
    ),
]
ONE = torch.ones(())


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def equal(ours: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, others, strict=True))


def grid(rng, **shape) -> Inputs:
    return inputs(rng, **shape).map(torch.Tensor.cpu)


def check_loss(data: Inputs) -> None:
    before = [t.clone() for t in data]
    ours = compare(kernel.grid_loss, data)
    assert all(t.dtype == torch.float32 for t in ours)
    for a, b in zip(data, before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    with torch.no_grad():
        assert equal(kernel.grid_loss(*data), ours[:2])


@pytest.mark.parametrize("patch", [1, 7, 16, 32])
@pytest.mark.parametrize("horizon", [1, 2, 5, 24])
def test_loss(rng, patch, horizon):
    check_loss(grid(rng, patch=patch, horizon=horizon, series=5, tokens=32))


@pytest.mark.parametrize("rank", [1, 31, 64])
@pytest.mark.parametrize("quantiles", [1, 3, 11])
def test_loss_of_any_rank_and_number_of_quantiles(rng, rank, quantiles):
    check_loss(grid(rng, rank=rank, quantiles=quantiles))


def test_loss_in_chunks_and_on_two_threads(rng, monkeypatch, two_threads):
    check_loss(grid(rng, series=9, tokens=32))
    monkeypatch.setattr(kernel, "CHUNK_BYTES", 1)
    check_loss(grid(rng, series=2))


@pytest.mark.parametrize("horizon", [1, 24])
def test_loss_by_products_in_bfloat16(rng, horizon):
    data = grid(rng, horizon=horizon, series=5, tokens=32)

    def rounded(h, weight, *others):
        return reference.grid_loss(h.bfloat16(), weight.bfloat16(), *others)

    ours = run(functools.partial(kernel.grid_loss, dtype=torch.bfloat16), data, ONE)
    assert all(t.dtype == torch.float32 for t in ours)
    eager, truth = run(rounded, data, ONE), run(reference.grid_loss, data.double(), ONE)
    assert_as_good_as_eager(ours, eager, truth, names=NAMES)
    exact = run(kernel.grid_loss, data, ONE)
    # the counts alone are the same
    assert [torch.equal(a, b) for a, b in zip(ours, exact, strict=True)].count(True) == 1


def test_targets_far_away_and_huge_outputs(rng):
    check_loss(far_away(grid(rng)))


def test_ties_split_the_slope(rng):
    check_loss(tied(grid(rng, missing=0.0)))


def test_nothing_scored_is_zero(rng):
    data = grid(rng, missing=0.0)
    hidden = data._replace(target=torch.full_like(data.target, math.nan))
    degenerate = data._replace(scale=torch.zeros_like(data.scale), loc=data.loc * 1e30)
    for empty in (hidden, degenerate):
        assert all((t == 0).all() for t in run(kernel.grid_loss, empty, ONE))


def test_what_is_no_number_is_seen_in_the_loss(rng):
    for output in range(10):
        data = grid(rng, missing=0.0)
        data.weight[0, :, output] = math.nan
        assert run(kernel.grid_loss, data, ONE)[0][0].isnan()


def test_what_is_not_scored_counts_nothing_whatever_the_outputs(rng):
    data = grid(rng, missing=0.0)
    data.target[:, :, 0] = math.nan
    plain = run(kernel.grid_loss, data, ONE)
    data.weight[:, :, :10] = 1e38
    data.h[:] = data.h.abs() * 10
    assert all(t.isfinite().all() for t in run(kernel.grid_loss, data, ONE)[:2])
    assert all(t.isfinite().all() for t in plain)


def test_every_run_of_the_loss_gives_the_same_bits(rng, two_threads):
    data = grid(rng, series=7)
    assert equal(*(run(kernel.grid_loss, data, ONE) for _ in range(2)))


def test_strides_are_followed(rng):
    data = grid(rng)
    assert equal(*(run(kernel.grid_loss, d, ONE) for d in (data, strided(data))))


def test_the_loss_of_no_series(rng):
    data = grid(rng)
    outputs = run(kernel.grid_loss, data._replace(**{
        name: getattr(data, name)[:0] for name in Inputs._fields if name not in ("weight", "levels")
    }), ONE)  # fmt: skip
    assert all((t == 0).all() for t in outputs)


def test_autocast_changes_no_bit_of_the_loss(rng):
    data = grid(rng)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run(kernel.grid_loss, data, ONE)
    assert equal(rounded, run(kernel.grid_loss, data, ONE))


def test_only_the_gradients_that_are_asked_for(rng):
    data = grid(rng)
    both = run(kernel.grid_loss, data, ONE)
    for i in range(2):
        leaf = data[i].clone().requires_grad_()
        total, _ = kernel.grid_loss(*data[:i], leaf, *data[i + 1 :])
        total.sum().backward()
        assert torch.equal(leaf.grad, both[2 + i])


def qkv(series: int, tokens: int, *, width: int = 32, heads: int = 2) -> list[Tensor]:
    return [torch.randn(series, heads, tokens, width).bfloat16() for _ in range(3)]


def attend(attention, inputs: list[Tensor], upstream: Tensor) -> list[Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    out = attention(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out))]


def by_matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ops._matmul_attention(q, k, v, is_causal=True)


def check_attention(inputs: list[Tensor]) -> None:
    upstream = torch.randn(inputs[2].shape).bfloat16()
    ours, eager = (attend(f, inputs, upstream) for f in (kernel.causal_attention, by_matmul))
    truth = attend(by_matmul, [t.double() for t in inputs], upstream.double())
    assert [(t.dtype, t.shape) for t in ours] == [(t.dtype, t.shape) for t in eager]
    assert_as_good_as_eager(ours, eager, truth, names=["out", "q_grad", "k_grad", "v_grad"])


@pytest.mark.parametrize("tokens", [2, 16, 64, *ODD_LENGTHS])
def test_attention(tokens):
    check_attention(qkv(3, tokens))


@pytest.mark.parametrize("width", [2, 30, 128])
def test_heads_of_any_width_on_two_threads(width, two_threads):
    check_attention(qkv(5, 21, width=width, heads=3))


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_far_above_and_below_the_others(sign):
    q, _, v = qkv(2, 24)
    check_attention([100 * q, sign * 100 * q, v])


def test_the_future_is_not_read():
    inputs, upstream = qkv(2, 20), torch.randn(2, 2, 20, 32)
    upstream[:, :, 11:] = 0
    before = attend(kernel.causal_attention, inputs, upstream)
    for t in inputs:
        t[:, :, 11:] = 7.0
    after = attend(kernel.causal_attention, inputs, upstream)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[:, :, :11], b[:, :, :11])


def test_attention_to_what_is_no_number():
    q, k, v = qkv(2, 20)
    for bad in (math.nan, -math.nan):
        spoilt = k.clone()
        spoilt[0, 0, 7, 3] = bad
        found = kernel.causal_attention(q, spoilt, v).isnan().all(-1)
        assert found[0, 0].tolist() == [token >= 7 for token in range(20)] and found.sum() == 13


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton's kernels come first there")
def test_they_run_where_something_is_learned(rng, monkeypatch):
    ran = []
    for name in ("grid_loss", "causal_attention"):
        inner = getattr(kernel, name)

        def watched(*tensors, _name=name, _inner=inner, **settings):
            ran.append(_name)
            return _inner(*tensors, **settings)

        monkeypatch.setattr(kernel, name, watched)
    data, heads = grid(rng), torch.randn(2, 4, 3, 2, 8)
    gains = torch.ones(8), torch.ones(8)

    def everything(dtype: torch.dtype) -> list[str]:
        ran.clear()
        ops.grid_loss(*data)
        ops.causal_attention(heads.to(dtype), *gains)
        ops.grid_loss(*data.double())
        return list(ran)

    assert everything(torch.bfloat16) == ["grid_loss", "causal_attention"]
    assert everything(torch.float32) == ["grid_loss"]
    with torch.no_grad():
        # a forecast's attention is another
        assert everything(torch.bfloat16) == ["grid_loss"]
    with pytest.raises(ValueError, match="attention numba needs a CPU, .* got torch.float32"):
        ops.causal_attention(heads, *gains, backend="numba")
    with pytest.raises(ValueError, match="attention over tokens"):
        ops.choose_attention("numba", heads.bfloat16(), kind="feature")
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert everything(torch.bfloat16) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("patch", [1, 16])
def test_the_loss_is_registered_as_pytorch_wants_it(rng, patch, dtype):
    check = torch.library.opcheck
    data = grid(rng, rank=8, horizon=2, patch=patch)
    for gradients in (False, True):
        leaves = [t.clone().requires_grad_(gradients) for t in data[:2]]
        check(torch.ops.tinytsm.grid_loss_cpu.default, (*leaves, *data[2:], dtype, gradients))
    total, _, rows, weights = kernel._grid_loss(*data, dtype, True)
    backward = torch.ops.tinytsm.grid_loss_cpu_backward.default
    check(backward, (*data[:2], data.offset, rows, weights, torch.ones_like(total)))


def test_attention_is_registered_as_pytorch_wants_it():
    check = torch.library.opcheck
    heads = qkv(2, 16, width=8)
    leaves = [t.clone().requires_grad_() for t in heads]
    # its gradients are rounded, and so not those of finite differences
    check(torch.ops.tinytsm.causal_attention_cpu.default, tuple(leaves))
    out, *weights = kernel._causal_attention(*heads)
    backward = torch.ops.tinytsm.causal_attention_cpu_backward.default
    check(backward, (*heads, *weights, torch.ones_like(out)))


def in_one_graph(function):
    return torch.compile(function, fullgraph=True, backend="aot_eager")


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton's kernels come first there")
def test_they_compile_in_one_graph(rng, monkeypatch):
    data = grid(rng)
    assert equal(*(run(f, data, ONE) for f in (in_one_graph(ops.grid_loss), kernel.grid_loss)))
    # what falls to the definition
    exact = data.double()
    found, truth = (run(f, exact, ONE) for f in (in_one_graph(ops.grid_loss), reference.grid_loss))
    torch.testing.assert_close(found, truth)
    heads, upstream = qkv(2, 16), torch.randn(2, 2, 16, 32)
    compiled = in_one_graph(kernel.causal_attention)
    assert equal(*(attend(f, heads, upstream) for f in (compiled, kernel.causal_attention)))
    # inside what is compiled it is the same op without gradients
    inputs = torch.randn(2, 8, 3, 2, 8).bfloat16(), torch.ones(8), torch.ones(8)
    with torch.no_grad():
        compiled = in_one_graph(ops.causal_attention)(*inputs)
    assert torch.equal(compiled, ops.causal_attention(*inputs))


def test_gradients_are_found_only_where_they_are_wanted(rng, monkeypatch):
    wanted, inner = [], kernel._grid_loss
    monkeypatch.setattr(kernel, "_grid_loss", lambda *args: wanted.append(args[-1]) or inner(*args))
    data = grid(rng)
    kernel.grid_loss(*data)
    data.h.requires_grad_()
    with torch.no_grad():
        kernel.grid_loss(*data)
    kernel.grid_loss(*data)
    assert wanted == [False, False, True]


def test_second_derivatives_are_refused(rng):
    data = grid(rng)
    data.h.requires_grad_()
    (slope,) = torch.autograd.grad(kernel.grid_loss(*data)[0].sum(), data.h, create_graph=True)
    with pytest.raises(RuntimeError, match="grid_loss_cpu_backward"):
        slope.square().sum().backward()


def test_the_losses_errors_say_what_is_wanted(rng):
    assert_refuses_wrong_shapes(kernel.grid_loss, grid(rng))
