"""The dominant period of a series, from its own values."""

import numpy as np

# A dip of the variogram counts where it lies below this share of its surroundings ...
_DEPTH = 0.75
# ... and, on few pairs, where chance would hardly dig so deep: this many standard errors of a mean of squares.
_ERRORS = 3.0
# A shorter period wins over the deepest one if its dip is deeper than this share of that one's.
_NEARLY = 0.8
# Pairs of steps, in periods: fewer have not shown a period twice.
_LEAST_CYCLES = 1.0
# Seasons of clocks and calendars, in steps of the usual sampling rates. With few cycles the dip lies a step or two off:
# one of these is preferred within this share of the period if its depth is nearly the same.
CALENDAR = (4, 7, 12, 24, 48, 52, 60, 72, 96, 144, 168, 288, 336, 365, 672, 720, 1440, 2016)
_NEAR, _SAME = 0.03, 0.85


def detect(x: np.ndarray, variates: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Dominant period of each item in steps, and the lag that shows it, 0 where there is none.

    x: (S, T), NaN where missing; the `variates` series of an item are adjacent and share a period. Returns (S //
    variates,) int64 each: the period is the lag, or one of calendars that is as likely as the lag.

    The variogram d(k) = mean (x_t - x_{t-k})^2 dips at the period and its multiples, whatever the level or trend; a
    random walk's rises evenly. Compared with its mean over lags k/2 to 3k/2; values enter through asinh, so that
    a spike is not the whole of the sum.
    """
    rows, steps = x.shape
    lags = steps // 2
    if lags < 3:
        none = np.zeros(rows // variates, np.int64)
        return none, none
    seen = ~np.isnan(x)
    z = _soften(np.where(seen, x, 0.0), seen)
    d, pairs = _variogram(z, seen, lags)
    known = (pairs > 0).sum(1, keepdims=True)
    level = np.where(pairs > 0, d, 0.0).sum(1, keepdims=True) / np.maximum(known, 1)
    good = (pairs > 0) & (level > 0)
    weighted = np.where(good, d / np.where(level > 0, level, 1.0), 0.0) * pairs
    total = pairs * (level > 0)
    weighted = weighted.reshape(-1, variates, lags + 1).sum(1)
    total = total.reshape(-1, variates, lags + 1).sum(1)
    d = np.divide(weighted, total, out=np.full_like(weighted, np.nan), where=total > 0)
    return _dips(d, total)


def _soften(x: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """asinh of the distance from the mean in mean absolute deviations; 0 where missing."""
    count = np.maximum(seen.sum(1, keepdims=True), 1)
    centred = np.where(seen, x - x.sum(1, keepdims=True) / count, 0.0)
    spread = np.abs(centred).sum(1, keepdims=True) / count
    return np.arcsinh(centred / np.where(spread > 0, 2.0 * spread, 1.0))


def _variogram(z: np.ndarray, seen: np.ndarray, lags: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared difference and number of pairs at lags 0 to `lags`, (S, lags + 1) each."""
    size = 1 << (z.shape[1] + lags - 1).bit_length()

    def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """sum_t a_t b_{t+k}"""
        product = np.conj(np.fft.rfft(a, size)) * np.fft.rfft(b, size)
        return np.fft.irfft(product, size)[:, : lags + 1]

    transform = np.fft.rfft(z, size)
    cross = np.fft.irfft(transform.real**2 + transform.imag**2, size)[:, : lags + 1]
    square = z * z
    if seen.all():
        steps = z.shape[1]
        pairs = np.broadcast_to(steps - np.arange(lags + 1.0), cross.shape)
        grown = np.cumsum(square, 1)
        whole = grown[:, -1:]
        early = grown[:, ::-1][:, : lags + 1]  # sum of x_t^2 over t < T - k
        late = np.concatenate((whole, whole - grown[:, :lags]), 1)  # over t >= k
        both = early + late
    else:
        mask = seen.astype(z.dtype)
        pairs = np.rint(correlate(mask, mask))
        both = correlate(square, mask) + correlate(mask, square)
    total = np.maximum(both - 2.0 * cross, 0.0)
    return np.divide(total, pairs, out=np.zeros_like(total), where=pairs > 0), pairs


def _dips(d: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The period that each row's deepest dip shows, or a shorter one nearly as deep, and its lag; 0 if none is deep enough."""
    lags = d.shape[1] - 1
    lag = np.arange(2, lags * 2 // 3 + 1)
    if not len(lag):
        none = np.zeros(len(d), np.int64)
        return none, none
    known = ~np.isnan(d)
    grown = np.concatenate((np.zeros((len(d), 1)), np.cumsum(np.where(known, d, 0.0), 1)), 1)
    number = np.concatenate((np.zeros((len(d), 1)), np.cumsum(known, 1)), 1)
    low, high = (lag + 1) // 2, 3 * lag // 2 + 1
    inside = number[:, high] - number[:, low]
    around = np.divide(
        grown[:, high] - grown[:, low], inside, out=np.zeros((len(d), len(lag))), where=inside > 0
    )
    here, before, after = d[:, lag], d[:, lag - 1], d[:, lag + 1]
    ratio = np.divide(here, around, out=np.ones_like(around), where=around > 0)
    number_of_pairs = pairs[:, lag]
    limit = np.minimum(_DEPTH, 1.0 - _ERRORS / np.sqrt(np.maximum(number_of_pairs, 1.0)))
    with np.errstate(invalid="ignore"):
        dip = (here <= before) & (here <= after) & (ratio < limit)
    dip &= number_of_pairs >= _LEAST_CYCLES * lag
    depth = np.where(dip, 1.0 - ratio, 0.0)
    best = depth.max(1, keepdims=True)
    first = np.argmax(dip & (depth >= _NEARLY * best), 1)
    found = np.where(best[:, 0] > 0, lag[first], 0)
    rows, periods = np.arange(len(d)), found
    for season in CALENDAR:
        if season <= lag[-1]:
            near = (np.abs(periods - season) <= np.maximum(1.0, _NEAR * season)) & (periods > 3)
            same = 1.0 - ratio[:, season - 2] >= _SAME * depth[rows, first]
            periods = np.where(near & same, season, periods)
    return periods, found
