"""Machines and other lives: utilisation traces of computers and services, and series that change for good.

What is known of traces: floors that hardly move, peaks up to a hundred times the mean, jobs on a clock, plateaus (Shen,
van Beek and Iosup 2015, doi:10.1109/CCGrid.2015.60; Cortez et al. 2017, doi:10.1145/3132747.3132772).
"""

import math

import numba
import numpy as np

from tinytsm.synth import philox, seasonal

FAMILIES = ("machine_trace", "regimes")


@numba.njit(nogil=True, cache=True)
def machine_trace(rng, out):
    """Utilisation: a floor with small noise, spikes of Pareto height, jobs on a clock, plateaus, a ceiling for some.

    Noise over floor log-uniform (.002, .4). Spikes: .002 to .15 of steps, tail index U(.8, 3), fading in half. One or two
    clocked jobs in .55. Plateaus in half, .3 to 6 a series. A meter's last digit in .4.
    """
    length = out.size
    small = philox.log_uniform(rng, 0.002, 0.4)
    memory = philox.between(rng, 0.0, 0.98) if philox.bernoulli(rng, 0.6) else 0.0
    fresh = math.sqrt(1.0 - memory * memory)
    rate = philox.log_uniform(rng, 0.002, 0.15) if philox.bernoulli(rng, 0.75) else 0.0
    tail, height = -1.0 / philox.between(rng, 0.8, 3.0), philox.log_uniform(rng, 0.1, 10.0)
    fade = math.exp(-1.0 / philox.log_uniform(rng, 0.3, 6.0)) if philox.bernoulli(rng, 0.5) else 0.0
    jobs = philox.integer(rng, 1, 3) if philox.bernoulli(rng, 0.55) else 0
    every, lasts, offset = np.ones(2, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64)
    work = np.zeros(2)
    for k in range(jobs):
        every[k] = np.int64(seasonal.period(rng, length))
        lasts[k] = np.int64(max(1.0, every[k] * philox.log_uniform(rng, 0.005, 0.4)))
        offset[k] = philox.integer(rng, 0, every[k])
        work[k] = philox.log_uniform(rng, 0.1, 20.0)
    uneven = philox.log_uniform(rng, 0.01, 0.6)
    shifts = philox.log_uniform(rng, 0.3, 6.0) / length if philox.bernoulli(rng, 0.5) else 0.0
    spread = philox.between(rng, 0.3, 2.0)
    ceiling = philox.log_uniform(rng, 2.0, 30.0) if philox.bernoulli(rng, 0.2) else 1e9
    unit = philox.log_uniform(rng, 0.005, 0.3) if philox.bernoulli(rng, 0.4) else 0.0
    # One spike at least: a machine that never did anything is constant
    certain = philox.integer(rng, 0, length)
    level, state, spike, size = 1.0, 0.0, 0.0, 1.0
    philox.fill_normal(rng, out)
    for t in range(length):
        state = memory * state + fresh * out[t]
        spike *= fade
        if t == certain or (rate > 0.0 and philox.uniform(rng) < rate):
            # Inverse transform, cut where one in ten thousand would tower over all others
            spike += height * math.exp(tail * math.log(max(philox.uniform(rng), 1e-4)))
        if shifts > 0.0 and philox.uniform(rng) < shifts:
            level = math.exp(spread * philox.normal(rng)) if level == 1.0 or spread > 1.0 else 1.0
        value = max(level * (1.0 + small * state), 0.0) + spike
        for k in range(jobs):
            now = (t + offset[k]) % every[k]
            if now == 0:
                size = max(0.1, 1.0 + uneven * philox.normal(rng))
            if now < lasts[k]:
                value += work[k] * size
        if unit > 0.0:
            value = math.floor(value / unit + 0.5) * unit
        out[t] = min(value, ceiling)


@numba.njit(nogil=True, cache=True)
def regimes(rng, out):
    """A long calm, then another life: level, noise, memory and cycle all change, one to eight times.

    Half stay calm for .3 to .95 of the series before the first change. A regime is quiet (noise under .1 of the usual)
    in .4, has the series' cycle in .5, and starts at a new level in .8.
    """
    length = out.size
    philox.fill_normal(rng, out)
    mean = length / philox.log_uniform(rng, 1.0, 8.0)
    calm = philox.bernoulli(rng, 0.5)
    share = philox.between(rng, 0.3, 0.95) if calm else philox.between(rng, 0.05, 0.9)
    ahead = share * length
    turn = 2.0 * math.pi / seasonal.period(rng, length)
    c, s = math.cos(turn), math.sin(turn)
    x, y = philox.normal(rng), philox.normal(rng)
    second = philox.between(rng, -0.7, 0.7)
    noise = philox.log_uniform(rng, 0.002, 0.1) if calm else philox.log_uniform(rng, 0.02, 1.0)
    memory = philox.between(rng, 0.0, 0.98)
    swing = 0.0 if philox.bernoulli(rng, 0.5) else philox.log_uniform(rng, 0.1, 2.0) * noise
    jump = philox.log_uniform(rng, 0.3, 4.0)
    level = state = 0.0
    for t in range(length):
        if ahead <= 0.0:
            ahead += mean * philox.exponential(rng) + 2.0
            quiet = philox.bernoulli(rng, 0.4)
            noise = (
                philox.log_uniform(rng, 0.002, 0.1) if quiet else philox.log_uniform(rng, 0.1, 1.0)
            )
            memory = philox.between(rng, 0.0, 0.98)
            swing = philox.log_uniform(rng, 0.1, 2.0) if philox.bernoulli(rng, 0.5) else 0.0
            if philox.bernoulli(rng, 0.8):
                level = jump * philox.normal(rng)
        ahead -= 1.0
        state = memory * state + math.sqrt(1.0 - memory * memory) * out[t]
        out[t] = level + noise * state + swing * (x + second * 2.0 * x * y)
        x, y = x * c - y * s, x * s + y * c
