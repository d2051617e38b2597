"""Numba's kernels against their definitions, and when they run: without gradients, on CPU, in two dtypes."""

import math
import os
from typing import Any

import numba
import pytest
import torch
from numba.core import caching
from torch import Tensor

from tests.test_dart_patch_embed import NAMES, SETTINGS, hard_series, series, weights
from tinytsm import ops
from tinytsm.kernels import cpu, cpu_loops, reference
from tinytsm.testing import ODD_LENGTHS, assert_as_good_as_eager

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(
        bool(numba.config.DISABLE_JIT),  # type: ignore[attr-defined]
        reason="Numba is switched off, and the definitions run",
    ),
]
EMBED: dict[str, Any] = {**SETTINGS}
both = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def check(kernel, definition, inputs: list[Tensor], **settings) -> None:
    before = [t.clone() for t in inputs]
    ours = kernel(*inputs, **settings)
    eager = definition(*inputs, **settings)
    truth = definition(*(t.double() for t in inputs), **settings)
    assert ours.dtype == eager.dtype
    assert_as_good_as_eager([ours], [eager], [truth], names=["out"])
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


def attention_inputs(
    series: int, tokens: int, *, width: int = 32, heads: int = 2, dtype=torch.float32
) -> list[Tensor]:
    gains = (1 + 0.3 * torch.randn(width) for _ in range(2))
    return [torch.randn(series, tokens, 3, heads, width).to(dtype), *gains]


def check_embedding(x: Tensor, resolution: Tensor, weight: Tensor, **settings) -> None:
    """Against the definition, as near as eager; gradients there are none."""
    inputs = [x, resolution, weight]
    before = [t.clone() for t in inputs]
    ours = cpu.dart_patch_embed(*inputs, **settings)
    eager = reference.dart_patch_embed(*inputs, **settings)
    truth = reference.dart_patch_embed(*(t.double() for t in inputs), **settings)
    assert [t.dtype for t in ours] == [t.dtype for t in eager]
    assert_as_good_as_eager(ours, eager, truth, names=NAMES[:4])
    for a, b in zip(inputs, before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("tokens", [16, 64, *ODD_LENGTHS])
@pytest.mark.parametrize("missing", [0.0, 0.1, 0.9])
def test_embedding(rng, tokens, missing):
    x = series(rng, 3, 16 * tokens, missing=missing)
    check_embedding(x, torch.zeros(3), weights(rng, 16, 40), **EMBED)


@pytest.mark.parametrize("patch", [1, 7, 32])
@pytest.mark.parametrize("features", [False, True])
def test_embedding_of_patches_of_any_length(rng, patch, features):
    x = series(rng, 4, 12 * patch)
    # whole patches without a value
    x[1, : 5 * patch] = x[2, 4 * patch : 9 * patch] = math.nan
    resolution = torch.tensor([0.0, 1e-3, 0.5, 4.0])
    more = EMBED | {"patch": patch, "features": features}
    check_embedding(x, resolution, weights(rng, patch, 8), **more)


@pytest.mark.parametrize("half_lives", [(1.0, 16.0), (512.0, 8.0), (math.inf, math.inf)])
def test_embedding_with_other_memories(rng, half_lives):
    loc, scale = half_lives
    more = {"patch": 16, "half_life_loc": loc, "half_life_scale": scale}
    check_embedding(series(rng, 4, 16 * 40), torch.zeros(4), weights(rng, 16, 8), **more)


@pytest.mark.parametrize("half_life_scale", [512.0, 4.0])
def test_embedding_of_hard_series_is_finite_and_equal_to_eager(rng, half_life_scale):
    x, weight = hard_series(rng, 20), weights(rng, 16, 24)
    more = EMBED | {"half_life_scale": half_life_scale}
    ours = cpu.dart_patch_embed(x, torch.zeros(len(x)), weight, **more)
    assert all(t.isfinite().all() for t in ours)
    eager = reference.dart_patch_embed(x, torch.zeros(len(x)), weight, **more)
    # squares of 1e-30 are nothing in float32, and something in the kernel's statistics
    tiny = x[6:7].double(), torch.zeros(1).double(), weight.double()
    for known, truth in zip(eager, reference.dart_patch_embed(*tiny, **more), strict=True):
        known[6:7] = truth
    h, loc, scale, token_weight = ours
    assert torch.equal(scale > 0, eager[2] > 0) and torch.equal(token_weight, eager[3])
    unit = eager[2].amax(1, keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(loc / unit, eager[1] / unit, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(scale / unit, eager[2] / unit, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(h[:8], eager[0][:8], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("later", [math.nan, 1e30, -7.0])
def test_the_embedding_does_not_see_the_future(rng, later):
    x, weight = series(rng, 2, 16 * 70), weights(rng, 16, 24)
    changed = x.clone()
    changed[:, 16 * 66 :] = later
    a, b = (cpu.dart_patch_embed(t, torch.zeros(2), weight, **EMBED) for t in (x, changed))
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one[:, :66], other[:, :66])
        assert not torch.equal(one[:, 66:], other[:, 66:]) or one is a[3]


def test_powers_of_two_change_no_bit_of_the_embedding(rng):
    x, weight = series(rng, 4, 16 * 6), weights(rng, 16, 24)
    h, loc, scale, token_weight = cpu.dart_patch_embed(x, torch.zeros(4), weight, **EMBED)
    for factor in (2.0**-20, 2.0**10):
        more = cpu.dart_patch_embed(x * factor, torch.zeros(4), weight, **EMBED)
        assert torch.equal(more[0], h) and torch.equal(more[3], token_weight)
        assert torch.equal(more[1], loc * factor) and torch.equal(more[2], scale * factor)


def test_asinh_of_any_size_of_numbers():
    size = torch.cat((10 ** torch.linspace(-38, 18, 9999), torch.linspace(0, 5, 9999)))
    x = torch.cat((size, -size, torch.zeros(1)))
    found, bits = x.clone().numpy(), torch.empty(len(x), dtype=torch.int32).numpy()
    cpu_loops.asinh(found, len(x), bits, bits.view("float32"))
    torch.testing.assert_close(
        torch.from_numpy(found).double(), x.double().asinh(), rtol=2.5e-7, atol=0
    )


@both
@pytest.mark.parametrize("tokens", [2, 16, 64, *ODD_LENGTHS])
def test_causal_attention(tokens, dtype):
    inputs = attention_inputs(3, tokens, dtype=dtype)
    check(cpu.causal_attention, reference.causal_attention, inputs)


@pytest.mark.parametrize("width", [2, 6, 30, 64, 128])
@pytest.mark.parametrize("heads", [1, 5])
def test_heads_of_any_width_and_number(width, heads):
    inputs = attention_inputs(2, 21, width=width, heads=heads)
    check(cpu.causal_attention, reference.causal_attention, inputs)
    check(cpu.feature_attention, reference.feature_attention, inputs, variates=2)


@both
@pytest.mark.parametrize("variates", [2, 3, 7, 64])
@pytest.mark.parametrize("masked", [False, True])
def test_feature_attention(variates, masked, dtype):
    inputs = attention_inputs(2 * variates, 5, dtype=dtype)
    present = torch.rand(2 * variates) < 0.6 if masked else None
    if present is not None:
        # one item without any variate, one that shows its first
        present[:variates], present[variates] = False, True
    check(
        cpu.feature_attention,
        reference.feature_attention,
        inputs,
        variates=variates,
        present=present,
    )


def test_the_future_and_absent_variates_are_not_read():
    qkv, *gains = attention_inputs(4, 9)
    full = cpu.causal_attention(qkv, *gains)
    qkv[:, 5:] = torch.nan
    assert torch.equal(cpu.causal_attention(qkv, *gains)[:, :5], full[:, :5])
    qkv, *gains = attention_inputs(4, 9)
    settings = {"variates": 2, "present": torch.tensor([True, False, True, True])}
    full = cpu.feature_attention(qkv, *gains, **settings)
    qkv[1] = 1e30
    assert torch.equal(cpu.feature_attention(qkv, *gains, **settings)[[0, 2, 3]], full[[0, 2, 3]])


def test_one_score_far_above_the_others_takes_all():
    qkv, *gains = attention_inputs(1, 4)
    gains = [100 * g for g in gains]
    qkv[:, :, 0] = qkv[:, :, 1]
    out = cpu.feature_attention(qkv.transpose(0, 1).contiguous(), *gains, variates=4)
    assert torch.equal(out, qkv[:, :, 2].transpose(0, 1))


@both
@pytest.mark.parametrize("shape", [(1, 2), (3, 5, 62), (7, 704), (2, 3, 2, 34)])
def test_swiglu(shape, dtype):
    check(cpu.swiglu, reference.swiglu, [3 * torch.randn(shape).to(dtype)])


@both
def test_swiglu_of_any_size_of_numbers(dtype):
    # the largest gates and the smallest, on both sides, and ties in the rounding of bfloat16
    gate = torch.cat((torch.linspace(-140, 140, 999), 10 ** torch.linspace(-38, 4, 999)))
    gate = torch.cat((gate, -gate, torch.zeros(4)))
    x = torch.stack((gate, torch.randn(len(gate)).bfloat16().float()), -1).to(dtype)
    check(cpu.swiglu, reference.swiglu, [x])
    most, least = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    gates = [torch.nan, torch.inf, -torch.inf, most, -most, most / 4, -most / 4, least, -88.0]
    ups = [torch.nan, torch.inf, 1.0, 3.0, 1e20, most]
    strange = torch.cartesian_prod(torch.tensor(gates), torch.tensor(ups)).to(dtype)
    found, known = cpu.swiglu(strange), reference.swiglu(strange)
    # eager rounds the gate first
    rtol = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found, known, rtol=rtol, atol=0.0, equal_nan=True)


@both
@pytest.mark.parametrize("shape", [(1, 1), (3, 31), (2, 5, 128), (2, 3, 4, 33)])
def test_rms_norm(shape, dtype):
    x = torch.randn(shape) * 10 ** torch.linspace(-6, 6, shape[0])[:, None].view(
        -1, *[1] * (len(shape) - 1)
    )
    check(cpu.rms_norm, reference.rms_norm, [x.to(dtype), torch.randn(shape[-1])])


@both
def test_a_row_does_not_depend_on_its_place(dtype):
    # the shapes of `nano`
    parts = [attention_inputs(n, 16, heads=4, dtype=dtype) for n in (3, 8)]
    gains = parts[0][1:]
    qkv = [part[0] for part in parts]
    for f, settings in (
        (cpu.causal_attention, {}),
        (cpu.feature_attention, {"variates": 1}),
        (lambda q, *_: cpu.swiglu(q.flatten(2)), {}),
        (lambda q, *_: cpu.rms_norm(q.flatten(2), torch.ones(384)), {}),
    ):
        apart = torch.cat([f(q, *gains, **settings) for q in qkv])
        assert torch.equal(f(torch.cat(qkv), *gains, **settings), apart)


@both
def test_no_series_and_single_rows(dtype):
    qkv, *gains = attention_inputs(0, 4, dtype=dtype)
    assert cpu.causal_attention(qkv, *gains).shape == (0, 4, 2, 32)
    assert cpu.swiglu(torch.empty(0, 8, dtype=dtype)).shape == (0, 4)
    assert cpu.rms_norm(torch.empty(0, 8, dtype=dtype), torch.ones(8)).shape == (0, 8)
    nothing = cpu.dart_patch_embed(torch.empty(0, 64), torch.empty(0), torch.empty(36, 8), **EMBED)
    assert [t.shape for t in nothing] == [(0, 4, 8), (0, 4), (0, 4), (0, 4)]


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
def test_defaults_of_torch_change_nothing(default):
    inputs, x = attention_inputs(2, 8), torch.randn(3, 8)
    gain, numbers, weight = torch.ones(8), torch.randn(2, 64), torch.randn(36, 5)

    def everything():
        return [
            cpu.causal_attention(*inputs),
            cpu.feature_attention(*inputs, variates=2),
            cpu.swiglu(x),
            cpu.rms_norm(x, gain),
            *cpu.dart_patch_embed(numbers, x[:2, 0].abs(), weight, **EMBED),
        ]

    plain = everything()
    torch.set_default_dtype(default)
    try:
        with torch.device("meta"), torch.inference_mode():
            found = everything()
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(found, plain, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@both
def test_strides_are_followed(dtype):
    qkv, *gains = attention_inputs(3, 16, dtype=dtype)
    apart = torch.full((3, 32, 3, 2, 40), torch.nan, dtype=dtype)
    apart[:, ::2, ..., 8:] = qkv
    strided = apart[:, ::2, ..., 8:]
    for f, settings in ((cpu.causal_attention, {}), (cpu.feature_attention, {"variates": 3})):
        assert torch.equal(f(strided, *gains, **settings), f(qkv, *gains, **settings))
    apart, weight = torch.randn(4, 130), torch.randn(5, 36).t()
    found = cpu.dart_patch_embed(apart[::2, 1:129:2], torch.zeros(2), weight, **EMBED)
    near = apart[::2, 1:129:2].contiguous(), torch.zeros(2), weight.contiguous()
    for a, b in zip(found, cpu.dart_patch_embed(*near, **EMBED), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    x = torch.randn(6, 40).to(dtype)
    assert torch.equal(cpu.swiglu(x.t()[::2].t()), cpu.swiglu(x[:, ::2].contiguous()))
    gain = torch.randn(20)
    assert torch.equal(cpu.rms_norm(x[:, ::2], gain), cpu.rms_norm(x[:, ::2].contiguous(), gain))


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton's kernels come first there")
def test_they_run_where_nothing_is_learned(monkeypatch):
    ran = []
    names = ["dart_patch_embed", "causal_attention", "feature_attention", "swiglu", "rms_norm"]
    for name in names:
        inner = getattr(cpu, name)

        def watched(*inputs, _name=name, _inner=inner, **settings):
            ran.append(_name)
            return _inner(*inputs, **settings)

        monkeypatch.setattr(cpu, name, watched)

    def everything(dtype: torch.dtype = torch.float32) -> list[str]:
        ran.clear()
        inputs = attention_inputs(2, 4, dtype=dtype)
        x, weight = torch.randn(2, 32).to(dtype), torch.randn(36, 4).to(dtype)
        ops.dart_patch_embed(x, torch.zeros(2), weight, **EMBED)
        ops.causal_attention(*inputs)
        ops.feature_attention(*inputs, variates=2)
        ops.swiglu(torch.randn(2, 4).to(dtype))
        ops.rms_norm(torch.randn(2, 4).to(dtype), torch.ones(4))
        return list(ran)

    assert everything() == names
    assert everything(torch.bfloat16) == everything()
    # half, which no model forecasts in, heads of an odd width, and the definition's own precision
    assert everything(torch.float16) == []
    assert ops.choose_attention("auto", torch.randn(2, 4, 3, 2, 5), kind="causal") == "sdpa"
    inputs = [t.double() for t in attention_inputs(2, 4)]
    assert ops.choose_attention("auto", inputs[0], kind="causal") == "sdpa"
    with torch.enable_grad():
        assert everything() == []
        with pytest.raises(ValueError, match="attention numba needs a CPU, .* with gradients"):
            ops.causal_attention(*attention_inputs(2, 4), backend="numba")
    compiled = torch.compile(
        lambda x: ops.swiglu(ops.rms_norm(x, torch.ones(4))), backend="eager", fullgraph=True
    )
    ran.clear()
    compiled(torch.randn(2, 4))
    assert ran == []
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert everything() == []


def test_they_need_no_place_to_keep_what_they_compiled(monkeypatch):
    # neither beside the sources nor for the user
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert cpu_loops.jit("contract")(lambda x: 2 * x)(2) == 4
