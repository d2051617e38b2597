"""Windows of made-up series, as training reads them: how much of each is shown, held and hidden.

Compiled, and here because it inlines the generator's code: what a cache keeps of it goes with the generator's.
"""

import functools
import math

import numba
import numpy as np

from tinytsm.synth import dispatch, philox
from tinytsm.synth.generator import fill_prepared

# A sub-stream of this module, beside that of `tinytsm.data`; the generator's own purposes are small numbers.
_WINDOW = 1_000_001
# Longest run of hidden patches, and the largest share hidden (contiguous patch masking as in TiRex and Toto 2.0; runs
# as long as the horizon, because forecasts beyond it append that many missing tokens).
_LONGEST_RUN, _MOST_HIDDEN = 24, 0.4
# Patches that a history must have for any to be hidden.
_LEAST_MASKED = 4
# Share of short records whose values are held.
_HELD_SHARE = 0.3
# A target further out than this many powers of the context's range is a runaway and is not scored.
_RUNAWAY = 1e18


@numba.njit(nogil=True, cache=True)
def _context_length(rng, longest, patch, brief_share):
    """Observed points of a context: less than three patches, as yearly tables have, log-uniform, or all."""
    u = philox.uniform(rng)
    if u < brief_share:
        return min(longest, int(philox.between(rng, 4.0, 3.0 * patch)))
    if u < brief_share + 0.35:
        return min(longest, int(philox.log_uniform(rng, 8.0, float(longest))))
    return longest


@numba.njit(nogil=True, cache=True)
def _future(rng, observed, horizon, patch):
    """Steps made after a context. A short record is the whole of what its trend and seasons span: made over the full
    horizon, a dozen yearly values would never show a trend."""
    if philox.uniform(rng) < 0.3:
        return horizon
    return min(horizon, max(patch, int(observed * philox.log_uniform(rng, 0.5, 4.0))))


@numba.njit(nogil=True, cache=True)
def _held(rng, observed, future, stretches):
    """For how many steps each value of a short record is held, mostly one: so are short histories forecast."""
    if philox.uniform(rng) < _HELD_SHARE:
        held = stretches[philox.integer(rng, 0, len(stretches))]
        if observed >= 4 * held and future >= held:
            return held
    return 1


@numba.njit(nogil=True, cache=True)
def _hide(rng, hidden):
    """Mark random runs of patches."""
    tokens = hidden.shape[0]
    wanted = philox.between(rng, 0.05, _MOST_HIDDEN) * tokens
    longest = max(1, min(_LONGEST_RUN, tokens // 2))
    total = 0
    while total < wanted:
        run = philox.integer(rng, 1, longest + 1)
        start = philox.integer(rng, 0, tokens)
        for i in range(start, min(start + run, tokens)):
            hidden[i] = True
        total += run


@numba.njit(nogil=True, cache=True)
def _write_window(series, lead, start, hidden, x, target):
    """One series into its rows, centred on its first shown value and scaled by a power of two; its resolution.

    series: the values from step `lead` on; what they do not reach is missing. Steps before `start` are not shown.
    """
    patch = target.shape[1]
    context = x.shape[0]
    origin = np.nan
    largest = 0.0
    last = min(lead + series.shape[0], target.shape[0] * patch)
    for t in range(start, min(context, last)):
        value = series[t - lead]
        if not hidden[t // patch] and not np.isnan(value):
            if np.isnan(origin):
                origin = value
            largest = max(largest, abs(value - origin))
    if np.isnan(origin):
        x[:] = np.nan
        target[:] = np.nan
        return 0.0
    unit = 1.0
    if largest > 0.0:
        unit = 2.0 ** -math.frexp(largest)[1]
    x[:] = np.nan
    target[:] = np.nan
    for t in range(lead, last):
        value = (series[t - lead] - origin) * unit
        if abs(value) > _RUNAWAY:
            value = np.nan
        target[t // patch, t % patch] = value
        if t < context:
            shown = t >= start and not hidden[t // patch]
            x[t] = value if shown else np.nan
    return 8.0 * 2.220446049250313e-16 * abs(origin) * unit


@numba.njit(nogil=True, cache=True)
def fill_windows(
    seed, first_item, variates, mask_share, brief_share, stretches, x, target, resolution, trace
):
    """Fill a batch with the items from `first_item` on.

    brief_share: of contexts of less than three patches. stretches: for how many steps values may be held; an argument,
    because compiled code that is kept would not see a constant change in another file. x: (S, N * P) and target:
    (S, N + K, P) float32, resolution: (S,) float32. All variates of an item share their truncation and hidden patches.
    trace: as `dispatch` has it, to tell where an error came from.
    """
    patch = target.shape[2]
    context = x.shape[1]
    tokens = context // patch
    horizon = target.shape[1] * patch - context
    hidden = np.zeros(tokens, np.bool_)
    for item in range(x.shape[0] // variates):
        index = first_item + item
        rng = philox.stream(seed, index, _WINDOW)
        observed = _context_length(rng, context, patch, brief_share)
        lead, future, held = 0, horizon, 1
        if observed < context:
            future = _future(rng, observed, horizon, patch)
            if future < horizon:
                held = _held(rng, observed, future, stretches)
                # whole values on both sides of the end
                observed -= observed % held
                lead = context - observed
        start = context - observed
        drawn = np.empty((variates, (context - lead + future) // held))
        fill_prepared(seed, index, drawn, trace)
        series = drawn if held == 1 else np.repeat(drawn, held).reshape(variates, -1)
        hidden[:] = False
        # of a history of few patches a run of them would leave nothing
        if philox.uniform(rng) < mask_share and observed >= _LEAST_MASKED * patch:
            _hide(rng, hidden[start // patch :])
        for v in range(variates):
            row = item * variates + v
            resolution[row] = _write_window(series[v], lead, start, hidden, x[row], target[row])


@functools.cache
def prepare(stretches: tuple[int, ...]) -> None:
    """Compile the generator and the filling of batches with so many stretches, or load them from Numba's cache."""
    dispatch.prepare()
    patch = 8
    fill_windows(
        0,
        0,
        1,
        0.5,
        0.5,
        stretches,
        np.empty((1, patch), np.float32),
        np.empty((1, 2, patch), np.float32),
        np.empty(1, np.float32),
        dispatch.new_trace(),
    )
