"""What tests and benchmarks of the ops share: the error rule, odd lengths, where kernels can run."""

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

# Lengths that no tile divides, and the neighbours of those that tiles have.
ODD_LENGTHS = (1, 31, 33, 63, 100, 127, 129)


def kernel_device() -> torch.device | None:
    """Where Triton's kernels run here: a GPU, the CPU under TRITON_INTERPRET=1, or nowhere (None)."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu") if os.environ.get("TRITON_INTERPRET") == "1" else None


def max_error(value: Tensor, truth: Tensor) -> float:
    """Largest absolute difference, infinite where only one of the two is a number."""
    if value.shape != truth.shape:
        raise ValueError(f"shapes must agree, got {tuple(value.shape)} and {tuple(truth.shape)}")
    difference = (value.double() - truth.double()).abs()
    same = value.double() == truth.double()
    difference = torch.where(same | (value.isnan() & truth.isnan()), 0.0, difference)
    return (
        difference.nan_to_num(nan=math.inf, posinf=math.inf).amax().item()
        if difference.numel()
        else 0.0
    )


def assert_as_good_as_eager(
    ours: Sequence[Tensor],
    eager: Sequence[Tensor],
    truth: Sequence[Tensor],
    *,
    names: Sequence[str],
    factor: float = 2.0,
    floor: float = 1e-6,
) -> None:
    """Each of ours may err at most `factor` times as much as PyTorch does in the same dtype.

    truth: the definition in float64. eager: the definition in the kernel's dtype. floor: an error that is always
    allowed, relative to the largest true value, because eager may be exact by luck. Raises AssertionError that names
    the value. (The rule is flash-attention's, tests/test_flash_attn.py.)
    """
    for name, a, b, c in zip(names, ours, eager, truth, strict=True):
        largest = c.abs().nan_to_num(nan=0.0, posinf=0.0).amax().item() if c.numel() else 0.0
        ours_error, eager_error = max_error(a, c), max_error(b, c)
        allowed = factor * eager_error + floor * max(1e-30, largest)
        assert ours_error <= allowed, (
            f"{name}: error {ours_error:.3g}, allowed {allowed:.3g} (eager's error {eager_error:.3g}, "
            f"largest value {largest:.3g})"
        )
