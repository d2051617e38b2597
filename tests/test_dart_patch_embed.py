"""The `dart_patch_embed` kernel against its definition, on a GPU or in Triton's interpreter.

Without a GPU, tests/test_interpreter.py runs this file under TRITON_INTERPRET=1.
"""

import math
import os

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tinytsm import ops
from tinytsm.kernels import reference
from tinytsm.testing import ODD_LENGTHS, assert_as_good_as_eager, kernel_device

DEVICE = kernel_device()
pytestmark = [
    pytest.mark.skipif(DEVICE is None, reason="needs a GPU or TRITON_INTERPRET=1"),
    pytest.mark.usefixtures("silent_overflow"),
]
if DEVICE is not None:
    from tinytsm.kernels import dart_patch_embed as kernel

NAMES = ("h", "loc", "scale", "token_weight", "weight_grad")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SETTINGS = {"patch": 16, "half_life_loc": 32.0, "half_life_scale": 512.0}


def series(rng, count: int, steps: int, *, missing: float = 0.1) -> torch.Tensor:
    x = rng.standard_normal((count, steps)).cumsum(1)
    x[rng.random(x.shape) < missing] = np.nan
    return torch.from_numpy(x - x[:, :1].clip(-9, 9)).float()


def weights(rng, patch: int, columns: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    w = rng.standard_normal((2 * patch + 4, columns)) * (2 * patch) ** -0.5
    return torch.from_numpy(w).to(dtype)


def run(embed, x, resolution, weight, grad, **settings):
    """Outputs of a forward pass, then the weight's gradient."""
    weight = weight.detach().clone().requires_grad_()
    h, *frame = embed(x, resolution, weight, **settings)
    h.backward(grad.to(h.dtype))
    return [h.detach(), *frame, weight.grad]


def check(x, resolution, weight, **settings):
    """Outputs and gradient of the kernel are as near to the float64 definition as eager's."""
    rows = x.shape[1] // settings["patch"]
    grad = torch.randn(len(x), rows, weight.shape[1]).to(weight.dtype)
    inputs = [t.to(DEVICE) for t in (x, resolution, weight, grad)]
    ours = run(kernel.dart_patch_embed, *inputs, **settings)
    eager = run(reference.dart_patch_embed, *inputs, **settings)
    truth = run(reference.dart_patch_embed, *(t.double() for t in inputs), **settings)
    assert_as_good_as_eager(ours, eager, truth, names=NAMES)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("tokens", ODD_LENGTHS)
def test_any_number_of_tokens(rng, tokens):
    check(series(rng, 2, 16 * tokens), torch.zeros(2), weights(rng, 16, 40), **SETTINGS)


def test_long_context(rng):
    check(series(rng, 1, 16 * 1000), torch.zeros(1), weights(rng, 16, 8), **SETTINGS)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch", [16, 32, 64])
def test_every_patch_length_and_dtype(rng, patch, dtype):
    x, weight = series(rng, 3, 17 * patch), weights(rng, patch, 136, dtype)
    check(x, torch.zeros(3), weight, **SETTINGS | {"patch": patch})


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="bends the interpreter's arithmetic"
)
@pytest.mark.parametrize("error", [8e-8, -8e-8])
def test_errors_of_powers_of_two_do_not_add_up(rng, monkeypatch, error):
    # an H200's 2^x was off by about so much: as a product of hundreds it made the memory longer, and failed here
    from triton.runtime.interpreter import InterpreterBuilder

    def approximate(x):
        return (np.exp2(x, dtype=np.float64) * (1 + error)).astype(x.dtype)

    monkeypatch.setattr(
        InterpreterBuilder, "create_exp2", lambda self, arg: self.unary_op(arg, approximate)
    )
    check(series(rng, 1, 16 * 1000), torch.zeros(1), weights(rng, 16, 8), **SETTINGS)


@pytest.mark.gpu
@pytest.mark.usefixtures("poisoned", "tf32")
@pytest.mark.parametrize("patch", [16, 32, 64])
def test_as_coarse_as_torch_is_told_to_multiply(rng, patch):
    check(
        series(rng, 3, 65 * patch),
        torch.zeros(3),
        weights(rng, patch, 136),
        **SETTINGS | {"patch": patch},
    )


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("columns", [1, 31, 129])
@pytest.mark.parametrize("count", [1, 5])
def test_series_and_columns_that_no_tile_divides(rng, count, columns):
    check(series(rng, count, 16 * 7), torch.zeros(count), weights(rng, 16, columns), **SETTINGS)


@pytest.mark.parametrize("half_lives", [(1.0, 16.0), (512.0, 8.0), (math.inf, math.inf)])
def test_half_lives(rng, half_lives):
    x, (loc, scale) = series(rng, 4, 16 * 12), half_lives
    more = {"patch": 16, "half_life_loc": loc, "half_life_scale": scale}
    check(x, torch.tensor([0.0, 1e-3, 0.5, 4.0]), weights(rng, 16, 8), **more)


def test_features_can_be_left_out(rng):
    x, weight = series(rng, 4, 16 * 5), weights(rng, 16, 8)
    check(x, torch.zeros(4), weight, **SETTINGS, features=False)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.data())
def test_random_shapes_and_masks(data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    tokens, columns = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    count = data.draw(st.integers(1, 4 if tokens > 16 else 9))
    rng = np.random.default_rng(seed)
    x = series(rng, count, 16 * tokens, missing=data.draw(st.floats(0, 1)))
    # whole patches hidden, as in training
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, tokens - 1))
        x.unflatten(1, (-1, 16))[:, start : start + data.draw(st.integers(1, 20))] = math.nan
    check(x, torch.zeros(count), weights(rng, 16, columns), **SETTINGS)


def hard_series(rng, tokens: int) -> torch.Tensor:
    """One of each kind of trouble, 16 steps to a token."""
    steps = 16 * tokens
    x = rng.standard_normal((9, steps))
    x[0] = np.nan  # nothing observed
    x[1] = 0.0  # constant
    x[2] = 3e5  # constant far from zero
    x[3] = np.nan
    x[3, 40] = 2.0  # one point
    x[4, 20:-3] = np.nan  # a long gap
    x[5] *= 1e30
    x[6] *= 1e-30
    # level 1e9, unit noise: the edge centres in float64
    level = 1e9 + x[7]
    x[7] = level - level[0]
    x[8, 50] = 1e12  # a spike
    return torch.from_numpy(x).float()


@pytest.mark.usefixtures("poisoned")
# the short one forgets the spike before the level does
@pytest.mark.parametrize("half_life_scale", [512.0, 4.0])
def test_hard_series_are_finite_and_equal_to_eager(rng, half_life_scale):
    tokens, settings = 20, SETTINGS | {"half_life_scale": half_life_scale}
    x, weight = hard_series(rng, tokens).to(DEVICE), weights(rng, 16, 24).to(DEVICE)
    zeros = torch.zeros(len(x), device=DEVICE)
    grad = torch.randn(len(x), tokens, 24, device=DEVICE)
    ours = run(kernel.dart_patch_embed, x, zeros, weight, grad, **settings)
    eager = run(reference.dart_patch_embed, x, zeros, weight, grad, **settings)
    for name, a in zip(NAMES, ours, strict=True):
        assert a.isfinite().all(), name
    h, loc, scale, token_weight, _ = ours
    assert torch.equal(scale > 0, eager[2] > 0)
    assert (scale[8, 3] > 0) and (scale[8, -1] > 0) == (half_life_scale == 512)
    assert (scale[:4] == 0).all() and (token_weight[:4] == 0).all()
    torch.testing.assert_close(token_weight, eager[3], rtol=0, atol=0)
    unit = eager[2].amax(1, keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(loc / unit, eager[1] / unit, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(scale / unit, eager[2] / unit, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(h[:8], eager[0][:8], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("later", [math.nan, 1e30, -7.0])
def test_the_future_cannot_be_seen(rng, later):
    x, weight = series(rng, 2, 16 * 70).to(DEVICE), weights(rng, 16, 24).to(DEVICE)
    zeros = torch.zeros(2, device=DEVICE)
    changed = x.clone()
    changed[:, 16 * 66 :] = later
    a = kernel.dart_patch_embed(x, zeros, weight, **SETTINGS)
    b = kernel.dart_patch_embed(changed, zeros, weight, **SETTINGS)
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one[:, :66], other[:, :66])
        assert not torch.equal(one[:, 66:], other[:, 66:]) or one is a[3]


def test_powers_of_two_change_no_bit(rng):
    x, weight = series(rng, 4, 16 * 6).to(DEVICE), weights(rng, 16, 24).to(DEVICE)
    zeros = torch.zeros(4, device=DEVICE)
    h, loc, scale, token_weight = kernel.dart_patch_embed(x, zeros, weight, **SETTINGS)
    for factor in (2.0**-20, 2.0**10):
        more = kernel.dart_patch_embed(x * factor, zeros, weight, **SETTINGS)
        assert torch.equal(more[0], h) and torch.equal(more[3], token_weight)
        assert torch.equal(more[1], loc * factor) and torch.equal(more[2], scale * factor)


def test_a_series_does_not_depend_on_its_neighbours(rng):
    x, weight = series(rng, 6, 16 * 9).to(DEVICE), weights(rng, 16, 24).to(DEVICE)
    zeros = torch.zeros(6, device=DEVICE)
    together = kernel.dart_patch_embed(x, zeros, weight, **SETTINGS)
    alone = kernel.dart_patch_embed(x[4:5], zeros[:1], weight, **SETTINGS)
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a[4:5], b)


def test_every_run_gives_the_same_bits(rng):
    x, weight = series(rng, 5, 16 * 33).to(DEVICE), weights(rng, 16, 24).to(DEVICE)
    grad = torch.randn(5, 33, 24, device=DEVICE)
    first, second = (
        run(kernel.dart_patch_embed, x, torch.zeros(5, device=DEVICE), weight, grad, **SETTINGS)
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_strided_inputs_and_gradients(rng):
    x, weight = series(rng, 4, 16 * 5).to(DEVICE), weights(rng, 16, 24).to(DEVICE)
    grad = torch.randn(5, 4, 24, device=DEVICE).transpose(0, 1)
    zeros = torch.zeros(4, device=DEVICE)
    strided = x.t().contiguous().t(), zeros, weight.t().contiguous().t(), grad
    a = run(kernel.dart_patch_embed, *strided, **SETTINGS)
    b = run(kernel.dart_patch_embed, x, zeros, weight, grad.contiguous(), **SETTINGS)
    assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_no_series_at_all(rng):
    weight = weights(rng, 16, 24).to(DEVICE).requires_grad_()
    empty = torch.empty(0, 160, device=DEVICE), torch.empty(0, device=DEVICE)
    h, loc, *_ = kernel.dart_patch_embed(*empty, weight, **SETTINGS)
    h.sum().backward()
    assert h.shape == (0, 10, 24) and loc.shape == (0, 10)
    assert weight.grad is not None and (weight.grad == 0).all()


def test_op_is_registered_as_pytorch_wants_it(rng):
    x, weight = series(rng, 2, 16 * 3).to(DEVICE), weights(rng, 16, 8).to(DEVICE)
    zeros = torch.zeros(2, device=DEVICE)
    op = torch.ops.tinytsm.dart_patch_embed.default
    torch.library.opcheck(op, (x, zeros, weight.requires_grad_(), 16, 32.0, math.inf, True))
    h, loc, scale, _, moves = op(x, zeros, weight, 16, 32.0, 512.0, True)
    backward = torch.ops.tinytsm.dart_patch_embed_backward.default
    torch.library.opcheck(backward, (x, loc, scale, moves, h.detach(), 16))


def test_compiles_in_one_graph(rng):
    x, weight = series(rng, 2, 16 * 3).to(DEVICE), weights(rng, 16, 8).to(DEVICE)
    zeros, grad = torch.zeros(2, device=DEVICE), torch.randn(2, 3, 8, device=DEVICE)
    compiled = torch.compile(kernel.dart_patch_embed, fullgraph=True, backend="aot_eager")
    a = run(compiled, x, zeros, weight, grad, **SETTINGS)
    b = run(kernel.dart_patch_embed, x, zeros, weight, grad, **SETTINGS)
    assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_autocast_changes_no_bit(rng):
    x, weight = series(rng, 2, 16 * 3).to(DEVICE), weights(rng, 16, 8).to(DEVICE)
    zeros, grad = torch.zeros(2, device=DEVICE), torch.randn(2, 3, 8, device=DEVICE)
    with torch.autocast(torch.device(DEVICE).type, torch.bfloat16):
        a = run(ops.dart_patch_embed, x, zeros, weight, grad, **SETTINGS)
    b = run(ops.dart_patch_embed, x, zeros, weight, grad, **SETTINGS)
    assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_only_the_embedding_carries_a_gradient(rng):
    x, weight = series(rng, 2, 16 * 3).to(DEVICE), weights(rng, 16, 8).to(DEVICE)
    outputs = kernel.dart_patch_embed(
        x, torch.zeros(2, device=DEVICE), weight.requires_grad_(), **SETTINGS
    )
    assert [t.requires_grad for t in outputs] == [True, False, False, False]


def test_shapes_are_known_without_running():
    x = torch.empty(4, 160, device="meta")
    weight = torch.empty(36, 24, device="meta", dtype=torch.bfloat16, requires_grad=True)
    h, *frame = kernel.dart_patch_embed(x, torch.empty(4, device="meta"), weight, **SETTINGS)
    assert h.shape == (4, 10, 24) and h.dtype == torch.bfloat16
    assert all(t.shape == (4, 10) and t.dtype == torch.float32 for t in frame)


def test_dispatch_takes_the_kernel_only_for_what_it_computes(rng, monkeypatch):
    calls = []
    launch = kernel.dart_patch_embed
    monkeypatch.setattr(
        kernel, "dart_patch_embed", lambda *a, **k: calls.append(1) or launch(*a, **k)
    )
    x, weight = series(rng, 2, 96).to(DEVICE), weights(rng, 16, 8).to(DEVICE)
    zeros = torch.zeros(2, device=DEVICE)
    ops.dart_patch_embed(x, zeros, weight, **SETTINGS)
    assert len(calls) == 1
    ops.dart_patch_embed(x, zeros, weight, **SETTINGS, norm="last")
    ops.dart_patch_embed(x.double(), zeros, weight.double(), **SETTINGS)
    odd = weights(rng, 12, 8).to(DEVICE)
    ops.dart_patch_embed(x, zeros, odd, **SETTINGS | {"patch": 12})
    assert len(calls) == 1


def test_errors_say_what_is_wanted():
    x, zeros, weight = torch.zeros(2, 96), torch.zeros(2), torch.zeros(36, 8)
    with pytest.raises(ValueError, match=r"steps a multiple .* got \(2, 95\) and patch 16"):
        kernel.dart_patch_embed(x[:, 1:], zeros, weight, **SETTINGS)
    with pytest.raises(ValueError, match=r"weight must be \(36, columns\) .* got \(35, 8\)"):
        kernel.dart_patch_embed(x, zeros, weight[1:], **SETTINGS)
    with pytest.raises(ValueError, match=r"resolution must be \(2,\)"):
        kernel.dart_patch_embed(x, zeros[1:], weight, **SETTINGS)
