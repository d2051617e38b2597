"""What every Triton kernel here shares: how to multiply, round, launch and reduce on hardware and in the interpreter.

The kernels keep to the common subset of Triton 3.6 to 3.9. `TRITON_INTERPRET=1` in the environment runs them in
Triton's interpreter, on CPU tensors; it is read once, when Triton is imported.
"""

from typing import Literal

import torch
import triton
import triton.language as tl

INTERPRET: bool = triton.knobs.runtime.interpret
_INTERPRET = tl.constexpr(INTERPRET)

# The largest float32: what squares are clamped to, so that no infinity enters a statistic.
MAX = tl.constexpr(3.4028234663852886e38)
LN2 = tl.constexpr(0.6931471805599453)

# Dtypes that a kernel multiplies in; anything else takes the definition.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def dot(a, b, acc, EXACT: tl.constexpr = True):
    """acc + a @ b, accumulated in float32.

    float32 operands are split into three TF32 parts on tensor cores, which keeps float32's accuracy; where not EXACT,
    they are rounded to one. The interpreter holds bfloat16 as raw 16-bit integers and would multiply those, so there
    the operands go through float32.
    """
    if _INTERPRET:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    elif a.dtype != tl.float32:
        return tl.dot(a, b, acc)
    elif EXACT:
        return tl.dot(a, b, acc, input_precision="tf32x3")
    else:
        return tl.dot(_as_tf32(a), _as_tf32(b), acc, input_precision="tf32")


@triton.jit
def _as_tf32(x):
    """float32 x rounded to what TF32 holds: the instruction itself truncates, at twice the error."""
    rounded = (x.to(tl.int32, bitcast=True) + 4096) & -8192
    # a carry out of a NaN's mantissa would make it an ordinary number
    return tl.where(is_number(x), rounded.to(tl.float32, bitcast=True), x)


@triton.jit
def _tf32_parts(x):
    """float32 x as the sum of two numbers that TF32 holds, but for x's last two bits."""
    high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return high, x - high


@triton.jit
def dot_flags(flags, b, acc, EXACT: tl.constexpr = True):
    """acc + flags @ b for flags of 0 and 1, which TF32 holds exactly: two parts do, where `dot` takes three."""
    if _INTERPRET or b.dtype != tl.float32 or not EXACT:
        return dot(flags, b, acc, EXACT)
    else:
        high, low = _tf32_parts(b)
        acc = tl.dot(flags, high, acc, input_precision="tf32")
        return tl.dot(flags, low, acc, input_precision="tf32")


@triton.jit
def dot_by_flags(a, flags, acc, EXACT: tl.constexpr = True):
    """acc + a @ flags: `dot_flags` with the flags on the right."""
    if _INTERPRET or a.dtype != tl.float32 or not EXACT:
        return dot(a, flags, acc, EXACT)
    else:
        high, low = _tf32_parts(a)
        acc = tl.dot(high, flags, acc, input_precision="tf32")
        return tl.dot(low, flags, acc, input_precision="tf32")


@triton.jit
def is_number(x):
    """False where x is NaN."""
    return x == x  # noqa: PLR0124


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """float32 x in `dtype`, rounded to nearest even: the interpreter truncates to bfloat16, so it rounds here."""
    if _INTERPRET and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        # what is left below would make the interpreter's cast of a zero a tiny number
        rounded = (rounded >> 16) << 16
        # a carry out of a NaN's mantissa would make it an ordinary number
        return tl.where(is_number(x), rounded.to(tl.float32, bitcast=True), x).to(dtype)
    else:
        return x.to(dtype)


@triton.jit
def last_of(x, is_last):
    """The entry of each row where `is_last` holds: (A, B) to (A,)."""
    return tl.sum(tl.where(is_last, x, 0.0), 1)


@triton.jit
def maximum(a, b):
    """The larger one, as a combine function for scans."""
    return tl.maximum(a, b)


def product_of(dtype: torch.dtype) -> Literal["half", "float32", "tf32"]:
    """How tensors of a dtype are multiplied: float32 as torch's own products are told, to full accuracy or in TF32."""
    if dtype != torch.float32:
        return "half"
    # the older way to ask raises where a caller has used the newer one to tell
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "float32"


def processors(device: torch.device) -> int:
    """Multiprocessors of a device; one where programs run one after the other."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


@torch.compiler.assume_constant_result
def architecture() -> int:
    """Compute capability of the chip that launches compile for: 90 is sm_90, which the interpreter passes for too."""
    return 90 if INTERPRET else triton.runtime.driver.active.get_current_target().arch
