"""Other generators of made-up series, for bench_synth: each a function of a seed that returns (N, T) float64.

KernelSynth (Chronos, arXiv 2403.07815, section 4.2) as its authors run it, through scikit-learn's Gaussian processes, and
once more with nothing but NumPy; GluonTS' recipes; and one recipe, three sines with a trend and noise, in
vectorised NumPy and jitted in SynthTS' manner.
"""

import itertools
import math
import warnings
from typing import Any

import numba
import numpy as np

from tinytsm.rivals import kernel_synth
from tinytsm.synth import philox

_MOST_KERNELS = 5
# Cycles in steps, as in the paper's table of kernels
_CYCLES = (24, 48, 96, 168, 336, 672, 7, 14, 30, 60, 365, 730, 4, 26, 52, 6, 12, 40, 10)


def _sklearn_bank(length: int) -> list[Any]:
    from sklearn.gaussian_process import kernels as k

    return (
        [k.ExpSineSquared(periodicity=cycle / length) for cycle in _CYCLES]
        + [k.DotProduct(sigma_0=s) for s in (0.0, 1.0, 10.0)]
        + [k.RBF(length_scale=s) for s in (0.1, 1.0, 10.0)]
        + [k.RationalQuadratic(alpha=a) for a in (0.1, 1.0, 10.0)]
        + [k.WhiteKernel(noise_level=s) for s in (0.1, 1.0)]
        + [k.ConstantKernel()]
    )


def kernelsynth_sklearn(seed: int, *, items: int, length: int) -> np.ndarray:
    """(N, T): one to five kernels of a bank, joined by + or x at random, a draw of the Gaussian process each."""
    from sklearn.gaussian_process import GaussianProcessRegressor

    rng, bank = np.random.default_rng(seed), _sklearn_bank(length)
    x = np.linspace(0.0, 1.0, length)[:, None]
    out = np.empty((items, length))
    for row in out:
        chosen = [bank[i] for i in rng.integers(0, len(bank), rng.integers(1, _MOST_KERNELS + 1))]
        kernel = chosen[0]
        for other in chosen[1:]:
            kernel = kernel + other if rng.random() < 0.5 else kernel * other
        process = GaussianProcessRegressor(kernel=kernel)
        with warnings.catch_warnings():
            # Rounding makes some covariances a little indefinite
            warnings.simplefilter("ignore", RuntimeWarning)
            row[:] = process.sample_y(x, random_state=int(rng.integers(1 << 31)))[:, 0]
    return out


def kernelsynth_cholesky(seed: int, *, items: int, length: int) -> np.ndarray:
    """(N, T): the same algorithm with nothing but NumPy and a Cholesky factor: `tinytsm diversity`'s rival."""
    return np.stack([kernel_synth(seed, index, length) for index in range(items)])


def gluonts_recipe(seed: int, *, items: int, length: int) -> np.ndarray:
    """(N, T): GluonTS' own idea of a synthetic series: a smooth season, a trend, noise."""
    with warnings.catch_warnings():
        # What its imports say does not concern the series
        warnings.simplefilter("ignore")
        import pandas as pd
        from gluonts.dataset.artificial import recipe as r

        season = r.SmoothSeasonality(period=24, phase=r.RandomUniform(low=0, high=24, shape=(1,)))
        slope = r.RandomUniform(low=-1, high=1, shape=(1,))
        target = season + slope * r.LinearTrend() + 0.1 * r.RandomGaussian()
        np.random.seed(seed)
        entries = r.generate(length, {"target": target}, pd.Period("2020", freq="h"))
        return np.stack([entry["target"] for entry in itertools.islice(entries, items)])


def draw_three_sines(seed: int, *, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Waves (N, 3, 3), each amplitude, radians per step and phase; slopes (N,) by total excursion."""
    rng = np.random.default_rng(seed)
    period = 3.0 * (500.0 / 3.0) ** rng.random((items, 3))
    amplitude, phase = rng.standard_normal((items, 3)), 2 * math.pi * rng.random((items, 3))
    return np.stack([amplitude, 2 * math.pi / period, phase], -1), rng.standard_normal(items)


def three_sines_numpy(
    seed: int, waves: np.ndarray, slopes: np.ndarray, *, noise: float, out: np.ndarray
) -> None:
    """Fill out (N, T) all at once: the way that a batch is made up without a compiler."""
    t = np.arange(out.shape[1])
    np.random.Generator(np.random.SFC64(seed)).standard_normal(out=out)
    out *= noise
    out += slopes[:, None] * (t / out.shape[1])
    for i in range(3):
        amplitude, turn, phase = (waves[:, i, j, None] for j in range(3))
        angle = turn * t
        angle += phase
        np.sin(angle, out=angle)
        angle *= amplitude
        out += angle


@numba.njit(nogil=True, cache=True)
def three_sines_jitted(seed, waves, slopes, noise, out):
    """The same by rotation and by Philox, as the families do; the three turn side by side, for one waits on itself."""
    T = out.shape[1]
    for item in range(out.shape[0]):
        row = out[item]
        philox.fill_normal(philox.stream(seed, item, 0), row)
        turn, phase = waves[item, :, 1], waves[item, :, 2]
        c0, c1, c2 = math.cos(turn[0]), math.cos(turn[1]), math.cos(turn[2])
        s0, s1, s2 = math.sin(turn[0]), math.sin(turn[1]), math.sin(turn[2])
        a0, a1, a2 = waves[item, 0, 0], waves[item, 1, 0], waves[item, 2, 0]
        x0, x1, x2 = a0 * math.cos(phase[0]), a1 * math.cos(phase[1]), a2 * math.cos(phase[2])
        y0, y1, y2 = a0 * math.sin(phase[0]), a1 * math.sin(phase[1]), a2 * math.sin(phase[2])
        step, level = slopes[item] / T, 0.0
        for t in range(T):
            row[t] = noise * row[t] + level + (y0 + y1 + y2)
            level += step
            x0, y0 = x0 * c0 - y0 * s0, x0 * s0 + y0 * c0
            x1, y1 = x1 * c1 - y1 * s1, x1 * s1 + y1 * c1
            x2, y2 = x2 * c2 - y2 * s2, x2 * s2 + y2 * c2
