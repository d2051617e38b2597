"""Changes made to a finished series, in place: mixing, modulation, measurement, warping, gaps.

Each takes a stream and x (T,), float64 without NaN, and keeps it finite; only the functions in GAPS
write NaN, so they come last. All amounts are relative to the series' own spread, so scale is free.
"""

import math

import numba
import numpy as np

from tinytsm.synth import philox, seasonal

AUGMENTATIONS = (
    "amplitude_modulation",
    "censor",
    "quantise",
    "sample_and_hold",
    "sign_flip",
    "time_flip",
    "time_warp",
    "resample",
    "outliers",
    "smooth",
    "accumulate",
    "difference",
    "add_noise",
    "filled_gaps",
)
GAPS = ("random_gaps", "gap_runs", "periodic_gaps", "long_gap")


@numba.njit(nogil=True, cache=True)
def moments(x):
    """Mean and standard deviation of x (T,), in two passes."""
    mean = 0.0
    for t in range(x.size):
        mean += x[t]
    mean /= x.size
    square = 0.0
    for t in range(x.size):
        square += (x[t] - mean) * (x[t] - mean)
    return mean, math.sqrt(square / x.size)


@numba.njit(nogil=True, cache=True)
def standardise(x):
    """Shift and scale x (T,) in place to mean 0 and standard deviation 1; a constant becomes 0."""
    mean, spread = moments(x)
    # Rounding leaves a constant with a spread of some units in its last place
    scale = 1.0 / spread if spread > 1e-12 * abs(mean) + 1e-280 else 0.0
    for t in range(x.size):
        x[t] = (x[t] - mean) * scale


@numba.njit(nogil=True, cache=True)
def _slow_curve(rng, low, high, out):
    """Fill out (T,) with a curve between low and high through up to eight random knots, smooth."""
    knots = philox.integer(rng, 2, 9)
    values = np.empty(knots)
    for i in range(knots):
        values[i] = philox.between(rng, low, high)
    width = max(out.size - 1, 1) / (knots - 1.0)
    for t in range(out.size):
        i = min(np.int64(t / width), knots - 2)
        u = t / width - i
        # Smoothstep: flat at the knots, so that the curve has no corners
        u = u * u * (3.0 - 2.0 * u)
        out[t] = values[i] + (values[i + 1] - values[i]) * u


@numba.njit(nogil=True, cache=True)
def mixup(rng, x, y):
    """x (T,) <- w x + (1 - w) y, both standardised in place first; w constant or slowly moving."""
    standardise(x)
    standardise(y)
    if philox.bernoulli(rng, 0.6):
        weight = philox.between(rng, 0.15, 0.85)
        for t in range(x.size):
            x[t] = weight * x[t] + (1.0 - weight) * y[t]
        return
    curve = np.empty(x.size)
    _slow_curve(rng, 0.0, 1.0, curve)
    for t in range(x.size):
        x[t] = curve[t] * x[t] + (1.0 - curve[t]) * y[t]


@numba.njit(nogil=True, cache=True)
def amplitude_modulation(rng, x):
    """Multiply the departure from the mean by a slow positive curve or a slow wave."""
    mean, _ = moments(x)
    curve = np.empty(x.size)
    if philox.bernoulli(rng, 0.6):
        _slow_curve(rng, philox.between(rng, 0.05, 0.8), philox.between(rng, 1.0, 2.5), curve)
    else:
        step = 2.0 * math.pi / (x.size * philox.log_uniform(rng, 0.1, 2.0))
        c, s = math.cos(step), math.sin(step)
        phase = philox.between(rng, 0.0, 2.0 * math.pi)
        u, v = math.cos(phase), math.sin(phase)
        depth = philox.between(rng, 0.1, 0.9)
        for t in range(x.size):
            curve[t] = 1.0 + depth * u
            u, v = u * c - v * s, u * s + v * c
    for t in range(x.size):
        x[t] = mean + (x[t] - mean) * curve[t]


@numba.njit(nogil=True, cache=True)
def censor(rng, x):
    """Cap at an upper quantile, floor at a lower one, or both: ties there become exact.

    Not for integrated paths: past their cap they would be flat for ever.
    """
    ordered = np.sort(x)
    side = philox.integer(rng, 0, 3)
    last = x.size - 1
    low, high = ordered[0], ordered[last]
    if side != 0:
        low = ordered[np.int64(last * philox.between(rng, 0.02, 0.4))]
    if side != 1:
        high = ordered[np.int64(last * philox.between(rng, 0.6, 0.98))]
    for t in range(x.size):
        x[t] = min(max(x[t], low), high)


@numba.njit(nogil=True, cache=True)
def quantise(rng, x):
    """Round to a grid of 4 to 40 levels over the range, as coarse sensors and rounded prices do."""
    levels = np.int64(philox.log_uniform(rng, 4.0, 41.0))
    low, high = np.min(x), np.max(x)
    step = (high - low) / (levels - 1)
    if step <= 0.0:
        return
    for t in range(x.size):
        x[t] = low + step * math.floor((x[t] - low) / step + 0.5)


@numba.njit(nogil=True, cache=True)
def sample_and_hold(rng, x):
    """Repeat a value until the next report: every few steps, or with each report sometimes lost."""
    every = np.int64(philox.log_uniform(rng, 2.0, max(3.0, min(48.0, x.size / 16.0))))
    clocked = philox.bernoulli(rng, 0.5)
    offset = philox.integer(rng, 0, every)
    held = x[0]
    for t in range(x.size):
        if (t + offset) % every == 0 if clocked else philox.uniform(rng) * every < 1.0:
            held = x[t]
        x[t] = held


@numba.njit(nogil=True, cache=True)
def sign_flip(rng, x):
    """Turn x (T,) upside down."""
    for t in range(x.size):
        x[t] = -x[t]


@numba.njit(nogil=True, cache=True)
def time_flip(rng, x):
    """Turn x (T,) end to start."""
    for t in range(x.size // 2):
        x[t], x[x.size - 1 - t] = x[x.size - 1 - t], x[t]


@numba.njit(nogil=True, cache=True)
def _read(source, position):
    """Linear interpolation in source (T,) at a position in steps, held at both ends."""
    last = source.size - 1
    if position <= 0.0:
        return source[0]
    if position >= last:
        return source[last]
    i = np.int64(position)
    return source[i] + (position - i) * (source[i + 1] - source[i])


@numba.njit(nogil=True, cache=True)
def time_warp(rng, x):
    """Run time at a slowly changing, positive speed over the same span."""
    source = x.copy()
    speed = np.empty(x.size)
    strength = philox.between(rng, 0.05, 0.6)
    _slow_curve(rng, 1.0 - strength, 1.0 + strength, speed)
    total = 0.0
    for t in range(1, x.size):
        total += speed[t]
    position = 0.0
    for t in range(x.size):
        x[t] = _read(source, position)
        if t + 1 < x.size:
            position += speed[t + 1] * (x.size - 1) / total


@numba.njit(nogil=True, cache=True)
def resample(rng, x):
    """Slow down: the first part of the series stretched to the whole by linear interpolation."""
    source = x.copy()
    # Whole and half ratios leave the repeating pattern that up-sampled records have
    speed = 1.0 / philox.between(rng, 1.0, 4.0)
    if philox.bernoulli(rng, 0.5):
        speed = 1.0 / philox.integer(rng, 2, 7)
    start = philox.uniform(rng) * (1.0 - speed) * (x.size - 1)
    for t in range(x.size):
        x[t] = _read(source, start + speed * t)


@numba.njit(nogil=True, cache=True)
def outliers(rng, x):
    """A few single steps moved by several standard deviations, up, down or both ways."""
    _, spread = moments(x)
    rate = philox.log_uniform(rng, 0.001, 0.03)
    size = philox.between(rng, 3.0, 12.0)
    side = philox.integer(rng, -1, 2)
    forced = philox.integer(rng, 0, x.size)
    for t in range(x.size):
        if t == forced or philox.uniform(rng) < rate:
            sign = float(side)
            if side == 0:
                sign = 1.0 if philox.bernoulli(rng, 0.5) else -1.0
            x[t] += sign * size * spread * (0.5 + 0.5 * philox.exponential(rng))


@numba.njit(nogil=True, cache=True)
def smooth(rng, x):
    """Trailing mean over some steps, as in rolling figures; the window is shorter at the start."""
    window = np.int64(philox.log_uniform(rng, 2.0, max(3.0, min(60.0, x.size / 8.0))))
    source = x.copy()
    # From each value less the first, so that a large level costs no digits in the running sum
    total = 0.0
    for t in range(x.size):
        total += source[t] - source[0]
        if t >= window:
            total -= source[t - window] - source[0]
        x[t] = source[0] + total / min(t + 1, window)


@numba.njit(nogil=True, cache=True)
def accumulate(rng, x):
    """Running sum of the departures from the mean plus some drift: x becomes its own integral."""
    standardise(x)
    # By total excursion, like a random walk of this length has: a slope would drown a long series
    drift = philox.normal(rng) / math.sqrt(x.size)
    total = 0.0
    for t in range(x.size):
        total += x[t] + drift
        x[t] = total


@numba.njit(nogil=True, cache=True)
def difference(rng, x):
    """Step-to-step changes; the first repeats the second."""
    for t in range(x.size - 1, 0, -1):
        x[t] -= x[t - 1]
    if x.size > 1:
        x[0] = x[1]


@numba.njit(nogil=True, cache=True)
def add_noise(rng, x):
    """White noise of a small to equal share of the spread, growing with the size for a third."""
    mean, spread = moments(x)
    scale = philox.log_uniform(rng, 0.01, 0.8) * spread
    growing = philox.bernoulli(rng, 0.33)
    for t in range(x.size):
        size = abs(x[t] - mean) / max(spread, 1e-300) if growing else 1.0
        x[t] += scale * size * philox.normal(rng)


@numba.njit(nogil=True, cache=True)
def filled_gaps(rng, x):
    """One to four outages that somebody filled, by the last value or by a line, as archives do."""
    straight = philox.bernoulli(rng, 0.4)
    longest = max(2.0, 0.15 * x.size)
    for _ in range(philox.integer(rng, 1, 5)):
        run = np.int64(philox.log_uniform(rng, 2.0, longest + 1.0))
        start = philox.integer(rng, 0, max(x.size - 2, 1))
        stop = min(start + run, x.size - 1)
        slope = (x[stop] - x[start]) / (stop - start) if straight and stop > start else 0.0
        for t in range(start + 1, stop):
            x[t] = x[start] + slope * (t - start)


@numba.njit(nogil=True, cache=True)
def random_gaps(rng, x):
    """Single steps missing at random, from one in a hundred to four in ten."""
    rate = philox.log_uniform(rng, 0.01, 0.4)
    for t in range(x.size):
        if philox.uniform(rng) < rate:
            x[t] = np.nan


@numba.njit(nogil=True, cache=True)
def gap_runs(rng, x):
    """Runs of missing steps with memoryless lengths, in the long run log-uniform (.03, .35) of all steps."""
    mean = philox.log_uniform(rng, 2.0, max(3.0, 0.05 * x.size))
    missing = philox.log_uniform(rng, 0.03, 0.35)
    apart = mean * (1.0 - missing) / missing
    at = apart * philox.exponential(rng)
    while at < x.size:
        stop = at + mean * philox.exponential(rng) + 1.0
        for t in range(np.int64(at), min(np.int64(stop), x.size)):
            x[t] = np.nan
        at = stop + apart * philox.exponential(rng)


@numba.njit(nogil=True, cache=True)
def periodic_gaps(rng, x):
    """The same share of every cycle missing: nights, weekends, closed hours."""
    period = np.int64(max(2.0, seasonal.period(rng, x.size)))
    length = max(1, np.int64(period * philox.between(rng, 0.05, 0.5)))
    offset = philox.integer(rng, 0, period)
    for t in range(x.size):
        if (t + offset) % period < length:
            x[t] = np.nan


@numba.njit(nogil=True, cache=True)
def long_gap(rng, x):
    """One gap of up to three tenths of the series, anywhere."""
    length = np.int64(x.size * philox.log_uniform(rng, 0.02, 0.3))
    start = philox.integer(rng, 0, x.size - length + 1)
    for t in range(start, min(start + length, x.size)):
        x[t] = np.nan
