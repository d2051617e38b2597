"""What SynthTS is made of, as data: families, recipes and augmentations with their shares.

Sources named in the tables: TempoPFN (arXiv 2510.25502), TiRex (arXiv 2505.23719), Chronos (arXiv
2403.07815), ForecastPFN (arXiv 2311.01933), "Mix, don't pick" (arXiv 2606.09912: an equal mixture
is at least as good as the best single family), Cascade (the public generators of a contest judged by
training: dynamics carry most weight, artefacts 4 to 7 % each). Any change of a table changes the
series behind a seed, so it also changes MIXTURE_VERSION. A weight of zero switches a family off.
"""

from typing import NamedTuple

import numpy as np

MIXTURE_VERSION = "3"

# What a family is used for
TREND, SEASONAL, NOISE, PROCESS, SPECTRAL, EVENT, COUNT, CHAOS, RECORD = range(9)
GROUPS = ("trend", "seasonal", "noise", "process", "spectral", "event", "count", "chaos", "record")

# A series is a composite (trend + season + noise), or one family whole; a mixup joins two or three. What is measured
# by the hour is long and what is counted by the year is short, so a long series and a short one have their own shares.
# Up to the first length all are drawn as short, from the second on none; between, evenly over the logarithm
SHORT_LENGTHS = (150.0, 600.0)
COMPOSITE_SHARES = (0.46, 0.28)
# Share of each group where a family is the whole series; trends alone teach nothing but themselves
WHOLE_SHARES = (
    (0.01, 0.17, 0.03, 0.35, 0.12, 0.16, 0.10, 0.02, 0.04),
    (0.01, 0.06, 0.03, 0.23, 0.07, 0.06, 0.11, 0.01, 0.42),
)


class Family(NamedTuple):
    """One row: where the function stands, its group, its weight in the group, and why."""

    name: str  # module.function
    group: int
    weight: float
    # Paths with a unit root are never censored: past the cap they would be flat for ever (Cascade)
    unit_root: bool
    why: str


# The order is the code by which the generator calls a family
FAMILIES = (
    Family("trend.linear", TREND, 3.0, False, "the commonest trend"),
    Family("trend.exponential", TREND, 1.5, False, "growth and decay; ForecastPFN"),
    Family("trend.logistic", TREND, 1.0, False, "adoption"),
    Family("trend.piecewise", TREND, 2.0, False, "economic series change slope"),
    Family("trend.damped", TREND, 1.0, False, "approach to a level"),
    Family("trend.power", TREND, 0.7, False, "growth that slows without end"),
    Family("trend.polynomial", TREND, 0.6, False, "slow bends"),
    Family("trend.wander", TREND, 2.0, False, "drift of no known form"),
    Family(
        "seasonal.harmonics", SEASONAL, 3.0, False, "calendar and free periods; TempoPFN, Chronos"
    ),
    Family(
        "seasonal.profile", SEASONAL, 4.0, False, "metered days and weeks: energy, traffic, cloud"
    ),
    Family("seasonal.calendar", SEASONAL, 1.5, False, "ForecastPFN's product of calendar factors"),
    Family(
        "seasonal.waves", SEASONAL, 1.0, False, "machines: sawtooth, pulse, duty cycle; TempoPFN"
    ),
    Family("seasonal.pattern", SEASONAL, 2.0, False, "free patterns: week days, months, quarters"),
    Family("seasonal.load", SEASONAL, 1.8, False, "grid load: days, weeks, weather, holidays"),
    Family("noise.white", NOISE, 2.2, False, "measurement error"),
    Family("noise.heavy_tailed", NOISE, 2.0, False, "errors with outliers"),
    Family("noise.ar1", NOISE, 3.0, False, "weather-like residuals"),
    Family("noise.garch", NOISE, 1.0, False, "volatility clusters"),
    Family("noise.heteroskedastic", NOISE, 1.8, False, "scale that moves"),
    Family("dynamics.ar2", PROCESS, 1.5, False, "quasi-cycles; Cascade .15"),
    Family("dynamics.arma", PROCESS, 1.0, False, "short memory"),
    Family("dynamics.integrated", PROCESS, 1.2, True, "I(1) and I(2); Cascade .12-.15"),
    Family("dynamics.long_memory", PROCESS, 0.7, False, "rivers, networks; Cascade .06"),
    Family(
        "dynamics.regime_ou", PROCESS, 2.5, False, "TempoPFN's heaviest family and best ablation"
    ),
    Family("dynamics.threshold_ar", PROCESS, 0.6, False, "asymmetric cycles; Cascade .04-.08"),
    Family("dynamics.ets", PROCESS, 1.8, True, "business series; Hyndman et al. 2008"),
    Family("dynamics.drift_walk", PROCESS, 0.9, True, "finance, level drift"),
    Family("dynamics.seasonal_walk", PROCESS, 1.2, True, "seasons that evolve"),
    Family("dynamics.airline", PROCESS, 0.8, True, "monthly and quarterly economics"),
    Family("dynamics.prices", PROCESS, 0.8, True, "traded prices"),
    Family("dynamics.near_walk", PROCESS, 1.6, True, "rates: the last value is nearly all"),
    Family("spectral.kernel_algebra", SPECTRAL, 2.0, True, "KernelSynth; Chronos"),
    Family("spectral.coloured_noise", SPECTRAL, 1.0, False, "1/f noise"),
    Family("spectral.band_limited", SPECTRAL, 0.6, False, "smooth sensors"),
    Family("spectral.spectral_peaks", SPECTRAL, 1.2, False, "calendar peaks of finite width"),
    Family("spectral.spectral_mixture", SPECTRAL, 1.0, False, "any stationary covariance"),
    Family("events.level_shifts", EVENT, 1.2, False, "steps; TempoPFN"),
    Family("events.spikes", EVENT, 1.0, False, "spikes; TempoPFN, TiRex"),
    Family("events.bursts", EVENT, 0.8, False, "batch jobs, queues"),
    Family("events.anomalies", EVENT, 0.7, False, "rare departures; TempoPFN"),
    Family("events.pulse_response", EVENT, 0.9, False, "rain to river, job to queue"),
    Family("events.shock_recovery", EVENT, 0.8, False, "outages, closures"),
    Family("events.idle_active", EVENT, 1.5, False, "cloud traces: idle after old spikes"),
    Family("events.on_off", EVENT, 0.9, False, "switched machines"),
    Family("traces.machine_trace", EVENT, 2.4, False, "cloud traces: floors, spikes, clocked jobs"),
    Family("traces.regimes", EVENT, 1.3, False, "long calm, then another life"),
    Family("events.daylight", SEASONAL, 1.2, False, "solar: zero-clipped days"),
    Family("events.rush_hours", SEASONAL, 1.3, False, "road traffic"),
    Family("counts.intermittent_demand", COUNT, 1.3, False, "spare parts, slow sellers"),
    Family("counts.seasonal_counts", COUNT, 1.0, False, "calls, visits, cases"),
    Family("counts.self_exciting_counts", COUNT, 0.7, False, "counts that bring counts"),
    Family("counts.shop_sales", COUNT, 1.5, False, "daily sales"),
    Family("counts.small_integers", COUNT, 0.6, False, "states and queues"),
    Family("counts.web_visits", COUNT, 1.2, False, "visits and calls by the hour"),
    Family("chaos.logistic_map", CHAOS, 0.5, False, "deterministic, unpredictable"),
    Family("chaos.henon_map", CHAOS, 0.5, False, "deterministic, unpredictable"),
    Family("chaos.ikeda_map", CHAOS, 0.3, False, "deterministic, unpredictable"),
    Family("chaos.coupled_maps", CHAOS, 0.4, False, "weakly coupled chaos"),
    Family("chaos.lorenz", CHAOS, 1.0, False, "smooth chaos"),
    Family("chaos.rossler", CHAOS, 1.0, False, "noisy-looking cycles"),
    Family("chaos.neuron", CHAOS, 0.7, False, "spiking and bursting"),
    Family("chaos.mackey_glass", CHAOS, 1.0, False, "delayed feedback"),
    Family("records.growth", RECORD, 4.0, True, "yearly tables; M-competitions"),
    Family("records.seasonal_growth", RECORD, 4.5, True, "monthly, quarterly, weekly tables"),
    Family("records.business_cycle", RECORD, 1.8, True, "booms and slumps; Harvey 1989"),
)

# Mixups, and those of them with one parent, not two
MIXUP_SHARE, ONE_PARENT_SHARE = 0.15, 0.7
# Parts of a composite. Most real series are a season and something else
SEASON_SHARE = 0.85
SECOND_SEASON_SHARE = 0.2
TREND_SHARE = 0.55
# Noise is one of the noise families, else a process (so often) or a spectral draw
PLAIN_NOISE_SHARE, PROCESS_SHARE = 0.6, 0.7
# Noise over season: low (.4 of composites, as Cascade), middling, dominant
NOISE_LEVELS = ((0.40, 0.02, 0.12), (0.45, 0.12, 0.8), (0.15, 0.8, 4.0))
# Total excursion of the trend over the season's standard deviation: N(0, .4) or N(0, 2.5); Cascade
TREND_LEVELS = ((0.5, 0.4), (0.5, 2.5))
MULTIPLICATIVE_SHARE = 0.25
# Exponentiated (log-normal) and floored series: skewed, positive records are common
EXPONENTIAL_SHARE = 0.08
FLOOR_SHARE = 0.05
# Meters and tables have few digits, so that values tie
ROUND_SHARE = 0.35
# Items with gaps
MISSING_SHARE = 0.12
# Items of several variates whose variates are of one family, and which are coupled
SIBLING_SHARE = 0.5
COUPLED_SHARE = 0.7
# Counts keep their own unit in most items
NATURAL_COUNT_SHARE = 0.8


class Change(NamedTuple):
    """One row: the function, the share of series it changes (or of its table), and why."""

    name: str
    share: float
    why: str


# In the order in which they are applied
AUGMENTATIONS = (
    Change("time_warp", 0.04, "clocks that run unevenly"),
    Change("resample", 0.06, "up-sampled records"),
    Change("amplitude_modulation", 0.12, "TiRex's strongest augmentation, less often"),
    Change("time_flip", 0.06, "Cascade, TinyCast"),
    Change("sign_flip", 0.15, "symmetry for families that only rise or spike upwards"),
    Change("smooth", 0.04, "rolling figures"),
    Change("accumulate", 0.015, "running totals, integrals"),
    Change("difference", 0.02, "changes instead of levels"),
    Change("add_noise", 0.05, "sensor noise over structure"),
    Change("outliers", 0.05, "TiRex spike injection p .05"),
    Change("censor", 0.06, "saturated sensors, stock-outs; TiRex, Cascade"),
    Change("quantise", 0.05, "coarse sensors; Cascade 4-7 %"),
    Change("sample_and_hold", 0.04, "slow reporters; Cascade 4-7 %"),
    Change("filled_gaps", 0.04, "outages that an archive filled"),
)
_NAMES = [row.name for row in AUGMENTATIONS]
CENSOR, ACCUMULATE = _NAMES.index("censor"), _NAMES.index("accumulate")
# Which of them change the axis of time
MOVES = np.array([name in ("time_warp", "resample", "time_flip") for name in _NAMES])

# Of items with gaps, one kind each
GAPS = (
    Change("random_gaps", 0.3, "lost messages"),
    Change("gap_runs", 0.4, "outages"),
    Change("periodic_gaps", 0.12, "nights, weekends, closed hours"),
    Change("long_gap", 0.18, "a sensor replaced"),
)

# Of coupled items, one coupler each
COUPLERS = (
    Change("couple_graph", 0.25, "causes with lags; CauKer"),
    Change("couple_coregionalised", 0.25, "shared sources; TimePFN"),
    Change("couple_factors", 0.2, "a market, a climate and idiosyncrasies"),
    Change("couple_copies", 0.15, "redundant and delayed sensors"),
    Change("couple_leads", 0.15, "leading indicators, some of no use"),
)


def _cumulative_by_group() -> np.ndarray:
    """(groups + 2, families) running sums of weight inside each group; the last rows: whole series, long and short."""
    weight = np.array([family.weight for family in FAMILIES])
    group = np.array([family.group for family in FAMILIES])
    rows = np.zeros((len(GROUPS) + len(WHOLE_SHARES), len(FAMILIES)))
    for g in range(len(GROUPS)):
        rows[g, group == g] = weight[group == g]
        for row, shares in enumerate(WHOLE_SHARES, len(GROUPS)):
            if rows[g].sum() > 0.0:
                rows[row] += shares[g] * rows[g] / rows[g].sum()
    return np.cumsum(rows, axis=1)


# Rows of CUMULATIVE for a long and for a short whole series
WHOLE = len(GROUPS)
SHORT = WHOLE + 1
CUMULATIVE = _cumulative_by_group()
UNIT_ROOT = np.array([family.unit_root for family in FAMILIES])
GROUP = np.array([family.group for family in FAMILIES])
AUGMENTATION_SHARE = np.array([row.share for row in AUGMENTATIONS])
GAP_CUMULATIVE = np.cumsum(np.array([row.share for row in GAPS]))
COUPLER_CUMULATIVE = np.cumsum(np.array([row.share for row in COUPLERS]))
