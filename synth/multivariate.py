"""Couplings that turn independent series into related variates: graphs, factors, copies, leads.

Each coupler changes out (V, T) in place, float64 without NaN: V independent base series in, related
variates of roughly unit spread out, every one finite and none constant if its base was not.
Graphs follow CauKer (arXiv 2508.02879), coregionalisation TimePFN (arXiv 2502.16294).
"""

import math

import numba
import numpy as np

from tinytsm.synth import philox
from tinytsm.synth.augment import standardise

COUPLERS = (
    "couple_graph",
    "couple_coregionalised",
    "couple_factors",
    "couple_copies",
    "couple_leads",
)

# Links between parent and child
LINEAR, RECTIFIED, SIGMOID, SINE, THRESHOLD, SATURATING = range(6)
_LINKS = 6


@numba.njit(nogil=True, cache=True)
def _standardise_all(out):
    for v in range(out.shape[0]):
        standardise(out[v])


@numba.njit(nogil=True, cache=True)
def _lag(rng, length):
    """A lag in steps: none for three in ten, else log-uniform up to an eighth of the length or 96."""
    if philox.bernoulli(rng, 0.3):
        return np.int64(0)
    return np.int64(philox.log_uniform(rng, 1.0, max(2.0, min(97.0, length / 8.0))))


@numba.njit(nogil=True, cache=True)
def link(value, kind, bend):
    """One parent value, standardised, through a link; bend moves the kink, the edge or the frequency."""
    if kind == LINEAR:
        return value
    if kind == RECTIFIED:
        return max(value - bend, 0.0)
    if kind == SIGMOID:
        return 2.0 / (1.0 + math.exp(-3.0 * min(max(value - bend, -50.0), 50.0)))
    if kind == SINE:
        return math.sin((1.0 + abs(bend)) * value)
    if kind == THRESHOLD:
        return 1.0 if value > bend else -1.0
    return value / (1.0 + abs(value))


@numba.njit(nogil=True, cache=True)
def add_lagged(parent, lag, kind, bend, weight, child):
    """child (T,) += weight * link(parent (T,) lag steps earlier); before the start the first holds."""
    for t in range(child.size):
        child[t] += weight * link(parent[max(t - lag, 0)], kind, bend)


@numba.njit(nogil=True, cache=True)
def _order(rng, count):
    """A random permutation of 0 .. count - 1, (count,)."""
    order = np.arange(count)
    for i in range(count - 1, 0, -1):
        j = philox.integer(rng, 0, i + 1)
        order[i], order[j] = order[j], order[i]
    return order


@numba.njit(nogil=True, cache=True)
def couple_graph(rng, out):
    """Random directed acyclic graph: up to three earlier parents each, with lags and links."""
    variates, length = out.shape
    _standardise_all(out)
    order = _order(rng, variates)
    density = philox.between(rng, 0.4, 1.0)
    linear_only = philox.bernoulli(rng, 0.3)
    effect = np.empty(length)
    for place in range(1, variates):
        child = out[order[place]]
        effect[:] = 0.0
        for _ in range(min(place, 3)):
            if not philox.bernoulli(rng, density):
                continue
            # Parents are final: a child reads what its parent became, so effects run down chains
            parent = out[order[philox.integer(rng, 0, place)]]
            kind = LINEAR if linear_only else philox.integer(rng, 0, _LINKS)
            add_lagged(
                parent,
                _lag(rng, length),
                kind,
                0.5 * philox.normal(rng),
                philox.normal(rng),
                effect,
            )
        standardise(effect)
        # Some of its own always remains: nothing is a function of its parents alone
        own = philox.log_uniform(rng, 0.05, 2.0)
        for t in range(length):
            child[t] = own * child[t] + effect[t]
        standardise(child)


@numba.njit(nogil=True, cache=True)
def couple_coregionalised(rng, out):
    """Each variate a fixed mixture of all base series, with normal or Dirichlet weights."""
    variates, length = out.shape
    _standardise_all(out)
    positive = philox.bernoulli(rng, 0.5)
    # Low concentration: each variate leans on few base series
    concentration = philox.log_uniform(rng, 0.2, 3.0)
    weights = np.empty((variates, variates))
    for v in range(variates):
        total = 0.0
        for u in range(variates):
            weights[v, u] = philox.gamma(rng, concentration) if positive else philox.normal(rng)
            total += weights[v, u]
        if positive:
            for u in range(variates):
                weights[v, u] /= max(total, 1e-300)
    mixed = np.empty(variates)
    for t in range(length):
        for v in range(variates):
            value = 0.0
            for u in range(variates):
                value += weights[v, u] * out[u, t]
            mixed[v] = value
        for v in range(variates):
            out[v, t] = mixed[v]


@numba.njit(nogil=True, cache=True)
def couple_factors(rng, out):
    """One to a few hidden factors with random loadings, plus a share of each variate's own."""
    variates, length = out.shape
    _standardise_all(out)
    factors = philox.integer(rng, 1, max(2, variates // 2 + 1))
    hidden = out[:factors].copy()
    noise = philox.log_uniform(rng, 0.01, 0.5)
    for v in range(variates):
        own = philox.log_uniform(rng, 0.02, 1.5)
        # A factor's own base is the factor itself: only noise sets that variate apart
        if v < factors:
            out[v] = 0.0
        for t in range(length):
            out[v, t] = own * out[v, t] + noise * philox.normal(rng)
        for f in range(factors):
            add_lagged(hidden[f], np.int64(0), LINEAR, 0.0, philox.normal(rng), out[v])


@numba.njit(nogil=True, cache=True)
def couple_copies(rng, out):
    """Every variate a scaled, lagged, maybe inverted copy of one of them, plus some of its own."""
    variates, length = out.shape
    _standardise_all(out)
    leader = philox.integer(rng, 0, variates)
    inverted = 0.25 if philox.bernoulli(rng, 0.3) else 0.0
    for v in range(variates):
        if v == leader:
            continue
        own = philox.log_uniform(rng, 0.01, 1.0)
        for t in range(length):
            out[v, t] *= own
        sign = -1.0 if philox.bernoulli(rng, inverted) else 1.0
        add_lagged(out[leader], _lag(rng, length), LINEAR, 0.0, sign, out[v])


@numba.njit(nogil=True, cache=True)
def couple_leads(rng, out):
    """One target follows from the others' past: leading indicators, some of no use."""
    variates, length = out.shape
    _standardise_all(out)
    target = philox.integer(rng, 0, variates)
    effect = np.zeros(length)
    for v in range(variates):
        if v == target or philox.bernoulli(rng, 0.25):
            continue
        lag = _lag(rng, length)
        kind = LINEAR if philox.bernoulli(rng, 0.6) else philox.integer(rng, 0, _LINKS)
        add_lagged(out[v], lag, kind, 0.5 * philox.normal(rng), philox.normal(rng), effect)
    standardise(effect)
    own = philox.log_uniform(rng, 0.03, 0.7)
    for t in range(length):
        out[target, t] = own * out[target, t] + effect[t]
