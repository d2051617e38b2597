"""Other generators, to measure SynthTS against: KernelSynth, and a mixture in TempoPFN's proportions.

Both have the shape of `generator.sample` for one variate: (seed, index, length) to (T,) float64.
"""

import functools

import numpy as np

from tinytsm.synth import augment, generator, mixture, multivariate, philox

# KernelSynth's bank of 33 (Chronos, arXiv 2403.07815, and the script that it publishes); 4 stands there three times
_STEPS = 1024
_MOST_KERNELS = 5
_PERIODS = (
    (24, 48, 96, 168, 336, 672, 7, 14, 30, 60, 365, 730)
    + (4, 26, 52)
    + (4, 6, 12)
    + (4, 40)
    + (10,)
)
_PERIODIC = len(_PERIODS)
_KERNELS = _PERIODIC + 12

# TempoPFN's sampling proportions (arXiv 2510.25502), each generator given to the nearest of our families. Its audio
# generators (.6 of 14) have no likeness here and are left out
TEMPO_SHARES = {
    "dynamics.regime_ou": 3.0,
    "augmented": 4.0,
    "seasonal.calendar": 1.0,
    "spectral.spectral_mixture": 1.0,
    "spectral.kernel_algebra": 1.0,
    "seasonal.waves": 1.0,
    "seasonal.harmonics": 1.0,
    "events.level_shifts": 1.0,
    "events.anomalies": 1.0,
    "events.spikes": 1.0,
    "graph": 1.0,
}
_PLAIN = [name for name in TEMPO_SHARES if "." in name]
_GRAPH_NODES = 6
# purposes of this module's own streams
_CHANGES, _GRAPH = 2_000_001, 2_000_002


def kernel_synth(seed: int, index: int, length: int) -> np.ndarray:
    """A draw of KernelSynth: 1 to 5 of 33 kernels joined by + or x, sampled densely. Raises ValueError above 1024."""
    if length > _STEPS:
        raise ValueError(f"KernelSynth draws at most {_STEPS} steps, got {length}")
    rng = np.random.default_rng((seed, index))
    joined = _bank(int(rng.integers(_KERNELS)))[:length, :length].copy()
    for _ in range(int(rng.integers(_MOST_KERNELS))):
        other = _bank(int(rng.integers(_KERNELS)))[:length, :length]
        if rng.random() < 0.5:
            joined += other
        else:
            joined *= other
    return _cholesky(joined) @ rng.standard_normal(length)


@functools.cache
def _bank(number: int) -> np.ndarray:
    """Row `number` of the bank at all steps: 8 MiB each, kept because making them costs more than all the rest."""
    times = np.linspace(0.0, 1.0, _STEPS)
    return kernel(number, np.abs(times[:, None] - times[None, :]), times)


def _cholesky(covariance: np.ndarray) -> np.ndarray:
    """Lower factor (T, T), with as little white noise as floating point needs for smooth kernels, from 1e-9 on."""
    diagonal = covariance.diagonal().copy()
    for jitter in 10.0 ** np.arange(-9, -2):
        np.fill_diagonal(covariance, diagonal + jitter * diagonal.mean())
        try:
            return np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            continue
    raise ValueError("the covariance is not positive semidefinite, even with noise on its diagonal")


def kernel(number: int, apart: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Row `number` of KernelSynth's bank over distances (T, T) and times (T,), the unit being 1024 steps: (T, T)."""
    if number < _PERIODIC:
        return np.exp(-2.0 * np.sin(np.pi * apart * _STEPS / _PERIODS[number]) ** 2)
    kind, row = divmod(number - _PERIODIC, 3)
    if kind == 0:
        return (0.0, 1.0, 10.0)[row] ** 2 + np.outer(times, times)
    scale = (0.1, 1.0, 10.0)[row]
    if kind == 1:
        return np.exp(-0.5 * (apart / scale) ** 2)
    if kind == 2:
        return (1.0 + 0.5 * apart**2 / scale) ** -scale
    if row < 2:
        return scale * np.eye(len(times))
    return np.ones_like(apart)


def tempo_like(seed: int, index: int, length: int) -> np.ndarray:
    """A draw of our families in TEMPO_SHARES.

    An augmented draw is one of them changed by one to three of our augmentations; a graph's is the last variate of
    six Gaussian processes coupled by a random causal graph, as in CauKer.
    """
    rng = np.random.default_rng((seed, index))
    shares = np.array(list(TEMPO_SHARES.values()))
    name = list(TEMPO_SHARES)[rng.choice(len(shares), p=shares / shares.sum())]
    if name == "graph":
        out = np.empty((_GRAPH_NODES, length))
        for node in range(_GRAPH_NODES):
            draw = _GRAPH_NODES * index + node
            out[node] = generator.sample_family("spectral.kernel_algebra", seed, draw, length)
        multivariate.couple_graph(philox.stream(seed, index, _GRAPH), out)
        return out[-1]
    if name != "augmented":
        return generator.sample_family(name, seed, index, length)
    x = generator.sample_family(_PLAIN[rng.integers(len(_PLAIN))], seed, index, length)
    stream = philox.stream(seed, index, _CHANGES)
    for row in rng.choice(len(mixture.AUGMENTATIONS), size=rng.integers(1, 4), replace=False):
        getattr(augment, mixture.AUGMENTATIONS[row].name)(stream, x)
    return x
