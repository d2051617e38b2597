"""SynthTS: item `index` of seed `seed`, the same bits whoever asks, in whatever order.

An item is one series or several related ones. A series is a composite (trend, seasons and noise of
random strengths), or one family whole, or a mixup of two or three such series; augmentations,
couplings, level, scale and gaps follow. What is drawn how often stands in mixture.py.

Every draw comes from a stream keyed by (seed, index, purpose), parents of a mixup from purposes of
their own, so nothing depends on workers, order or batch. The jitted functions release the
interpreter's lock: worker threads call `fill_item` on their own buffers.
"""

import math

import numba
import numpy as np

from tinytsm.synth import augment, dispatch, mixture, noise, philox
from tinytsm.synth.dispatch import fill_family
from tinytsm.synth.seasonal import choose

# Purposes. Each series of an item has lanes (the parents of a mixup), each lane some attempts
_ITEM = 0
_FIRST_LANE = 1
_LANES = 4
_ATTEMPTS = 4
_LANE_STRIDE = 8
_SERIES_STRIDE = _LANES * _LANE_STRIDE
# Where a series is changed after it is filled: a lane's slot behind the attempts
_FINISH = 6
# How the variates of a coupled item move in time: the free slot of the first lane
_MOVES = _FIRST_LANE + _ATTEMPTS + 1
_LONGEST = 1 << 24
# Largest exponent, either way, of a series made log-normal
_SPAN = 6.0

# Properties of a finished series that its later treatment must know
_PLAIN, _HAS_UNIT_ROOT, _NATURAL_COUNT = 0, 1, 2


@numba.njit(nogil=True, cache=True)
def _usable(x):
    """Finite everywhere and, where it is long enough to tell, not constant."""
    T = x.shape[0]
    low, high = x[0], x[0]
    for t in range(T):
        # Also false for NaN
        if not abs(x[t]) < 1e150:
            return False
        low, high = min(low, x[t]), max(high, x[t])
    return T < 8 or high - low > 1e-9 * max(abs(low), abs(high)) + 1e-100


@numba.njit(nogil=True, cache=True)
def _fill_part(group, rng, out, trace):
    """Fill out (T,) by a family of this group, standardised; returns its code."""
    code = choose(rng, mixture.CUMULATIVE[group])
    fill_family(code, rng, out, trace)
    augment.standardise(out)
    return code


@numba.njit(nogil=True, cache=True)
def _composite(rng, out, part, trace):
    """Trend, seasons and noise of random strengths, added or multiplied; returns properties."""
    T = out.shape[0]
    properties = _PLAIN
    out[:] = 0.0
    has_season = philox.bernoulli(rng, mixture.SEASON_SHARE)
    if has_season:
        _fill_part(mixture.SEASONAL, rng, out, trace)
        if philox.bernoulli(rng, mixture.SECOND_SEASON_SHARE):
            _fill_part(mixture.SEASONAL, rng, part, trace)
            strength = philox.log_uniform(rng, 0.1, 1.0)
            product = philox.bernoulli(rng, 0.4)
            for t in range(T):
                # A product of seasons, such as days in a year
                out[t] = (
                    out[t] * (1.0 + strength * part[t]) if product else out[t] + strength * part[t]
                )
    multiplicative = philox.bernoulli(rng, mixture.MULTIPLICATIVE_SHARE)
    if philox.bernoulli(rng, mixture.TREND_SHARE) or not has_season:
        _fill_part(mixture.TREND, rng, part, trace)
        level = 0 if philox.bernoulli(rng, mixture.TREND_LEVELS[0][0]) else 1
        excursion = mixture.TREND_LEVELS[level][1] * philox.normal(rng)
        # A standardised line spans the square root of twelve
        excursion /= 3.4641
        if multiplicative:
            # The trend scales the season: level 1 with a swing of up to .9 of it
            depth = philox.between(rng, 0.05, 0.9)
            top = 1e-12
            for t in range(T):
                top = max(top, abs(out[t]))
            growth = min(max(excursion, -1.0), 1.0)
            for t in range(T):
                out[t] = math.exp(growth * part[t]) * (1.0 + depth * out[t] / top)
            augment.standardise(out)
        else:
            for t in range(T):
                out[t] += excursion * part[t]
    if philox.bernoulli(rng, mixture.PLAIN_NOISE_SHARE):
        code = _fill_part(mixture.NOISE, rng, part, trace)
    elif philox.bernoulli(rng, mixture.PROCESS_SHARE):
        code = _fill_part(mixture.PROCESS, rng, part, trace)
    else:
        code = _fill_part(mixture.SPECTRAL, rng, part, trace)
    u = philox.uniform(rng)
    row = 0
    while row < 2 and u > mixture.NOISE_LEVELS[row][0]:
        u -= mixture.NOISE_LEVELS[row][0]
        row += 1
    strength = philox.log_uniform(rng, mixture.NOISE_LEVELS[row][1], mixture.NOISE_LEVELS[row][2])
    # Far below the season, a wandering part never reaches what a censor caps
    if mixture.UNIT_ROOT[code] and strength > 0.1:
        properties |= _HAS_UNIT_ROOT
    if multiplicative and has_season:
        low = np.inf
        for t in range(T):
            low = min(low, out[t])
        # Errors grow with the level, which is counted from the lowest point
        for t in range(T):
            out[t] += strength * part[t] * (0.2 + 0.5 * (out[t] - low))
    else:
        for t in range(T):
            out[t] += strength * part[t]
    return properties


@numba.njit(nogil=True, cache=True)
def draw_kind(rng, T):
    """What a series of T steps is: the code of a family for one family whole, -2 for a composite."""
    low, high = mixture.SHORT_LENGTHS
    short = philox.uniform(rng) * math.log(high / low) < math.log(high / T)
    if philox.bernoulli(rng, mixture.COMPOSITE_SHARES[1 if short else 0]):
        return -2
    return choose(rng, mixture.CUMULATIVE[mixture.SHORT if short else mixture.WHOLE])


@numba.njit(nogil=True, cache=True)
def _whole(code, rng, out, trace):
    """The family of this code is the whole series. Returns properties."""
    fill_family(code, rng, out, trace)
    if mixture.GROUP[code] == mixture.COUNT and philox.bernoulli(rng, mixture.NATURAL_COUNT_SHARE):
        return _NATURAL_COUNT
    return _HAS_UNIT_ROOT if mixture.UNIT_ROOT[code] else _PLAIN


@numba.njit(nogil=True, cache=True)
def _lane(seed, index, purpose, code, out, part, trace):
    """Fill out (T,) with one unmixed series, drawn anew while unusable; returns properties.

    code: as `draw_kind` has it, or -3 to draw it.
    """
    for attempt in range(_ATTEMPTS):
        rng = philox.stream(seed, index, purpose + attempt)
        kind = draw_kind(rng, out.shape[0]) if code == -3 else code
        if kind == -2:
            properties = _composite(rng, out, part, trace)
        else:
            properties = _whole(kind, rng, out, trace)
        if _usable(out):
            return properties
    # Noise is never constant
    rng = philox.stream(seed, index, purpose + _ATTEMPTS)
    noise.white(rng, out)
    return _PLAIN


@numba.njit(nogil=True, cache=True)
def _augmented(properties, rng, moves, out, trace):
    """Change out (T,) by a random few of mixture.AUGMENTATIONS; returns properties.

    moves: the stream that those in mixture.MOVES draw from, whatever the series holds.
    """
    for code in range(mixture.AUGMENTATION_SHARE.shape[0]):
        own = moves if mixture.MOVES[code] else rng
        if not philox.bernoulli(own, mixture.AUGMENTATION_SHARE[code]):
            continue
        if code == mixture.CENSOR and properties & _HAS_UNIT_ROOT != 0:
            continue
        dispatch.change(code, own, out, trace)
        if code == mixture.ACCUMULATE:
            properties |= _HAS_UNIT_ROOT
    return properties


@numba.njit(nogil=True, cache=True)
def _skew(rng, out):
    """Make some series log-normal or floored: out (T,) is standardised first."""
    u = philox.uniform(rng)
    if u < mixture.EXPONENTIAL_SHARE:
        augment.standardise(out)
        strength = philox.log_uniform(rng, 0.15, 1.2)
        for t in range(out.shape[0]):
            out[t] = math.exp(min(max(strength * out[t], -_SPAN), _SPAN))
    elif u < mixture.EXPONENTIAL_SHARE + mixture.FLOOR_SHARE:
        augment.standardise(out)
        floor = philox.between(rng, -1.0, 0.5)
        for t in range(out.shape[0]):
            out[t] = max(out[t] - floor, 0.0)


@numba.njit(nogil=True, cache=True)
def _place(rng, out):
    """Give out (T,) a level and a scale: level zero to 1e3 spreads away, scale log-normal."""
    augment.standardise(out)
    T = out.shape[0]
    u = philox.uniform(rng)
    level = 0.0
    if u < 0.5:
        level = philox.log_uniform(rng, 0.3, 30.0)
    elif u < 0.65:
        level = philox.log_uniform(rng, 30.0, 1000.0)
    elif u < 0.8:
        low = np.inf
        for t in range(T):
            low = min(low, out[t])
        level = -low
    if philox.bernoulli(rng, 0.1):
        level = -level
    scale = math.exp(3.0 * philox.normal(rng))
    for t in range(T):
        out[t] = (out[t] + level) * scale
    if philox.bernoulli(rng, mixture.ROUND_SHARE):
        # Records are written with few digits: a unit is a small share of the spread
        unit = scale / philox.log_uniform(rng, 3.0, 1000.0)
        for t in range(T):
            out[t] = math.floor(out[t] / unit + 0.5) * unit


@numba.njit(nogil=True, cache=True)
def _gaps(rng, out, trace):
    """Write NaN into out (T,), by one mechanism, leaving at least one value."""
    first = out[0]
    kind = choose(rng, mixture.GAP_CUMULATIVE)
    dispatch.change(mixture.AUGMENTATION_SHARE.shape[0] + kind, rng, out, trace)
    for t in range(out.shape[0]):
        if not math.isnan(out[t]):
            return
    out[0] = first


@numba.njit(nogil=True, cache=True)
def make_item(seed, index, out, trace):
    """What `fill_item` does; reached through `dispatch`, so that it is compiled once."""
    V, T = out.shape
    trace[0], trace[1] = index, -1
    rng = philox.stream(seed, index, _ITEM)
    part, parent = np.empty(T), np.empty(T)
    # Siblings: one recipe for all variates, as sensors of one machine or shops of one chain have
    kind = -3
    if V > 1 and philox.bernoulli(rng, mixture.SIBLING_SHARE):
        kind = draw_kind(rng, T)
    coupled = V > 1 and philox.bernoulli(rng, mixture.COUPLED_SHARE)
    properties = np.zeros(V, np.int64)
    for v in range(V):
        lane = _FIRST_LANE + v * _SERIES_STRIDE
        properties[v] = _lane(seed, index, lane, kind, out[v], part, trace)
        mixing = philox.stream(seed, index, lane + _FINISH)
        if philox.bernoulli(mixing, mixture.MIXUP_SHARE):
            parents = 1 if philox.bernoulli(mixing, mixture.ONE_PARENT_SHARE) else 2
            for p in range(1, parents + 1):
                other = _lane(seed, index, lane + p * _LANE_STRIDE, kind, parent, part, trace)
                augment.mixup(mixing, out[v], parent)
                # A count mixed with anything is no longer a count
                properties[v] = (properties[v] | other) & _HAS_UNIT_ROOT
    if coupled:
        dispatch.couple(choose(rng, mixture.COUPLER_CUMULATIVE), rng, out, trace)
        # Any variate may now hold any other
        together = 0
        for v in range(V):
            together |= properties[v] & _HAS_UNIT_ROOT
        properties[:] = together
    missing = philox.bernoulli(rng, mixture.MISSING_SHARE)
    for v in range(V):
        finish = philox.stream(seed, index, _FIRST_LANE + v * _SERIES_STRIDE + _FINISH + 1)
        if properties[v] & _NATURAL_COUNT == 0:
            part[:] = out[v]
            # One stream from its start for each variate: their lags and leads outlast the moves
            moves = philox.stream(seed, index, _MOVES) if coupled else finish
            _augmented(properties[v], finish, moves, out[v], trace)
            _skew(finish, out[v])
            if not _usable(out[v]):
                out[v] = part
            _place(finish, out[v])
        if missing:
            _gaps(finish, out[v], trace)


@philox.leaf
def fill_prepared(seed, index, out, trace):
    """`fill_item` for jitted callers, which have called `dispatch.prepare` before; trace: as `dispatch` has it."""
    dispatch.fill_item(seed, index, out, trace)


def fill_item(seed: int, index: int, out: np.ndarray) -> None:
    """Fill out (V, T), C-contiguous float64, with item `index` of `seed`; NaN is missing.

    A pure function of its arguments and the shape of out. Releases the interpreter's lock. Items of
    another length are other items, not cut ones: a trend spans whatever length is asked for, so ask
    for the length that is used. The first call compiles all families, or loads them from the cache.
    Raises ValueError for another layout or dtype.
    """
    if out.ndim != 2 or out.dtype != np.float64 or not out.flags.c_contiguous:
        raise ValueError(
            "out must be a C-contiguous float64 array (V, T), "
            f"got {out.dtype} {out.shape} with strides {out.strides}"
        )
    dispatch.prepare()
    fill_prepared(int(seed), int(index), out, dispatch.new_trace())


def sample(seed: int, index: int, length: int, variates: int = 1) -> np.ndarray:
    """Item `index` of `seed`: (V, T) float64, NaN where missing.

    seed, index: integers in [0, 2^63). length, variates: T and V, at least 1. Raises ValueError.
    """
    _check(seed, index, length)
    if not 1 <= variates <= 4096:
        raise ValueError(f"variates must be between 1 and 4096, got {variates}")
    out = np.empty((variates, length))
    fill_item(seed, index, out)
    return out


def families() -> tuple[str, ...]:
    """Names of all families, as `sample_family` takes them, including those switched off."""
    return tuple(family.name for family in mixture.FAMILIES)


def sample_family(name: str, seed: int, index: int, length: int) -> np.ndarray:
    """Draw `index` of one family alone: (T,) float64, as it comes. Raises ValueError."""
    _check(seed, index, length)
    if name not in families():
        raise ValueError(f"family must be one of {', '.join(families())}; got {name!r}")
    dispatch.prepare()
    out = np.empty(length)
    rng = philox.stream(seed, index, _ITEM)
    fill_family(families().index(name), rng, out, dispatch.new_trace())
    return out


def _check(seed: int, index: int, length: int) -> None:
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value < 2**63:
            raise ValueError(f"{name} must be in [0, 2^63), got {value}")
    if not 1 <= length <= _LONGEST:
        raise ValueError(f"length must be between 1 and {_LONGEST} steps, got {length}")
