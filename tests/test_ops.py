"""On CPU the ops need no Triton and compile in one graph; attention has back ends to choose from."""

import copy
import functools
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numba
import pytest
import torch

from tinytsm import ops
from tinytsm.kernels import cpu_training, reference
from tinytsm.testing import assert_as_good_as_eager

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(
    "TRITON_INTERPRET" in os.environ,
    reason="the interpreter puts kernels in the definitions' place",
)
EMBED = {"patch": 16, "half_life_loc": 32.0, "half_life_scale": 512.0}


def embed_inputs() -> tuple[torch.Tensor, ...]:
    x = torch.randn(3, 16 * 16).cumsum(1)
    x[0, 30:70] = torch.nan
    return x, torch.zeros(3), torch.randn(36, 8, requires_grad=True)


def with_gradients(outputs: tuple[torch.Tensor, ...], *leaves: torch.Tensor) -> list[torch.Tensor]:
    return [*outputs, *torch.autograd.grad(outputs[0].square().sum(), leaves)]


def test_training_on_cpu_takes_the_embeddings_definition_in_one_graph():
    inputs = embed_inputs()
    truth = with_gradients(reference.dart_patch_embed(*inputs, **EMBED), inputs[2])
    compiled = torch.compile(ops.dart_patch_embed, fullgraph=True, backend="aot_eager")
    for f in (ops.dart_patch_embed, compiled):
        found = with_gradients(f(*inputs, **EMBED), inputs[2])
        for a, b in zip(found, truth, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        if f is ops.dart_patch_embed:
            assert all(torch.equal(a, b) for a, b in zip(found, truth, strict=True))


def attention_inputs(width: int = 16) -> tuple[torch.Tensor, ...]:
    gains = (1 + 0.1 * torch.randn(width, requires_grad=True) for _ in range(2))
    return torch.randn(6, 8, 3, 2, width, requires_grad=True), *gains


@pytest.mark.parametrize("backend", ["auto", "sdpa", "matmul"])
@pytest.mark.parametrize("masked", [None, False, True])
def test_attention_back_ends_agree(backend, masked):
    """masked: None for causal attention, else whether some variates are absent."""
    inputs = attention_inputs()
    name, settings = "causal_attention", {}
    if masked is not None:
        present = torch.tensor([True, True, True, False, False, True]) if masked else None
        name, settings = "feature_attention", {"variates": 2, "present": present}
    truth = with_gradients((getattr(reference, name)(*inputs, **settings),), *inputs)
    found = with_gradients((getattr(ops, name)(*inputs, **settings, backend=backend),), *inputs)
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ops.ATTENTION_BACKENDS[-3:])
def test_an_item_without_any_variate_gives_numbers(backend):
    inputs, present = attention_inputs(), torch.zeros(6, dtype=torch.bool)
    settings = {"variates": 2, "present": present, "backend": backend}
    found = with_gradients((ops.feature_attention(*inputs, **settings),), *inputs)
    truth = reference.feature_attention(*inputs, variates=2, present=present)
    torch.testing.assert_close(found[0], truth)
    assert all(t.isfinite().all() for t in found)


def test_attention_back_end_is_chosen_by_what_can_compute_it(monkeypatch):
    qkv = attention_inputs(32)[0]
    choose = functools.partial(ops.choose_attention, qkv=qkv, kind="causal")
    assert choose("reference") == "reference"
    with pytest.raises(
        ValueError, match="attention triton needs Triton, .* width 32 on cpu; use auto"
    ):
        choose("triton")
    with pytest.raises(ValueError, match="attention flash-attn needs the package .* on cpu"):
        choose("flash-attn")
    with pytest.raises(ValueError, match="auto or one of triton, flash-attn, .* got 'fast'"):
        choose("fast")
    # stand-ins for a GPU: what kernels there are comes first
    monkeypatch.setattr(ops, "_runs_kernels", lambda x: True)
    supported = types.SimpleNamespace(supports=lambda qkv: qkv.shape[-1] == 32)
    monkeypatch.setattr(ops, "_attention_kernels", supported, raising=False)
    assert choose("auto") == "triton"
    assert choose("auto", qkv=attention_inputs(16)[0]) == "sdpa"


CHOSEN = {
    ("causal", torch.float32): "sdpa",
    ("causal", torch.bfloat16): "matmul" if numba.config.DISABLE_JIT else "numba",  # type: ignore[attr-defined]
    ("feature", torch.float32): "reference",
    ("feature", torch.bfloat16): "matmul",
}


@pytest.mark.parametrize(("kind", "dtype"), CHOSEN, ids=str)
@pytest.mark.parametrize("backend", ["auto", "sdpa", "matmul", "reference"])
def test_what_is_chosen_is_what_computes(backend, kind, dtype, monkeypatch):
    ran = []

    def watch(owner, function, name):
        inner = getattr(owner, function)

        def watched(*inputs, **settings):
            ran.append(name)
            return inner(*inputs, **settings)

        monkeypatch.setattr(owner, function, watched)

    watch(reference, f"{kind}_attention", "reference")
    watch(ops, "_matmul_attention", "matmul")
    watch(cpu_training, "causal_attention", "numba")
    watch(torch.nn.functional, "scaled_dot_product_attention", "sdpa")
    qkv, *gains = attention_inputs()
    qkv = qkv.to(dtype)
    settings = {"variates": 2} if kind == "feature" else {}
    getattr(ops, f"{kind}_attention")(qkv, *gains, backend=backend, **settings)
    chosen = ops.choose_attention(backend, qkv, kind=kind)
    assert ran == [chosen]
    assert chosen == (CHOSEN[kind, dtype] if backend == "auto" else backend)


@pytest.mark.skipif(torch.version.cuda is not None, reason="CUDA builds of torch bring Triton")
def test_triton_is_not_needed():
    # None in sys.modules makes an import fail
    code = "import sys; sys.modules['triton'] = None; import tinytsm.model, tinytsm.forecast"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("tokens", [1, 16, 63])
def test_attention_in_bfloat16_is_its_definition(tokens):
    qkv = torch.randn(2, tokens, 3, 4, 8).bfloat16()
    gains = torch.rand(2, 8) + 0.5
    grad = torch.randn(2, tokens, 4, 8)

    def run(f, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in (qkv, *gains)]
        out = f(*leaves)
        # a lone token's answer does not depend on the gains
        grads = torch.autograd.grad(
            out, leaves, grad.to(dtype), allow_unused=True, materialize_grads=True
        )
        return [out.detach(), *grads]

    truth = run(reference.causal_attention, torch.float64)
    eager = run(reference.causal_attention, torch.bfloat16)
    ours = run(ops.causal_attention, torch.bfloat16)
    assert_as_good_as_eager(
        ours, eager, truth, names=["out", "dqkv", "dq_gain", "dk_gain"], floor=4e-3
    )


def test_a_frozen_weight_is_cast_once():
    weight = torch.nn.Parameter(torch.randn(4, 3), requires_grad=False)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cast = ops.cast_once(weight)
        assert cast.dtype == torch.bfloat16 and torch.equal(cast, weight.bfloat16())
        assert ops.cast_once(weight) is cast
        # written, and replaced
        weight.mul_(3)
        assert torch.equal(ops.cast_once(weight), weight.bfloat16())
        weight.data = torch.randn(4, 3)
        assert torch.equal(ops.cast_once(weight), weight.bfloat16())
        # one that is computed from others may be another next time
        computed = weight + 1
        assert ops.cast_once(computed) is computed
        # autocast leaves float64 alone
        wide = torch.nn.Parameter(weight.double(), requires_grad=False)
        assert ops.cast_once(wide) is wide
        # one that learns may be written unnoticed, by a fused optimizer
        learning = torch.nn.Parameter(torch.randn(4, 3))
        assert ops.cast_once(learning) is learning
        with torch.inference_mode():
            unversioned = torch.nn.Parameter(torch.randn(4, 3), requires_grad=False)
        assert ops.cast_once(unversioned) is unversioned
    assert ops.cast_once(weight) is weight
    # nothing is taken along
    assert len(pickle.dumps(weight)) == len(pickle.dumps(copy.deepcopy(weight)))


def test_a_cast_made_in_inference_mode_serves_gradients_later():
    weight = torch.nn.Parameter(torch.randn(4, 3), requires_grad=False)
    x = torch.randn(2, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            cast = ops.cast_once(weight)
        torch.nn.functional.linear(x, ops.cast_once(weight)).sum().backward()
    assert ops.cast_once(weight) is weight and not cast.is_inference()
    # the gradient is rounded to bfloat16
    torch.testing.assert_close(x.grad, cast.float().sum(0).expand(2, 3), rtol=1e-2, atol=2e-2)


def test_what_computes_is_said_of_a_device(monkeypatch):
    def said() -> str:
        return ops.computed_by(torch.device("cpu"))

    numba_off = bool(numba.config.DISABLE_JIT)
    assert said() == ("" if numba_off else "Numba kernels and ") + "PyTorch definitions"
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert said() == "PyTorch definitions"
    monkeypatch.setattr(ops, "_runs_kernels", lambda x: True)
    assert said() == "Triton kernels"


def test_casts_go_with_their_weights():
    before = len(ops._CASTS)
    weight = torch.nn.Parameter(torch.randn(4, 3), requires_grad=False)
    with torch.autocast("cpu", torch.bfloat16):
        ops.cast_once(weight)
    assert len(ops._CASTS) == before + 1
    del weight
    assert len(ops._CASTS) == before
