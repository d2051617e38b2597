"""Laws of SynthTS's augmentations: what each must change, and what it must leave alone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinytsm.synth import augment, philox

ROOT = Path(__file__).parents[1]
NAMES = augment.AUGMENTATIONS + augment.GAPS


def base(length: int = 500) -> np.ndarray:
    """(T,) a wave with noise, level 50: no two values alike."""
    rng = np.random.default_rng(5)
    t = np.arange(length)
    return 50.0 + 3.0 * np.sin(2 * np.pi * t / 24) + rng.normal(size=length)


def apply(name: str, x: np.ndarray, *, index: int = 0) -> np.ndarray:
    """A changed copy of x (T,)."""
    out = x.copy()
    getattr(augment, name)(philox.stream(3, index, 1), out)
    return out


# Every augmentation


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_augmentation_changes_and_stays_finite(name: str) -> None:
    x = base()
    for index in range(50):
        y = apply(name, x, index=index)
        assert np.isfinite(y).all()
        assert np.ptp(y) > 0.0
        assert not np.array_equal(x, y)
        for length in (1, 2, 3, 8):
            assert np.isfinite(apply(name, x[:length], index=index)).all()
        assert np.isfinite(apply(name, np.full(40, 7.0), index=index)).all()


@pytest.mark.parametrize("name", NAMES)
def test_augmentation_is_a_function_of_stream_and_series(name: str) -> None:
    x = base()
    np.testing.assert_array_equal(apply(name, x, index=1), apply(name, x, index=1))


def test_augmentations_without_compiler_agree(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np, tests.test_augment as t\n"
        "np.savez(sys.argv[1], **{n: t.apply(n, t.base(60)) for n in t.NAMES})"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "plain.npz")]
    subprocess.run(command, env=environment, cwd=ROOT, check=True)
    plain = np.load(tmp_path / "plain.npz")
    for name in NAMES:
        np.testing.assert_allclose(apply(name, base(60)), plain[name], rtol=1e-12, err_msg=name)


# Scale and mixing


def test_standardise_survives_level_and_constants() -> None:
    x = base() + 1e6
    augment.standardise(x)
    assert abs(x.mean()) < 1e-9
    assert x.std() == pytest.approx(1.0, abs=1e-12)
    constant = np.full(77, 0.1)
    augment.standardise(constant)
    assert np.array_equal(constant, np.zeros(77))


def test_mixup_lies_between_its_parents() -> None:
    static = 0
    for index in range(60):
        x, y = base(), np.random.default_rng(index).normal(size=500).cumsum()
        mixed = x.copy()
        augment.mixup(philox.stream(3, index, 1), mixed, y)
        augment.standardise(x)
        low, high = np.minimum(x, y), np.maximum(x, y)
        assert ((mixed >= low - 1e-12) & (mixed <= high + 1e-12)).all()
        # One weight for the whole series, or one that moves
        weight = (mixed - y)[np.abs(x - y) > 0.1] / (x - y)[np.abs(x - y) > 0.1]
        static += np.ptp(weight) < 1e-9
        assert 0.0 <= weight.min() <= weight.max() <= 1.0 + 1e-9
    assert 20 < static < 52


def test_modulation_scales_departures_smoothly() -> None:
    x = base()
    for index in range(40):
        factor = (apply("amplitude_modulation", x, index=index) - x.mean()) / (x - x.mean())
        factor = factor[np.abs(x - x.mean()) > 0.1]
        assert factor.min() > 0.0
        assert np.abs(np.diff(factor)).max() < 0.25


# Measurement


def test_censor_caps_exactly_and_leaves_the_rest() -> None:
    x = base()
    for index in range(60):
        y = apply("censor", x, index=index)
        low, high = y.min(), y.max()
        assert np.array_equal(y, np.clip(x, low, high))
        # The bounds are values of the series, and at least one of them cuts
        assert low in x and high in x
        capped = (y == low).sum() + (y == high).sum() - 2
        assert 0.015 * x.size < capped < 0.85 * x.size


def test_quantise_keeps_few_even_levels() -> None:
    x = base()
    for index in range(60):
        y = apply("quantise", x, index=index)
        levels = np.unique(y)
        assert levels.size <= 40
        # Levels lie on one grid: the range in whole steps, of which none may be visited by chance
        step = 2 * np.abs(y - x).max()
        steps = np.round((levels - levels[0]) / (np.ptp(x) / round(np.ptp(x) / step)))
        assert np.ptp(y) == pytest.approx(np.ptp(x))
        assert (np.diff(steps) >= 1).all()


def test_hold_repeats_the_latest_report() -> None:
    x = base()
    for index in range(60):
        y = apply("sample_and_hold", x, index=index)
        # Values of the base are all different, so each tells when it was reported
        origin = np.array([int(np.flatnonzero(x == value)[0]) for value in y])
        assert (origin <= np.arange(x.size)).all()
        assert (np.diff(origin) >= 0).all()
        assert np.unique(y).size < 0.8 * x.size


@pytest.mark.parametrize("name", ["sign_flip", "time_flip"])
@pytest.mark.parametrize("length", [1, 2, 499, 500])
def test_flips_are_involutions(name: str, length: int) -> None:
    x = base(length)
    once = apply(name, x)
    np.testing.assert_array_equal(once, -x if name == "sign_flip" else x[::-1])
    np.testing.assert_array_equal(apply(name, once), x)


def test_warp_keeps_order_and_ends() -> None:
    line = np.arange(500.0)
    for index in range(40):
        y = apply("time_warp", line, index=index)
        assert (np.diff(y) > 0.0).all()
        assert y[0] == 0.0
        assert y[-1] == pytest.approx(499.0)


def test_resample_stretches_a_part() -> None:
    line = np.arange(500.0)
    speeds = []
    for index in range(60):
        y = apply("resample", line, index=index)
        speeds.append(np.diff(y)[0])
        np.testing.assert_allclose(np.diff(y), speeds[-1], atol=1e-9)
        assert 0.0 <= y[0] <= y[-1] <= 499.0
    assert min(speeds) >= 1 / 6 - 1e-9 and max(speeds) < 1.0


def test_outliers_are_few_and_far() -> None:
    x = base(5000)
    for index in range(40):
        moved = apply("outliers", x, index=index) - x
        hit = moved != 0.0
        assert 1 <= hit.sum() < 0.05 * x.size
        assert np.abs(moved[hit]).min() >= 1.5 * x.std()


def test_smooth_is_the_trailing_mean() -> None:
    x = base() + 1e6
    for index in range(40):
        window = int(philox.log_uniform(philox.stream(3, index, 1), 2.0, 60.0))
        sums = np.concatenate([[0.0], np.cumsum(x - 1e6)])
        starts = np.maximum(np.arange(1, 501) - window, 0)
        expected = 1e6 + (sums[1:] - sums[starts]) / (np.arange(1, 501) - starts)
        np.testing.assert_allclose(apply("smooth", x, index=index), expected, atol=1e-7)


def test_difference_undoes_accumulation() -> None:
    x = base()
    z = (x - x.mean()) / x.std()
    back = apply("difference", apply("accumulate", x))
    drift = back[1:] - z[1:]
    np.testing.assert_allclose(drift, drift[0], atol=1e-9)
    # The drift moves the whole by as much as a walk of this length would
    assert abs(drift[0]) * x.size < 5.0 * np.sqrt(x.size)


def test_noise_is_white_and_of_its_size() -> None:
    x = np.sin(2 * np.pi * np.arange(20_000) / 100)
    for index in range(20):
        noise = apply("add_noise", x, index=index) - x
        assert 0.009 < noise.std() / x.std() < 0.85
        assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.04
        assert abs(np.corrcoef(noise, x)[0, 1]) < 0.04


# Gaps


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("random_gaps", 0.003, 0.45),
        ("gap_runs", 0.0, 0.7),
        ("periodic_gaps", 0.0, 0.7),
        ("long_gap", 0.019, 0.301),
    ],
)
def test_gaps_remove_a_share_and_keep_the_rest(name: str, least: float, most: float) -> None:
    x = base(2000)
    shares = []
    for index in range(100):
        y = apply(name, x, index=index)
        kept = ~np.isnan(y)
        assert np.array_equal(y[kept], x[kept])
        shares.append(1.0 - kept.mean())
    assert least <= min(shares) and max(shares) <= most
    assert 0.05 < np.mean(shares) < 0.4


def test_long_gap_is_one_run_and_random_gaps_are_not() -> None:
    x = base(2000)
    for index in range(40):
        edges = np.diff(np.isnan(apply("long_gap", x, index=index)).astype(int))
        assert 1 <= np.abs(edges).sum() <= 2
        missing = np.isnan(apply("random_gaps", x, index=index))
        rate = missing.mean()
        # Independent steps: a gap follows a gap no more often than anything else
        both = (missing[1:] & missing[:-1]).mean()
        assert abs(both - rate * rate) < 0.02


def test_gap_runs_are_as_long_as_their_share_asks() -> None:
    x = base(20_000)
    asked, seen = [], []
    for index in range(60):
        rng = philox.stream(3, index, 1)
        mean = philox.log_uniform(rng, 2.0, 1000.0)
        share = philox.log_uniform(rng, 0.03, 0.35)
        if 5.0 < mean < 200.0:
            asked.append(share)
            seen.append(np.isnan(apply("gap_runs", x, index=index)).mean())
    assert np.mean(seen) == pytest.approx(np.mean(asked), rel=0.25)
    assert np.corrcoef(asked, seen)[0, 1] > 0.8


def test_periodic_gaps_repeat() -> None:
    x = base(2000)
    for index in range(40):
        missing = np.isnan(apply("periodic_gaps", x, index=index))
        starts = np.flatnonzero(missing[1:] & ~missing[:-1])
        if starts.size > 1:
            assert np.unique(np.diff(starts)).size == 1
