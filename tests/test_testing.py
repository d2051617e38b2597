"""The error rule itself: what it lets pass and what it stops."""

import math

import pytest
import torch

from tinytsm.testing import assert_as_good_as_eager, max_error

TRUTH = torch.tensor([1.0, -4.0, math.nan, math.inf], dtype=torch.float64)


def off_by(error: float) -> torch.Tensor:
    return TRUTH + torch.tensor([0.0, error, 0.0, 0.0])


def test_largest_error_is_found():
    assert max_error(off_by(0.5), TRUTH) == 0.5
    assert max_error(TRUTH, TRUTH) == 0.0
    assert max_error(torch.empty(0), torch.empty(0)) == 0.0


@pytest.mark.parametrize("wrong", [0, 2, 3])
def test_a_number_in_place_of_another_kind_is_an_infinite_error(wrong):
    value = TRUTH.clone()
    value[wrong] = math.nan if wrong == 0 else 0.0
    assert max_error(value, TRUTH) == math.inf


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"shapes must agree, got \(4,\) and \(2,\)"):
        max_error(TRUTH, TRUTH[:2])


def test_twice_eager_passes_and_more_fails():
    truth, eager = [TRUTH[:2]], [off_by(0.1)[:2]]
    assert_as_good_as_eager([off_by(0.2)[:2]], eager, truth, names=["x"])
    with pytest.raises(AssertionError, match=r"x: error 0.21, allowed 0.2 \(eager's error 0.1"):
        assert_as_good_as_eager([off_by(0.21)[:2]], eager, truth, names=["x"])


def test_floor_is_relative_to_the_largest_value():
    truth = [1e6 * TRUTH]
    assert_as_good_as_eager([truth[0] + 3.9], truth, truth, names=["x"])
    with pytest.raises(AssertionError):
        assert_as_good_as_eager([truth[0] + 4.1], truth, truth, names=["x"])
