"""Rows: centring loses nothing, and rows do not depend on each other."""

import numpy as np

from tinytsm.rows import centre


def test_centring_keeps_the_bits() -> None:
    values = np.array([[np.nan, 1e9, 1e9 + 0.5, np.nan, 1e9 - 2.0], [5e-324, 0, 0, 0, 0]])
    one = centre(values)
    back = one.origin[:, None] + one.x.astype(np.float64) / one.unit[:, None]
    assert np.array_equal(back[0], values[0], equal_nan=True)
    assert np.abs(one.x[0, 1:3]).max() <= 1


def test_centring_survives_every_scale() -> None:
    scale = np.array([5e-324, 1e-300, 1.0, 1e30, 1.7e308])[:, None]
    one = centre(scale * np.array([[1.0, -1.0, 0.5, np.nan]]))
    assert np.isfinite(one.x[:, :3]).all() and np.abs(one.x[:, :3]).max() <= 1
    assert np.isfinite(one.unit).all() and (one.unit > 0).all()
    assert np.isfinite(one.resolution).all()


def test_a_row_does_not_depend_on_its_neighbours(rng: np.random.Generator) -> None:
    values = rng.normal(size=(5, 64)) * 10.0 ** np.arange(-4, 6, 2)[:, None]
    together = centre(values)
    for i in range(5):
        alone = centre(values[i : i + 1])
        for a, b in zip(alone, together, strict=True):
            assert np.array_equal(a[0], b[i])
