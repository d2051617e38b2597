"""An item's randomness: every part draws from a stream of its own, parents of a mixup included."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinytsm.synth import augment, dispatch, generator, mixture, philox

ROOT = Path(__file__).resolve().parents[1]
SEED, LENGTH = 12, 160


def test_no_two_parts_of_an_item_share_a_stream() -> None:
    purposes = [generator._ITEM, generator._MOVES]
    for v in range(64):
        lane = generator._FIRST_LANE + v * generator._SERIES_STRIDE
        purposes += [lane + generator._FINISH, lane + generator._FINISH + 1]
        # The series itself and two parents; each attempt, and the noise after the last
        for p in range(3):
            first = lane + p * generator._LANE_STRIDE
            purposes += range(first, first + generator._ATTEMPTS + 1)
    assert len(set(purposes)) == len(purposes)
    # Purposes are words of 32 bits, and the batches' own start at a million
    assert generator._FIRST_LANE + 4096 * generator._SERIES_STRIDE < 1_000_000


def test_a_mixup_is_made_of_the_items_own_substreams() -> None:
    """An item of one variate is made again by hand, each lane from nothing but seed, index and purpose."""
    dispatch.prepare()
    lane, mixed = generator._FIRST_LANE, 0
    parent, part, trace = np.empty(LENGTH), np.empty(LENGTH), dispatch.new_trace()
    for index in range(120):
        mixing = philox.stream(SEED, index, lane + generator._FINISH)
        if not philox.bernoulli(mixing, mixture.MIXUP_SHARE):
            continue
        mixed += 1
        count = 1 if philox.bernoulli(mixing, 0.7) else 2
        parents: list[tuple[int, np.ndarray]] = []
        # The last parent first: the order of the drawing is no matter
        for p in range(count, 0, -1):
            purpose = lane + p * generator._LANE_STRIDE
            other = generator._lane(SEED, index, purpose, -3, parent, part, trace)
            parents.insert(0, (other, parent.copy()))
        x = np.empty(LENGTH)
        properties = generator._lane(SEED, index, lane, -3, x, part, trace)
        for other, series in parents:
            augment.mixup(mixing, x, series)
            properties = (properties | other) & generator._HAS_UNIT_ROOT
        missing = philox.bernoulli(
            philox.stream(SEED, index, generator._ITEM), mixture.MISSING_SHARE
        )
        finish = philox.stream(SEED, index, lane + generator._FINISH + 1)
        before = x.copy()
        generator._augmented(properties, finish, finish, x, trace)
        generator._skew(finish, x)
        if not generator._usable(x):
            x = before
        generator._place(finish, x)
        if missing:
            generator._gaps(finish, x, trace)
        np.testing.assert_array_equal(generator.sample(SEED, index, LENGTH)[0], x)
    assert mixed > 8


def test_coupled_variates_share_an_axis_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each move in time, and no other change, is made on a line too, which shows where every step went."""
    dispatch.prepare()
    out = np.empty((4, LENGTH))
    couplings: list[int] = []
    variates: list[np.ndarray] = []
    augmented, change = generator._augmented.py_func, dispatch.change

    def watched(*arguments) -> int:
        variates.append(np.arange(float(LENGTH)))
        return augmented(*arguments)

    def move(code: int, rng: np.ndarray, out: np.ndarray, trace: np.ndarray) -> None:
        names = [row.name for row in mixture.AUGMENTATIONS + mixture.GAPS]
        if names[code] in ("time_warp", "resample", "time_flip"):
            change(code, rng.copy(), variates[-1], trace)
        change(code, rng, out, trace)

    monkeypatch.setattr(generator, "_augmented", watched)
    monkeypatch.setattr(dispatch, "change", move)
    monkeypatch.setattr(dispatch, "couple", lambda code, *_: couplings.append(code))
    moved = apart = 0
    for index in range(120):
        couplings.clear()
        variates.clear()
        generator.make_item.py_func(SEED, index, out, dispatch.new_trace())
        same = all(np.array_equal(line, variates[0]) for line in variates)
        if couplings:
            assert same
            moved += not np.array_equal(variates[0], np.arange(float(LENGTH)))
        else:
            apart += not same
    # A seventh of all series are moved, so a seventh of the coupled items, and two in five of the others
    assert moved > 5 and apart > 5


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize("misses", [{}, {"signature": 1}])
def test_only_an_empty_cache_is_shared_out(
    monkeypatch: pytest.MonkeyPatch, misses: dict, cores: int
) -> None:
    shares: list[tuple[int, int]] = []
    one = SimpleNamespace(
        compile=lambda arguments: None, stats=SimpleNamespace(cache_misses=misses)
    )

    def start(command: list[str], **settings: object) -> SimpleNamespace:
        shares.append((int(command[-2]), int(command[-1])))
        return SimpleNamespace(wait=lambda: 0)

    monkeypatch.setattr(dispatch._families, "function", lambda row: one)
    monkeypatch.setattr(dispatch, "compile_share", lambda *share: shares.append(share))
    monkeypatch.setattr(dispatch, "usable_cores", lambda: cores)
    monkeypatch.setattr(dispatch.subprocess, "Popen", start)
    dispatch._fill_cache()
    # every function has its process, this one's share last
    assert shares == ([(1, 4), (2, 4), (3, 4), (0, 4)] if misses and cores > 1 else [])


def test_a_share_is_compiled_by_a_process_of_its_own() -> None:
    code = "from tinytsm.synth import dispatch; dispatch.compile_share(0, 60)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
