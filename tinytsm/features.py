"""What a series is like, in some thirty numbers: catch22, and what forecasters ask first.

All are the same for a x + b, a > 0. catch22 (Lubba et al. 2019, doi:10.1007/s10618-019-00647-x) is an extra and is
imported when the first series is described. The strengths are those of Wang, Smith and Hyndman 2006, with a moving
average and seasonal means in place of STL.
"""

import math
from typing import Any

import numpy as np

# catch22 says nothing about fewer points
SHORTEST = 8
OWN_NAMES = (
    "log_length",
    "spectral_entropy",
    "season_strength",
    "trend_strength",
    "log_period",
    "acf_1",
    "acf_period",
    "intermittency",
    "difference_kurtosis",
)


class MissingPackageError(ImportError):
    """catch22 is not installed; the message has the command that helps."""


def names() -> tuple[str, ...]:
    """Names of all features, in the order of `describe`. Raises MissingPackageError."""
    return OWN_NAMES + tuple(_catch22()(list(np.sin(np.arange(32.0))))["names"])


def describe(x: np.ndarray) -> np.ndarray | None:
    """Features of x (T,), NaN where missing: (F,) finite float64; None where there is nothing to describe.

    Missing values are filled by lines between their neighbours. A series has to have SHORTEST points and two values.
    """
    x = filled(x)
    if len(x) < SHORTEST:
        return None
    # a large level must cost no digits of the shape
    x = x - x.mean()
    spread = x.std()
    if not np.isfinite(spread) or spread <= 1e-12 * np.abs(x).max(initial=1e-300):
        return None
    x = x / spread
    found = np.array(own_features(x) + tuple(_catch22()(list(x))["values"]))
    return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)


def filled(x: np.ndarray) -> np.ndarray:
    """x (T,) as float64 with missing values filled by lines between their neighbours; empty if all are missing."""
    x = np.asarray(x, np.float64)
    seen = ~np.isnan(x)
    if not seen.any():
        return x[:0]
    steps = np.arange(len(x))
    return x if seen.all() else np.interp(steps, steps[seen], x[seen])


def own_features(x: np.ndarray) -> tuple[float, ...]:
    """OWN_NAMES of x (T,), standardised."""
    steps = np.arange(len(x)) - (len(x) - 1) / 2
    slope = (steps @ x) / (steps @ steps)
    flat = x - slope * steps
    power = np.abs(np.fft.rfft(flat))[1:] ** 2
    period = dominant_period(power, len(x))
    season, trend = strengths(x, period)
    changes = np.diff(x)
    variance = changes.var()
    # log, because a few jumps in a calm series raise the fourth moment without bound
    kurtosis = math.log(((changes - changes.mean()) ** 4).mean() / variance**2) if variance else 0.0
    _, counts = np.unique(np.round(x, 9), return_counts=True)
    return (
        math.log2(len(x)),
        spectral_entropy(power),
        season,
        trend,
        math.log2(period),
        autocorrelation(x, 1),
        autocorrelation(flat, period),
        # the commonest value's share: zeros of an intermittent series, wherever its zero lies by now
        float(counts.max() - 1) / len(x),
        kurtosis,
    )


def spectral_entropy(power: np.ndarray) -> float:
    """Shannon entropy of a periodogram (M,) over log M: 1 for white noise, near 0 for one sine."""
    total = power.sum()
    if total <= 0 or len(power) < 2:
        return 0.0
    share = power[power > 0] / total
    return float(-(share * np.log(share)).sum() / math.log(len(power)))


def dominant_period(power: np.ndarray, length: int) -> int:
    """Whole steps of the highest peak of a periodogram (M,) of `length` steps, without its zero frequency.

    At most a third of the length, so that there are three cycles to learn from; at least 2.
    """
    cycles = np.arange(1, len(power) + 1)
    strongest = cycles[np.argmax(np.where(cycles >= 3, power, -1.0))]
    return max(2, round(length / strongest))


def strengths(x: np.ndarray, period: int) -> tuple[float, float]:
    """Strength of season and of trend of x (T,), each from 0 to 1: one less the remainder's share of the variance."""
    window = min(2 * (period // 2) + 1, len(x))
    padded = np.pad(x, window // 2, mode="reflect", reflect_type="odd")
    trend = np.convolve(padded, np.full(window, 1.0 / window), mode="valid")[: len(x)]
    rest = x - trend
    phase = np.arange(len(x)) % period
    means = np.bincount(phase, rest) / np.bincount(phase)
    remainder = rest - means[phase]
    left = remainder.var()

    def strength(part: np.ndarray) -> float:
        total = part.var()
        return max(0.0, 1.0 - left / total) if total > 0 else 0.0

    return strength(rest), strength(trend + remainder)


def autocorrelation(x: np.ndarray, lag: int) -> float:
    """Sample autocorrelation of x (T,) at a lag below T."""
    centred = x - x.mean()
    power = centred @ centred
    return float(centred[lag:] @ centred[:-lag] / power) if power > 0 else 0.0


def _catch22() -> Any:
    try:
        from pycatch22 import catch22_all
    except ImportError as error:
        raise MissingPackageError(
            "features need catch22; run: pip install 'tinytsm[diversity]'"
        ) from error
    return catch22_all
