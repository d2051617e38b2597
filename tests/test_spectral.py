"""Spectral families have the covariance or the spectrum whose parameters they drew."""

import itertools
import math

import numpy as np

from tinytsm.synth import philox, seasonal, spectral

LENGTH = 4096
# Steps of the circle that a draw is cut from
CIRCLE = 2 * LENGTH


def stream(index: int) -> np.ndarray:
    return philox.stream(45, index, 0)


def draw(name: str, index: int, length: int = LENGTH) -> np.ndarray:
    out = np.full(length, np.nan)
    getattr(spectral, name)(stream(index), out)
    return out


def spectrum(x: np.ndarray) -> np.ndarray:
    """Power at k / T, tapered."""
    return np.abs(np.fft.rfft((x - x.mean()) * np.hanning(x.size))) ** 2


def covariance(index: int, length: int) -> np.ndarray | None:
    """(T, T) covariance of a draw of kernel_algebra; None where a product is white, an exact cycle or a lone line."""
    rng = stream(index)
    count = philox.integer(rng, 1, spectral._MOST_KERNELS + 1)
    kinds, joins = np.empty(count, np.int64), np.empty(count, np.int64)
    scales, shapes = np.empty(count), np.empty(count)
    spectral._draw_kernels(rng, length, kinds, scales, shapes, joins)
    zero = philox.between(rng, -0.5, 1.5)
    remembers = any(
        kinds[i] < spectral._PERIODIC and scales[i] > 0.1 * length for i in range(count)
    )
    half = spectral.circle_size(length, 4.0 if remembers else 2.0) // 2
    total = np.zeros((length, length))
    lags = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    line = np.arange(length) / length - zero
    starts = [i for i in range(count) if joins[i] == 0] + [count]
    for start, stop in itertools.pairwise(starts):
        part = kinds[start:stop]
        if not (part < spectral._PERIODIC).any():
            return None
        weight = philox.log_uniform(rng, 0.2, 1.0)
        row = np.full(half + 1, weight * weight)
        for i in range(start, stop):
            if kinds[i] != spectral._LINEAR:
                spectral.multiply_kernel(row, kinds[i], scales[i], shapes[i])
        # Tapers are linear: of each product or of their sum is the same
        spectral.taper(row)
        full = row[lags]
        total += full * np.outer(line, line) ** (part == spectral._LINEAR).sum()
    return total


def test_kernel_algebra_has_the_covariance_of_its_kernels() -> None:
    length, values = 100, []
    for index in range(400):
        wanted = covariance(index, length)
        if wanted is None:
            continue
        variance, axes = np.linalg.eigh(wanted)
        # Smooth kernels leave most directions to rounding
        kept = variance > 1e-7 * variance[-1]
        z = axes[:, kept].T @ draw("kernel_algebra", index, length) / np.sqrt(variance[kept])
        # The chi-square of one draw: a wrong kernel in it is off by factors, not by a few deviations
        degrees = len(z)
        assert abs((z * z).sum() - degrees) < 6 * math.sqrt(2 * degrees) + 12
        values.append(z)
    z = np.concatenate(values)
    assert len(values) > 80
    # Along its own axes, every draw is independent standard normals
    assert abs(z.mean()) < 5 / math.sqrt(len(z))
    assert abs((z * z).mean() - 1.0) < 5 * math.sqrt(2 / len(z))
    assert abs((z[1:] * z[:-1]).mean()) < 5 / math.sqrt(len(z))


def product_of_two(index: int, kind: int) -> tuple[float, float, float] | None:
    """Both scales, and the lines' zero, of a draw of kernel_algebra that is two kernels of this kind multiplied."""
    rng = stream(index)
    if philox.integer(rng, 1, spectral._MOST_KERNELS + 1) != 2:
        return None
    kinds, joins = np.empty(2, np.int64), np.empty(2, np.int64)
    scales, shapes = np.empty(2), np.empty(2)
    spectral._draw_kernels(rng, LENGTH, kinds, scales, shapes, joins)
    if joins[1] == 0 or (kinds != kind).any():
        return None
    return float(scales[0]), float(scales[1]), float(philox.between(rng, -0.5, 1.5))


def test_products_of_cycles_never_fade() -> None:
    seen = 0
    for index in range(3000):
        drawn = product_of_two(index, spectral._PERIODIC)
        if drawn is None or not (drawn[0].is_integer() and drawn[1].is_integer()):
            continue
        both = math.lcm(int(drawn[0]), int(drawn[1]))
        if 2 * both > LENGTH:
            continue
        x = draw("kernel_algebra", index)
        np.testing.assert_allclose(x[both:], x[:-both], rtol=0, atol=1e-9)
        # Where one is not a whole number of the other
        seen += both > max(drawn[:2])
    assert seen > 5


def test_products_of_lines_are_parabolas() -> None:
    seen = 0
    for index in range(2000):
        drawn = product_of_two(index, spectral._LINEAR)
        if drawn is not None:
            line = np.arange(LENGTH) / LENGTH - drawn[2]
            x = draw("kernel_algebra", index)
            np.testing.assert_allclose(x, x[-1] / line[-1] ** 2 * line**2, rtol=1e-9, atol=1e-12)
            seen += 1
    assert seen > 1


def test_coloured_noise_falls_by_its_exponent_above_its_knee() -> None:
    errors = []
    for index in range(60):
        rng = stream(index)
        exponent = philox.between(rng, 0.0, 2.6)
        knee = philox.log_uniform(rng, 1.0, CIRCLE / 8) if philox.bernoulli(rng, 0.5) else 1.0
        first = max(8, int(knee))
        bins = np.arange(first, LENGTH // 2)
        if first > LENGTH // 8:
            continue
        # A periodogram's logarithm scatters by pi / sqrt(6) and is low by Euler's constant at all frequencies alike
        slope = np.polyfit(np.log(bins), np.log(spectrum(draw("coloured_noise", index))[bins]), 1)[
            0
        ]
        # Standard error of the slope: the scatter, half again for the taper, over the spread of the abscissa
        scatter = 1.5 * math.pi / math.sqrt(6 * len(bins)) / np.log(bins).std()
        errors.append((slope + exponent) / scatter)
    assert len(errors) > 30
    assert np.abs(errors).max() < 5
    assert abs(np.mean(errors)) < 5 / math.sqrt(len(errors))


def test_bands_hold_their_share_of_the_power() -> None:
    found, wanted = [], []
    for index in range(150):
        rng = stream(index)
        m = CIRCLE // 2
        low = philox.log_uniform(rng, 1.0, m / 2)
        high = min(float(m), low * philox.log_uniform(rng, 1.1, 16.0))
        edge = philox.log_uniform(rng, 2.0, 12.0)
        floor = philox.log_uniform(rng, 1e-6, 1e-2)
        # A taper's lines are four bins wide
        if low < 40:
            continue
        k = np.arange(m + 1)
        ratio = np.maximum(np.maximum(low / np.maximum(k, 1), k / high), 1.0)
        power = floor + ratio**-edge
        inside = (k >= low) & (k <= high)
        wanted.append(power[inside].sum() / power.sum())
        seen = spectrum(draw("band_limited", index))
        within = np.arange(seen.size) * 2
        found.append(seen[(within >= low) & (within <= high)].sum() / seen.sum())
    assert len(found) > 60
    difference = np.array(found) - np.array(wanted)
    assert abs(difference.mean()) < 5 * difference.std() / math.sqrt(len(found)) + 0.005
    assert np.corrcoef(found, wanted)[0, 1] > 0.9


def test_peaks_stand_at_the_cycles_drawn() -> None:
    at_line = count = 0
    for index in range(150):
        rng = stream(index)
        philox.between(rng, 0.0, 2.2)
        philox.log_uniform(rng, 1.0, CIRCLE / 16)
        floor = philox.log_uniform(rng, 0.003, 1.0)
        lines = []
        for _ in range(philox.integer(rng, 1, 5)):
            base = CIRCLE / seasonal.period(rng, LENGTH)
            philox.log_uniform(rng, 0.1, 1.0)
            philox.between(rng, 0.15, 0.9)
            width = philox.log_uniform(rng, 1e-4, 0.1)
            for harmonic in range(1, philox.integer(rng, 1, 9) + 1):
                centre = base * harmonic
                if centre <= CIRCLE / 2:
                    lines.append((centre, max(0.7, width * centre)))
        if floor > 0.03:
            continue
        count += 1
        peak = 2 * spectrum(draw("spectral_peaks", index)).argmax()
        # Lorentz lines hold nine tenths within six half-widths; the taper adds two bins of the series, four of the circle
        at_line += any(abs(peak - centre) < 6 * half + 4 for centre, half in lines)
    assert count > 40
    # Nine tenths and more in the lines, of which the largest bin is likelier yet to be one
    assert at_line / count > 0.9


def peaks_in_bumps(change) -> int:
    """How many of a hundred draws of spectral_mixture, after a change, peak within three deviations of a bump."""
    inside = 0
    for index in range(100):
        rng = stream(index)
        bumps = []
        for _ in range(philox.integer(rng, 2, 7)):
            centre = philox.log_uniform(rng, 1.0, CIRCLE / 2)
            bumps.append((centre, philox.log_uniform(rng, 0.02, 0.7)))
            philox.exponential(rng)
        peak = 2 * spectrum(change(draw("spectral_mixture", index))).argmax()
        inside += any(
            centre * math.exp(-3 * width) - 4 < peak < centre * math.exp(3 * width) + 4
            for centre, width in bumps
        )
    return inside


def test_mixtures_peak_inside_a_bump(rng: np.random.Generator) -> None:
    assert peaks_in_bumps(lambda x: x) >= 98
    # Out of order, a series peaks anywhere: bumps cover much of the axis, not all of it
    assert peaks_in_bumps(rng.permutation) < 85
