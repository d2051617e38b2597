"""Stochastic processes with memory: AR, integrated, regimes, state space, prices.

Each is written as a recursion over normals drawn in one burst into the output. Stationary families
start from their stationary law or run in first; those with a unit root start at zero.
"""

import math

import numba
import numpy as np

from tinytsm.synth import philox
from tinytsm.synth.philox import leaf
from tinytsm.synth.seasonal import choose

FAMILIES = (
    "ar2",
    "arma",
    "integrated",
    "long_memory",
    "regime_ou",
    "threshold_ar",
    "ets",
    "drift_walk",
    "seasonal_walk",
    "airline",
    "prices",
    "near_walk",
)

_RUN_IN = 200
_SEASONS = np.array([7, 12, 4, 24, 52, 48, 96, 168])
_SEASON_SHARES = np.cumsum(np.array([0.25, 0.25, 0.12, 0.2, 0.06, 0.03, 0.06, 0.03]))
# Largest absolute value allowed inside an exponential: three decades each way
_LOG_SPAN = 7.0


@leaf
def ar2(rng, out):
    """AR(2) with roots near the circle: period log-uniform (3, 300), 1 - modulus (.0005, .15).

    Starts from its stationary law (Brockwell and Davis 1991, section 3.3).
    """
    T = out.shape[0]
    length = philox.log_uniform(rng, 3.0, min(300.0, max(T / 3.0, 6.0)))
    modulus = 1.0 - philox.log_uniform(rng, 0.0005, 0.15)
    a = 2.0 * modulus * math.cos(2.0 * math.pi / length)
    b = -modulus * modulus
    rho = a / (1.0 - b)
    variance = (1.0 - b) / ((1.0 + b) * ((1.0 - b) * (1.0 - b) - a * a))
    philox.fill_normal(rng, out)
    before = math.sqrt(variance) * philox.normal(rng)
    last = rho * before + math.sqrt(variance * (1.0 - rho * rho)) * philox.normal(rng)
    for t in range(T):
        value = a * last + b * before + out[t]
        before, last = last, value
        out[t] = value


@leaf
def _from_partial(partial, order, phi, scratch):
    """Coefficients phi[:order] of the AR polynomial with these partial autocorrelations.

    Stable for any partials inside (-1, 1): Barndorff-Nielsen and Schou 1973 (Durbin-Levinson).
    """
    for k in range(order):
        for j in range(k):
            scratch[j] = phi[j] - partial[k] * phi[k - 1 - j]
        for j in range(k):
            phi[j] = scratch[j]
        phi[k] = partial[k]


@numba.njit(nogil=True, cache=True)
def arma(rng, out):
    """ARMA(p, q), p 1 to 4, q 0 to 3, stable and invertible by drawing partial autocorrelations."""
    T = out.shape[0]
    p, q = philox.integer(rng, 1, 5), philox.integer(rng, 0, 4)
    partial, phi, theta, scratch = np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(4)
    for k in range(p):
        partial[k] = philox.between(rng, -0.8, 0.8)
    if philox.bernoulli(rng, 0.5):
        partial[0] = 1.0 - philox.log_uniform(rng, 0.005, 0.5)
    _from_partial(partial, p, phi, scratch)
    for k in range(q):
        partial[k] = philox.between(rng, -0.8, 0.8)
    _from_partial(partial, q, theta, scratch)
    noise = np.empty(T + _RUN_IN)
    philox.fill_normal(rng, noise)
    x1, x2, x3, x4 = 0.0, 0.0, 0.0, 0.0
    e1, e2, e3 = 0.0, 0.0, 0.0
    for t in range(T + _RUN_IN):
        e = noise[t]
        x = e + phi[0] * x1 + phi[1] * x2 + phi[2] * x3 + phi[3] * x4
        x -= theta[0] * e1 + theta[1] * e2 + theta[2] * e3
        x4, x3, x2, x1 = x3, x2, x1, x
        e3, e2, e1 = e2, e1, e
        if t >= _RUN_IN:
            out[t - _RUN_IN] = x


@leaf
def integrated(rng, out):
    """Sums of AR(1) steps, once or (.25) twice, with a drift in half: I(1) and I(2) paths."""
    T = out.shape[0]
    phi = philox.between(rng, -0.4, 0.9) if philox.bernoulli(rng, 0.6) else 0.0
    twice = philox.bernoulli(rng, 0.25)
    drift = philox.normal(rng) / math.sqrt(T) if philox.bernoulli(rng, 0.5) else 0.0
    philox.fill_normal(rng, out)
    step, slope, level = 0.0, 0.0, 0.0
    for t in range(T):
        step = phi * step + out[t]
        if twice:
            slope += step
            level += slope
        else:
            level += step + drift
        out[t] = level


@numba.njit(nogil=True, cache=True)
def long_memory(rng, out):
    """Fractionally integrated noise, d U(.1, .9), up to lags of about T.

    The fractional filter j^(d-1) is a mixture of exponentials, so one burst of noise runs through a
    bank of AR(1) filters with log-spaced rates s and weights s^(1-d) (Granger 1980's aggregation). A step's own
    weight is set apart from the bank's, so that the next is d times as large, as in (1 - B)^-d.
    """
    T = out.shape[0]
    d = philox.between(rng, 0.1, 0.9)
    rates = 12
    keep, weight = np.empty(rates), np.empty(rates)
    state, share = np.zeros(rates), np.ones(rates)
    slowest = 1.0 / max(2.0 * T, 50.0)
    direct = 0.0
    for k in range(rates):
        rate = slowest * math.exp(math.log(2.0 / slowest) * k / (rates - 1))
        keep[k] = math.exp(-rate)
        weight[k] = math.exp((1.0 - d) * math.log(rate))
        direct += weight[k] * (keep[k] / d - 1.0)
    # The filters start in their joint stationary law: by Cholesky of their covariance 1 / (1 - keep_i keep_k)
    for n in range(rates):
        z = math.sqrt(1.0 - keep[n] * keep[n]) * philox.normal(rng)
        for k in range(n, rates):
            near = 1.0 - keep[n] * keep[k]
            state[k] += z * share[k] / near
            share[k] *= (keep[k] - keep[n]) / near
    philox.fill_normal(rng, out)
    for t in range(T):
        e = out[t]
        x = direct * e
        for k in range(rates):
            state[k] = keep[k] * state[k] + e
            x += weight[k] * state[k]
        out[t] = x


@leaf
def regime_ou(rng, out):
    """Ornstein-Uhlenbeck with two regimes and stochastic volatility, after TempoPFN's SDE prior.

    Per step of .01: theta U(1, 5) and U(.05, .5), mu N(-+2, 1), sigma log-normal (.3 and 1.5), stay
    probability 1 - log-uniform (.0005, .15); here time also runs .5 to 30 times as fast. The mean
    drifts in half, and swings with a period in .4. Each step is exact, the start is that of the regimes in the long run.
    """
    T = out.shape[0]
    dt = 0.01 * philox.log_uniform(rng, 0.5, 30.0)
    theta0, theta1 = philox.between(rng, 1.0, 5.0), philox.between(rng, 0.05, 0.5)
    mu0, mu1 = philox.normal(rng) - 2.0, philox.normal(rng) + 2.0
    sigma0 = 0.3 * math.exp(0.3 * philox.normal(rng))
    sigma1 = 1.5 * math.exp(0.3 * philox.normal(rng))
    leave0 = philox.log_uniform(rng, 0.0005, 0.15)
    leave1 = philox.log_uniform(rng, 0.0005, 0.15)
    keep0, keep1 = math.exp(-theta0 * dt), math.exp(-theta1 * dt)
    spread0 = sigma0 * math.sqrt((1.0 - keep0 * keep0) / (2.0 * theta0))
    spread1 = sigma1 * math.sqrt((1.0 - keep1 * keep1) / (2.0 * theta1))
    drift = philox.normal(rng) * 3.0 / T if philox.bernoulli(rng, 0.5) else 0.0
    swing = philox.between(rng, 0.5, 3.0) if philox.bernoulli(rng, 0.4) else 0.0
    turn = 2.0 * math.pi / philox.log_uniform(rng, 5.0, 370.0)
    phase = 2.0 * math.pi * philox.uniform(rng)
    c, s, turn_c, turn_s = math.cos(phase), math.sin(phase), math.cos(turn), math.sin(turn)
    stochastic = philox.bernoulli(rng, 0.6)
    memory = 1.0 - philox.log_uniform(rng, 0.002, 0.1)
    fresh = philox.between(rng, 0.2, 0.7) * math.sqrt(1.0 - memory * memory)
    volatility, scale = 0.0, 1.0
    second = philox.bernoulli(rng, leave0 / (leave0 + leave1))
    spread = sigma1 / math.sqrt(2.0 * theta1) if second else sigma0 / math.sqrt(2.0 * theta0)
    x = (mu1 if second else mu0) + swing * s + spread * philox.normal(rng)
    mean = 0.0
    philox.fill_normal(rng, out)
    for t in range(T):
        if philox.uniform(rng) < (leave1 if second else leave0):
            second = not second
        if stochastic:
            volatility = memory * volatility + fresh * philox.normal(rng)
            scale = math.exp(volatility)
        target = (mu1 if second else mu0) + mean + swing * s
        keep = keep1 if second else keep0
        x = target + keep * (x - target) + scale * (spread1 if second else spread0) * out[t]
        out[t] = x
        mean += drift
        c, s = c * turn_c - s * turn_s, s * turn_c + c * turn_s


@leaf
def threshold_ar(rng, out):
    """Self-exciting threshold AR: two or three regimes of AR(1), chosen by the value 1 to 4 ago."""
    T = out.shape[0]
    lag = philox.integer(rng, 1, 5)
    low = -philox.between(rng, 0.1, 1.5)
    high = philox.between(rng, 0.1, 1.5) if philox.bernoulli(rng, 0.5) else math.inf
    phi0, phi1 = philox.between(rng, -0.6, 0.97), philox.between(rng, -0.6, 1.0)
    phi2 = philox.between(rng, -0.6, 0.97)
    shift0, shift1 = philox.between(rng, -0.5, 2.0), philox.between(rng, -0.5, 0.5)
    shift2 = philox.between(rng, -2.0, 0.5)
    noise = philox.log_uniform(rng, 0.05, 1.0)
    x, x1, x2, x3 = 0.0, 0.0, 0.0, 0.0
    philox.fill_normal(rng, out)
    for t in range(T):
        past = x if lag == 1 else (x1 if lag == 2 else (x2 if lag == 3 else x3))
        x3, x2, x1 = x2, x1, x
        if past < low:
            x = shift0 + phi0 * x
        elif past < high:
            x = shift1 + phi1 * x
        else:
            x = shift2 + phi2 * x
        x += noise * out[t]
        out[t] = x


@numba.njit(nogil=True, cache=True)
def ets(rng, out):
    """Exponential-smoothing state space: level, (damped) trend, season; multiplicative in .35 (in logs).

    x = l + b + s + e with the states moved by alpha e, beta e, gamma e: Hyndman, Koehler, Ord and
    Snyder 2008, table 2.2. Season 4, 7, 12, 24, 52 or sub-daily; alpha log-uniform (.01, .9).
    """
    T = out.shape[0]
    alpha = philox.log_uniform(rng, 0.01, 0.9)
    trend = philox.bernoulli(rng, 0.5)
    beta = alpha * philox.log_uniform(rng, 0.001, 0.2)
    keep = philox.between(rng, 0.8, 1.0) if philox.bernoulli(rng, 0.6) else 1.0
    size = _SEASONS[choose(rng, _SEASON_SHARES)] if philox.bernoulli(rng, 0.7) else 1
    gamma = (1.0 - alpha) * philox.log_uniform(rng, 0.001, 0.5)
    strength = philox.log_uniform(rng, 0.3, 20.0)
    season = np.zeros(size)
    if size > 1:
        philox.fill_normal(rng, season)
        for j in range(size):
            season[j] *= strength
    level, slope = 0.0, 0.3 * alpha * philox.normal(rng)
    philox.fill_normal(rng, out)
    j, low, high = 0, math.inf, -math.inf
    for t in range(T):
        e = out[t]
        x = level + season[j] + e
        if trend:
            level += slope
            x += slope
            slope = keep * slope + beta * e
        level += alpha * e
        if size > 1:
            season[j] += gamma * e
            j = j + 1 if j < size - 1 else 0
        out[t] = x
        low, high = min(low, x), max(high, x)
    if philox.bernoulli(rng, 0.35):
        # In logs: spans up to a thousandfold, mostly far less
        span = philox.log_uniform(rng, 0.2, _LOG_SPAN)
        for t in range(T):
            out[t] = math.exp(span * (out[t] - low) / max(high - low, 1e-12))


@leaf
def drift_walk(rng, out):
    """Random walk whose drift changes at random times, with rare jumps in .3."""
    T = out.shape[0]
    change = 1.0 / philox.log_uniform(rng, 20.0, max(2.0 * T, 40.0))
    # Drift against step size: a walk wanders sqrt(n) in n steps, so this makes either visible
    spread = philox.log_uniform(rng, 0.005, 0.5)
    jump = 1.0 / philox.log_uniform(rng, 50.0, max(2.0 * T, 100.0))
    size = philox.between(rng, 3.0, 20.0) if philox.bernoulli(rng, 0.3) else 0.0
    drift = spread * philox.normal(rng)
    level = 0.0
    philox.fill_normal(rng, out)
    for t in range(T):
        if philox.uniform(rng) < change:
            drift = spread * philox.normal(rng)
        if size > 0.0 and philox.uniform(rng) < jump:
            level += size * philox.normal(rng)
        level += drift + out[t]
        out[t] = level


@numba.njit(nogil=True, cache=True)
def seasonal_walk(rng, out):
    """A seasonal pattern that evolves, x[t] = x[t - s] + e, over a stationary or wandering level."""
    T = out.shape[0]
    size = _SEASONS[choose(rng, _SEASON_SHARES)]
    season = np.empty(size)
    philox.fill_normal(rng, season)
    # Neighbouring seasons are alike in most records
    smooth = philox.between(rng, 0.0, 0.95) if size > 7 else 0.0
    for j in range(1, size):
        season[j] = smooth * season[j - 1] + math.sqrt(1.0 - smooth * smooth) * season[j]
    fresh = philox.log_uniform(rng, 0.01, 0.5)
    noise = philox.log_uniform(rng, 0.01, 0.5)
    wander = philox.log_uniform(rng, 0.005, 0.3) if philox.bernoulli(rng, 0.6) else 0.0
    keep = 1.0 if philox.bernoulli(rng, 0.5) else 1.0 - philox.log_uniform(rng, 0.002, 0.2)
    philox.fill_normal(rng, out)
    level, j = 0.0, 0
    for t in range(T):
        season[j] += fresh * out[t]
        level = keep * level + wander * philox.normal(rng)
        out[t] = season[j] + level + noise * philox.normal(rng)
        j = j + 1 if j < size - 1 else 0


@numba.njit(nogil=True, cache=True)
def airline(rng, out):
    """The airline model: (1 - B)(1 - B^s) x = (1 - a B)(1 - b B^s) e, a U(.2, .95), b U(.4, .98).

    Box and Jenkins 1970, chapter 9; exponentiated in .4, as theirs is of logs.
    """
    T = out.shape[0]
    size = _SEASONS[choose(rng, _SEASON_SHARES)]
    a, b = philox.between(rng, 0.2, 0.95), philox.between(rng, 0.4, 0.98)
    noise = np.empty(T + size + 1)
    philox.fill_normal(rng, noise)
    path = np.zeros(T + size + 1)
    strength = philox.log_uniform(rng, 1.0, 20.0)
    slope = 0.1 * philox.normal(rng)
    for t in range(size + 1):
        path[t] = strength * philox.normal(rng) + slope * t
    path[size] = path[0] + slope * size
    low, high = math.inf, -math.inf
    for t in range(size + 1, T + size + 1):
        x = path[t - 1] + path[t - size] - path[t - size - 1] + noise[t]
        x -= a * noise[t - 1] + b * noise[t - size] - a * b * noise[t - size - 1]
        path[t] = x
        out[t - size - 1] = x
        low, high = min(low, x), max(high, x)
    if philox.bernoulli(rng, 0.4):
        span = philox.log_uniform(rng, 0.3, _LOG_SPAN)
        for t in range(T):
            out[t] = math.exp(span * (out[t] - low) / max(high - low, 1e-12))


@leaf
def prices(rng, out):
    """Geometric walk with GARCH steps of student t shocks and rare jumps: a traded price.

    Step sd log-uniform (.002, .04); log price is pulled back to a slow anchor in .3 (rates, spreads).
    """
    T = out.shape[0]
    scale = philox.log_uniform(rng, 0.002, 0.04)
    alpha = philox.between(rng, 0.02, 0.15)
    beta = philox.between(rng, 0.9, 0.99) - alpha
    df = philox.between(rng, 3.5, 12.0)
    drift = 0.1 * scale * philox.normal(rng)
    pull = philox.log_uniform(rng, 0.001, 0.05) if philox.bernoulli(rng, 0.3) else 0.0
    jump = 1.0 / philox.log_uniform(rng, 100.0, max(4.0 * T, 200.0))
    variance, level = 1.0, 0.0
    philox.fill_normal(rng, out)
    for t in range(T):
        z = out[t] * math.sqrt(0.5 * (df - 2.0) / max(philox.gamma(rng, 0.5 * df), 1e-300))
        level += drift - pull * level + scale * math.sqrt(variance) * z
        if philox.uniform(rng) < jump:
            level += 6.0 * scale * philox.normal(rng)
        # Reflect far out, so that the price stays within what a price chart spans
        if level > _LOG_SPAN:
            level, drift = _LOG_SPAN, -abs(drift)
        elif level < -_LOG_SPAN:
            level, drift = -_LOG_SPAN, abs(drift)
        out[t] = math.exp(level)
        variance = min(1.0 - alpha - beta + (alpha * z * z + beta) * variance, 100.0)


@leaf
def near_walk(rng, out):
    """A walk without drift, or all but a walk: x = (1 - c / T) x + e, c 0 in .5, else log-uniform (.5, 30).

    Local to unity (Phillips 1987): what it does next is nearly where it is. Steps are student t in half, their scale
    moves in .4, and the path is seen through noise in .25.
    """
    T = out.shape[0]
    pull = 0.0
    if not philox.bernoulli(rng, 0.5):
        pull = min(philox.log_uniform(rng, 0.5, 30.0) / T, 0.5)
    df = philox.log_uniform(rng, 2.5, 8.0) if philox.bernoulli(rng, 0.5) else 0.0
    moving = philox.between(rng, 0.2, 0.8) if philox.bernoulli(rng, 0.4) else 0.0
    memory = 1.0 - philox.log_uniform(rng, 0.002, 0.1)
    fresh = moving * math.sqrt(1.0 - memory * memory)
    seen = philox.log_uniform(rng, 0.05, 2.0) if philox.bernoulli(rng, 0.25) else 0.0
    volatility, level = 0.0, 0.0
    philox.fill_normal(rng, out)
    for t in range(T):
        e = out[t]
        if df > 0.0:
            e *= math.sqrt(0.5 * df / max(philox.gamma(rng, 0.5 * df), 1e-300))
        if moving > 0.0:
            volatility = memory * volatility + fresh * philox.normal(rng)
            e *= math.exp(volatility)
        level += e - pull * level
        out[t] = level
        if seen > 0.0:
            out[t] += seen * philox.normal(rng)
