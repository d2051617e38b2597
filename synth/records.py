"""Records: what the yearly, quarterly, monthly and weekly tables of economies and firms hold.

Structural models in innovations form with the habits of such tables: slopes that are large against the noise, last
for long and sometimes break, growth by percentages, seasons that move slowly. Hyndman, Koehler, Ord and Snyder 2008
(chapters 2 and 4) and Harvey 1989 (chapter 2) have the models; that damped trends and half slopes win the
M-competitions (Makridakis et al. 2020, doi:10.1016/j.ijforecast.2019.04.014) bounds how long a slope lasts.
"""

import math

import numba
import numpy as np

from tinytsm.synth import philox
from tinytsm.synth.philox import leaf
from tinytsm.synth.seasonal import choose, fill_harmonics

FAMILIES = ("growth", "seasonal_growth", "business_cycle")

_SEASONS = np.array([12, 4, 52, 24])
_SEASON_SHARES = np.cumsum(np.array([0.52, 0.26, 0.18, 0.04]))
# Length up to which a slope keeps its size against the noise: longer, the line would be all there is
_SLOPE_STEPS = 60.0
# Largest span of the logarithm over a series: a factor of 1.3 to 20
_LOG_SPANS = (0.3, 3.0)


@leaf
def slope_of(rng, T):
    """A slope per step in units of the step's noise: none in .2, else up in .8, size log-uniform (.04, 2)."""
    size = philox.log_uniform(rng, 0.04, 2.0) * math.sqrt(min(1.0, _SLOPE_STEPS / T))
    if philox.bernoulli(rng, 0.2):
        size = 0.0
    return size if philox.bernoulli(rng, 0.8) else -size


@leaf
def level_weight(rng):
    """Alpha, how much of a surprise stays in the level: U(.85, 1.2) in .45, U(.2, .85) in .35, else small.

    Above one, as yearly means of a random walk have it (Working 1960).
    """
    u = philox.uniform(rng)
    if u < 0.45:
        return philox.between(rng, 0.85, 1.2)
    if u < 0.8:
        return philox.between(rng, 0.2, 0.85)
    return philox.log_uniform(rng, 0.01, 0.2)


@leaf
def path(rng, season, size, moving, out):
    """Fill out (T,) by level, slope and season[:size], each moved by shares of one error; breaks in .35.

    x = l + phi b + s + e; l += phi b + alpha e; b = phi b + beta e; s += moving e: Hyndman et al. 2008, table 2.2.
    Slopes are damped (phi U(.8, .98)) in .45 and fixed (beta 0) in .5. A break redraws the slope, stops it, or shifts the
    level. Errors are outlying in .3 of draws.
    """
    T = out.shape[0]
    alpha = level_weight(rng)
    beta = 0.0 if philox.bernoulli(rng, 0.5) else alpha * philox.log_uniform(rng, 0.02, 0.5)
    keep = philox.between(rng, 0.8, 0.98) if philox.bernoulli(rng, 0.45) else 1.0
    slope = slope_of(rng, T)
    breaks = philox.log_uniform(rng, 0.7, 4.0) / T if philox.bernoulli(rng, 0.35) else 0.0
    wild = philox.between(rng, 0.01, 0.08) if philox.bernoulli(rng, 0.3) else 0.0
    # A damped slope would be gone before a long series ends: it leans back to a lasting one
    lasting = slope * philox.uniform(rng)
    philox.fill_normal(rng, out)
    level, j = 0.0, 0
    for t in range(T):
        e = out[t]
        if wild > 0.0 and philox.uniform(rng) < wild:
            e *= 4.0
        if breaks > 0.0 and philox.uniform(rng) < breaks:
            kind = philox.integer(rng, 0, 3)
            if kind == 0:
                slope = slope_of(rng, T)
            elif kind == 1:
                slope = 0.0
            else:
                level += 6.0 * philox.normal(rng)
            lasting = slope if kind < 2 else lasting
        damped = lasting + keep * (slope - lasting)
        out[t] = level + damped + season[j] + e
        level += damped + alpha * e
        slope = damped + beta * e
        season[j] += moving * e
        j = j + 1 if j < size - 1 else 0


@leaf
def compound(rng, share, out):
    """Read out (T,) as logarithms, in this share of draws: errors of .4 to 12 percent, spans bounded."""
    if not philox.bernoulli(rng, share):
        return
    step = philox.log_uniform(rng, 0.004, 0.12)
    span = philox.between(rng, _LOG_SPANS[0], _LOG_SPANS[1])
    low, high = math.inf, -math.inf
    for t in range(out.shape[0]):
        low, high = min(low, out[t]), max(high, out[t])
    step = min(step, span / max(high - low, 1e-12))
    for t in range(out.shape[0]):
        out[t] = math.exp(step * (out[t] - low))


@numba.njit(nogil=True, cache=True)
def growth(rng, out):
    """Yearly tables: a local linear trend, damped or not, with drift, breaks and outliers; compounding in .5."""
    path(rng, np.zeros(1), 1, 0.0, out)
    compound(rng, 0.5, out)


@leaf
def fill_year(rng, season, size):
    """Write a year into season[:size], mean 0 and mean square 1: smooth, unrelated months, or a few peaks."""
    kind = philox.integer(rng, 0, 3)
    if kind == 0:
        fill_harmonics(rng, season, size, philox.integer(rng, 1, 4), 1.0)
    else:
        for j in range(size):
            season[j] = philox.normal(rng)
            if kind == 2:
                season[j] = 4.0 * abs(season[j]) if philox.bernoulli(rng, 0.15) else 0.3 * season[j]
    mean, square = 0.0, 0.0
    for j in range(size):
        mean += season[j] / size
    for j in range(size):
        season[j] -= mean
        square += season[j] * season[j] / size
    for j in range(size):
        season[j] /= math.sqrt(square + 1e-12)


@leaf
def season_size(rng, T):
    """Steps of a year, drawn so that the series holds one and a half of them where it can."""
    size = 4
    for _ in range(8):
        size = _SEASONS[choose(rng, _SEASON_SHARES)]
        if 1.5 * size <= T:
            break
    return size


@numba.njit(nogil=True, cache=True)
def seasonal_growth(rng, out):
    """Quarterly, monthly and weekly tables: `growth` with a year over it, fixed in .5, else slowly moving.

    Year over error: log-uniform (.5, 12). Compounding, and with it the season, in .6.
    """
    size = season_size(rng, out.shape[0])
    season = np.empty(size + 1)
    fill_year(rng, season, size)
    strength = philox.log_uniform(rng, 0.5, 12.0)
    for j in range(size):
        season[j] *= strength
    moving = 0.0 if philox.bernoulli(rng, 0.5) else philox.log_uniform(rng, 0.01, 0.3)
    path(rng, season, size, moving, out)
    compound(rng, 0.6, out)


@numba.njit(nogil=True, cache=True)
def business_cycle(rng, out):
    """Harvey's trend and stochastic cycle: booms and slumps about a path whose slope wanders; compounding in .4.

    Cycle: standard deviation 1, period log-uniform (4, 40 or half the length), damping U(.85, .99). Slope: a rise of
    N(0, 1.5) per cycle, up in most, its step log-uniform (.001, .1) of that. A year over it in .35.
    """
    T = out.shape[0]
    length = philox.log_uniform(rng, 4.0, max(6.0, min(40.0, 0.5 * T)))
    rho = philox.between(rng, 0.85, 0.99)
    c = rho * math.cos(2.0 * math.pi / length)
    s = rho * math.sin(2.0 * math.pi / length)
    fresh = math.sqrt(1.0 - rho * rho)
    size = season_size(rng, T) if philox.bernoulli(rng, 0.35) else 1
    season = np.zeros(size + 1)
    if size > 1:
        fill_year(rng, season, size)
        strength = philox.log_uniform(rng, 0.1, 2.0)
        for j in range(size):
            season[j] *= strength
    noise = philox.log_uniform(rng, 0.02, 0.5)
    rise = 1.5 * philox.normal(rng) / length
    slope = abs(rise) if philox.bernoulli(rng, 0.6) else rise
    wander = philox.log_uniform(rng, 0.001, 0.1) / length
    x, y, level, j = philox.normal(rng), philox.normal(rng), 0.0, 0
    philox.fill_normal(rng, out)
    for t in range(T):
        x, y = (
            c * x + s * y + fresh * out[t],
            c * y - s * x + fresh * philox.normal(rng),
        )
        slope += wander * philox.normal(rng)
        level += slope
        out[t] = level + x + season[j] + noise * philox.normal(rng)
        j = j + 1 if j < size - 1 else 0
    compound(rng, 0.4, out)
