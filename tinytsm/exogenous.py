"""Forecasts that know more than the series' own past: covariates whose values to come are known.

What the covariates explain is taken out of the series, the rest is forecast by the model, and what they will explain is
added: a regression whose errors the network forecasts, as TimesFM's XReg and regression with ARIMA errors (Hyndman and
Athanasopoulos 2021, section 10.1). The effects are estimated on seasonal differences of both sides, in which neither a
common trend nor a common season passes for an effect (our definition). How much they count is settled for each series by
forecasts of its own newest past. Letters: T steps, H steps ahead, C covariates, P regressors, L quantile levels.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor

from tinytsm.config import QUANTILES
from tinytsm.inputs import as_array, newest_end
from tinytsm.options import OptionChanges
from tinytsm.period import CALENDAR
from tinytsm.quantiles import as_counts, zero_below
from tinytsm.rows import LARGEST

if TYPE_CHECKING:
    from tinytsm.forecast import TinyTSM

# Weights that the forecast with covariates may have, and how many past forecasts decide: all in the newer half.
_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST_ORIGINS, _LEAST_ORIGINS = 8, 3
# Where a covariate's effect may bend, as shares of its values: heating begins where cooling ends.
_KNOTS = (0.25, 0.5, 0.75)
# Shrinks each effect as if its regressor varied by this share more.
_RIDGE = 0.01
# Each series is forecast up to eighteen times.
_SERIES_AT_ONCE = 16


class _Forecasts(NamedTuple):
    """From each origin of a series: quantiles (origins, H, L), mean (origins, H)."""

    quantiles: np.ndarray
    mean: np.ndarray


class _Plan(NamedTuple):
    """Where one series is forecast from and what its covariates explain: of each origin, the newest one last.

    scaled: values (T,) times 2 to the power of -exponent, at most a half. effects: (T + H,) each, of the scaled values, from
    what comes before the origin. ahead: steps that an origin in the past is judged by.
    """

    values: np.ndarray
    scaled: np.ndarray
    exponent: int
    origins: list[int]
    effects: list[np.ndarray]
    ahead: int


def check(
    inputs: Iterable[Any], covariates: Iterable[Any], length: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Series (T,) and covariates (T + H, C) as float64. Raises ValueError that names what cannot be used."""
    contexts = [as_array(one, f"inputs[{i}]") for i, one in enumerate(inputs)]
    known = [as_array(one, f"covariates[{i}]", table=True) for i, one in enumerate(covariates)]
    if not contexts:
        raise ValueError("inputs is empty: wanted at least one series")
    if len(contexts) != len(known):
        raise ValueError(f"wanted covariates of each of {len(contexts)} inputs, got {len(known)}")
    for i, (values, own) in enumerate(zip(contexts, known, strict=True)):
        if values.ndim != 1:
            raise ValueError(
                f"inputs[{i}] must have shape (T,) beside covariates, got {values.shape}"
            )
        if not np.isfinite(values).any() or np.isinf(values).any():
            raise ValueError(f"inputs[{i}] must hold an observed value and none that is infinite")
        if own.ndim not in (1, 2) or len(own) != len(values) + length:
            raise ValueError(
                f"covariates[{i}] must have shape ({len(values)} + {length}, C), a row for each step of inputs[{i}] and "
                f"each to come, got {own.shape}"
            )
        if np.isinf(own).any():
            raise ValueError(
                f"covariates[{i}] holds an infinite value; write NaN for missing values"
            )
    return (
        [values.astype(np.float64) for values in contexts],
        [own.reshape(len(own), -1).astype(np.float64) for own in known],
    )


def predict(
    model: "TinyTSM",
    contexts: Sequence[np.ndarray],
    covariates: Sequence[np.ndarray],
    length: int,
    levels: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantiles (n, H, L), mean (n, H), and the weight (n,) of the covariates in each forecast, 0 where they did not help.

    contexts: n series (T,), covariates: (T + H, C) of each, both float64, NaN where missing. length: H. Nothing depends on
    the series beside.
    """
    if len(contexts) > _SERIES_AT_ONCE:
        starts = range(0, len(contexts), _SERIES_AT_ONCE)
        chunks = [slice(start, start + _SERIES_AT_ONCE) for start in starts]
        parts = [predict(model, contexts[at], covariates[at], length, levels) for at in chunks]
        quantiles, mean, weight = (torch.cat(one) for one in zip(*parts, strict=True))
        return quantiles, mean, weight
    newest = model.context_length * model.options.longest_stride
    plans = []
    for values, known in zip(contexts, covariates, strict=True):
        # a missing end counts as no longer than in any forecast, and every forecast of the past has a value to go by
        end = newest_end(values[None], newest=newest, longest_tail=model.context_length // 2)
        start = max(end - newest, int((~np.isnan(values)).argmax()))
        seen = np.concatenate((known[start:end], known[len(values) :]))
        plans.append(_plan(values[start:end], seen, length))
    asked = [*QUANTILES, *levels]

    def forecast(inputs: list[np.ndarray], **changes: Unpack[OptionChanges]) -> list[_Forecasts]:
        """Those of each plan's origins."""
        answer = model.predict_quantiles(inputs, length, asked, **changes)
        ends = np.cumsum([len(plan.origins) for plan in plans])[:-1]
        parts = (np.split(np.asarray(one), ends) for one in answer)
        return [_Forecasts(*own) for own in zip(*parts, strict=True)]

    plain = forecast(
        [plan.values[:origin] for plan in plans for origin in plan.origins], integer=False
    )
    # zero is no floor of what is left without the effects
    rest = forecast(
        [
            plan.scaled[:origin] - effect[:origin]
            for plan in plans
            for origin, effect in zip(plan.origins, plan.effects, strict=True)
        ],
        integer=False,
        nonnegative=False,
    )
    results = [
        _blend(*own, nonnegative=model.options.nonnegative, integer=model.options.integer)
        for own in zip(plans, plain, rest, strict=True)
    ]
    each, means, weights = zip(*results, strict=True)
    return torch.stack(each)[..., len(QUANTILES) :], torch.stack(means), torch.tensor(weights)


def _plan(values: np.ndarray, known: np.ndarray, length: int) -> _Plan:
    steps = len(values)
    # by a power of two, which is exact: sums and squares of the largest numbers are infinite
    exponent = int(np.frexp(np.nanmax(np.abs(values), initial=0.0))[1]) + 1
    scaled = np.ldexp(values, -exponent)
    regressors = _regressors(known)
    lag = _best_lag(scaled)
    ahead = min(length, steps // (2 * _LEAST_ORIGINS))
    count = min(_MOST_ORIGINS, steps // 2 // ahead) if ahead and regressors.shape[1] else 0
    origins = [steps - i * ahead for i in range(count, -1, -1)]
    effects = [regressors @ _coefficients(scaled[:o], regressors[:o], lag) for o in origins]
    return _Plan(values, scaled, exponent, origins, effects, ahead)


def _blend(
    plan: _Plan, plain: _Forecasts, rest: _Forecasts, *, nonnegative: bool | None, integer: bool
) -> tuple[Tensor, Tensor, float]:
    """The newest forecast without and with covariates as one: quantiles (H, L), mean (H,) and the weight of the latter."""
    weight = _weigh(plan, plain.quantiles, rest.quantiles)
    effect = plan.effects[-1][-plain.mean.shape[1] :]
    cut = torch.from_numpy(zero_below(plan.values[None], nonnegative))

    def whole(plain: np.ndarray, rest: np.ndarray) -> Tensor:
        with np.errstate(over="ignore"):
            rest = np.clip(np.ldexp(rest, plan.exponent), -LARGEST, LARGEST)
        return torch.from_numpy((1 - weight) * plain + weight * rest)[None]

    quantiles = whole(plain.quantiles[-1], rest.quantiles[-1] + effect[:, None])
    mean = whole(plain.mean[-1], rest.mean[-1] + effect)
    return (
        as_counts(quantiles, zero_below=cut, integer=integer)[0],
        as_counts(mean, zero_below=cut.clamp_max(0.0), integer=False)[0],
        weight,
    )


def _weigh(plan: _Plan, plain: np.ndarray, rest: np.ndarray) -> float:
    """The weight of the least pinball loss over the origins in the past, the smallest of equals. Both (origins, H, L)."""
    levels = np.array(QUANTILES)
    losses = np.zeros(len(_WEIGHTS))
    for i, origin in enumerate(plan.origins[:-1]):
        steps = slice(origin, origin + plan.ahead)
        judged = np.s_[i, : plan.ahead, : len(QUANTILES)]
        without = np.ldexp(plain[judged], -plan.exponent)
        informed = rest[judged] + plan.effects[i][steps, None]
        for j, weight in enumerate(_WEIGHTS):
            errors = plan.scaled[steps, None] - ((1 - weight) * without + weight * informed)
            losses[j] += np.nansum(np.maximum(levels * errors, (levels - 1) * errors))
    return _WEIGHTS[int(losses.argmin())]


def _regressors(known: np.ndarray) -> np.ndarray:
    """(T + H, P): each covariate in standard deviations from its mean, 0 where missing, and beyond each of its knots."""
    columns = []
    for covariate in known.T:
        shown = covariate[~np.isnan(covariate)]
        different = np.unique(shown)
        if len(different) < 2:
            continue
        # the largest first, because squares of the largest numbers are infinite
        unit = np.abs(different).max()
        centre, spread = (shown / unit).mean(), (shown / unit).std()
        scaled = np.nan_to_num((covariate / unit - centre) / spread)
        columns.append(scaled)
        if len(different) > 2:
            knots = np.unique(np.quantile(scaled, _KNOTS))
            columns += [np.maximum(scaled - knot, 0.0) for knot in knots]
    return np.stack(columns, 1) if columns else np.zeros((len(known), 0))


def _best_lag(values: np.ndarray) -> int:
    """The season, of those of clocks and calendars, after which a series repeats itself best; 1 where it is too short."""
    tried = [lag for lag in CALENDAR if 2 * lag + 2 <= len(values)]
    apart = [np.abs(values[lag:] - values[:-lag]) for lag in tried]
    distance = [np.nanmean(one) if not np.isnan(one).all() else np.inf for one in apart]
    return tried[int(np.argmin(distance))] if tried else 1


def _coefficients(values: np.ndarray, regressors: np.ndarray, lag: int) -> np.ndarray:
    """(P,) ridge regression of the differences of values (T,) on those of the regressors (T, P)."""
    differences = values[lag:] - values[:-lag]
    shown = ~np.isnan(differences)
    if not shown.any():
        return np.zeros(regressors.shape[1])
    # about their means, because a trend is a constant difference
    differences = differences[shown] - differences[shown].mean()
    moved = (regressors[lag:] - regressors[:-lag])[shown]
    moved -= moved.mean(0)
    square = moved.T @ moved
    # a regressor that has not moved yet has no effect that is known
    ridge = _RIDGE * np.diag(square) + (np.diag(square) == 0)
    return np.asarray(np.linalg.solve(square + np.diag(ridge), moved.T @ differences))
