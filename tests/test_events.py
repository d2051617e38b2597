"""Event families keep their law: when events come, how large they are, how they fade.

A family's background is made again from its stream and taken away; what is left is compared with the parameters
that follow on the stream. Rates are compared over many draws, within five standard errors of their own spread.
"""

import math

import numpy as np

from tinytsm.synth import events, philox, seasonal

LENGTH = 2000
T = np.arange(LENGTH)
# What subtracting a background leaves of rounding
TINY = 1e-9


def stream(index: int) -> np.ndarray:
    return philox.stream(43, index, 0)


def draw(name: str, index: int) -> np.ndarray:
    out = np.full(LENGTH, np.nan)
    getattr(events, name)(stream(index), out)
    return out


def without_background(name: str, rng: np.ndarray, index: int, *scale: float) -> np.ndarray:
    """The events alone; rng moves on to the parameters behind the background's."""
    background = np.empty(LENGTH)
    events._background(rng, philox.log_uniform(rng, *scale), background)
    return draw(name, index) - background


def assert_unbiased(ratios: list[float], *, bias: float = 0.0) -> None:
    """The mean is one within five standard errors, and a known bias."""
    error = np.std(ratios) / math.sqrt(len(ratios))
    assert abs(np.mean(ratios) - 1.0) < 5 * error + bias


def timing(rng: np.ndarray) -> tuple[float, float]:
    jitter = events._regularity(rng)
    return float(jitter), float(seasonal.period(rng, LENGTH))


def assert_clocked(times: np.ndarray, period: float) -> None:
    gaps = np.diff(times)
    assert ((gaps >= math.floor(period)) & (gaps <= math.ceil(period))).all()


def test_background_has_its_scale() -> None:
    spreads = []
    for index in range(300):
        x = np.empty(LENGTH)
        events._background(stream(index), 0.2, x)
        spreads.append(x.std())
    # White and remembering ones have it exactly, those on a slow wave a little more
    assert 0.19 < np.median(spreads) < 0.23
    assert np.quantile(spreads, 0.05) > 0.15


def test_levels_shift_as_often_as_drawn() -> None:
    ratios, returning = [], 0
    for index in range(600):
        rng = stream(index)
        x = without_background("level_shifts", rng, index, 0.003, 0.6)
        segments = 1.0 + philox.log_uniform(rng, 1.0, 100.0)
        mean = LENGTH / segments
        pattern = philox.integer(rng, 0, 4)
        if philox.bernoulli(rng, 0.3) or philox.bernoulli(rng, 0.25):
            continue
        low, high = philox.normal(rng), philox.normal(rng)
        if pattern == 2:
            returning += 1
            assert (np.minimum(abs(x - low), abs(x - high)) < TINY).all()
        if segments > 8:
            first = philox.between(rng, 0.1, 0.9) * mean
            shifts = (np.abs(np.diff(x)) > TINY).sum()
            # A renewal process of gaps mean (gamma 1.5) / 1.5 + 1, whole after rounding up
            ratios.append(shifts / (1 + (LENGTH - first) / (mean + 1.0)))
    assert returning > 50 and len(ratios) > 100
    # The renewal theorem's constant, half of (1 - 1 / 1.5), against eight shifts at least
    assert_unbiased(ratios, bias=1 / 48)


def test_spikes_come_by_their_clock_with_log_normal_heights() -> None:
    clocked, gaps, heights = 0, [], []
    for index in range(600):
        rng = stream(index)
        x = without_background("spikes", rng, index, 0.005, 0.3)
        jitter, period = timing(rng)
        if jitter == 1.0:
            period = LENGTH / philox.log_uniform(rng, 2.0, 80.0)
        flank = philox.log_uniform(rng, 0.2, max(0.4, 0.25 * period))
        rises = philox.bernoulli(rng, 0.5)
        rising = rises and philox.uniform(rng) * flank >= 1.0
        straight = philox.bernoulli(rng, 0.5)
        spread = philox.log_uniform(rng, 0.01, 1.0)
        if philox.bernoulli(rng, 0.15) or rising or straight or period < 8 * flank + 2:
            continue
        onsets = x.copy()
        onsets[1:] -= math.exp(-1.0 / max(flank, 0.05)) * x[:-1]
        # Where a tail is cut off, the filter sees a small step down
        times = np.flatnonzero(onsets > 0.02)
        if jitter == 0.0:
            clocked += 1
            assert_clocked(times, period)
            heights.append(np.log(onsets[times]) / spread)
        elif jitter == 1.0 and len(times) > 10:
            gaps.append(np.diff(times) / period)
    assert clocked > 20 and len(gaps) > 10
    z = np.concatenate(heights)
    # Tails of the one before reach under a spike by e^-8 at most
    assert abs(z.mean()) < 5 / math.sqrt(len(z)) + 0.05
    assert abs(z.std() - 1.0) < 5 / math.sqrt(2 * len(z)) + 0.05
    pooled = np.concatenate(gaps)
    # Memoryless: as wide as its mean; half a step is the least, and near ones fall together
    assert abs(pooled.mean() - 1.0) < 5 / math.sqrt(len(pooled)) + 0.1
    assert abs(pooled.std() - 1.0) < 5 * math.sqrt(2 / len(pooled)) + 0.1


def test_bursts_fill_their_share_of_time() -> None:
    ratios = []
    for index in range(3000):
        rng = stream(index)
        x = without_background("bursts", rng, index, 0.005, 0.2)
        spell = philox.log_uniform(rng, 2.0, 0.15 * LENGTH)
        quiet = spell * philox.log_uniform(rng, 1.0, 20.0)
        rough = philox.between(rng, 0.1, 1.0)
        # A beat and rough spells also touch zero inside a burst
        if rough < 0.35 and spell + quiet < LENGTH / 20:
            ratios.append((x > TINY).mean() * (spell + quiet + 2) / (spell + 1))
    assert len(ratios) > 200
    # The first gap is shorter, and spells are rounded to whole steps
    assert_unbiased(ratios, bias=0.03)


def test_anomalies_depart_from_a_cycle_by_their_size() -> None:
    shares = []
    for index in range(400):
        rng = stream(index)
        x = without_background("anomalies", rng, index, 0.05, 0.5)
        angle = 2.0 * math.pi / seasonal.period(rng, LENGTH) * T
        a, b = philox.normal(rng), philox.normal(rng)
        second = philox.between(rng, -0.5, 0.5)
        c, s = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
        apart = philox.log_uniform(rng, 20.0, 0.4 * LENGTH)
        jitter = events._regularity(rng)
        philox.between(rng, -0.05, 0.05)
        size = philox.between(rng, 2.0, 10.0) * (1.0 if philox.bernoulli(rng, 0.7) else -1.0)
        width = philox.integer(rng, 1, 9)
        first = int(philox.uniform(rng) * min(apart, LENGTH))
        left = x - c - second * 2.0 * c * s
        assert (np.abs(left[:first]) < TINY).all()
        depth = left[first : first + width] / size
        assert ((depth > 0.7 - TINY) & (depth < 1.3 + TINY)).all()
        if jitter == 0.0 and apart > 90:
            count = 1 + int((LENGTH - 1 - first) / (apart + width))
            # One event in four is two to five in a row
            shares.append((np.abs(left) > TINY).sum() / (count * width * (0.75 + 0.25 * 3.5)))
    assert len(shares) > 30
    # The last of them may reach beyond the end
    assert_unbiased(shares, bias=0.03)


def test_pulses_rise_and_decay_by_their_constants() -> None:
    marks, clocked = [], 0
    for index in range(400):
        rng = stream(index)
        x = without_background("pulse_response", rng, index, 0.002, 0.1)
        jitter, period = timing(rng)
        if jitter == 1.0:
            period = philox.log_uniform(rng, 3.0, 0.3 * LENGTH)
        slow = math.exp(-1.0 / philox.log_uniform(rng, 1.0, 2.0 * period))
        humped = philox.bernoulli(rng, 0.6)
        fast = math.exp(-1.0 / philox.log_uniform(rng, 0.1, 8.0)) if humped else 0.0
        philox.log_uniform(rng, 0.5, 20.0)
        seasons = philox.bernoulli(rng, 0.3)
        # Both decays undone, what is left are the impulses
        impulses = x.copy()
        impulses[1:] -= (slow + fast) * x[:-1]
        impulses[2:] += slow * fast * x[:-2]
        # The first two steps still hold what came before them
        impulses = impulses[2:] / (1.0 - fast)
        assert impulses.min() > -1e-8
        times = np.flatnonzero(impulses > 1e-7)
        if not seasons and jitter == 0.0:
            # An impulse of a wide gamma law may be too small to be seen
            clocked += 1
            whole = np.diff(times) / period
            assert (np.abs(whole - np.round(whole)) < 1.01 / period).all()
        if not seasons and len(times) > 5:
            marks.append(float(impulses[times].mean()))
    assert clocked > 50 and len(marks) > 100
    assert_unbiased(marks, bias=1e-3)


def test_pulses_are_as_high_at_the_start_as_later() -> None:
    starts = []
    for index in range(1500):
        rng = stream(index)
        x = without_background("pulse_response", rng, index, 0.002, 0.1)
        jitter, period = timing(rng)
        if jitter == 1.0:
            period = philox.log_uniform(rng, 3.0, 0.3 * LENGTH)
        decay = philox.log_uniform(rng, 1.0, 2.0 * period)
        if decay < LENGTH / 20:
            starts.append(x[:20].mean() / x.mean())
    assert len(starts) > 300
    # Four decay times leave a fiftieth unsaid
    assert_unbiased(starts, bias=0.02)


def test_shocks_follow_their_recovery_curve() -> None:
    ringing_seen = scaling_seen = 0
    for index in range(150):
        rng = stream(index)
        expected = np.empty(LENGTH)
        events._background(rng, philox.log_uniform(rng, 0.02, 0.4), expected)
        angle = 2.0 * math.pi / seasonal.period(rng, LENGTH) * T
        a, b = philox.normal(rng), philox.normal(rng)
        scaling = philox.bernoulli(rng, 0.5)
        expected += 0.7 * (a * np.cos(angle) - b * np.sin(angle)) + (3.0 if scaling else 0.0)
        for _ in range(philox.integer(rng, 1, 5)):
            at = philox.integer(rng, 0, LENGTH)
            depth = philox.between(rng, 0.3, 0.95) if scaling else philox.between(rng, 1.0, 6.0)
            depth = -depth if philox.bernoulli(rng, 0.7) else depth
            lasting = philox.uniform(rng) if philox.bernoulli(rng, 0.5) else 0.0
            tau = philox.log_uniform(rng, 1.0, 0.3 * LENGTH)
            ringing = philox.bernoulli(rng, 0.25)
            turn = philox.between(rng, 0.5, 3.0) / tau if ringing else 0.0
            if not ringing:
                philox.between(rng, 0.5, 3.0)
            since = T[: LENGTH - at]
            curve = np.exp(-since / tau) * np.cos(turn * since)
            effect = depth * (lasting + (1.0 - lasting) * curve)
            if scaling:
                expected[at:] *= np.maximum(0.02, 1.0 + effect)
            else:
                expected[at:] += effect
            ringing_seen, scaling_seen = ringing_seen + ringing, scaling_seen + scaling
        np.testing.assert_allclose(draw("shock_recovery", index), expected, atol=TINY)
    assert ringing_seen > 30 and scaling_seen > 50


def test_idle_machines_work_their_share_and_keep_their_schedule() -> None:
    shares, jobs = [], []
    for index in range(1200):
        rng = stream(index)
        philox.fill_normal(rng, np.empty(LENGTH))
        floor = philox.log_uniform(rng, 1e-4, 0.03)
        typical = philox.log_uniform(rng, 4.0, 0.2 * LENGTH)
        idle = typical * philox.log_uniform(rng, 0.5, 10.0)
        late = philox.bernoulli(rng, 0.15)
        if late:
            philox.uniform(rng)
        if philox.bernoulli(rng, 0.2) or late:
            continue
        scheduled = philox.bernoulli(rng, 0.35)
        every = int(seasonal.period(rng, LENGTH)) if scheduled else 0
        lasts = int(max(1.0, every * philox.log_uniform(rng, 0.01, 0.4)))
        offset = philox.integer(rng, 0, max(every, 1))
        job = philox.log_uniform(rng, 0.1, 2.0)
        x = draw("idle_active", index)
        if scheduled and LENGTH / every > 20 and every > 2 * lasts:
            inside = (T + offset) % every < lasts
            # The median's distance shrugs off the work that happens to fall there
            jobs.append((np.median(x[inside]) - np.median(x[~inside])) / job)
        elif not scheduled and floor < 0.004 and typical + idle < LENGTH / 20:
            shares.append((x > 0.02).mean() * (typical + idle + 2) / (typical + 1))
    assert len(shares) > 100 and len(jobs) > 50
    # Rough work now and then falls to the floor, and single spikes stand among the idle steps
    assert_unbiased(shares, bias=0.06)
    assert abs(np.median(jobs) - 1.0) < 0.1


def test_switches_keep_their_timetable_or_their_mean_stay() -> None:
    clocked_seen, shares = 0, []
    for index in range(800):
        rng = stream(index)
        philox.fill_normal(rng, np.empty(LENGTH))
        noise_on, noise_off = (
            philox.log_uniform(rng, 0.002, 0.3),
            philox.log_uniform(rng, 0.001, 0.1),
        )
        if philox.bernoulli(rng, 0.4):
            continue
        clocked = philox.bernoulli(rng, 0.55)
        cycle = seasonal.period(rng, LENGTH)
        share = philox.between(rng, 0.05, 0.8)
        opening = philox.between(rng, 0.0, cycle)
        rest = philox.integer(rng, 0, 3) if philox.bernoulli(rng, 0.5) else 0
        drifting = philox.log_uniform(rng, 0.005, 0.3)
        mean_on = philox.log_uniform(rng, 2.0, 0.1 * LENGTH)
        mean_off = mean_on * philox.log_uniform(rng, 0.2, 8.0)
        if max(noise_on, noise_off, drifting) > 0.08:
            continue
        # Half-way is six deviations from either level
        on = draw("on_off", index) > 0.5
        if clocked:
            clocked_seen += 1
            now = T + opening
            turn = np.floor(now / cycle)
            wanted = (turn % 7 < 7 - rest) & (now - turn * cycle < share * cycle)
            # An edge that falls on a step may round either way
            assert (on != wanted).sum() <= 2 + turn.max() * 0.01
        elif mean_on + mean_off < LENGTH / 20:
            shares.append(on.mean() * (mean_on + mean_off + 2) / (mean_on + 1))
    assert clocked_seen > 60 and len(shares) > 20
    assert_unbiased(shares, bias=0.03)


def test_nights_are_where_the_sun_is_down() -> None:
    for index in range(100):
        rng = stream(index)
        philox.fill_normal(rng, np.empty(LENGTH))
        step = 2.0 * math.pi / events._day(rng, LENGTH)
        phase = philox.between(rng, 0.0, 2.0 * math.pi)
        year_phase = philox.between(rng, 0.0, 2.0 * math.pi)
        swing = philox.between(rng, 0.0, 0.5)
        height = np.cos(step * T + phase) + swing * np.cos(step / 365.25 * T + year_phase)
        height += philox.between(rng, -0.35, 0.35)
        x = draw("daylight", index)
        assert (x[height < -TINY] == 0.0).all()
        # By day only the densest flicker reaches zero
        assert (x[height > 0.01] > 0.0).mean() > 0.97


def test_rush_hours_scatter_about_their_profiles() -> None:
    means, spreads = [], []
    for index in range(150):
        rng = stream(index)
        philox.fill_normal(rng, np.empty(LENGTH))
        steps = int(events._day(rng, LENGTH))
        hour = np.arange(steps) / steps
        profiles = np.full((2, steps), philox.log_uniform(rng, 0.005, 0.5))
        for kind in range(2):
            for _ in range(philox.integer(rng, 1, 4)):
                centre, weight = philox.uniform(rng), philox.between(rng, 0.3, 1.0)
                width = philox.log_uniform(rng, 0.02, 0.2)
                away = (hour - centre + 0.5) % 1.0 - 0.5
                profiles[kind] += weight * np.exp(-0.5 * (away / width) ** 2)
        if philox.bernoulli(rng, 0.5):
            profiles[1] = philox.between(rng, 0.2, 1.0) * profiles[0]
        noise = philox.log_uniform(rng, 0.01, 0.4)
        memory = philox.between(rng, 0.0, 0.98)
        day_spread = philox.log_uniform(rng, 0.005, 0.2)
        start = philox.integer(rng, 0, 7 * steps)
        now = start + T
        ratio = draw("rush_hours", index) / profiles[(now // steps % 7 >= 5) * 1, now % steps]
        if noise < 0.2 and memory < 0.9:
            means.append(float(ratio.mean()))
            # Days that share a factor count once
            spreads.append(float(ratio.std()) / math.hypot(noise, day_spread))
    assert len(means) > 60
    assert_unbiased(means)
    # A sample of a few dozen days underestimates the spread between them
    assert 0.85 < np.mean(spreads) < 1.05
