"""`TinyTSM.forecast`: numbers in, named arrays out."""

import numpy as np
import pandas as pd
import pytest

from tinytsm import TinyTSM


def test_one_series_in_any_dress(miniature: TinyTSM) -> None:
    x = np.sin(np.arange(40.0))
    wanted = miniature.forecast(x, 6)
    assert wanted.mean.shape == wanted.median.shape == (6,) and wanted.quantiles.shape == (6, 9)
    for dressed in (list(x), tuple(x), pd.Series(x, index=range(5, 45)), x[None][0]):
        np.testing.assert_array_equal(miniature.forecast(dressed, 6).quantiles, wanted.quantiles)
    quantiles, mean = miniature.predict_quantiles([x], 6)
    np.testing.assert_array_equal(wanted.quantiles, np.asarray(quantiles)[0])
    np.testing.assert_array_equal(wanted.mean, np.asarray(mean)[0])


def test_many_series_of_any_lengths(miniature: TinyTSM) -> None:
    rows = [[1, 2, None, 4], np.arange(50), [7]]
    many = miniature.forecast(rows, 3, quantile_levels=[0.9, 0.05, 0.95])
    assert many.mean.shape == (3, 3) and many.quantiles.shape == (3, 3, 3)
    low, high = many.interval(0.9)
    np.testing.assert_array_equal(low, many.quantiles[..., 1])
    np.testing.assert_array_equal(high, many.quantiles[..., 2])
    np.testing.assert_array_equal(miniature.forecast([1, 2, np.nan, 4], 3).mean, many.mean[0])
    assert miniature.forecast(np.zeros((2, 9)), 3).mean.shape == (2, 3)


def test_every_default_interval_has_its_levels(miniature: TinyTSM) -> None:
    result = miniature.forecast(np.arange(9.0), 1)
    for coverage in (0.2, 0.4, 0.6, 0.8):
        low, high = result.interval(coverage)
        assert low <= result.median <= high


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (5, "x must be a series of numbers or a list of them, got 5"),
        ([], r"inputs\[0\] is empty"),
        (["a", "b"], r"inputs\[0\] must hold numbers, NaN where missing, got dtype <U1"),
        ([[1, "x", None]], r"x\[0\] must hold numbers, got \[1, 'x', None\]"),
        (np.zeros((2, 2, 2)), r"x\[0\] must be one series \(T,\), got shape \(2, 2\)"),
    ],
)
def test_errors(miniature: TinyTSM, x: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        miniature.forecast(x, 2)


def test_a_level_that_was_not_asked_for(miniature: TinyTSM) -> None:
    with pytest.raises(ValueError, match="level 0.05 was not forecast, only 0.1, 0.2"):
        miniature.forecast([1, 2, 3], 2).interval(0.9)
