"""Count series: intermittent demand, seasonal and self-exciting counts, shop sales, small integers.

Intermittent demand follows Croston's view (1972, doi:10.1057/jors.1972.50): a chance of demand and a
size given demand; self-exciting counts are INGARCH (Ferland et al. 2006) and small integers INAR(1).
"""

import math

import numba
import numpy as np

from tinytsm.synth import philox, seasonal

FAMILIES = (
    "intermittent_demand",
    "seasonal_counts",
    "self_exciting_counts",
    "shop_sales",
    "small_integers",
    "web_visits",
)

# A rate above it is no longer seen as counts, and unbounded log-rates would overflow
_HIGHEST_RATE = 1e5


@numba.njit(nogil=True, cache=True)
def overdispersed(rng, mean, dispersion):
    """Negative binomial count of this mean and variance mean + dispersion mean^2; 0 is Poisson."""
    if dispersion > 0.0:
        mean *= dispersion * philox.gamma(rng, 1.0 / dispersion)
    return philox.poisson(rng, mean)


@numba.njit(nogil=True, cache=True)
def _ensure_event(rng, out):
    """Add one at one step of a constant out (T,): the event was so rare that it fell outside."""
    for t in range(1, out.size):
        if out[t] != out[0]:
            return
    out[philox.integer(rng, 0, out.size)] += 1.0


@numba.njit(nogil=True, cache=True)
def intermittent_demand(rng, out):
    """Zeros with occasional demand: chance and size constant, seasonal, drifting or in spells."""
    length = out.size
    chance = philox.log_uniform(rng, 0.02, 0.7)
    # Spells: demand brings demand, with the same long-run chance
    cling = philox.between(rng, 0.0, 0.9) if philox.bernoulli(rng, 0.3) else 0.0
    # Obsolescence or take-off: the log-odds drift over the length
    drift = 1.2 * philox.normal(rng) if philox.bernoulli(rng, 0.3) else 0.0
    weekly = philox.bernoulli(rng, 0.35)
    period = np.int64(seasonal.period(rng, length))
    factors = np.empty(period)
    mean_factor = 0.0
    peaky = philox.log_uniform(rng, 0.3, 5.0)
    for j in range(period):
        factors[j] = philox.gamma(rng, peaky) / peaky if weekly else 1.0
        mean_factor += factors[j] / period
    kind = philox.integer(rng, 0, 5)
    mean_size = philox.log_uniform(rng, 1.0, 40.0)
    dispersion = philox.log_uniform(rng, 0.05, 2.0)
    spread = philox.between(rng, 0.2, 1.2)
    busy = philox.bernoulli(rng, chance)
    for t in range(length):
        p = chance
        if drift != 0.0:
            odds = chance / (1.0 - chance) * math.exp(drift * (t / length - 0.5))
            p = odds / (1.0 + odds)
        p = min(0.98, p * factors[t % period] / max(mean_factor, 1e-6))
        # A share of steps copies the last state, the rest draw afresh: long-run chance stays p
        if cling == 0.0 or philox.uniform(rng) >= cling:
            busy = philox.bernoulli(rng, p)
        if not busy:
            out[t] = 0.0
        elif kind == 0:
            out[t] = 1.0
        elif kind == 1:
            out[t] = 1.0 + philox.poisson(rng, mean_size - 1.0)
        elif kind == 2:
            out[t] = 1.0 + overdispersed(rng, mean_size - 1.0, dispersion)
        else:
            size = mean_size * math.exp(spread * philox.normal(rng))
            # Pieces for most, weights and money for the rest
            out[t] = max(1.0, float(round(size))) if kind == 3 else size
    _ensure_event(rng, out)


@numba.njit(nogil=True, cache=True)
def seasonal_counts(rng, out):
    """Poisson or overdispersed counts whose log-rate has cycles, a trend and a remembering part."""
    length = out.size
    base = math.log(philox.log_uniform(rng, 0.2, 1000.0))
    period = seasonal.period(rng, length)
    step = 2.0 * math.pi / period
    c, s = math.cos(step), math.sin(step)
    phase = philox.between(rng, 0.0, 2.0 * math.pi)
    x, y = math.cos(phase), math.sin(phase)
    depth = philox.between(rng, 0.1, 1.5)
    # The second harmonic through products of the first
    twice, twisted = 0.5 * depth * philox.normal(rng), 0.5 * depth * philox.normal(rng)
    memory = philox.between(rng, 0.5, 0.99)
    wander = philox.log_uniform(rng, 0.01, 0.6) * math.sqrt(1.0 - memory * memory)
    total = 0.5 * philox.normal(rng)
    dispersion = philox.log_uniform(rng, 0.01, 1.0) if philox.bernoulli(rng, 0.5) else 0.0
    state = 0.0
    for t in range(length):
        state = memory * state + wander * philox.normal(rng)
        wave = depth * x + twice * 2.0 * x * y + twisted * (x * x - y * y)
        rate = math.exp(min(base + wave + state + total * t / length, math.log(_HIGHEST_RATE)))
        out[t] = overdispersed(rng, rate, dispersion)
        x, y = x * c - y * s, x * s + y * c
    _ensure_event(rng, out)


@numba.njit(nogil=True, cache=True)
def self_exciting_counts(rng, out):
    """INGARCH(1, 1): the next rate leans on the last count and the last rate; stable by its sum."""
    length = out.size
    total = philox.between(rng, 0.3, 0.985)
    echo = total * philox.between(rng, 0.2, 0.95)
    lasting = total - echo
    mean = philox.log_uniform(rng, 0.3, 100.0)
    fresh = mean * (1.0 - total)
    dispersion = philox.log_uniform(rng, 0.01, 0.3) if philox.bernoulli(rng, 0.3) else 0.0
    rate, count = mean, mean
    for t in range(length):
        rate = min(fresh + echo * count + lasting * rate, _HIGHEST_RATE)
        count = overdispersed(rng, rate, dispersion)
        out[t] = count
    _ensure_event(rng, out)


@numba.njit(nogil=True, cache=True)
def shop_sales(rng, out):
    """Daily sales of one item: week, year, trend, promotions with a dip after, stock-outs, closures."""
    length = out.size
    mean = philox.log_uniform(rng, 0.2, 200.0)
    week = np.empty(7)
    contrast = philox.log_uniform(rng, 1.0, 60.0)
    for j in range(7):
        week[j] = philox.gamma(rng, contrast) / contrast
    if philox.bernoulli(rng, 0.2):
        week[philox.integer(rng, 0, 7)] = 0.0
    year_depth = philox.between(rng, 0.0, 0.6)
    year_phase = philox.between(rng, 0.0, 2.0 * math.pi)
    step = 2.0 * math.pi / 365.25
    c, s = math.cos(step), math.sin(step)
    x, y = math.cos(year_phase), math.sin(year_phase)
    growth = 0.5 * philox.normal(rng)
    memory = 0.98
    wander = philox.log_uniform(rng, 0.005, 0.08)
    promo_rate = philox.log_uniform(rng, 1.0, 12.0) / 365.0 if philox.bernoulli(rng, 0.6) else 0.0
    lift = philox.between(rng, 1.3, 5.0)
    # Promotions of a chain keep to whole weeks
    promo_days = philox.integer(rng, 1, 4) * 7 if philox.bernoulli(rng, 0.5) else 3
    outage_rate = philox.log_uniform(rng, 0.3, 4.0) / 365.0 if philox.bernoulli(rng, 0.4) else 0.0
    dispersion = philox.log_uniform(rng, 0.005, 1.0)
    promo = after = outage = 0
    state = 0.0
    for t in range(length):
        state = memory * state + wander * philox.normal(rng)
        x, y = x * c - y * s, x * s + y * c
        rate = mean * week[t % 7] * math.exp(year_depth * x + growth * t / length + state)
        if promo > 0:
            promo -= 1
            rate *= lift
            if promo == 0:
                after = promo_days // 2 + 1
        elif after > 0:
            after -= 1
            rate *= 0.7
        if promo == 0 and philox.bernoulli(rng, promo_rate):
            promo = promo_days
        if outage > 0:
            outage -= 1
            rate = 0.0
        elif philox.bernoulli(rng, outage_rate):
            outage = 1 + np.int64(6.0 * philox.exponential(rng))
        out[t] = overdispersed(rng, min(rate, _HIGHEST_RATE), dispersion) if rate > 0.0 else 0.0
    _ensure_event(rng, out)


@numba.njit(nogil=True, cache=True)
def small_integers(rng, out):
    """Survivors and arrivals (INAR(1)), a queue that fills and empties, or an ordinal state."""
    length = out.size
    kind = philox.integer(rng, 0, 3)
    count = 0
    if kind == 0:
        stay = philox.between(rng, 0.1, 0.98)
        mean = philox.log_uniform(rng, 0.3, 15.0)
        count = np.int64(philox.poisson(rng, mean))
        for t in range(length):
            survivors = 0
            for _ in range(count):
                survivors += philox.bernoulli(rng, stay)
            count = survivors + np.int64(philox.poisson(rng, mean * (1.0 - stay)))
            out[t] = count
    elif kind == 1:
        # Arrivals near the pace of service make long queues; the room is finite
        load = philox.between(rng, 0.5, 1.1)
        pace = philox.log_uniform(rng, 0.2, 8.0)
        room = np.int64(philox.log_uniform(rng, 8.0, 100.0))
        for t in range(length):
            arrived = np.int64(philox.poisson(rng, load * pace))
            served = np.int64(philox.poisson(rng, pace))
            count = min(max(count + arrived - served, 0), room)
            out[t] = count
    else:
        states = philox.integer(rng, 2, 8)
        move = philox.log_uniform(rng, 0.003, 0.5)
        jump = philox.between(rng, 0.0, 0.3)
        count = philox.integer(rng, 0, states)
        for t in range(length):
            if philox.bernoulli(rng, move):
                if philox.bernoulli(rng, jump):
                    count = philox.integer(rng, 0, states)
                else:
                    up = 1 if philox.bernoulli(rng, 0.5) else -1
                    count = min(max(count + up, 0), states - 1)
            out[t] = count
    _ensure_event(rng, out)


@numba.njit(nogil=True, cache=True)
def web_visits(rng, out):
    """Visits, calls, clicks by the hour: a day within a week, growth, wandering interest, and bursts that fade.

    Poisson or negative binomial; mean log-uniform (.3, 5000). Bursts, in .3, come memoryless, a few in a series,
    add .5 to 8 times the usual rate, and fade over hours to weeks.
    """
    length = out.size
    size = (24, 24, 48, 96, 12)[philox.integer(rng, 0, 5)]
    table = np.empty(size + 1)
    seasonal.fill_harmonics(
        rng, table, size, philox.integer(rng, 1, 6), philox.between(rng, 0.7, 2.0)
    )
    depth = philox.between(rng, 0.1, 1.5)
    factors = np.empty(7)
    spread = philox.log_uniform(rng, 0.02, 0.5)
    weekend = philox.between(rng, -1.2, 0.5) if philox.bernoulli(rng, 0.7) else 0.0
    for day in range(7):
        factors[day] = spread * philox.normal(rng) + (weekend if day >= 5 else 0.0)
    # One table of the week's rates: no exponential per step
    week = np.empty(7 * size)
    for k in range(7 * size):
        week[k] = math.exp(depth * table[k % size] + factors[k // size])
    mean = philox.log_uniform(rng, 0.3, 5000.0)
    growth = math.exp(philox.normal(rng) / length)
    memory = 1.0 - philox.log_uniform(rng, 0.001, 0.05)
    wander = philox.log_uniform(rng, 0.01, 0.5) * math.sqrt(1.0 - memory * memory)
    dispersion = philox.log_uniform(rng, 0.001, 0.3) if philox.bernoulli(rng, 0.5) else 0.0
    bursts = philox.log_uniform(rng, 0.5, 8.0) / length if philox.bernoulli(rng, 0.3) else 0.0
    fade = math.exp(-1.0 / (size * philox.log_uniform(rng, 0.1, 10.0)))
    k = philox.integer(rng, 0, 7 * size)
    state = burst = 0.0
    for t in range(length):
        state = memory * state + wander * philox.normal(rng)
        burst *= fade
        if bursts > 0.0 and philox.uniform(rng) < bursts:
            burst += philox.log_uniform(rng, 0.5, 8.0)
        # The first terms of the exponential, floored: the state is small
        rate = mean * week[k] * max(0.05, 1.0 + state + 0.5 * state * state) * (1.0 + burst)
        out[t] = overdispersed(rng, min(rate, _HIGHEST_RATE), dispersion)
        mean *= growth
        k = k + 1 if k < 7 * size - 1 else 0
    _ensure_event(rng, out)
