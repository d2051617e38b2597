"""Laws of the spectral, event, count and chaotic families of SynthTS."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tinytsm.synth import chaos, counts, events, philox, spectral

ROOT = Path(__file__).parents[1]
MODULES: tuple[ModuleType, ...] = (spectral, events, counts, chaos)
FAMILIES = [(module, name) for module in MODULES for name in module.FAMILIES]
IDS = [name for _, name in FAMILIES]
PURPOSE = 7


def draw(module: ModuleType, name: str, *, index: int, length: int) -> np.ndarray:
    """(T,) draw of a family into memory that held NaN."""
    out = np.full(length, np.nan)
    getattr(module, name)(philox.stream(11, index, PURPOSE), out)
    return out


def first_uniforms(index: int, count: int) -> list[float]:
    """The uniforms that a family's parameters are made from, when it draws them first."""
    rng = philox.stream(11, index, PURPOSE)
    return [philox.uniform(rng) for _ in range(count)]


# Every family


@pytest.mark.parametrize(("module", "name"), FAMILIES, ids=IDS)
def test_family_is_finite_and_moves(module: ModuleType, name: str) -> None:
    for length in (1, 2, 3, 7, 33, 100):
        for index in range(20):
            assert np.isfinite(draw(module, name, index=index, length=length)).all()
    for index in range(60):
        x = draw(module, name, index=index, length=777)
        assert np.isfinite(x).all()
        assert np.ptp(x) > 1e-9 * np.abs(x).max(), f"index {index} is constant"


@pytest.mark.parametrize(("module", "name"), FAMILIES, ids=IDS)
def test_family_is_a_function_of_its_stream(module: ModuleType, name: str) -> None:
    first = draw(module, name, index=3, length=257)
    other = draw(module, name, index=4, length=257)
    assert np.array_equal(first, draw(module, name, index=3, length=257))
    assert not np.array_equal(first, other)


def test_families_without_compiler_agree(tmp_path: Path) -> None:
    """Plain Python runs the same loops: equal to rounding, where rounding is not amplified."""
    script = (
        "import sys, numpy as np, tests.test_synth_families as t\n"
        "np.savez(sys.argv[1], **{n: t.draw(m, n, index=2, length=48) for m, n in t.FAMILIES})"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "plain.npz")]
    subprocess.run(command, env=environment, cwd=ROOT, check=True)
    plain = np.load(tmp_path / "plain.npz")
    for module, name in FAMILIES:
        if module is not chaos:
            jitted = draw(module, name, index=2, length=48)
            np.testing.assert_allclose(
                jitted, plain[name], rtol=1e-12, atol=1e-12 * np.abs(jitted).max(), err_msg=name
            )


# The transform and the Gaussian draws


@pytest.mark.parametrize("n", [2, 4, 8, 64, 4096])
def test_fft_is_numpys(n: int, rng: np.random.Generator) -> None:
    z = rng.normal(size=n) + 1j * rng.normal(size=n)
    # A table for more than n serves too
    table = spectral.twiddles(2 * n)
    re, im = z.real.copy(), z.imag.copy()
    spectral.fft(re, im, table)
    reference = np.fft.fft(z)
    assert np.abs(re + 1j * im - reference).max() < 1e-12 * np.abs(reference).max()
    spectral.fft(im, re, table)
    assert np.abs((re + 1j * im) / n - z).max() < 1e-12 * np.abs(z).max()


def test_eigenvalues_are_the_transform_of_the_circle(rng: np.random.Generator) -> None:
    row = rng.normal(size=65)
    circle = np.concatenate([row, row[-2:0:-1]])
    ours = spectral.eigenvalues_of(row, spectral.twiddles(128))
    np.testing.assert_allclose(ours, np.fft.rfft(circle).real, atol=1e-12)


def closed_form(kind: int, lag: np.ndarray, scale: float, shape: float) -> np.ndarray:
    r = lag / scale
    if kind == spectral._RBF:
        return np.exp(-0.5 * r * r)
    if kind == spectral._RATIONAL:
        return (1 + r * r / (2 * shape)) ** -shape
    if kind == spectral._PERIODIC:
        return np.exp(-2 * np.sin(np.pi * r) ** 2 / shape**2)
    s = math.sqrt(shape) * r
    polynomial = {1.0: np.ones_like(s), 3.0: 1 + s, 5.0: 1 + s + s * s / 3}[shape]
    return polynomial * np.exp(-s)


KERNELS = [
    (spectral._RBF, 9.0, 1.0),
    (spectral._RATIONAL, 5.0, 0.25),
    (spectral._RATIONAL, 5.0, 0.5),
    (spectral._RATIONAL, 5.0, 1.0),
    (spectral._RATIONAL, 5.0, 2.0),
    (spectral._MATERN, 11.0, 1.0),
    (spectral._MATERN, 11.0, 3.0),
    (spectral._MATERN, 11.0, 5.0),
    (spectral._PERIODIC, 24.0, 0.7),
    (spectral._PERIODIC, 10.3, 1.5),
]


@pytest.mark.parametrize(("kind", "scale", "shape"), KERNELS)
def test_kernel_has_its_closed_form(kind: int, scale: float, shape: float) -> None:
    row = np.full(1025, 2.0)
    spectral.multiply_kernel(row, kind, scale, shape)
    expected = 2.0 * closed_form(kind, np.arange(1025.0), scale, shape)
    np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kind", "scale", "shape"), KERNELS)
def test_tapered_kernel_embeds(kind: int, scale: float, shape: float) -> None:
    """No negative eigenvalue is left for the draw to clip: the drawn covariance is the row itself."""
    row = np.ones(1025)
    spectral.multiply_kernel(row, kind, 20 * scale if kind < spectral._PERIODIC else scale, shape)
    spectral.taper(row)
    assert row[0] == pytest.approx(1.0)
    assert spectral.eigenvalues_of(row, spectral.twiddles(2048)).min() > -1e-9


def test_draws_have_the_covariance_asked_for() -> None:
    row = np.ones(65)
    spectral.multiply_kernel(row, spectral._MATERN, 12.0, 3.0)
    spectral.multiply_kernel(row, spectral._PERIODIC, 8.0, 1.0)
    spectral.taper(row)
    table = spectral.twiddles(128)
    eigenvalues = spectral.eigenvalues_of(row, table)
    rng = philox.stream(1, 2, 3)
    draws = np.empty((20_000, 64))
    for x in draws:
        spectral.draw(rng, eigenvalues, table, x)
    expected = row[np.abs(np.subtract.outer(np.arange(64), np.arange(64)))]
    # Five standard errors of a product of two unit normals
    assert np.abs(draws.T @ draws / len(draws) - expected).max() < 5 * math.sqrt(2 / len(draws))


def test_periodic_draw_repeats_and_has_its_covariance() -> None:
    rng = philox.stream(1, 2, 3)
    draws = np.ones((20_000, 36))
    for x in draws:
        spectral.multiply_periodic(rng, 12.0, 0.9, x)
    assert np.array_equal(draws[:, :12], draws[:, 24:])
    kernel = closed_form(spectral._PERIODIC, np.arange(12.0), 12.0, 0.9)
    # The sixth harmonic of twelve steps is left out: it would be one of two signs, not a wave
    spectrum = np.fft.rfft(kernel)
    spectrum[6] = 0.0
    expected = np.fft.irfft(spectrum, 12)
    covariance = (draws[:, :1] * draws[:, :12]).mean(axis=0)
    assert np.abs(covariance - expected).max() < 5 * math.sqrt(2 / len(draws))


def test_periodic_draws_multiply_to_the_product_of_their_kernels() -> None:
    rng = philox.stream(1, 2, 3)
    draws = np.ones((20_000, 90))
    expected = np.ones(90)
    for period, shape in ((9.0, 0.9), (15.0, 0.7)):
        for x in draws:
            spectral.multiply_periodic(rng, period, shape, x)
        expected *= closed_form(spectral._PERIODIC, np.arange(90.0), period, shape)
    products = draws[:, :1] * draws
    error = products.std(axis=0) / math.sqrt(len(draws))
    assert (np.abs(products.mean(axis=0) - expected) < 5 * error).all()


def test_periodic_draw_of_a_broken_period_keeps_it() -> None:
    x = np.ones(4000)
    spectral.multiply_periodic(philox.stream(1, 2, 3), 12.5, 0.9, x)
    np.testing.assert_allclose(x[:-25], x[25:], atol=1e-9)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.6])
def test_power_law_follows_its_exponent(exponent: float) -> None:
    power = np.empty(2049)
    spectral._power_law(power, exponent, 20.0)
    expected = np.maximum(np.arange(2049.0), 20.0) ** -exponent
    np.testing.assert_allclose(power, expected, rtol=2e-3)


# Events


def test_gap_is_exact_or_memoryless() -> None:
    rng = philox.stream(1, 2, 3)
    assert events._gap(rng, 24.0, 0.0) == 24.0
    gaps = np.array([events._gap(rng, 24.0, 1.0) for _ in range(20_000)])
    assert gaps.mean() == pytest.approx(24.0, rel=0.04)
    assert gaps.std() == pytest.approx(24.0, rel=0.05)


def test_spike_rises_in_line_and_decays_by_its_constant() -> None:
    out = np.zeros(60)
    events._add_spike(20, 8.0, 3.0, 5.0, False, out)
    np.testing.assert_allclose(out[16:21], [0.0, 2.0, 4.0, 6.0, 8.0])
    np.testing.assert_allclose(out[20:50], 8.0 * np.exp(-np.arange(30.0) / 5.0))
    # Cut off at either end, never outside
    for at in (0, 59):
        events._add_spike(at, 1.0, 30.0, 30.0, True, out)


def test_level_shifts_are_few_and_large() -> None:
    jumps = []
    for index in range(200):
        x = draw(events, "level_shifts", index=index, length=2000)
        step = np.abs(np.diff(x))
        large = step > 12 * np.median(step)
        # A ramp is one shift, however many steps it takes
        jumps.append(int(large[0]) + int((large[1:] & ~large[:-1]).sum()))
    # Some drown in their noise or come as slow ramps
    assert np.mean([jump > 0 for jump in jumps]) > 0.5
    assert max(jumps) < 140


def test_spikes_stand_out_of_a_quiet_background() -> None:
    excess = []
    for index in range(100):
        x = draw(events, "spikes", index=index, length=2000)
        z = (x - x.mean()) / x.std()
        excess.append((z**4).mean())
    assert np.median(excess) > 6.0


def test_nights_are_zero_and_days_return() -> None:
    dark = []
    for index in range(100):
        x = draw(events, "daylight", index=index, length=1500)
        assert x.min() >= 0.0
        dark.append((x == 0.0).mean())
    assert 0.3 < np.mean(dark) < 0.7


@pytest.mark.parametrize("name", ["idle_active", "rush_hours"])
def test_loads_are_never_negative(name: str) -> None:
    assert min(draw(events, name, index=i, length=1500).min() for i in range(100)) >= 0.0


def test_idle_traces_idle() -> None:
    below = []
    for index in range(100):
        x = draw(events, "idle_active", index=index, length=1500)
        below.append((x < 0.1 * x.max()).mean())
    assert np.median(below) > 0.5


# Counts


@pytest.mark.parametrize("mean", [0.4, 6.0, 90.0])
@pytest.mark.parametrize("dispersion", [0.0, 0.5])
def test_counts_have_mean_and_variance(mean: float, dispersion: float) -> None:
    rng = philox.stream(1, 2, 3)
    x = np.array([counts.overdispersed(rng, mean, dispersion) for _ in range(40_000)])
    variance = mean + dispersion * mean * mean
    assert x.mean() == pytest.approx(mean, abs=5 * math.sqrt(variance / len(x)))
    assert x.var() == pytest.approx(variance, rel=0.08)


@pytest.mark.parametrize("name", counts.FAMILIES)
def test_counts_are_whole_and_not_negative(name: str) -> None:
    whole = 0
    for index in range(50):
        x = draw(counts, name, index=index, length=500)
        assert x.min() >= 0.0
        whole += np.array_equal(x, np.round(x))
    # A share of intermittent demand is in weights or money
    assert whole < 50 if name == "intermittent_demand" else whole == 50


def test_intermittent_demand_keeps_its_rate() -> None:
    asked, seen = [], []
    for index in range(300):
        (u,) = first_uniforms(index, 1)
        asked.append(0.02 * (0.7 / 0.02) ** u)
        seen.append((draw(counts, "intermittent_demand", index=index, length=2000) > 0).mean())
    assert np.mean(seen) == pytest.approx(np.mean(asked), rel=0.06)
    assert np.corrcoef(asked, seen)[0, 1] > 0.95


def test_self_exciting_counts_keep_their_mean_and_echo() -> None:
    ratios, echoes = [], []
    for index in range(200):
        u, _, w = first_uniforms(index, 3)
        if 0.3 + 0.685 * u > 0.9:
            continue
        x = draw(counts, "self_exciting_counts", index=index, length=4000)
        ratios.append(x.mean() / (0.3 * (100 / 0.3) ** w))
        echoes.append(np.corrcoef(x[1:], x[:-1])[0, 1])
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.03)
    assert min(echoes) > 0.0


def test_shop_sales_have_a_week() -> None:
    weekly = []
    for index in range(60):
        x = draw(counts, "shop_sales", index=index, length=1400)
        x = x - x.mean()
        weekly.append((x[7:] * x[:-7]).mean() - (x[3:] * x[:-3]).mean() > 0.0)
    assert np.mean(weekly) > 0.8


# Chaos


def test_noiseless_maps_obey_their_recurrence() -> None:
    found = 0
    for index in range(40):
        x = draw(chaos, "henon_map", index=index, length=300)
        design = np.stack([np.ones(298), -(x[1:-1] ** 2), x[:-2]], axis=1)
        solution, *_ = np.linalg.lstsq(design, x[2:], rcond=None)
        if np.abs(design @ solution - x[2:]).max() < 1e-9 and np.linalg.cond(design) < 1e6:
            found += 1
            assert solution[0] == pytest.approx(1.0, abs=1e-6)
            assert 1.1 <= solution[1] <= 1.4
            assert 0.2 <= solution[2] <= 0.3
    # Seven in ten are seen without noise, seven in ten of these at every step
    assert found >= 12


def test_runge_kutta_is_of_fourth_order() -> None:
    parameters = np.array([10.0, 28.0, 8 / 3])

    def after(steps: int) -> np.ndarray:
        state = np.array([1.0, 2.0, 20.0])
        out = np.empty(1)
        chaos.integrate(0, state, parameters, 0.4 / steps, steps, 0, 0, out)
        return state

    truth = after(4096)
    coarse, fine = np.abs(after(32) - truth).max(), np.abs(after(64) - truth).max()
    assert 12.0 < coarse / fine < 20.0


@pytest.mark.parametrize("which", [0, 1])
def test_flows_part_exponentially(which: int) -> None:
    parameters = np.array([[10.0, 28.0, 8 / 3], [0.2, 0.2, 5.7]][which])
    time, least, most = [(20.0, 0.7, 1.1), (150.0, 0.04, 0.11)][which]
    paths = []
    for nudge in (0.0, 1e-9):
        state = np.array([1.0, 2.0, 2.0])
        chaos.integrate(which, state, parameters, 0.01, 1, 10_000, 0, np.empty(1))
        state[0] += nudge
        out = np.empty(int(time / 0.01))
        chaos.integrate(which, state, parameters, 0.01, 1, 0, 0, out)
        paths.append(out)
    apart = np.abs(paths[1] - paths[0])
    # Largest Lyapunov exponents from Sprott: 0.906 and 0.0714
    assert least < math.log(apart[-500:].max() / 1e-9) / time < most


def test_mackey_glass_is_bounded() -> None:
    for index in range(20):
        rng = philox.stream(11, index, PURPOSE)
        out = np.empty(2000)
        chaos.mackey_glass(rng, out)
        assert -0.5 < out.min() < out.max() < 2.0
