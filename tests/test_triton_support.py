"""How kernels multiply: as torch is told to, and rounded to the nearest number that TF32 holds.

Without a GPU, tests/test_interpreter.py runs this file under TRITON_INTERPRET=1 as well.
"""

import pytest
import torch

pytest.importorskip("triton")
import triton
import triton.language as tl

from tinytsm.kernels.triton_support import _as_tf32, product_of
from tinytsm.testing import kernel_device

DEVICE = kernel_device()


@pytest.mark.parametrize(
    ("told", "product"), [("highest", "float32"), ("high", "tf32"), ("medium", "tf32")]
)
def test_float32_is_multiplied_as_torch_is_told_to(told: str, product: str) -> None:
    torch.set_float32_matmul_precision(told)
    assert product_of(torch.float32) == product
    assert product_of(torch.bfloat16) == product_of(torch.float16) == "half"


@triton.jit
def _round(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, _as_tf32(tl.load(x + at)))


@pytest.mark.skipif(DEVICE is None, reason="needs a GPU or TRITON_INTERPRET=1")
def test_rounding_to_tf32() -> None:
    step = 2.0**-10
    values = [1 + step / 4, 1 + step / 2, 1 + 0.75 * step, -1 - 0.75 * step, 0.0, -0.0, 1e30, 1e-30]
    # all bits set: a carry would make it zero
    nan = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    x = torch.cat([torch.tensor(values), nan, torch.randn(6)])
    out = torch.empty_like(x, device=DEVICE)
    _round[(1,)](x.to(DEVICE), out, N=len(x))
    out = out.cpu()
    assert out[:6].tolist() == [1.0, 1 + step, 1 + step, -1 - step, 0.0, 0.0]
    assert out[5].signbit() and out[8:10].isnan().all()
    held = out.nan_to_num(nan=0.0)
    # ten bits of mantissa, and no more than half a step away
    assert not (held.view(torch.int32) & 0x1FFF).any()
    others = torch.cat([x[:8], x[10:]])
    rounded = torch.cat([out[:8], out[10:]])
    assert ((rounded - others).abs() <= others.abs() * 2.0**-11).all()
