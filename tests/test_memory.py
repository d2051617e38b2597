"""The watch over the interpreter's memory: a kernel that strays fails it, and every op's kernels do not.

Without a GPU, tests/test_interpreter.py runs this file under TRITON_INTERPRET=1.
"""

import os

import pytest
import torch

from tinytsm.testing import kernel_device

DEVICE = kernel_device()
pytestmark = [
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") != "1", reason="watches Triton's interpreter"
    ),
    pytest.mark.usefixtures("silent_overflow", "watched"),
]
if os.environ.get("TRITON_INTERPRET") == "1":
    import triton
    import triton.language as tl

    from tinytsm.kernels import causal_attention, dart_patch_embed, feature_attention, grid_loss

    @triton.jit
    def _copy(x, out, n, start, SHARED: tl.constexpr, BLOCK: tl.constexpr):
        o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(x + start + o, o < n, other=0.0)
        tl.store(out + (o % SHARED), value, o < n)


def copy(*, size: int = 10, n: int = 10, start: int = 0, shared: int = 64, same: bool = False):
    # views into larger tensors, so that a kernel that strays does no harm
    x, out = torch.zeros(100)[40 : 40 + size], torch.zeros(100)[20 : 20 + size]
    x.copy_(torch.ones(size) if same else torch.arange(size))
    _copy[(2,)](x, out, n, start, SHARED=shared, BLOCK=8)
    return x, out


def test_a_kernel_that_keeps_to_its_tensors_passes():
    x, out = copy()
    assert torch.equal(x, out)


@pytest.mark.parametrize(
    ("strays", "message"),
    [
        ({"n": 11}, "_copy loads 4 bytes past the end of x"),
        ({"start": 1}, "_copy loads 4 bytes past the end of x"),
        ({"start": -3}, "_copy loads 12 bytes before x"),
        ({"shared": 8}, "_copy stores two values in one element of out"),
        ({"shared": 4}, "_copy stores two values in one element of out"),
    ],
)
def test_one_that_strays_is_named(strays, message):
    with pytest.raises(Exception, match=message):
        copy(**strays)


def test_stores_past_the_end_are_found():
    x, out = torch.ones(16), torch.zeros(16)[:10]
    with pytest.raises(Exception, match="_copy stores 8 bytes past the end of out"):
        _copy[(2,)](x, out, 12, 0, SHARED=64, BLOCK=8)


def test_a_store_to_what_is_loaded_is_found():
    x = torch.ones(16)
    with pytest.raises(Exception, match="_copy stores what it loads: out"):
        _copy[(2,)](x, x, 16, 0, SHARED=64, BLOCK=8)


def test_the_same_value_twice_is_no_race():
    copy(shared=4, same=True)


# Series and tokens that fill no tile, in the layout of short contexts and in that of long ones.
SHAPES = [(5, 16), (2, 65)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("patch", [16, 32, 64])
def test_embedding(patch, dtype):
    for series, tokens in SHAPES:
        weight = torch.randn(2 * patch + 4, 136).to(dtype).requires_grad_()
        x = torch.randn(series, tokens * patch)
        h, *_ = dart_patch_embed.dart_patch_embed(
            x, torch.zeros(series), weight, patch=patch, half_life_loc=32.0, half_life_scale=512.0
        )
        h.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_loss(monkeypatch, dtype):
    # several chunks of the backward pass, the last of them not full
    monkeypatch.setattr(grid_loss, "CHUNK_BYTES", 1)
    series, tokens, horizon, patch, rank = 9, 16, 6, 32, 40
    levels = torch.linspace(0.1, 0.9, 3)
    h = torch.randn(series, tokens, rank).to(dtype).requires_grad_()
    weight = torch.randn(horizon, rank, patch * 4).to(dtype).requires_grad_()
    total, _ = grid_loss.grid_loss(
        h, weight, torch.randn(series, tokens + horizon, patch),
        *torch.rand(3, series, tokens), torch.randint(0, 8, (series,)), levels,
    )  # fmt: skip
    total.sum().backward()


@pytest.mark.parametrize("attention_path", ["whole", "stream"], indirect=True)
@pytest.mark.parametrize("kind", ["causal", "feature"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("attention_path")
def test_attention(kind, dtype):
    for series, tokens, variates in [(7, 20, 1), (1, 66, 1)] if kind == "causal" else [(6, 3, 3)]:
        # a part of a wider projection, so that its rows lie apart
        qkv = torch.randn(series, tokens, 4, 2, 64).to(dtype)[:, :, :3].requires_grad_()
        gains = [torch.ones(64, requires_grad=True) for _ in range(2)]
        if kind == "causal":
            out = causal_attention.causal_attention(qkv, *gains)
        else:
            present = torch.arange(series) % 3 > 0
            out = feature_attention.feature_attention(
                qkv, *gains, variates=variates, present=present
            )
        out.float().sum().backward()
