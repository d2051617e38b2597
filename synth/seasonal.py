"""Repeating patterns: harmonics, daily profiles, calendar products, waveforms, free patterns.

One cycle is written into a table and then read along the series. A period that is a whole number of
steps gets a table of that many entries, so that repetition is exact and jumps stay sharp, as they
are in metered data; any other period reads a finer table by linear interpolation.
"""

import math

import numba
import numpy as np

from tinytsm.synth import philox
from tinytsm.synth.philox import leaf

FAMILIES = ("harmonics", "profile", "calendar", "waves", "pattern", "load")

# Periods in steps of the clocks that people sample by, shortest first (0: none), and how often each
# clock is drawn. Hourly and sub-hourly records are the bulk of public series, hence their weights
CLOCKS = np.array(
    [
        [24.0, 168.0, 8766.0],  # hourly: day, week, year
        [48.0, 336.0, 17532.0],  # half-hourly
        [96.0, 672.0, 0.0],  # quarter-hourly
        [144.0, 1008.0, 0.0],  # 10 minutes
        [288.0, 2016.0, 0.0],  # 5 minutes
        [60.0, 1440.0, 0.0],  # minutes: hour, day
        [6.0, 360.0, 8640.0],  # 10 seconds: minute, hour, day
        [7.0, 30.4375, 365.25],  # daily: week, month, year
        [5.0, 21.0, 261.0],  # business days
        [52.1775, 13.0, 0.0],  # weekly: year, quarter
        [12.0, 3.0, 0.0],  # monthly: year, quarter
        [4.0, 0.0, 0.0],  # quarterly
    ]
)
_CLOCK_SHARES = np.cumsum(
    np.array([0.22, 0.05, 0.12, 0.05, 0.1, 0.04, 0.03, 0.17, 0.03, 0.06, 0.1, 0.03])
)
# Steps per day of the clocks for which a day has a shape
_DAYS = np.array([24, 48, 96, 144, 288, 1440, 12])
_DAY_SHARES = np.cumsum(np.array([0.42, 0.09, 0.2, 0.08, 0.15, 0.03, 0.03]))
_PATTERNS = np.array([7, 12, 4, 24, 52, 5, 30, 60, 6, 10, 96, 48, 168])
_PATTERN_SHARES = np.cumsum(
    np.array([0.26, 0.2, 0.07, 0.15, 0.07, 0.05, 0.03, 0.03, 0.03, 0.02, 0.04, 0.02, 0.03])
)
# Which of a clock's cycles, how many cycles a series has, which kind of free pattern
_CYCLE_SHARES = np.cumsum(np.array([0.62, 0.3, 0.08]))
_COUNT_SHARES = np.cumsum(np.array([0.45, 0.35, 0.13, 0.07]))
_FREE_SHARES = np.cumsum(np.array([0.5, 0.25, 0.25]))

_CALENDAR_SHARE = 0.65
_JITTERED_SHARE = 0.12
_MODULATED_SHARE = 0.35
# Entries of a table for a period that is not a whole number of steps, or is a long one
_FINE = 512
_LONGEST_EXACT = 2016


@leaf
def choose(rng, shares):
    """Index drawn by cumulative shares (M,) whose last entry is their total."""
    u = philox.uniform(rng) * shares[shares.shape[0] - 1]
    i = 0
    while i < shares.shape[0] - 1 and u > shares[i]:
        i += 1
    return i


@leaf
def clock(rng, T):
    """Row of CLOCKS, drawn so that its shortest cycle mostly fits T steps twice."""
    row = choose(rng, _CLOCK_SHARES)
    for _ in range(8):
        if 2.0 * CLOCKS[row, 0] <= T:
            break
        row = choose(rng, _CLOCK_SHARES)
    return row


@leaf
def period(rng, T):
    """A period in steps: a clock's (mostly exact), or log-uniform from 3 to 730 and at most T / 2."""
    if philox.bernoulli(rng, _CALENDAR_SHARE):
        for _ in range(8):
            value = CLOCKS[clock(rng, T), choose(rng, _CYCLE_SHARES)]
            if value > 0.0 and (2.0 * value <= T or philox.bernoulli(rng, 0.1)):
                if philox.bernoulli(rng, _JITTERED_SHARE):
                    value *= math.exp(0.03 * philox.normal(rng))
                return max(value, 2.0)
    value = philox.log_uniform(rng, 3.0, min(730.0, max(0.5 * T, 6.0)))
    return float(round(value)) if philox.bernoulli(rng, 0.5) else value


@leaf
def table_size(length):
    """Entries of the table for a cycle of this many steps: itself where it is short and whole."""
    if length == math.floor(length) and length <= _LONGEST_EXACT:
        return int(length)
    return _FINE


@leaf
def fill_harmonics(rng, table, size, harmonics, decay):
    """Write harmonics with normal coefficients ~ k^-decay into table[:size + 1], root mean square 1."""
    for j in range(size + 1):
        table[j] = 0.0
    power = 0.0
    for k in range(1, min(harmonics, max(size // 2, 1)) + 1):
        scale = math.exp(-decay * math.log(k))
        a, b = scale * philox.normal(rng), scale * philox.normal(rng)
        power += 0.5 * (a * a + b * b)
        # Rotation: one sine and one cosine per harmonic instead of one per entry
        turn_c, turn_s = math.cos(2.0 * math.pi * k / size), math.sin(2.0 * math.pi * k / size)
        c, s = 1.0, 0.0
        for j in range(size):
            table[j] += a * c + b * s
            c, s = c * turn_c - s * turn_s, s * turn_c + c * turn_s
    scale = 1.0 / math.sqrt(power + 1e-12)
    for j in range(size):
        table[j] *= scale
    table[size] = table[0]


@leaf
def fill_bumps(rng, table, size):
    """Write a day into table[:size + 1]: 2 to 6 smooth humps, low at the ends, peak 1."""
    for j in range(size + 1):
        table[j] = 0.0
    for _ in range(philox.integer(rng, 2, 7)):
        centre = philox.between(rng, 0.15, 0.9) * size
        half = max(philox.log_uniform(rng, 0.04, 0.45) * size, 1.0)
        # A few dips among the humps
        height = philox.between(rng, 0.2, 1.0) * (-0.5 if philox.bernoulli(rng, 0.15) else 1.0)
        skew = philox.log_uniform(rng, 0.5, 2.0)
        for j in range(max(int(centre - half), 0), min(int(centre + half * skew) + 1, size)):
            u = (j - centre) / (half * skew if j > centre else half)
            if u * u < 1.0:
                table[j] += height * (1.0 - u * u) * (1.0 - u * u)
    top = 1e-9
    for j in range(size):
        top = max(top, abs(table[j]))
    floor = philox.between(rng, 0.02, 0.4) if philox.bernoulli(rng, 0.25) else -1.0
    for j in range(size):
        table[j] = max(table[j] / top, floor)
    table[size] = table[0]


@leaf
def add_cycle(rng, out, table, size, length, gain):
    """Add gain times the cycle table[:size + 1] of `length` steps, from a random phase.

    A share is modulated by a slow wave: amplitude by up to 90 %, frequency by up to 8 %.
    """
    T = out.shape[0]
    position = philox.uniform(rng) * size
    # A whole-number period is read entry by entry
    position = math.floor(position) if size == length else position
    step = size / length
    am, fm = 0.0, 0.0
    if philox.bernoulli(rng, _MODULATED_SHARE):
        am = philox.between(rng, 0.1, 0.9)
        fm = philox.between(rng, 0.0, 0.08) if philox.bernoulli(rng, 0.4) else 0.0
    slow = philox.log_uniform(rng, max(4.0 * length, T / 8.0), max(8.0 * length, 2.0 * T))
    angle = 2.0 * math.pi * philox.uniform(rng)
    c, s = math.cos(angle), math.sin(angle)
    turn_c, turn_s = math.cos(2.0 * math.pi / slow), math.sin(2.0 * math.pi / slow)
    for t in range(T):
        i = int(position)
        value = table[i] + (position - i) * (table[i + 1] - table[i])
        out[t] += gain * (1.0 + am * s) * value
        position += step * (1.0 + fm * s)
        if position >= size:
            position -= size
        c, s = c * turn_c - s * turn_s, s * turn_c + c * turn_s


@numba.njit(nogil=True, cache=True)
def harmonics(rng, out):
    """One to four periods, each 1 to 10 harmonics decaying as k^-(.5 to 2.5), a third modulated."""
    T = out.shape[0]
    out[:] = 0.0
    table = np.empty(_LONGEST_EXACT + 1)
    for i in range(1 + choose(rng, _COUNT_SHARES)):
        length = period(rng, T)
        count = 1 if philox.bernoulli(rng, 0.3) else philox.integer(rng, 2, 11)
        size = table_size(length)
        fill_harmonics(rng, table, size, count, philox.between(rng, 0.5, 2.5))
        add_cycle(rng, out, table, size, length, 1.0 if i == 0 else philox.between(rng, 0.1, 1.0))


@numba.njit(nogil=True, cache=True)
def profile(rng, out):
    """A day's shape repeated: weekday and weekend shapes, day-of-week factors, a yearly swell.

    Day-to-day factors are absent in .4, else log-normal AR(1) with sd log-uniform (.01, .4).
    """
    T = out.shape[0]
    size = _DAYS[choose(rng, _DAY_SHARES)]
    for _ in range(8):
        if 2 * size <= T:
            break
        size = _DAYS[choose(rng, _DAY_SHARES)]
    # Row 7 holds the shape that weekends lean to: mostly the weekday's with some of another
    shapes = np.empty((8, size + 1))
    fill_bumps(rng, shapes[0], size)
    fill_bumps(rng, shapes[7], size)
    blend = philox.uniform(rng) if philox.bernoulli(rng, 0.6) else 0.0
    spread = philox.log_uniform(rng, 0.01, 0.4)
    rest = philox.between(rng, 0.15, 1.3) if philox.bernoulli(rng, 0.65) else 1.0
    # A week of seven unlike days repeats as exactly, but only a whole week later
    unlike = philox.bernoulli(rng, 0.15)
    factors = np.empty(7)
    for day in range(7):
        factors[day] = math.exp(spread * philox.normal(rng)) * (rest if day >= 5 else 1.0)
        share = blend if day >= 5 else 0.0
        if unlike and day > 0:
            fill_bumps(rng, shapes[day], size)
            continue
        for j in range(size):
            shapes[day, j] = (1.0 - share) * shapes[0, j] + share * shapes[7, j]
    wobble = 0.0 if philox.bernoulli(rng, 0.4) else philox.log_uniform(rng, 0.01, 0.4)
    memory = philox.between(rng, 0.0, 0.95)
    swell = philox.between(rng, 0.05, 0.6) if philox.bernoulli(rng, 0.5) else 0.0
    season = 2.0 * math.pi * philox.uniform(rng)
    base = philox.between(rng, 0.0, 1.0)
    state = philox.normal(rng)
    j = philox.integer(rng, 0, size)
    day = philox.integer(rng, 0, 7)
    factor = factors[day] * math.exp(wobble * state) * (1.0 + swell * math.sin(season))
    for t in range(T):
        out[t] = base + factor * shapes[day, j]
        j += 1
        if j == size:
            j = 0
            day = day + 1 if day < 6 else 0
            state = memory * state + math.sqrt(1.0 - memory * memory) * philox.normal(rng)
            season += 2.0 * math.pi / 365.25
            factor = factors[day] * math.exp(wobble * state) * (1.0 + swell * math.sin(season))


@numba.njit(nogil=True, cache=True)
def calendar(rng, out):
    """Product of a clock's cycles, 1 + a f(phase), after ForecastPFN (Dooley et al. 2023).

    Main amplitude U(.1, 1), the others U(0, .4); multiplicative Weibull noise in half of the draws.
    """
    T = out.shape[0]
    row = clock(rng, T)
    table = np.empty(_LONGEST_EXACT + 1)
    cycle = np.empty(T)
    out[:] = 1.0
    main = 0 if philox.bernoulli(rng, 0.7) else 1
    for i in range(3):
        length = CLOCKS[row, i]
        if length == 0.0:
            continue
        amplitude = philox.between(rng, 0.1, 1.0) if i == main else philox.between(rng, 0.0, 0.4)
        size = table_size(length)
        if length <= 12.0 and philox.bernoulli(rng, 0.5):
            _fill_free(rng, table, size)
        else:
            fill_harmonics(rng, table, size, philox.integer(rng, 3, 11), 1.0)
        cycle[:] = 0.0
        add_cycle(rng, cycle, table, size, length, 1.0)
        for t in range(T):
            # A root mean square of .5 keeps most factors positive at full amplitude
            out[t] *= 1.0 + 0.5 * amplitude * cycle[t]
    if philox.bernoulli(rng, 0.5):
        shape = philox.between(rng, 1.0, 5.0)
        scale = philox.between(rng, 0.0, 0.1)
        if philox.bernoulli(rng, 0.3):
            scale = philox.between(rng, 0.2, 0.4)
        mean = math.gamma(1.0 + 1.0 / shape)
        for t in range(T):
            weibull = math.exp(math.log(philox.exponential(rng)) / shape)
            out[t] *= 1.0 + scale * (weibull - mean)


@leaf
def _fill_wave(rng, table, size):
    """A trapezoid with random rise, top and fall: sawtooth, triangle, square and pulse are its edges."""
    kind = philox.integer(rng, 0, 5)
    rise, top, fall = 0.0, 0.0, 0.0
    if kind == 0:
        rise = 1.0
    elif kind == 1:
        rise = philox.between(rng, 0.1, 0.9)
        fall = 1.0 - rise
    elif kind == 2:
        top = philox.between(rng, 0.1, 0.9)
    elif kind == 3:
        top = philox.log_uniform(rng, 0.02, 0.15)
        fall = philox.between(rng, 0.0, 0.2)
    else:
        rise = philox.between(rng, 0.05, 0.35)
        top = philox.between(rng, 0.05, 0.35)
        fall = philox.between(rng, 0.05, 0.3)
    for j in range(size):
        u = j / size
        if u < rise:
            table[j] = u / rise
        elif u < rise + top:
            table[j] = 1.0
        elif u < rise + top + fall:
            table[j] = 1.0 - (u - rise - top) / fall
        else:
            table[j] = 0.0
    if table[0] == 0.0 and top > 0.0 and rise == 0.0:
        table[0] = 1.0
    table[size] = table[0]
    if philox.bernoulli(rng, 0.3):
        for j in range(size + 1):
            table[j] = -table[j]


@numba.njit(nogil=True, cache=True)
def waves(rng, out):
    """One or two waveforms: sawtooth, triangle, square, pulse, trapezoid, any duty cycle."""
    T = out.shape[0]
    out[:] = 0.0
    table = np.empty(_LONGEST_EXACT + 1)
    for i in range(1 if philox.bernoulli(rng, 0.7) else 2):
        length = max(period(rng, T), 4.0)
        size = table_size(length)
        _fill_wave(rng, table, size)
        add_cycle(rng, out, table, size, length, 1.0 if i == 0 else philox.between(rng, 0.1, 1.0))


@leaf
def _fill_free(rng, table, size):
    """Unrelated values for every entry: normal, heavy-tailed, or a few spikes on a floor."""
    kind = choose(rng, _FREE_SHARES)
    memory = philox.between(rng, 0.5, 0.95) if size > 24 and philox.bernoulli(rng, 0.6) else 0.0
    state = philox.normal(rng)
    for j in range(size):
        state = memory * state + philox.normal(rng)
        table[j] = state
        if kind == 1:
            table[j] = math.exp(min(0.7 * state, 5.0))
        elif kind == 2:
            table[j] = 3.0 * abs(state) if philox.bernoulli(rng, 0.15) else 0.1 * state
    table[size] = table[0]


@numba.njit(nogil=True, cache=True)
def pattern(rng, out):
    """A pattern of unrelated values repeated exactly; a second, slower one multiplies it in .3."""
    T = out.shape[0]
    out[:] = 0.0
    size = _PATTERNS[choose(rng, _PATTERN_SHARES)]
    for _ in range(8):
        if 2 * size <= T:
            break
        size = _PATTERNS[choose(rng, _PATTERN_SHARES)]
    table = np.empty(_LONGEST_EXACT + 1)
    _fill_free(rng, table, size)
    add_cycle(rng, out, table, size, float(size), 1.0)
    if philox.bernoulli(rng, 0.3):
        length = size * philox.integer(rng, 4, 53) * 1.0
        fill_harmonics(rng, table, _FINE, philox.integer(rng, 1, 6), 1.0)
        slow = np.zeros(T)
        add_cycle(rng, slow, table, _FINE, length, philox.between(rng, 0.1, 0.6))
        for t in range(T):
            out[t] = out[t] * (1.0 + slow[t]) + slow[t]


@numba.njit(nogil=True, cache=True)
def load(rng, out):
    """Grid load: a winter's and a summer's day blended over the year, work days and rest days, weather, holidays.

    The level of the same year peaks in winter, in summer or in both, as heating and cooling have it.
    Weather is a daily-scale AR(1) that shifts the level, sd log-uniform (.01, .25); what is left, AR(1) too, has sd
    log-uniform (.002, .06). So a week repeats nearly exactly, but not for ever.
    """
    T = out.shape[0]
    size = _DAYS[philox.integer(rng, 0, 3)]
    for _ in range(8):
        if 2 * size <= T:
            break
        size = _DAYS[choose(rng, _DAY_SHARES)]
    winter, summer, rest = np.empty(size + 1), np.empty(size + 1), np.empty(size + 1)
    fill_harmonics(rng, winter, size, philox.integer(rng, 2, 6), philox.between(rng, 0.5, 1.5))
    fill_harmonics(rng, summer, size, philox.integer(rng, 2, 5), philox.between(rng, 0.5, 1.5))
    fill_harmonics(rng, rest, size, philox.integer(rng, 2, 5), philox.between(rng, 0.8, 1.8))
    # Both halves of the year, and rest days, lean to the same day
    own, own_rest = philox.between(rng, 0.0, 0.7), philox.between(rng, 0.1, 0.8)
    for j in range(size):
        summer[j] = (1.0 - own) * winter[j] + own * summer[j]
        rest[j] = (1.0 - own_rest) * winter[j] + own_rest * rest[j]
    depth = philox.between(rng, 0.08, 0.4)
    drop = philox.log_uniform(rng, 0.02, 0.4)
    saturday = philox.uniform(rng)
    swing = philox.between(rng, 0.0, 0.3)
    # How far one peak a year, summer's or (below zero) winter's, and how far one in each
    angle = math.pi * philox.uniform(rng)
    once, twice = swing * math.cos(angle), swing * math.sin(angle)
    year = 2.0 * math.pi * philox.uniform(rng)
    turn = 2.0 * math.pi / 365.25
    holiday = philox.between(rng, 0.0, 0.03)
    spread = philox.log_uniform(rng, 0.01, 0.25)
    slow = math.exp(-1.0 / (size * philox.log_uniform(rng, 0.5, 6.0)))
    fresh = spread * math.sqrt(1.0 - slow * slow)
    small = philox.log_uniform(rng, 0.002, 0.06)
    memory = philox.between(rng, 0.0, 0.95)
    rough = small * math.sqrt(1.0 - memory * memory)
    total = 0.1 * philox.normal(rng) / T
    j, day = philox.integer(rng, 0, size), philox.integer(rng, 0, 7)
    weather, error = spread * philox.normal(rng), small * philox.normal(rng)
    warmth = math.sin(year)
    off = 1.0 if day == 6 else (saturday if day == 5 else 0.0)
    philox.fill_normal(rng, out)
    for t in range(T):
        weather = slow * weather + fresh * philox.normal(rng)
        error = memory * error + rough * out[t]
        # Minus the cosine of twice the year, by the double angle
        level = once * warmth + twice * (2.0 * warmth * warmth - 1.0)
        working = winter[j] + 0.5 * (1.0 + warmth) * (summer[j] - winter[j])
        shape = working + off * (rest[j] - working)
        out[t] = (1.0 + level + total * t + depth * shape + weather) * (1.0 - drop * off) + error
        j += 1
        if j == size:
            j = 0
            day = day + 1 if day < 6 else 0
            off = 1.0 if day == 6 else (saturday if day == 5 else 0.0)
            if philox.uniform(rng) < holiday:
                off = 1.0
            year += turn
            warmth = math.sin(year)
