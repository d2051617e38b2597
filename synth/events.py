"""Series made of events: shifts, spikes, bursts, pulses, outages, switching and daylight.

Each family writes a background first and lays events over it; times are in steps. Step and spike
counts and shapes follow TempoPFN (arXiv 2510.25502, appendix on synthetic data) and the monitoring,
sales and energy series that such shapes come from.
"""

import math

import numba
import numpy as np

from tinytsm.synth import philox, seasonal

FAMILIES = (
    "level_shifts",
    "spikes",
    "bursts",
    "anomalies",
    "pulse_response",
    "shock_recovery",
    "idle_active",
    "on_off",
    "daylight",
    "rush_hours",
)


# Steps of a day from two-hourly to five-minute records, hourly and quarter-hourly most often
_DAYS = np.array([12.0, 24.0, 24.0, 24.0, 48.0, 96.0, 96.0, 144.0, 288.0])


@numba.njit(nogil=True, cache=True)
def _day(rng, length):
    """Steps of a day of which length holds two: on a clock in nine of ten, else any number from 8."""
    if philox.bernoulli(rng, 0.9):
        for _ in range(8):
            day = _DAYS[philox.integer(rng, 0, _DAYS.size)]
            if 2.0 * day <= length:
                return day
    return philox.log_uniform(rng, 8.0, max(9.0, min(0.3 * length, 500.0)))


@numba.njit(nogil=True, cache=True)
def _background(rng, scale, out):
    """Fill out (T,) with noise of standard deviation scale: white, remembering, or on a slow wave."""
    philox.fill_normal(rng, out)
    kind = philox.integer(rng, 0, 3)
    if kind > 0:
        memory = philox.between(rng, 0.3, 0.98)
        fresh = math.sqrt(1.0 - memory * memory)
        state = philox.normal(rng)
        for t in range(out.size):
            state = memory * state + fresh * out[t]
            out[t] = state
    if kind == 2:
        step = 2.0 * math.pi / seasonal.period(rng, out.size)
        c, s = math.cos(step), math.sin(step)
        x, y = philox.normal(rng), philox.normal(rng)
        share = philox.between(rng, 0.2, 1.5)
        for t in range(out.size):
            out[t] += share * x
            x, y = x * c - y * s, x * s + y * c
    for t in range(out.size):
        out[t] *= scale


@numba.njit(nogil=True, cache=True)
def _gap(rng, period, jitter):
    """Steps to the next event: exact, jittered by a share of the period, or memoryless at jitter 1."""
    if jitter == 0.0:
        return period
    if jitter >= 1.0:
        return period * philox.exponential(rng)
    return period * max(0.05, 1.0 + jitter * philox.normal(rng))


@numba.njit(nogil=True, cache=True)
def _regularity(rng):
    """Jitter for _gap: exact, a little late or early, or memoryless."""
    u = philox.uniform(rng)
    if u < 0.4:
        return 0.0
    return philox.log_uniform(rng, 0.01, 0.3) if u < 0.65 else 1.0


@numba.njit(nogil=True, cache=True)
def level_shifts(rng, out):
    """Constant or sloping segments, one shift to a hundred, abrupt or ramped."""
    length = out.size
    _background(rng, philox.log_uniform(rng, 0.003, 0.6), out)
    segments = 1.0 + philox.log_uniform(rng, 1.0, max(2.0, min(100.0, length / 8.0)))
    mean = length / segments
    # Fresh levels, a walk, a return to two levels, or a staircase
    pattern = philox.integer(rng, 0, 4)
    ramp = philox.log_uniform(rng, 1.0, max(1.5, 0.5 * mean)) if philox.bernoulli(rng, 0.3) else 0.0
    slope = philox.between(rng, 0.2, 1.5) / mean if philox.bernoulli(rng, 0.25) else 0.0
    low, high = philox.normal(rng), philox.normal(rng)
    level = previous = low
    drift = 0.0
    # The first shift lies inside: a series without one is background alone
    ahead = philox.between(rng, 0.1, 0.9) * min(mean, length)
    since = 1e18
    for t in range(length):
        if ahead <= 0.0:
            previous, since = level + drift * since, 0.0
            if pattern == 0:
                level = philox.normal(rng)
            elif pattern == 1:
                level = previous + 0.5 * philox.normal(rng)
            elif pattern == 2:
                level = high if level == low else low
            else:
                level = previous + (high - low) * philox.exponential(rng) / math.sqrt(segments)
            drift = slope * philox.normal(rng)
            ahead += mean * philox.gamma(rng, 1.5) / 1.5 + 1.0
        if since < ramp:
            out[t] += previous + (level - previous) * since / ramp
        else:
            out[t] += level + (drift * since if since < 1e17 else 0.0)
        since += 1.0
        ahead -= 1.0


@numba.njit(nogil=True, cache=True)
def _add_spike(at, height, rise, fall, straight, out):
    """Add to out (T,) one spike: a linear rise, then a straight or an exponential fall, in steps."""
    for back in range(1, np.int64(rise) + 1):
        if 0 <= at - back < out.size:
            out[at - back] += height * (1.0 - back / (rise + 1.0))
    value, decay = height, math.exp(-1.0 / max(fall, 0.05))
    reach = fall if straight else 8.0 * fall
    for ahead in range(np.int64(reach) + 1):
        if at + ahead >= out.size:
            break
        out[at + ahead] += height * (1.0 - ahead / (fall + 1.0)) if straight else value
        value *= decay


@numba.njit(nogil=True, cache=True)
def spikes(rng, out):
    """Spikes on a quiet background: clocked or random times, common or heavy-tailed heights."""
    length = out.size
    _background(rng, philox.log_uniform(rng, 0.005, 0.3), out)
    jitter = _regularity(rng)
    period = seasonal.period(rng, length)
    if jitter == 1.0:
        period = length / philox.log_uniform(rng, 2.0, max(3.0, min(80.0, length / 10.0)))
    flank = philox.log_uniform(rng, 0.2, max(0.4, 0.25 * period))
    rise = flank * philox.uniform(rng) if philox.bernoulli(rng, 0.5) else 0.0
    fall = flank
    straight = philox.bernoulli(rng, 0.5)
    spread = philox.log_uniform(rng, 0.01, 1.0)
    two_sided = philox.bernoulli(rng, 0.15)
    # Drawn inside the series, so that there is one
    at = philox.uniform(rng) * min(period, length)
    while at < length:
        height = math.exp(spread * philox.normal(rng))
        if two_sided and philox.bernoulli(rng, 0.5):
            height = -height
        _add_spike(np.int64(at), height, rise, fall, straight, out)
        at += _gap(rng, period, jitter) + 0.5 * (jitter > 0.0)


@numba.njit(nogil=True, cache=True)
def bursts(rng, out):
    """Quiet with rare spells of high, rough activity: spell and gap lengths memoryless."""
    length = out.size
    _background(rng, philox.log_uniform(rng, 0.005, 0.2), out)
    spell = philox.log_uniform(rng, 2.0, max(4.0, 0.15 * length))
    quiet = spell * philox.log_uniform(rng, 1.0, 20.0)
    rough = philox.between(rng, 0.1, 1.0)
    memory = philox.between(rng, 0.0, 0.95)
    # A beat inside the spell, as batch jobs and machines have
    beat = philox.integer(rng, 2, 30) if philox.bernoulli(rng, 0.4) else 0
    active = False
    left = philox.uniform(rng) * min(quiet, 0.8 * length)
    level = state = 0.0
    for t in range(length):
        if left <= 0.0:
            active = not active
            left += (spell if active else quiet) * philox.exponential(rng) + 1.0
            level = philox.gamma(rng, 3.0) / 3.0 + 0.2
        if active:
            state = memory * state + philox.normal(rng) * math.sqrt(1.0 - memory * memory)
            value = level * max(0.0, 1.0 + rough * state)
            if beat > 0:
                value *= 1.0 if t % beat < (beat + 1) // 2 else 0.3
            out[t] += value
        left -= 1.0


@numba.njit(nogil=True, cache=True)
def anomalies(rng, out):
    """A regular base with rare departures at clocked, clustered or random times."""
    length = out.size
    _background(rng, philox.log_uniform(rng, 0.05, 0.5), out)
    period = seasonal.period(rng, length)
    step = 2.0 * math.pi / period
    c, s = math.cos(step), math.sin(step)
    x, y = philox.normal(rng), philox.normal(rng)
    second = philox.between(rng, -0.5, 0.5)
    for t in range(length):
        # The second harmonic by the double angle keeps the base from being a pure wave
        out[t] += x + second * 2.0 * x * y
        x, y = x * c - y * s, x * s + y * c
    apart = philox.log_uniform(rng, 20.0, max(40.0, 0.4 * length))
    jitter = _regularity(rng)
    growth = philox.between(rng, -0.05, 0.05)
    size = philox.between(rng, 2.0, 10.0) * (1.0 if philox.bernoulli(rng, 0.7) else -1.0)
    width = philox.integer(rng, 1, 9)
    at = philox.uniform(rng) * min(apart, length)
    while at < length:
        count = philox.integer(rng, 2, 6) if philox.bernoulli(rng, 0.25) else 1
        start = np.int64(at)
        for _ in range(count):
            for t in range(start, min(start + width, length)):
                out[t] += size * philox.between(rng, 0.7, 1.3)
            start += width + philox.integer(rng, 1, 8)
        size *= 1.0 + growth
        at += _gap(rng, apart, jitter) + width


@numba.njit(nogil=True, cache=True)
def pulse_response(rng, out):
    """Impulses through a rise and an exponential decay: rain to river, dose to blood, job to queue."""
    length = out.size
    _background(rng, philox.log_uniform(rng, 0.002, 0.1), out)
    jitter = _regularity(rng)
    period = seasonal.period(rng, length)
    if jitter == 1.0:
        period = philox.log_uniform(rng, 3.0, max(6.0, 0.3 * length))
    decay = philox.log_uniform(rng, 1.0, max(2.0, 2.0 * period))
    slow = math.exp(-1.0 / decay)
    # A rise as long as the decay makes the response hump-shaped
    fast = math.exp(-1.0 / philox.log_uniform(rng, 0.1, 8.0)) if philox.bernoulli(rng, 0.6) else 0.0
    marks = philox.log_uniform(rng, 0.5, 20.0)
    # For a share the arrivals come in seasons
    in_seasons = philox.bernoulli(rng, 0.3)
    season = 2.0 * math.pi / seasonal.period(rng, length)
    phase = philox.between(rng, 0.0, 2.0 * math.pi)
    store = response = 0.0
    ahead = philox.uniform(rng) * min(period, length)
    # What came before the first step is still fading there
    for t in range(-min(np.int64(4.0 * decay), length), length):
        store *= slow
        if ahead <= 0.0:
            mark = philox.gamma(rng, marks) / marks
            if in_seasons:
                mark *= max(0.0, 1.0 + math.sin(season * t + phase))
            store += mark
            ahead += max(_gap(rng, period, jitter), 1.0)
        response = fast * response + (1.0 - fast) * store
        if t >= 0:
            out[t] += response
        ahead -= 1.0


@numba.njit(nogil=True, cache=True)
def shock_recovery(rng, out):
    """A steady cycle hit one to four times: a drop or jump, then full, partial or ringing recovery."""
    length = out.size
    _background(rng, philox.log_uniform(rng, 0.02, 0.4), out)
    step = 2.0 * math.pi / seasonal.period(rng, length)
    c, s = math.cos(step), math.sin(step)
    x, y = philox.normal(rng), philox.normal(rng)
    # Shocks that scale the series shrink its cycle too; others move only the level
    scaling = philox.bernoulli(rng, 0.5)
    level = 3.0 if scaling else 0.0
    for t in range(length):
        out[t] += level + 0.7 * x
        x, y = x * c - y * s, x * s + y * c
    for _ in range(philox.integer(rng, 1, 5)):
        at = philox.integer(rng, 0, length)
        depth = philox.between(rng, 0.3, 0.95) if scaling else philox.between(rng, 1.0, 6.0)
        if philox.bernoulli(rng, 0.7):
            depth = -depth
        lasting = philox.uniform(rng) if philox.bernoulli(rng, 0.5) else 0.0
        tau = philox.log_uniform(rng, 1.0, max(2.0, 0.3 * length))
        decay = math.exp(-1.0 / tau)
        ringing = philox.bernoulli(rng, 0.25)
        turn = philox.between(rng, 0.5, 3.0) / tau
        ring_c, ring_s = math.cos(turn), math.sin(turn)
        u, v = 1.0, 0.0
        for t in range(at, length):
            effect = depth * (lasting + (1.0 - lasting) * u)
            out[t] = out[t] * max(0.02, 1.0 + effect) if scaling else out[t] + effect
            if ringing:
                u, v = decay * (u * ring_c - v * ring_s), decay * (u * ring_s + v * ring_c)
            else:
                u *= decay


@numba.njit(nogil=True, cache=True)
def idle_active(rng, out):
    """Machine traces: long idle near a floor, plateaus and bursts of work, spikes, then quiet again."""
    length = out.size
    philox.fill_normal(rng, out)
    floor_noise = philox.log_uniform(rng, 1e-4, 0.03)
    typical = philox.log_uniform(rng, 4.0, max(8.0, 0.2 * length))
    idle = typical * philox.log_uniform(rng, 0.5, 10.0)
    # Work that stops for good, or starts late: the window's past differs from its future
    first = np.int64(philox.uniform(rng) * length) if philox.bernoulli(rng, 0.15) else 0
    last = length - np.int64(philox.uniform(rng) * length) if philox.bernoulli(rng, 0.2) else length
    if last <= first:
        first = 0
    # A scheduled job at the same time of every cycle
    every = np.int64(seasonal.period(rng, length)) if philox.bernoulli(rng, 0.35) else 0
    lasts = np.int64(max(1.0, every * philox.log_uniform(rng, 0.01, 0.4)))
    offset = philox.integer(rng, 0, max(every, 1))
    job = philox.log_uniform(rng, 0.1, 2.0)
    rate = philox.log_uniform(rng, 0.5, 50.0) / length
    working = philox.bernoulli(rng, 0.5)
    left = philox.uniform(rng) * min(typical, length)
    level, rough = philox.log_uniform(rng, 0.05, 2.0), philox.log_uniform(rng, 0.01, 0.5)
    state = 0.0
    for t in range(length):
        if left <= 0.0:
            working = not working
            left += (typical if working else idle) * philox.exponential(rng) + 1.0
            level = philox.log_uniform(rng, 0.05, 2.0)
            rough = philox.log_uniform(rng, 0.01, 0.5)
        left -= 1.0
        value = floor_noise * abs(out[t])
        state = 0.8 * state + 0.6 * out[t]
        if first <= t < last:
            if working:
                value += level * max(0.0, 1.0 + rough * state)
            if every > 0 and (t + offset) % every < lasts:
                value += job * (1.0 + 0.05 * out[t])
            if philox.uniform(rng) < rate:
                value += philox.exponential(rng) * 2.0
        out[t] = value


@numba.njit(nogil=True, cache=True)
def on_off(rng, out):
    """Two levels: switched at random, by a clock, or on a weekly timetable; sharp or with a lag."""
    length = out.size
    philox.fill_normal(rng, out)
    noise_on, noise_off = philox.log_uniform(rng, 0.002, 0.3), philox.log_uniform(rng, 0.001, 0.1)
    # First-order lag: heating and cooling curves rather than edges
    follow = philox.log_uniform(rng, 0.01, 0.7) if philox.bernoulli(rng, 0.4) else 1.0
    clocked = philox.bernoulli(rng, 0.55)
    cycle = seasonal.period(rng, length)
    share = philox.between(rng, 0.05, 0.8)
    opening = philox.between(rng, 0.0, cycle)
    rest_days = philox.integer(rng, 0, 3) if philox.bernoulli(rng, 0.5) else 0
    drifting = philox.log_uniform(rng, 0.005, 0.3)
    mean_on = philox.log_uniform(rng, 2.0, max(4.0, 0.1 * length))
    mean_off = mean_on * philox.log_uniform(rng, 0.2, 8.0)
    shape = philox.log_uniform(rng, 0.7, 30.0)
    on = philox.bernoulli(rng, 0.5)
    left = philox.uniform(rng) * min(mean_on, 0.8 * length)
    level, state = 1.0, 0.0
    for t in range(length):
        if clocked:
            now = t + opening
            turn = np.int64(now / cycle)
            working_day = turn % 7 < 7 - rest_days
            was = on
            on = working_day and now - turn * cycle < share * cycle
            if on and not was:
                level = 1.0 + drifting * philox.normal(rng)
        elif left <= 0.0:
            on = not on
            left += (mean_on if on else mean_off) * philox.gamma(rng, shape) / shape + 1.0
            level = 1.0 + drifting * philox.normal(rng)
        left -= 1.0
        state += follow * ((level if on else 0.0) - state)
        out[t] = state + out[t] * (noise_on if on else noise_off)


@numba.njit(nogil=True, cache=True)
def daylight(rng, out):
    """Zero at night, a bell by day: sun, its yearly swing, and clouds that come in fronts."""
    length = out.size
    philox.fill_normal(rng, out)
    period = _day(rng, length)
    step = 2.0 * math.pi / period
    c, s = math.cos(step), math.sin(step)
    phase = philox.between(rng, 0.0, 2.0 * math.pi)
    x, y = math.cos(phase), math.sin(phase)
    # The yearly swing of the sun's height, by rotation too
    year_c, year_s = math.cos(step / 365.25), math.sin(step / 365.25)
    year_phase = philox.between(rng, 0.0, 2.0 * math.pi)
    swing = philox.between(rng, 0.0, 0.5)
    u, v = swing * math.cos(year_phase), swing * math.sin(year_phase)
    centre = philox.between(rng, -0.35, 0.35)
    bend = philox.between(rng, 0.7, 2.0)
    # Clear skies for a share: the cycle itself, exactly
    cloudiness = philox.log_uniform(rng, 0.01, 1.0)
    fronts = math.exp(-1.0 / (period * philox.log_uniform(rng, 0.3, 5.0)))
    flicker = philox.log_uniform(rng, 0.005, 0.4) * cloudiness
    ceiling = philox.between(rng, 0.5, 1.0) if philox.bernoulli(rng, 0.2) else 10.0
    front = 0.0
    for t in range(length):
        front = fronts * front + math.sqrt(1.0 - fronts * fronts) * philox.normal(rng)
        height = x + centre + u
        u, v = u * year_c - v * year_s, u * year_s + v * year_c
        x, y = x * c - y * s, x * s + y * c
        if height <= 0.0:
            out[t] = 0.0
            continue
        # What the sky lets through saturates at one: clear days are alike, cloudy ones are not
        through = 1.0 / (1.0 + math.exp(4.0 * cloudiness * (front - 0.5)))
        value = math.exp(bend * math.log(height)) * through * max(0.0, 1.0 + flicker * out[t])
        out[t] = min(value, ceiling)


@numba.njit(nogil=True, cache=True)
def rush_hours(rng, out):
    """Traffic-like days: a night floor, one to three rush hours, weak weekends, multiplicative noise."""
    length = out.size
    philox.fill_normal(rng, out)
    steps = np.int64(_day(rng, length))
    profiles = np.empty((2, steps))
    floor = philox.log_uniform(rng, 0.005, 0.5)
    for kind in range(2):
        for j in range(steps):
            profiles[kind, j] = floor
        for _ in range(philox.integer(rng, 1, 4)):
            centre, weight = philox.uniform(rng), philox.between(rng, 0.3, 1.0)
            width = philox.log_uniform(rng, 0.02, 0.2)
            for j in range(steps):
                # Nearest image, so that the day closes on itself
                away = (j / steps - centre + 0.5) % 1.0 - 0.5
                profiles[kind, j] += weight * math.exp(-0.5 * (away / width) ** 2)
    # The weekend has its own shape for a share, else the working day's, weaker
    if philox.bernoulli(rng, 0.5):
        weak = philox.between(rng, 0.2, 1.0)
        for j in range(steps):
            profiles[1, j] = weak * profiles[0, j]
    noise = philox.log_uniform(rng, 0.01, 0.4)
    memory = philox.between(rng, 0.0, 0.98)
    fresh = math.sqrt(1.0 - memory * memory)
    day_spread = philox.log_uniform(rng, 0.005, 0.2)
    start = philox.integer(rng, 0, 7 * steps)
    factor, state = 1.0, 0.0
    for t in range(length):
        day, j = (start + t) // steps, (start + t) % steps
        if j == 0:
            factor = max(0.1, 1.0 + day_spread * philox.normal(rng))
        state = memory * state + fresh * out[t]
        value = profiles[1 if day % 7 >= 5 else 0, j] * factor
        out[t] = value * max(0.0, 1.0 + noise * state)
