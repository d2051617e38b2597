"""Companions by their definition, and that none of them looks ahead or overflows."""

import numpy as np
import pytest

from tinytsm.companions import COUNT, companions


def defined(x: np.ndarray, period: int) -> np.ndarray:
    """Step by step."""
    found = np.full((COUNT, len(x)), np.nan)
    for t in range(len(x)):
        if t >= period:
            found[0, t] = x[t - period]
        if t:
            found[1, t] = x[t] - x[t - 1]
        window = x[max(0, t - period + 1) : t + 1]
        if not np.isnan(window).all():
            found[2, t] = np.nanmean(window)
    return found


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9, 50])
@pytest.mark.parametrize("period", [1, 2, 3, 8, 60])
def test_they_are_what_the_definition_says(
    steps: int, period: int, rng: np.random.Generator
) -> None:
    x = rng.uniform(-1, 1, steps)
    for share in (0.0, 0.3, 1.0):
        gappy = np.where(rng.random(steps) < share, np.nan, x)
        np.testing.assert_allclose(companions(gappy, period), defined(gappy, period), atol=1e-15)


def test_none_looks_ahead(rng: np.random.Generator) -> None:
    x = rng.uniform(-1, 1, 40)
    changed = x.copy()
    changed[25:] = np.nan
    assert np.array_equal(companions(x, 7)[:, :25], companions(changed, 7)[:, :25], equal_nan=True)


def test_a_spike_is_forgotten_once_it_has_left_the_window() -> None:
    # a running sum would keep its rounding error
    x = np.full(60, 1e-17)
    x[10] = 1.0
    mean = companions(x, 5)[2]
    assert mean[14] > 0.1 and mean[15:].tolist() == pytest.approx([1e-17] * 45, rel=1e-12)
