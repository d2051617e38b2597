"""The `causal_attention` kernels against their definition, on a GPU or in Triton's interpreter.

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
    from tinytsm.kernels import attention
    from tinytsm.kernels import causal_attention as kernel

NAMES = ("out", "qkv_grad", "q_gain_grad", "k_gain_grad")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def inputs(*, series=2, tokens=16, heads=2, width=32, dtype=torch.float32) -> list[Tensor]:
    """qkv and the gains, then the upstream gradient."""
    qkv = torch.randn(series, tokens, 3, heads, width).to(dtype)
    gains = (1 + 0.3 * torch.randn(width) for _ in range(2))
    return [t.to(DEVICE) for t in (qkv, *gains, torch.randn(series, tokens, heads, width))]


def run(attend, data: list[Tensor]) -> list[Tensor]:
    """The answers, then the gradients of qkv and the gains, zeros where nothing depends on them."""
    leaves = [t.detach().clone().requires_grad_() for t in data[:3]]
    out = attend(*leaves)
    grad = data[3].to(out.dtype)
    grads = torch.autograd.grad(out, leaves, grad, allow_unused=True, materialize_grads=True)
    return [out.detach(), *grads]


def check(data: list[Tensor], attend=None, factor: float = 2.0) -> None:
    ours = run(attend or kernel.causal_attention, data)
    eager = run(reference.causal_attention, data)
    truth = run(reference.causal_attention, [t.double() for t in data])
    assert_as_good_as_eager(ours, eager, truth, names=NAMES, factor=factor)


@pytest.mark.usefixtures("poisoned", "attention_path")
@pytest.mark.parametrize("attention_path", ["whole"], indirect=True)
@pytest.mark.parametrize("tokens", [2, 5, 21, 31, 33, 63, 64, 65, 100, 127, 128])
def test_lengths_of_whole_tiles(attention_path, tokens):
    # a tile is shared by what fits, and the last one is not full
    check(inputs(tokens=tokens, series=3 if tokens > 32 else 2 * (64 // tokens) + 1, heads=2))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("attention_path", ["stream"], indirect=True)
# not 1, where true gradients of scores are zero and only rounding is left to compare
@pytest.mark.parametrize("tokens", [2, 32, 63, 65, 96, 129, 200])
def test_lengths_of_streams(attention_path, tokens):
    check(inputs(tokens=tokens, series=2 if tokens < 100 else 1))


# both sides of every tile's and block's edge, and between them
LENGTHS = (1, 2, 31, 33, 63, 64, 65, 127, 128, 129, 193, 300)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", LENGTHS)
def test_lengths_as_dispatched(tokens, dtype):
    wide = [w for w in attention.HEAD_WIDTHS if attention.supports(torch.empty(0, w, dtype=dtype))]
    width = wide[(LENGTHS.index(tokens) + DTYPES.index(dtype)) % len(wide)]
    # among a few rows eager may be exact by luck
    series, heads = max(1, 64 // tokens), 4 if tokens < 128 else 1
    data = inputs(tokens=tokens, width=width, dtype=dtype, series=series, heads=heads)
    check(data, functools.partial(ops.causal_attention, backend="triton"))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("tokens", [33, 130])
def test_every_head_width_and_dtype_as_dispatched(tokens, width, dtype):
    data = inputs(tokens=tokens, width=width, dtype=dtype, series=1)
    assert attention.supports(data[0]) or (width > 32 and dtype == torch.float32)
    if attention.supports(data[0]):
        check(data)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("attention_path", ["whole"], indirect=True)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_full_tiles_of_sixteen_bits(attention_path, dtype):
    check(inputs(tokens=128, width=64, dtype=dtype, heads=1))


@pytest.mark.parametrize("attention_path", ["whole", "stream"], indirect=True)
def test_strided_projections_are_read_where_they_lie(attention_path, monkeypatch):
    # what lies between them is never read
    wide = torch.full((2, 2 * 40, 3, 5, 64), torch.nan, device=DEVICE)
    data = [wide[:, ::2, :, 1:4, 16:48], *inputs()[1:3], torch.randn(2, 40, 3, 32, device=DEVICE)]
    data[0].copy_(torch.randn(data[0].shape))
    assert not data[0].is_contiguous()
    copied = [data[0].contiguous(), *data[1:]]

    def outputs(qkv, q_gain, k_gain, grad):
        qkv = qkv.detach().requires_grad_()
        out = kernel.causal_attention(qkv, q_gain, k_gain)
        return [out.detach(), *torch.autograd.grad(out, qkv, grad)]

    expected = outputs(*copied)
    with monkeypatch.context() as patch:
        patch.setattr(
            Tensor, "contiguous", lambda t: t if t.is_contiguous() else pytest.fail("copied")
        )
        found = outputs(*data)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    backwards = data[0].transpose(-1, -2).contiguous().transpose(-1, -2)
    found = outputs(backwards, *data[1:])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("attention_path", ["whole", "stream"], indirect=True)
@pytest.mark.parametrize("size", [0.0, 1e-18, 1e4, 1e18])
def test_rows_of_any_size_are_as_good_as_eager(attention_path, size):
    data = inputs(tokens=20)
    data[0][:, ::3] *= size
    check(data)


@pytest.mark.parametrize("attention_path", ["whole", "stream"], indirect=True)
def test_sharp_attention(attention_path):
    # gains of 20 make scores of thousands: weights of 0 and 1
    data = inputs(tokens=40)
    data[1] *= 20
    data[2] *= 20
    # on an H200 answers from float32 scores of thousands were off by four times as much as eager's: tensor cores cut
    # sums off, eager rounds them
    check(data, factor=2.0 if DEVICE.type == "cpu" else 8.0)


@pytest.mark.parametrize("attention_path", ["whole", "stream"], indirect=True)
def test_the_future_changes_no_bit(attention_path):
    data = inputs(tokens=70, series=1)
    before = kernel.causal_attention(*data[:3])
    data[0][:, 40:] = 1e30
    after = kernel.causal_attention(*data[:3])
    assert torch.equal(before[:, :40], after[:, :40])


@pytest.mark.parametrize("attention_path", ["whole", "stream"], indirect=True)
def test_neighbours_change_no_bit_and_every_run_gives_the_same(attention_path):
    data = inputs(tokens=20, series=7)
    first, second = (run(kernel.causal_attention, data) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    # in the same place of its tile: elsewhere tensor cores add in another order
    others = [s for s in range(7) if s != 4]
    for t in (data[0], data[3]):
        t[others] = 1e4 * torch.randn_like(t[others])
    among_others = run(kernel.causal_attention, data)
    assert all(torch.equal(a[4], b[4]) for a, b in zip(first[:2], among_others[:2], strict=True))


def test_both_paths_are_dispatched(monkeypatch):
    qkv = torch.empty(1, 1, 3, 1, 64, dtype=torch.bfloat16)
    lengths, whole_tile = (1, 64, 65, 128, 129), attention.whole_tile
    tiles = [whole_tile(n, qkv, causal=True, backward=True) for n in lengths]
    assert tiles == [64, 64, 128, 128, None]
    tiles = [whole_tile(n, qkv, causal=False, backward=False) for n in lengths]
    assert tiles == [64, 64, None, None, None]
    monkeypatch.setattr(attention, "architecture", lambda: 80)
    assert whole_tile(128, qkv, causal=True, backward=True) is None
    assert whole_tile(128, qkv, causal=True, backward=False) == 128
    assert whole_tile(1, qkv[..., :32].float(), causal=True, backward=False) is None
    assert not attention.supports(qkv.float())
    assert whole_tile(1, qkv.repeat(1, 1, 1, 1, 2), causal=True, backward=False) is None


def test_no_series_give_no_answers():
    data = inputs(series=0)
    out, *grads = run(kernel.causal_attention, data)
    assert out.shape == (0, 16, 2, 32) and all((g == 0).all() for g in grads)


def test_op_is_registered_as_pytorch_wants_it():
    qkv, q_gain, k_gain, grad = inputs(tokens=5)
    table = reference.rotary_table(5, 16, dtype=torch.float32, device=qkv.device)
    data = (qkv.requires_grad_(), q_gain.requires_grad_(), k_gain.requires_grad_(), table)
    torch.library.opcheck(torch.ops.tinytsm.causal_attention.default, data)
    data = tuple(t.detach() for t in data)
    out, lse = torch.ops.tinytsm.causal_attention(*data)
    backward = torch.ops.tinytsm.causal_attention_backward.default
    torch.library.opcheck(backward, (*data, out, lse, grad))


def test_compiles_in_one_graph():
    data = inputs()
    compiled = torch.compile(ops.causal_attention, fullgraph=True, backend="aot_eager")
    a, b = (run(f, data) for f in (compiled, kernel.causal_attention))
    assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_shapes_are_known_without_running():
    data = [t.to("meta") for t in inputs(dtype=torch.bfloat16)[:3]]
    out = kernel.causal_attention(*data)
    assert out.shape == (2, 16, 2, 32) and out.dtype == torch.bfloat16


def test_dispatch_takes_the_kernel_only_for_what_it_computes(monkeypatch):
    calls = []
    launch = kernel.causal_attention
    monkeypatch.setattr(kernel, "causal_attention", lambda *a: calls.append(1) or launch(*a))
    data = inputs()[:3]
    ops.causal_attention(*data)
    assert len(calls) == 1
    for backend in ("sdpa", "reference"):
        ops.causal_attention(*data, backend=backend)
    ops.causal_attention(*(t.double() for t in data))
    ops.causal_attention(*inputs(width=16)[:3])
    assert len(calls) == 1


def test_errors_say_what_is_wanted():
    qkv, q_gain, k_gain, _ = inputs()
    with pytest.raises(
        ValueError,
        match=r"qkv must be \(series, tokens, 3, heads, width\).*got \(2, 16, 2, 2, 32\)",
    ):
        kernel.causal_attention(qkv[:, :, :2], q_gain, k_gain)
    with pytest.raises(ValueError, match="float32, got .*float64"):
        kernel.causal_attention(qkv.double(), q_gain, k_gain)
    with pytest.raises(ValueError, match=r"gains must be \(32,\).*got \(31,\)"):
        kernel.causal_attention(qkv, q_gain[1:], k_gain)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "width"), [(64, 32), (128, 64), (512, 64), (1024, 128)])
def test_realistic_shapes(tokens, width, dtype):
    data = inputs(series=64, tokens=tokens, heads=8, width=width, dtype=dtype)
    if attention.supports(data[0]):
        check(data)


@pytest.mark.gpu
def test_more_values_than_32_bits_count():
    # 2^31 values and a little: offsets that overflowed would read or write elsewhere
    qkv = torch.randn(43700, 128, 3, 2, 64, device=DEVICE, dtype=torch.bfloat16)
    assert qkv.numel() > 2**31
    gain = torch.ones(64, device=DEVICE)
    out = kernel.causal_attention(qkv, gain, gain)
    torch.testing.assert_close(out[-1:], kernel.causal_attention(qkv[-1:], gain, gain))


@pytest.mark.gpu
def test_memory_is_what_is_read_and_written():
    qkv, q_gain, k_gain, grad = inputs(
        series=256, tokens=128, heads=8, width=64, dtype=torch.bfloat16
    )
    qkv.requires_grad_()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kernel.causal_attention(qkv, q_gain, k_gain).backward(grad.to(qkv.dtype))
    # answers, their upstream gradient in their dtype, gradients of the inputs, and a few percent of sums
    assert torch.cuda.max_memory_allocated() - before < 1.1 * (qkv.nbytes + 2 * grad.nbytes / 2)
