"""`TinyTSM.forecast`: numbers in, named arrays out."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

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


def test_a_level_that_was_computed_is_found(miniature: TinyTSM) -> None:
    levels = np.linspace(0.1, 0.9, 9).tolist()
    assert levels[2] != 0.3
    result = miniature.forecast(np.arange(9.0), 2, levels)
    np.testing.assert_array_equal(result.quantile(0.3), result.quantiles[..., 2])
    for one, i in zip(result.interval(0.4), (2, 6), strict=True):
        np.testing.assert_array_equal(one, result.quantiles[..., i])


SERIES = [0.0, 1.0, np.nan, 4.0, 2.0, np.nan]
MASK = np.isnan(SERIES)
MASKED = np.ma.array(np.where(MASK, -9999.0, SERIES), mask=MASK)
COUNTS = pd.Series([0, 1, None, 4, 2, None], dtype="Int64")


@pytest.mark.parametrize(
    "x", [MASKED, MASKED.astype(int), MASKED.astype(object), COUNTS, COUNTS.astype(object), torch.tensor(SERIES).bfloat16()],
    ids=["masked", "masked integers", "masked objects", "nullable", "objects", "bfloat16"],
)  # fmt: skip
def test_what_is_missing_is_missing_in_any_container(miniature: TinyTSM, x: Any) -> None:
    wanted = torch.as_tensor(miniature.predict_quantiles([SERIES], 3)[0])[0].numpy()
    for one in (x, [x], np.ma.stack([x, x]) if isinstance(x, np.ma.MaskedArray) else [x, x]):
        for quantiles in miniature.forecast(one, 3).quantiles.reshape(-1, 3, 9):
            np.testing.assert_array_equal(quantiles, wanted)
    variates, _ = miniature.predict_quantiles([[x, x]], 3)
    whole, _ = miniature.predict_quantiles([[SERIES, SERIES]], 3)
    np.testing.assert_array_equal(variates[0], whole[0])
    pd.testing.assert_frame_equal(miniature.impute(x), miniature.impute(SERIES))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_few_digits_are_digits(miniature: TinyTSM, dtype: str) -> None:
    column = torch.tensor(1e3 + 5 * np.sin(np.arange(40.0)), dtype=getattr(torch, dtype))
    wanted = miniature.forecast(column.double().numpy(), 3)
    assert wanted.interval(0.8)[1][0] > wanted.interval(0.8)[0][0]
    np.testing.assert_array_equal(miniature.forecast(column, 3).quantiles, wanted.quantiles)
    # NumPy has no bfloat16
    if dtype != "bfloat16":
        one = miniature.forecast(pd.Series(column.numpy()), 3)
        np.testing.assert_array_equal(one.quantiles, wanted.quantiles)


def test_levels_of_other_types(miniature: TinyTSM) -> None:
    levels: Any = np.array([0.1, 0.5, 0.9], np.float32)
    forecast = miniature.forecast(SERIES, 3, levels)
    assert forecast.levels == (0.1, 0.5, 0.9)
    assert np.shape(forecast.interval(0.8)) == (2, 3)


def test_a_tensor_that_is_learnt_is_read(miniature: TinyTSM) -> None:
    x = torch.arange(9.0)
    wanted = miniature.forecast(x, 3)
    np.testing.assert_array_equal(miniature.forecast(x.requires_grad_(), 3).mean, wanted.mean)


def test_a_column_of_series_is_many_series(miniature: TinyTSM) -> None:
    column = pd.Series([[1.0, 2.0], [3.0, 4.0, 5.0]])
    wanted = miniature.forecast(list(column), 3).mean
    np.testing.assert_array_equal(miniature.forecast(column, 3).mean, wanted)


@pytest.mark.parametrize(
    "x", [pd.DataFrame({0: [5.0, 6.0], 1: [7.0, 8.0]}), {1: [5.0, 6.0], 2: [1.0, 2.0]}]
)
def test_labels_are_no_series(miniature: TinyTSM, x: Any) -> None:
    message = "got a (DataFrame|dict): give a list of its columns, or a frame to predict_df"
    with pytest.raises(ValueError, match=f"x must be a series of numbers .*, {message}"):
        miniature.forecast(x, 2)
    with pytest.raises(
        ValueError, match="is missing|data must be a series of numbers .*, got a dict"
    ):
        miniature.impute(x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (5, "x must be a series of numbers or a list of them, got 5"),
        ([], r"inputs\[0\] is empty"),
        (np.array(5.0), r"x must be a series of numbers or a list of them, got array\(5\.\)"),
        (["a", "b"], r"x\[0\] must hold numbers, NaN where missing, got dtype <U1"),
        ([[1, "x", None]], r"x\[0\] must hold numbers, NaN where missing, got \[1, 'x', None\]"),
        (COUNTS.astype("string"), r"x\[0\] must hold numbers"),
        (np.zeros((2, 2, 2)), r"x\[0\] must be one series \(T,\), got shape \(2, 2\)"),
    ],
)
def test_errors(miniature: TinyTSM, x: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        miniature.forecast(x, 2)


@pytest.mark.parametrize("levels", [0.5, None, "median"])
def test_levels_that_are_none(miniature: TinyTSM, levels: Any) -> None:
    for call in (miniature.forecast, miniature.predict_quantiles):
        with pytest.raises(ValueError, match=f"quantile levels must be numbers .*, got {levels!r}"):
            call([[1.0, 2.0]], 2, levels)


def test_a_level_that_was_not_asked_for(miniature: TinyTSM) -> None:
    with pytest.raises(ValueError, match="level 0.05 was not forecast, only 0.1, 0.2"):
        miniature.forecast([1, 2, 3], 2).interval(0.9)


@pytest.mark.parametrize("coverage", [80, 0, 1, -0.5, float("nan")])
def test_coverage_is_a_share(miniature: TinyTSM, coverage: float) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 1, such as 0.8, got {coverage!r}"):
        miniature.forecast([1, 2, 3], 2).interval(coverage)
