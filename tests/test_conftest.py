"""The fixtures that other tests lean on do what they say."""

import zlib

import numpy as np
import pytest


def test_poisoned_memory_is_never_zero_by_luck(poisoned):
    import torch

    x = torch.ones(3, 4, dtype=torch.float64)
    floats = [
        torch.empty(3, 4),
        torch.empty(3, 4, dtype=torch.bfloat16),
        torch.empty_like(x),
        torch.empty_strided((3, 4), (4, 1)),
        x.new_empty(3, 4),
        x.new_empty_strided((3, 4), (4, 1)),
    ]
    assert all(bool(tensor.isnan().all()) for tensor in floats)
    assert (torch.empty(5, dtype=torch.int32) == torch.iinfo(torch.int32).max).all()
    assert x.eq(1).all()


def test_memory_is_allocated_as_usual_again():
    import torch

    assert torch.empty.__module__ != __name__
    assert "poison" not in torch.Tensor.new_empty.__qualname__


def test_rng_depends_on_the_test_alone(rng):
    seed = zlib.crc32(b"test_rng_depends_on_the_test_alone")
    assert rng.random() == np.random.default_rng(seed).random()


@pytest.mark.gpu
def test_gpu_marker_runs_only_with_a_device():
    import torch

    assert torch.cuda.is_available()
