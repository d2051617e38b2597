"""Rows: centring loses nothing, and slots hold the steps that they should."""

import numpy as np
import pytest
import torch

from tinytsm.rows import centre, to_slots, to_steps


def test_centring_keeps_the_bits() -> None:
    values = np.array([[np.nan, 1e9, 1e9 + 0.5, np.nan, 1e9 - 2.0], [5e-324, 0, 0, 0, 0]])
    one = centre(values, np.full(2, 2.0**-52))
    back = one.origin[:, None] + one.x.astype(np.float64) / one.unit[:, None]
    assert np.array_equal(back[0], values[0], equal_nan=True)
    assert np.abs(one.x[0, 1:3]).max() <= 1


def test_centring_survives_every_scale() -> None:
    scale = np.array([5e-324, 1e-300, 1.0, 1e30, 1.7e308])[:, None]
    one = centre(scale * np.array([[1.0, -1.0, 0.5, np.nan]]), np.full(5, 2.0**-52))
    assert np.isfinite(one.x[:, :3]).all() and np.abs(one.x[:, :3]).max() <= 1
    assert np.isfinite(one.unit).all() and (one.unit > 0).all()
    assert np.isfinite(one.resolution).all()


def test_a_row_does_not_depend_on_its_neighbours(rng: np.random.Generator) -> None:
    values = rng.normal(size=(5, 64)) * 10.0 ** np.arange(-4, 6, 2)[:, None]
    together = centre(values, np.full(5, 2.0**-52))
    for i in range(5):
        alone = centre(values[i : i + 1], np.full(1, 2.0**-52))
        for a, b in zip(alone, together, strict=True):
            assert np.array_equal(a[0], b[i])


@pytest.mark.parametrize("width", [1, 3, 4])
def test_slots_and_steps_by_hand(width: int) -> None:
    steps = np.arange(12.0)[None]
    slots = to_slots(steps, np.array([width]), 4).reshape(3, 4)
    wanted = steps[0, 12 - 3 * width :].reshape(3, width)
    assert np.array_equal(slots[:, :width], wanted) and np.isnan(slots[:, width:]).all()
    back = to_steps(torch.from_numpy(slots.reshape(1, 12, 1)), width, 4)
    assert back.shape == (1, 3 * width, 1) and back.flatten().tolist() == wanted.ravel().tolist()


def test_every_row_has_its_own_width(rng: np.random.Generator) -> None:
    steps, widths = rng.normal(size=(6, 32)), np.array([8, 3, 8, 5, 3, 1])
    slots = to_slots(steps, widths, 8)
    for i, width in enumerate(widths):
        assert np.array_equal(
            slots[i : i + 1], to_slots(steps[i : i + 1], np.array([width]), 8), equal_nan=True
        )
