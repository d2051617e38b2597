"""Forecasting arrays: any input, any horizon, the same bits whatever shares the batch."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinytsm import TinyTSM
from tinytsm.config import QUANTILES, ModelConfig
from tinytsm.inputs import as_item
from tinytsm.model import Model
from tinytsm.quantiles import interpolate_levels, zero_below

SMALL = ModelConfig(
    d_model=32, n_heads=2, d_ff=64, n_layers=3, head_rank=16, context_patches=32, horizon_patches=4
)
LENGTHS = (1, 2, 31, 33, 100, 500, 1024, 3000)


@pytest.fixture(scope="module")
def forecaster() -> TinyTSM:
    model = Model(SMALL, torch.Generator().manual_seed(1))
    torch.nn.init.normal_(model.head, std=0.3, generator=torch.Generator().manual_seed(2))
    return TinyTSM(model.requires_grad_(False).eval())


@pytest.fixture(scope="module")
def series() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    walks = [rng.normal(size=n).cumsum() for n in LENGTHS]
    walks[4][20:50] = np.nan
    return walks


def single(forecaster: TinyTSM, values: object, horizon: int, **options) -> torch.Tensor:
    quantiles, _ = forecaster.predict_quantiles([values], horizon, **options)
    assert isinstance(quantiles, torch.Tensor)
    return quantiles


def test_shapes_and_dtypes(forecaster: TinyTSM, series: list[np.ndarray]) -> None:
    quantiles, mean = forecaster.predict_quantiles(series, 10, quantile_levels=[0.9, 0.5])
    assert isinstance(quantiles, torch.Tensor) and isinstance(mean, torch.Tensor)
    assert quantiles.shape == (len(series), 10, 2) and mean.shape == (len(series), 10)
    assert quantiles.dtype == mean.dtype == torch.float64
    assert (quantiles[..., 0] >= quantiles[..., 1]).all()


def test_a_forecaster_says_what_it_is() -> None:
    model = TinyTSM.from_pretrained(device="cpu")
    assert repr(model) == "TinyTSM(1,764,864 parameters, context of 2048 steps, cpu)"


@pytest.mark.parametrize("mates", [1, 2, 5, 33, 64])
def test_a_forecast_does_not_depend_on_its_batch(
    forecaster: TinyTSM, series: list[np.ndarray], mates: int
) -> None:
    rng = np.random.default_rng(mates)
    for values in (series[3], series[6]):
        alone = single(forecaster, values, 150)
        others = [rng.normal(size=rng.integers(1, 1500)) * 1e6 for _ in range(mates)]
        for slot in {0, mates // 2, mates}:
            batch = [*others[:slot], values, *others[slot:]]
            quantiles, _ = forecaster.predict_quantiles(batch, 150)
            assert torch.equal(quantiles[slot], alone[0])


@pytest.mark.parametrize("horizon", [1, 31, 128, 129, 256, 257, 1000])
def test_any_horizon_in_order_and_never_narrower_at_a_roll(
    forecaster: TinyTSM, series: list[np.ndarray], horizon: int
) -> None:
    # phases of a stride roll elsewhere, each of them by the same rule
    quantiles, mean = forecaster.predict_quantiles(series, horizon, effort="fast")
    assert isinstance(quantiles, torch.Tensor) and isinstance(mean, torch.Tensor)
    assert quantiles.shape[1] == mean.shape[1] == horizon
    assert quantiles.isfinite().all() and mean.isfinite().all()
    assert (quantiles.diff(dim=-1) >= 0).all()
    width = quantiles[..., -1] - quantiles[..., 0]
    patch = SMALL.patch
    for roll in range(SMALL.horizon_length, horizon, SMALL.horizon_length):
        before = width[:, roll - patch : roll].mean(1, keepdim=True)
        assert (width[:, roll : roll + patch] >= before * (1 - 1e-5)).all()


def test_equivariance_through_the_edge(forecaster: TinyTSM, series: list[np.ndarray]) -> None:
    base, _ = forecaster.predict_quantiles(series, 40)
    doubled, _ = forecaster.predict_quantiles([64 * s for s in series], 40)
    assert isinstance(base, torch.Tensor) and isinstance(doubled, torch.Tensor)
    assert torch.equal(doubled, 64 * base)
    moved, _ = forecaster.predict_quantiles([3.7 * s + 1e6 for s in series], 40)
    for before, after, values in zip(base, moved, series, strict=True):
        tolerance = 1e-4 * 3.7 * max(np.nanstd(values), 1e-6)
        assert ((after - (3.7 * before + 1e6)).abs() <= tolerance).all()


def test_unit_noise_at_level_1e9_survives(forecaster: TinyTSM) -> None:
    noise = np.random.default_rng(1).normal(size=400)
    plain, lifted = single(forecaster, noise, 20), single(forecaster, noise + 1e9, 20)
    assert ((lifted - 1e9 - plain).abs() < 1e-4).all()
    # the same level in float32 has lost its noise, and the forecast is its level
    rounded = single(forecaster, (noise / 100 + 1e9).astype(np.float32), 20)
    assert (rounded == 1e9).all()


@pytest.mark.parametrize(
    "values",
    [[5.0] * 50, [5], [0, 0, 0], [1e-300] * 3, [-1e308] * 40, np.full(9, 7, np.int64)],
)
def test_a_constant_is_forecast_as_itself(forecaster: TinyTSM, values: object) -> None:
    quantiles = single(forecaster, values, 200)
    assert (quantiles == np.asarray(values, float)[0]).all()


def test_an_empty_variate_is_forecast_as_zero_beside_others(forecaster: TinyTSM) -> None:
    pair = np.stack([np.arange(40.0), np.full(40, np.nan)])
    (quantiles,), (mean,) = forecaster.predict_quantiles([pair], 5)
    assert (quantiles[1] == 0).all() and (mean[1] == 0).all() and (quantiles[0] != 0).all()


@pytest.mark.parametrize(
    "values",
    [[1e308, -1e308, 0], [1e30, 2e30, -1e30], [5e-324, 0, 1e-320], [np.nan, 3, np.nan, 4, np.nan], [True, False]],
)  # fmt: skip
def test_extremes_stay_finite(forecaster: TinyTSM, values: object) -> None:
    assert single(forecaster, values, 300).isfinite().all()


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.integers(1, 80),
        elements=st.floats(allow_infinity=False, allow_nan=True, width=64),
    ),
    st.integers(1, 300),
)
def test_any_series_gives_ordered_finite_quantiles(
    forecaster: TinyTSM, values: np.ndarray, horizon: int
) -> None:
    assume(not np.isnan(values).all())
    quantiles, mean = forecaster.predict_quantiles([values], horizon)
    assert isinstance(quantiles, torch.Tensor) and isinstance(mean, torch.Tensor)
    assert quantiles.isfinite().all() and mean.isfinite().all()
    assert (quantiles.diff(dim=-1) >= 0).all()


def test_variates_are_forecast_together(forecaster: TinyTSM, series: list[np.ndarray]) -> None:
    item = np.stack([series[5], series[5][::-1], np.full(500, np.nan)])
    quantiles, mean = forecaster.predict_quantiles([item, series[6]], 30)
    assert isinstance(quantiles, list)
    assert quantiles[0].shape == (3, 30, 9) and mean[0].shape == (3, 30)
    assert quantiles[1].shape == (1, 30, 9)
    alone = single(forecaster, series[5], 30)
    assert not torch.allclose(quantiles[0][0], alone[0])
    swapped, _ = forecaster.predict_quantiles([item[[2, 0, 1]]], 30)
    spread = np.nanstd(series[5])
    assert ((swapped[0] - quantiles[0][[2, 0, 1]]).abs() <= 1e-4 * spread).all()


def test_other_containers(forecaster: TinyTSM, series: list[np.ndarray]) -> None:
    expected = single(forecaster, series[5], 7)
    for value in (series[5], torch.from_numpy(series[5]), series[5][None], [list(series[5])]):
        quantiles, _ = forecaster.predict_quantiles(value, 7)
        assert torch.equal(torch.as_tensor(quantiles), expected)


def test_levels_between_and_beyond_the_trained_ones() -> None:
    normal = torch.distributions.Normal(2.0, 3.0)
    trained = normal.icdf(torch.tensor(QUANTILES, dtype=torch.float64))
    levels = [0.001, 0.05, 0.1, 0.25, 0.5, 0.731, 0.9, 0.975, 0.9999]
    wanted = normal.icdf(torch.tensor(levels, dtype=torch.float64))
    torch.testing.assert_close(interpolate_levels(trained, levels), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "horizon", "levels", "message"),
    [
        ([[1.0, np.inf]], 5, [0.5], r"inputs\[0\] is infinite at variate 0, step 1"),
        ([[1.0], []], 5, [0.5], r"inputs\[1\] is empty"),
        ([[1.0], [None] * 9], 5, [0.5], r"inputs\[1\] has no observed value: a forecast needs at"),
        ([np.full((2, 9), np.nan)], 5, [0.5], r"inputs\[0\] has no observed value"),
        ([], 5, [0.5], "inputs is empty"),
        ([["a"]], 5, [0.5], r"inputs\[0\] must hold numbers"),
        ([np.zeros((2, 2, 2))], 5, [0.5], r"must have shape \(T,\) or \(V, T\), got \(2, 2, 2\)"),
        ([[1.0]], 0, [0.5], r"\(prediction_length\) must be a whole number of at least 1, got 0"),
        ([[1.0]], 2.5, [0.5], "must be a whole number of at least 1, got 2.5"),
        ([[1.0]], True, [0.5], "must be a whole number of at least 1, got True"),
        ([[1.0]], 10**30, [0.5], "must be at most 10,000,000, got 1000000"),
        ([[1.0]], 5, [1.0], r"quantile level 1 is outside \(0, 1\)"),
        ([[1.0]], 5, [], "quantile levels are empty"),
        ([[1.0, 10**400]], 5, [0.5], r"inputs\[0\] must hold numbers"),
        ([pd.DataFrame([[1.0, 2.0]])], 5, [0.5], r"inputs\[0\] is a DataFrame, whose columns may"),
        ([torch.eye(2).to_sparse()], 5, [0.5], r"inputs\[0\] is no plain tensor of numbers"),
        ("text", 5, [0.5], "inputs must be an array or a list of arrays, got 'text'"),
        ([1.0, 2.0], 5, [0.5], r"got \(\): put a series of its own in a list"),
        ([[[1.0], [2.0, 3.0]]], 5, [0.5], "got rows of unequal lengths"),
    ],
)
def test_bad_arguments_are_named(
    forecaster: TinyTSM, inputs: list, horizon: int, levels: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        forecaster.predict_quantiles(inputs, horizon, levels)


def test_counts(forecaster: TinyTSM, rng: np.random.Generator) -> None:
    x = rng.poisson(0.7, size=200)
    plain, mean = forecaster.predict_quantiles([x], 30, nonnegative=False)
    assert isinstance(plain, torch.Tensor) and isinstance(mean, torch.Tensor)
    assert (plain < 0).any()
    counts, cut = forecaster.predict_quantiles([x], 30, nonnegative=True, integer=True)
    assert torch.equal(torch.as_tensor(counts), plain.round().clamp_min(0))
    assert torch.equal(torch.as_tensor(cut), mean.clamp_min(0))


def test_zero_is_the_floor_of_what_rests_on_it(
    forecaster: TinyTSM, rng: np.random.Generator
) -> None:
    x = np.abs(rng.normal(size=60))
    x[[3, 20]] = 0.0
    rests, above, below = (np.array(x) for _ in range(3))
    rests[40] = below[40] = 0.0
    below[50] = -1e-9
    rests[7] = np.nan
    item = np.stack([rests, above, below])
    plain, low = forecaster.predict_quantiles([item, above], 20, nonnegative=False)
    ruled, mean = forecaster.predict_quantiles([item, above], 20)
    assert (plain[0] < 0).any((1, 2)).all()
    # the variate that rests on zero, by itself
    assert torch.equal(ruled[0][0], plain[0][0].clamp_min(0))
    assert torch.equal(mean[0][0], low[0][0].clamp_min(0))
    assert not any(bool(q[q == 0].signbit().any()) for q in ruled)
    for a, b in ((ruled[0][1:], plain[0][1:]), (mean[0][1:], low[0][1:]), (ruled[1], plain[1])):
        assert torch.equal(a, b)


@pytest.mark.parametrize("least", [1.0, 40.0])
def test_no_quantile_is_nearer_to_zero_than_to_anything_seen(
    forecaster: TinyTSM, rng: np.random.Generator, least: float
) -> None:
    x = least * rng.poisson(0.5, size=200)
    plain, low = forecaster.predict_quantiles([x], 30, nonnegative=False)
    assert isinstance(plain, torch.Tensor) and isinstance(low, torch.Tensor)
    between = (plain > 0) & (plain < least / 2)
    assert between.any()
    wanted = plain.where(plain >= least / 2, 0)
    found, mean = forecaster.predict_quantiles([x], 30)
    assert torch.equal(torch.as_tensor(found), wanted)
    # a mean is no value that is seen
    assert torch.equal(torch.as_tensor(mean), low.clamp_min(0))
    whole, _ = forecaster.predict_quantiles([x], 30, integer=True)
    assert torch.equal(torch.as_tensor(whole), wanted.round())
    # who asks for a floor gets a floor
    floored, _ = forecaster.predict_quantiles([x], 30, nonnegative=True)
    assert torch.equal(torch.as_tensor(floored), plain.clamp_min(0))


def test_below_what_a_forecast_is_zero() -> None:
    rows = {
        "counts": ([0, 0, 0, 2, 1, np.nan, 5], 0.5),
        "a zero now and then": ([0, 3, 4, 0, 5, 6, 3, 0, 2, 7], 0.0),
        "a third of what is shown": ([0, 0, 0, 4, 4, 4, 4, 4, 4, np.nan], 2.0),
        "twice by chance": ([0, 1, 0, 1, 1], -np.inf),
        "something below": ([0, 0, 0, -5e-324, 2], -np.inf),
        "only zeros": ([0, 0, 0, 0], 0.0),
        "nothing": ([np.nan] * 4, -np.inf),
        "the largest": ([0, 0, 0, 1.7e308], 0.85e308),
    }
    for name, (values, wanted) in rows.items():
        assert zero_below(np.array([values], np.float64))[0] == wanted, name


def test_nothing_but_zeros_stays_zero(forecaster: TinyTSM) -> None:
    quantiles, mean = forecaster.predict_quantiles([np.zeros(50)], 5)
    assert (torch.as_tensor(quantiles) == 0).all() and (torch.as_tensor(mean) == 0).all()


def test_a_stream_is_read_as_it_is_taken(forecaster: TinyTSM, series: list[np.ndarray]) -> None:
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield series[4]

    stream = forecaster.predict_stream(endless(), 7, effort="fast")
    assert taken == 0
    quantiles, mean = next(stream)
    assert quantiles.shape == (7, 9) and mean.shape == (7,) and taken <= 1024
    assert torch.equal(quantiles, single(forecaster.with_options(effort="fast"), series[4], 7)[0])


def test_an_input_that_cannot_be_used_is_named_in_its_turn(
    forecaster: TinyTSM, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [np.ones(5), np.ones(6), [np.inf], np.ones(7)]
    stream = forecaster.predict_stream(iter(inputs), 2, effort="fast")
    assert [next(stream)[1].tolist() for _ in range(2)] == [[1.0, 1.0]] * 2
    with pytest.raises(ValueError, match=r"inputs\[2\] is infinite"):
        next(stream)
    # of a list, before any work
    monkeypatch.setattr(forecaster.model, "forward", None)
    with pytest.raises(ValueError, match=r"inputs\[2\] is infinite"):
        forecaster.predict_quantiles(inputs, 2)


def test_many_variates_are_cut_into_pieces(forecaster: TinyTSM, rng: np.random.Generator) -> None:
    item = rng.normal(size=(1000, 20))
    (quantiles,), (mean,) = forecaster.predict_quantiles([item], 3, effort="fast")
    assert quantiles.shape == (1000, 3, 9) and mean.shape == (1000, 3)
    # 16 pieces, 62 or 63 variates each: the first does not know of the others
    (piece,), _ = forecaster.predict_quantiles([item[:63]], 3, effort="fast")
    assert torch.equal(quantiles[:63], piece)
    # a floor is each variate's own, in whichever piece it is
    item[700] = np.abs(item[700])
    item[700, ::5] = 0.0
    (floored,), _ = forecaster.predict_quantiles([item], 3, effort="fast")
    (plain,), _ = forecaster.predict_quantiles([item], 3, effort="fast", nonnegative=False)
    plain[700] = plain[700].clamp_min(0)
    assert torch.equal(floored, plain)


def test_a_long_history_is_its_newest_part(forecaster: TinyTSM, rng: np.random.Generator) -> None:
    x = rng.normal(size=300_000)
    far = 16 * 1024
    for effort, adjust, newest in (
        ("fast", None, 1024),
        ("fast", True, far),
        ("standard", None, far),
    ):
        whole = single(forecaster, x, 5, effort=effort, adjust=adjust)
        part = single(forecaster, x[-newest:], 5, effort=effort, adjust=adjust)
        assert torch.equal(whole, part)
    x[0] = np.inf  # is not looked at
    assert single(forecaster, x, 5).isfinite().all()


def test_a_long_missing_end_counts_as_a_shorter_one(
    forecaster: TinyTSM, series: list[np.ndarray]
) -> None:
    short, long = (np.r_[series[6], np.full(n, np.nan)] for n in (512, 50_000))
    assert torch.equal(single(forecaster, long, 5), single(forecaster, short, 5))
    assert (single(forecaster, long, 5).diff(dim=-1) > 0).all()


def test_the_interval_does_not_collapse_far_away(
    forecaster: TinyTSM, series: list[np.ndarray]
) -> None:
    for effort in ("fast", "best"):
        quantiles, _ = forecaster.predict_quantiles([series[7]], 20_000, effort=effort)
        width = torch.as_tensor(quantiles)[0, :, -1] - torch.as_tensor(quantiles)[0, :, 0]
        assert width.isfinite().all()
        assert width[-128:].mean() >= width[:128].mean()


def test_who_keeps_one_forecast_keeps_no_other(forecaster: TinyTSM, rng) -> None:
    inputs = [rng.normal(size=90), rng.normal(size=(2, 90))]
    for kept in forecaster.predict_stream(inputs, 5):
        for tensor in kept:
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_a_variate_that_ended_long_ago_is_forecast_from_what_it_was(
    forecaster: TinyTSM, rng: np.random.Generator
) -> None:
    item = 500 + rng.normal(size=(2, 4000))
    item[1, 1500:] = np.nan
    fast = forecaster.with_options(effort="fast")
    for model, horizon in ((fast, 5), (forecaster, 5), (forecaster, 900)):
        (quantiles,), _ = model.predict_quantiles([item], horizon)
        assert (quantiles.diff(dim=-1) > 0).all() and ((quantiles - 500).abs() < 100).all()
        # the other variate is read as it would be beside one that ended half a context ago
        moved = item.copy()
        moved[1, 1988:3488], moved[1, :1988] = item[1, :1500], np.nan
        (wanted,), _ = model.predict_quantiles([moved], horizon)
        assert torch.equal(quantiles, wanted)


def test_what_is_missing_before_the_first_value_is_no_history(
    forecaster: TinyTSM, series: list[np.ndarray]
) -> None:
    for horizon in (5, 200):
        for values in (
            series[2],
            np.stack([series[5], np.r_[np.full(300, np.nan), series[5][300:]]]),
        ):
            late = np.concatenate((np.full((*values.shape[:-1], 3000), np.nan), values), -1)
            for found, wanted in zip(
                forecaster.predict_quantiles([late], horizon),
                forecaster.predict_quantiles([values], horizon),
                strict=True,
            ):
                assert torch.equal(found[0], wanted[0])


def test_an_item_is_what_the_definition_says(rng: np.random.Generator) -> None:
    newest = 7
    for _ in range(300):
        steps, variates, tail = (int(rng.integers(1, n)) for n in (40, 4, 7))
        x = rng.normal(size=(variates, steps))
        for row in x:
            row[steps - int(rng.integers(steps + 1)) :] = np.nan
        x[rng.random(x.shape) < 0.2] = np.nan
        if np.isnan(x).all():
            continue

        def end(rows: np.ndarray, tail: int = tail) -> int:
            shown = [t for t in range(rows.shape[1]) if not np.isnan(rows[:, t]).all()]
            # what shows nothing keeps all of its steps
            return min(rows.shape[1], shown[-1] + 1 + tail) if shown else rows.shape[1]

        whole = x[:, : end(x)]
        wanted = np.full((variates, newest), np.nan)
        for one, row in zip(wanted, whole, strict=True):
            for back, value in enumerate(row[: end(row[None])][::-1][:newest]):
                one[newest - 1 - back] = value
        count = min(newest, whole.shape[1])
        wanted = wanted[:, newest - count :]
        while np.isnan(wanted[:, 0]).all():
            wanted = wanted[:, 1:]
        item, _ = as_item(x, 0, newest=newest, longest_tail=tail)
        assert np.array_equal(item.values, wanted, equal_nan=True)
        # an infinite one is named where it lies
        at = np.argwhere(~np.isnan(item.values))
        for variate, step in at[-1:]:
            (place,) = np.flatnonzero(x[variate] == item.values[variate, step])
            x[variate, place] = np.inf
            with pytest.raises(ValueError, match=f"infinite at variate {variate}, step {place};"):
                as_item(x, 0, newest=newest, longest_tail=tail)


@pytest.mark.parametrize(("longest", "unit"), [(400, 7 * 24), (100, 24), (20, 1)])
def test_a_season_keeps_its_place_over_a_long_missing_end(longest: int, unit: int) -> None:
    x = np.sin(np.arange(3001) * np.pi / 12)
    x[1000:] = np.nan
    item, _ = as_item(x, 0, newest=1024, longest_tail=longest)
    counted = int(np.isnan(item.values).sum())
    assert longest - unit < counted <= longest and (2001 - counted) % unit == 0
    # without a season all that may count does
    x[:1000] = np.random.default_rng(0).normal(size=1000)
    item, _ = as_item(x, 0, newest=1024, longest_tail=longest)
    assert np.isnan(item.values).sum() == longest


def test_a_buffer_that_is_filled_again_was_read(forecaster: TinyTSM) -> None:
    buffer = np.empty(40)

    def readings():
        for level in (1.0, 2.0, 3.0):
            buffer[:] = level
            yield buffer

    means = [mean[0].item() for _, mean in forecaster.predict_stream(readings(), 2)]
    assert means == [1.0, 2.0, 3.0]


def test_importing_brings_neither_numba_nor_pandas() -> None:
    code = "import sys, tinytsm.forecast; print({'numba', 'pandas'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "set()"
