"""SynthTS: items are pure, threads agree, gaps and counts keep their shares; trends and seasons keep their laws."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinytsm.synth import (
    augment,
    chaos,
    compiled,
    counts,
    dispatch,
    dynamics,
    events,
    generator,
    mixture,
    multivariate,
    noise,
    philox,
    records,
    seasonal,
    spectral,
    traces,
    trend,
)

ROOT = Path(__file__).parents[1]
MODULES = {
    "trend": trend,
    "seasonal": seasonal,
    "noise": noise,
    "dynamics": dynamics,
    "spectral": spectral,
    "events": events,
    "counts": counts,
    "chaos": chaos,
    "records": records,
    "traces": traces,
}


def stream(index: int) -> np.ndarray:
    return philox.stream(21, index, 0)


def draw(family, index: int, length: int) -> np.ndarray:
    out = np.full(length, np.nan)
    family(stream(index), out)
    return out


# Items


def test_item_is_the_same_in_any_order_and_buffer() -> None:
    forward = [generator.sample(4, i, 300, 1 + i % 3) for i in range(60)]
    assert len({item.tobytes() for item in forward}) == 60
    block = np.empty((60, 3, 300))
    for i in reversed(range(60)):
        view = block[i, : 1 + i % 3]
        generator.fill_item(4, i, view)
        np.testing.assert_array_equal(view, forward[i])


def test_item_does_not_depend_on_what_the_buffer_held() -> None:
    for index in range(80):
        out = np.full((2, 100), np.inf)
        generator.fill_item(8, index, out)
        np.testing.assert_array_equal(out, generator.sample(8, index, 100, 2))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_threads_make_the_same_bits(workers: int) -> None:
    out = np.empty((120, 2, 500))
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda i: generator.fill_item(6, i, out[i]), range(len(out))))
    for i in range(len(out)):
        np.testing.assert_array_equal(out[i], generator.sample(6, i, 500, 2))


def test_lock_is_released_while_an_item_is_made() -> None:
    out = np.empty((8, 200_000))
    generator.fill_item(1, 1, out)
    started = threading.Event()

    def work() -> None:
        started.set()
        for index in range(6):
            generator.fill_item(1, index, out)

    worker = threading.Thread(target=work)
    worker.start()
    started.wait()
    ticks = 0
    while worker.is_alive():
        time.sleep(0.001)
        ticks += 1
    # Holding the lock, an item would let this loop turn about once
    assert ticks > 30


def test_seeds_and_variates_change_the_item() -> None:
    one = generator.sample(1, 5, 200)
    assert not np.array_equal(one, generator.sample(2, 5, 200), equal_nan=True)
    two = generator.sample(1, 5, 200, 2)
    assert not np.array_equal(two[0], two[1], equal_nan=True)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 33, 700])
def test_items_are_finite_and_rarely_constant(length: int) -> None:
    constant = 0
    for index in range(300):
        item = generator.sample(2, index, length, 1 + index % 2)
        for x in item:
            seen = x[~np.isnan(x)]
            assert seen.size and np.isfinite(seen).all()
            assert np.abs(seen).max() < 1e12
            constant += seen.size > 20 and np.ptp(seen) == 0.0
    assert constant == 0


def test_shares_of_gaps_and_counts() -> None:
    items = [generator.sample(3, index, 600)[0] for index in range(2000)]
    gaps = np.mean([np.isnan(x).any() for x in items])
    # A few mechanisms leave a short series whole
    assert 0.6 * mixture.MISSING_SHARE < gaps < 1.1 * mixture.MISSING_SHARE
    whole = np.mean([bool(np.nanmin(x) >= 0 and np.all(np.nan_to_num(x) % 1 == 0)) for x in items])
    natural = (1 - mixture.COMPOSITE_SHARES[0]) * mixture.WHOLE_SHARES[0][mixture.COUNT]
    natural *= mixture.NATURAL_COUNT_SHARE * (1 - mixture.MIXUP_SHARE)
    # One kind of demand has sizes that are no whole numbers
    assert 0.5 * natural < whole < 1.5 * natural


def test_coupled_variates_are_related_and_others_not() -> None:
    def relation(variates: np.ndarray) -> float:
        return abs(
            np.corrcoef(np.nan_to_num(variates - np.nanmean(variates, 1, keepdims=True))[:2])[0, 1]
        )

    together = [relation(generator.sample(5, i, 600, 4)) for i in range(200)]
    apart = [
        relation(np.concatenate([generator.sample(5, i, 600), generator.sample(5, i + 999, 600)]))
        for i in range(200)
    ]
    assert np.mean(np.array(together) > 0.5) > np.mean(np.array(apart) > 0.5) + 0.15


# Standard deviations of the first items of seed 0, length 256, and a digest of the tables. Whoever changes
# either on purpose changes MIXTURE_VERSION with it
VERSION, TABLES = "3", "d9be975eb9a0e6cd"
SPREADS = (
    "45.521 0.063573 10.273 56.036 0.00076514 2.7357 1.9983 2.1987 72.447 0.66792 0.0025022 0.11913 101.57 0.018116 0.043041 13.25 "
    "0.068211 0.069711 3.4536 5.64 0.10513 1.2858 0.029531 2.7659 62.4 240.09 0.0012688 2.6896 3.4421 1.1202 0.22598 0.048331"
)


def test_mixture_is_the_version_it_says() -> None:
    tables = []
    for name, value in sorted(vars(mixture).items()):
        if name.isupper() and not isinstance(value, np.ndarray):
            rows = value if isinstance(value, tuple) else (value,)
            # The reasons may be reworded
            plain = [row[:-1] if hasattr(row, "why") else row for row in rows]
            tables.append((name, plain if isinstance(value, tuple) else value))
    digest = hashlib.sha256(repr(tables).encode()).hexdigest()[:16]
    assert (mixture.MIXTURE_VERSION, digest) == (VERSION, TABLES)
    expected = [float(spread) for spread in SPREADS.split()]
    found = [np.nanstd(generator.sample(0, index, 256)) for index in range(len(expected))]
    # Chaos, a fortieth of the items, differs between mathematical libraries
    assert np.isclose(found, expected, rtol=1e-4).sum() >= len(expected) - 2


def test_without_numba_the_items_are_the_same(tmp_path: Path) -> None:
    # By far the slowest way to make a series, hence so few and short
    code = (
        "import sys, numpy as np\n"
        "from tinytsm.synth import generator\n"
        "from tinytsm.synth import mixture, philox\n"
        "purpose = generator._FIRST_LANE + generator._FINISH\n"
        "mixed = [i for i in range(50) if philox.uniform(philox.stream(7, i, purpose)) < mixture.MIXUP_SHARE]\n"
        "assert len(mixed) > 2\n"
        "items = [generator.sample(7, i, 60, 1 + i % 3).ravel() for i in [*range(6), *mixed[:3]]]\n"
        "names = [n for n in generator.families() if not n.startswith(('chaos', 'spectral'))]\n"
        "items += [generator.sample_family(name, 7, 1, 40) for name in names]\n"
        "np.save(sys.argv[1], np.concatenate(items))\n"
    )
    made = []
    for switch in ("0", "1"):
        path = tmp_path / f"{switch}.npy"
        environment = os.environ | {"NUMBA_DISABLE_JIT": switch, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True)
        made.append(np.load(path))
    np.testing.assert_allclose(made[0], made[1], rtol=1e-12, atol=0)


# The tables


def test_every_function_has_its_row() -> None:
    rows = [family.name for family in mixture.FAMILIES]
    assert sorted(rows) == sorted(
        f"{name}.{family}" for name, module in MODULES.items() for family in module.FAMILIES
    )
    assert sorted(row.name for row in mixture.AUGMENTATIONS) == sorted(augment.AUGMENTATIONS)
    assert sorted(row.name for row in mixture.GAPS) == sorted(augment.GAPS)
    assert sorted(row.name for row in mixture.COUPLERS) == sorted(multivariate.COUPLERS)


@pytest.mark.parametrize(
    "shares",
    [
        *mixture.WHOLE_SHARES,
        [row.share for row in mixture.GAPS],
        [row.share for row in mixture.COUPLERS],
        [level[0] for level in mixture.NOISE_LEVELS],
        [level[0] for level in mixture.TREND_LEVELS],
        seasonal._CLOCK_SHARES[-1:],
        seasonal._DAY_SHARES[-1:],
        seasonal._PATTERN_SHARES[-1:],
        dynamics._SEASON_SHARES[-1:],
        records._SEASON_SHARES[-1:],
    ],
    ids=[
        "whole",
        "short",
        "gaps",
        "couplers",
        "noise",
        "trend",
        "clocks",
        "days",
        "patterns",
        "seasons",
        "years",
    ],
)
def test_shares_add_to_one(shares) -> None:
    assert sum(shares) == pytest.approx(1.0)


def test_rows_call_the_functions_they_name() -> None:
    trace = dispatch.new_trace()
    assert dispatch.describe_trace(trace) == "item -1, before its first family"
    for name in generator.families():
        module, function = name.split(".")
        expected = np.empty(80)
        getattr(MODULES[module], function)(philox.stream(9, 3, 0), expected)
        np.testing.assert_array_equal(generator.sample_family(name, 9, 3, 80), expected)
    for code, row in enumerate(mixture.AUGMENTATIONS + mixture.GAPS):
        base = generator.sample_family("dynamics.ar2", 1, 1, 200)
        expected = base.copy()
        getattr(augment, row.name)(stream(code), expected)
        dispatch.change(code, stream(code), base, trace)
        np.testing.assert_array_equal(base, expected)
        assert dispatch.describe_trace(trace).endswith(f", in augment.{row.name}")
    for code, row in enumerate(mixture.COUPLERS):
        pair = np.stack([generator.sample_family("dynamics.ar2", 1, i, 200) for i in range(3)])
        mixed = pair.copy()
        getattr(multivariate, row.name)(stream(code), mixed)
        dispatch.couple(code, stream(code), pair, trace)
        np.testing.assert_array_equal(pair, mixed)
        assert dispatch.describe_trace(trace).endswith(f", in multivariate.{row.name}")


def test_every_family_is_documented() -> None:
    text = (ROOT / "docs" / "synthts.md").read_text()
    for family in mixture.FAMILIES:
        assert f"| {family.name.split('.')[1]} |" in text
    for row in mixture.AUGMENTATIONS + mixture.COUPLERS:
        assert row.name in text


def test_choice_follows_the_weights_and_never_takes_a_zero() -> None:
    shares = np.cumsum([0.0, 1.0, 0.0, 3.0, 0.0])
    rng = stream(0)
    found = Counter(int(seasonal.choose(rng, shares)) for _ in range(8000))
    assert set(found) == {1, 3}
    assert abs(found[1] / 8000 - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 8000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 10, 1), r"seed must be in \[0, 2\^63\), got -1"),
        ((0, 2**63, 10, 1), r"index must be in"),
        ((0, 0, 0, 1), r"length must be between 1 and \d+ steps, got 0"),
        ((0, 0, 10, 0), r"variates must be between 1 and \d+, got 0"),
    ],
)
def test_sample_says_what_it_wants(arguments: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator.sample(*arguments)


def test_fill_item_says_what_it_wants() -> None:
    for out in (np.empty((4, 40))[:, ::2], np.empty((2, 9), np.float32), np.empty(9)):
        with pytest.raises(ValueError, match="C-contiguous float64"):
            generator.fill_item(0, 0, out)
    with pytest.raises(ValueError, match="family must be one of .*; got 'trend.none'"):
        generator.sample_family("trend.none", 0, 0, 9)


def test_changed_sources_drop_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = SimpleNamespace(stats=SimpleNamespace(cache_path=str(tmp_path)))
    monkeypatch.setattr(compiled, "_probe", probe)
    index, mark = tmp_path / "family.nbi", tmp_path / "sources.sha256"
    index.touch()
    compiled.drop_stale()
    assert not index.exists()
    index.touch()
    compiled.drop_stale()
    assert index.exists()
    mark.write_text("of other sources")
    compiled.drop_stale()
    assert not index.exists()


def test_without_a_place_for_the_cache_items_are_made(tmp_path: Path) -> None:
    """Neither beside the sources nor at home: a folder of the process's own, which goes with it."""
    code = (
        "from numba.core import caching\n"
        "kinds = caching.CacheImpl._locator_classes\n"
        "caching.CacheImpl._locator_classes = [one for one in kinds if 'UserProvided' in one.__name__]\n"
        "from tinytsm.synth import compiled, philox\n"
        "print(compiled._probe(), compiled._probe.stats.cache_path)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {
        "TMPDIR": str(tmp_path)
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split()[:1] == ["0"], done.stderr
    assert done.stdout.split()[1].startswith(str(tmp_path)) and not list(tmp_path.iterdir())


# Trends


@pytest.mark.parametrize("name", trend.FAMILIES)
def test_trend_moves_by_about_one_whatever_the_length(name: str) -> None:
    family = getattr(trend, name)
    spans: dict[int, list[float]] = {length: [] for length in (200, 4000)}
    for length, found in spans.items():
        found.extend(np.ptp(draw(family, index, length)) for index in range(200))
        assert min(found) > 0
    short, long = (np.median(found) for found in spans.values())
    assert 0.5 < short < 4
    assert 0.7 < long / short < 1.4


def test_smooth_trends_scale_with_the_length() -> None:
    for name in ("linear", "exponential", "logistic", "power", "polynomial", "damped"):
        for index in range(20):
            short, long = (draw(getattr(trend, name), index, length) for length in (400, 4000))
            # Damping starts on a whole step of a curve that may be steep
            near = (0.08 if name == "damped" else 0.005) * np.ptp(long)
            np.testing.assert_allclose(long[::10], short, atol=near)


# Seasons


def repeats(x: np.ndarray, period: int) -> bool:
    return bool(np.array_equal(x[period:], x[:-period]))


def test_whole_periods_repeat_exactly() -> None:
    modulated = 0
    for index in range(300):
        rng, out, table = stream(index), np.zeros(200), np.empty(25)
        seasonal.fill_harmonics(rng, table, 24, 6, 1.0)
        seasonal.add_cycle(rng, out, table, 24, 24.0, 1.0)
        if not repeats(out, 24):
            modulated += 1
    assert abs(modulated / 300 - seasonal._MODULATED_SHARE) < 0.11


def test_harmonics_have_unit_power_and_the_right_frequencies() -> None:
    table = np.empty(97)
    for index in range(20):
        seasonal.fill_harmonics(stream(index), table, 96, 5, 1.0)
        assert np.mean(table[:96] ** 2) == pytest.approx(1.0, rel=1e-6)
        power = np.abs(np.fft.rfft(table[:96])) ** 2
        assert power[1:6].sum() > (1 - 1e-12) * power.sum()


def test_periods_are_mostly_calendar_and_fit() -> None:
    rng = stream(1)
    drawn = [float(seasonal.period(rng, 2048)) for _ in range(3000)]
    calendar = set(seasonal.CLOCKS[seasonal.CLOCKS > 0])
    assert 0.5 < np.mean([p in calendar for p in drawn]) < 0.8
    assert min(drawn) >= 2 and np.mean(np.array(drawn) <= 1024) > 0.9
    # Short series get periods that they hold twice
    assert np.mean([float(seasonal.period(rng, 60)) <= 30 for _ in range(500)]) > 0.9


def test_a_non_integer_period_is_found_by_the_spectrum() -> None:
    out, table = np.zeros(4096), np.empty(seasonal._FINE + 1)
    for index, length in enumerate((30.4375, 52.1775, 11.3)):
        out[:] = 0.0
        seasonal.fill_harmonics(stream(index), table, seasonal._FINE, 1, 1.0)
        seasonal.add_cycle(stream(3), out, table, seasonal._FINE, length, 1.0)
        spectrum = np.abs(np.fft.rfft(out * np.hanning(out.size)))
        assert spectrum.argmax() == pytest.approx(out.size / length, abs=1.0)


def test_a_share_of_profiles_repeats_every_week() -> None:
    exact = sum(
        any(repeats(draw(seasonal.profile, i, 2100), 7 * day) for day in (12, 24, 48, 96, 144))
        for i in range(400)
    )
    # No wobble in .4 and no yearly swell in .5; a 5-minute week is not seen twice here
    assert 0.1 < exact / 400 < 0.25


def test_a_share_of_patterns_repeats_exactly() -> None:
    exact = sum(
        any(repeats(draw(seasonal.pattern, i, 800), int(size)) for size in seasonal._PATTERNS)
        for i in range(300)
    )
    assert 0.35 < exact / 300 < 0.6


def test_a_calendar_multiplies_its_cycles() -> None:
    # Hourly: a day that is the same every day, but scaled by the week, has rank one
    ranks = []
    for index in range(200):
        x = draw(seasonal.calendar, index, 24 * 7 * 12)
        s = np.linalg.svd(x.reshape(-1, 24), compute_uv=False)
        ranks.append(s[1] / s[0])
    assert 0.05 < np.mean(np.array(ranks) < 0.02) < 0.9


def test_waves_are_flat_steep_or_straight() -> None:
    table = np.empty(101)
    kinds: Counter[bool] = Counter()
    for index in range(200):
        seasonal._fill_wave(stream(index), table, 100)
        assert np.abs(table).max() == pytest.approx(1.0, abs=0.35)
        assert np.ptp(np.sign(table[:100])) <= 1
        kinds[len(np.unique(np.round(np.diff(table[:100]), 9))) == 1] += 1
    # Sawteeth alone are straight all along
    assert 20 < kinds[True] < 65
