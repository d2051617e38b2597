"""The `feature_attention` kernels against their definition, on a GPU or in Triton's interpreter.

Without a GPU, tests/test_interpreter.py runs this file under TRITON_INTERPRET=1.
"""

import functools

import pytest
import torch
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
    from tinytsm.kernels import attention, attention_tiles
    from tinytsm.kernels import feature_attention as kernel

NAMES = ("out", "qkv_grad", "q_gain_grad", "k_gain_grad")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def inputs(variates, *, items=3, tokens=5, heads=2, width=32, dtype=torch.float32) -> list[Tensor]:
    """qkv and the gains, then the upstream gradient."""
    series = items * variates
    qkv = torch.randn(series, tokens, 3, heads, width).to(dtype)
    gains = (1 + 0.3 * torch.randn(width) for _ in range(2))
    return [t.to(DEVICE) for t in (qkv, *gains, torch.randn(series, tokens, heads, width))]


def some_absent(variates: int, items: int = 3) -> Tensor:
    """The first item whole, the second without any variate, the others without some but never all."""
    present = torch.rand(items, variates) < 0.6
    present[:, -1] = True
    present[0], present[1] = True, False
    return present.flatten().to(DEVICE)


def run(attend, data: list[Tensor], variates: int, present: Tensor | None = None) -> list[Tensor]:
    """The answers, then the gradients of qkv and the gains."""
    leaves = [t.detach().clone().requires_grad_() for t in data[:3]]
    out = attend(*leaves, variates=variates, present=present)
    out.backward(data[3].to(out.dtype))
    return [out.detach(), *(t.grad for t in leaves)]


def check(*draws: list[Tensor], variates: int, present: Tensor | None = None, attend=None) -> None:
    """Errors are the largest over all draws: a gain has so few elements that on one draw eager may be exact by luck."""
    runs = [
        (
            run(attend or kernel.feature_attention, data, variates, present),
            run(reference.feature_attention, data, variates, present),
            run(reference.feature_attention, [t.double() for t in data], variates, present),
        )
        for data in draws
    ]
    ours, eager, truth = (
        [torch.stack(same) for same in zip(*r, strict=True)] for r in zip(*runs, strict=True)
    )
    assert_as_good_as_eager(ours, eager, truth, names=NAMES)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("attention_path", ["whole"], indirect=True)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("variates", [2, 3, 7, 21, 33, 64])
def test_groups_that_share_a_tile(attention_path, variates, masked):
    # more groups than a tile takes, and the last tile is not full
    items = 3 if variates > 8 else 12
    present = some_absent(variates, items) if masked else None
    check(inputs(variates, items=items), variates=variates, present=present)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("attention_path", ["stream"], indirect=True)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("variates", [7, 65, 150])
def test_streamed_groups(attention_path, variates, masked):
    present = some_absent(variates) if masked else None
    if masked and variates > 128:
        # a whole block of keys that nobody sees
        present[: variates - 10] = False
    check(inputs(variates, tokens=1, heads=1), variates=variates, present=present)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [32, 64, 128])
def test_every_head_width_and_dtype_as_dispatched(width, dtype):
    data = inputs(7, width=width, dtype=dtype)
    if attention.supports(data[0]):
        check(data, variates=7, present=some_absent(7))


# both sides of every tile's and block's edge, and what shares a tile unevenly
GROUPS = (2, 5, 21, 32, 33, 63, 64, 65, 128, 129)
# of four, one gain's gradient was a twentieth beyond the rule on an H200
_DRAWS = 4 if DEVICE is None or DEVICE.type == "cpu" else 8


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variates", GROUPS)
def test_groups_as_dispatched(variates, dtype):
    wide = [w for w in attention.HEAD_WIDTHS if attention.supports(torch.empty(0, w, dtype=dtype))]
    turn = GROUPS.index(variates) + DTYPES.index(dtype)
    draws = [
        inputs(variates, width=wide[turn % len(wide)], dtype=dtype, heads=1, tokens=2)
        for _ in range(_DRAWS if variates < 128 else 1)
    ]
    present = some_absent(variates) if turn % 2 else None
    attend = functools.partial(ops.feature_attention, backend="triton")
    check(*draws, variates=variates, present=present, attend=attend)


@pytest.mark.parametrize("attention_path", ["whole", "stream"], indirect=True)
def test_a_lone_variate_is_its_value(attention_path):
    data = inputs(1, items=9, tokens=2)
    out, grad, *gain_grads = run(kernel.feature_attention, data, 1)
    torch.testing.assert_close(out, data[0][:, :, 2])
    torch.testing.assert_close(grad[:, :, 2], data[3])
    # what is left of zeros is rounding
    assert all(g.abs().max() < 1e-4 for g in (grad[:, :, :2], *gain_grads))
    assert torch.equal(ops.feature_attention(*data[:3], variates=1), data[0][:, :, 2])


@pytest.mark.parametrize("attention_path", ["whole", "stream"], indirect=True)
def test_what_absent_variates_hold_changes_no_bit(attention_path):
    data, present = inputs(7), some_absent(7)
    before = run(kernel.feature_attention, data, 7, present)
    item = present.unflatten(0, (-1, 7))
    hidden = ~item & item.any(1, keepdim=True)
    data[0][hidden.flatten()] = 1e4
    after = run(kernel.feature_attention, data, 7, present)
    assert torch.equal(before[0][present], after[0][present])


@pytest.mark.parametrize("attention_path", ["whole", "stream"], indirect=True)
def test_neighbours_change_no_bit_and_every_run_gives_the_same(attention_path):
    data = inputs(5, items=6)
    first, second = (run(kernel.feature_attention, data, 5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    item = slice(15, 20)
    others = inputs(5, items=6)
    for place in (0, 3):
        others[place][item] = data[place][item]
    beside = run(kernel.feature_attention, [others[0], *data[1:3], others[3]], 5)
    assert all(torch.equal(a[item], b[item]) for a, b in zip(first[:2], beside[:2], strict=True))


@pytest.mark.parametrize("attention_path", ["whole", "stream"], indirect=True)
def test_strided_projections(attention_path):
    # what lies between them is never read
    wide = torch.full((21, 2 * 5, 3, 4, 64), torch.nan, device=DEVICE)
    data = [wide[:, ::2, :, 1:3, 16:48], *inputs(7)[1:]]
    data[0].copy_(torch.randn(data[0].shape))
    copied = [data[0].contiguous(), *data[1:]]

    def outputs(qkv, q_gain, k_gain, grad):
        qkv = qkv.detach().requires_grad_()
        out = kernel.feature_attention(qkv, q_gain, k_gain, variates=7)
        return [out.detach(), *torch.autograd.grad(out, qkv, grad)]

    found, expected = outputs(*data), outputs(*copied)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("attention_path", ["whole", "stream"], indirect=True)
@pytest.mark.parametrize("size", [0.0, 1e-18, 1e18])
def test_rows_of_any_size_are_as_good_as_eager(attention_path, size):
    data = inputs(7, tokens=2)
    data[0][::3] *= size
    check(data, variates=7, present=some_absent(7))


def test_op_is_registered_as_pytorch_wants_it():
    qkv, q_gain, k_gain, grad = inputs(3, tokens=2)
    state = some_absent(3).to(torch.int8)
    # as the function around the op marks an item without any variate
    state[3:6] = attention_tiles.ALONE
    data = (qkv.requires_grad_(), q_gain.requires_grad_(), k_gain.requires_grad_(), state, 3)
    torch.library.opcheck(torch.ops.tinytsm.feature_attention.default, data)
    data = (qkv.detach(), q_gain.detach(), k_gain.detach(), state, 3)
    out, lse = torch.ops.tinytsm.feature_attention(*data)
    backward = torch.ops.tinytsm.feature_attention_backward.default
    torch.library.opcheck(backward, (*data, out, lse, grad))


def test_compiles_in_one_graph():
    data, present = inputs(7), some_absent(7)
    compiled = torch.compile(ops.feature_attention, fullgraph=True, backend="aot_eager")
    a, b = (run(f, data, 7, present) for f in (compiled, kernel.feature_attention))
    assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_shapes_are_known_without_running():
    data = [t.to("meta") for t in inputs(7, dtype=torch.bfloat16)[:3]]
    out = kernel.feature_attention(*data, variates=7)
    assert out.shape == (21, 5, 2, 32) and out.dtype == torch.bfloat16


def test_errors_say_what_is_wanted():
    data = inputs(3)[:3]
    with pytest.raises(ValueError, match="variates must divide the 9 series, got 4"):
        kernel.feature_attention(*data, variates=4)
    with pytest.raises(
        ValueError, match=r"present must be \(9,\), one for each series, got \(3,\)"
    ):
        present = torch.ones(3, dtype=torch.bool, device=DEVICE)
        kernel.feature_attention(*data, variates=3, present=present)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("variates", "width"), [(2, 32), (7, 64), (21, 64), (100, 128)])
def test_realistic_shapes(variates, width, dtype):
    if attention.supports(torch.empty(0, width, dtype=dtype)):
        draws = [
            inputs(variates, items=16, tokens=64, heads=8, width=width, dtype=dtype)
            for _ in range(3)
        ]
        check(*draws, variates=variates, present=some_absent(variates, 16))
