import time

import pytest
import torch

from bench import timing

CPU = torch.device("cpu")


def test_a_ratio_pairs_the_rounds():
    # a neighbour slowed rounds two and three of both: pair by pair nothing has changed
    theirs, ours = [2.0, 20.0, 40.0, 2.0], [1.0, 10.0, 20.0, 1.0]
    assert timing.ratio(theirs, ours) == (2.0, 2.0, 2.0)
    spread = timing.ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)
    assert spread.middle == 3.0
    assert 1.0 < spread.low < 3.0 < spread.high < 5.0
    assert timing.ratio([3.0], [2.0]) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(("theirs", "ours"), [([1.0], [1.0, 1.0]), ([], [])])
def test_a_ratio_refuses_other_rounds(theirs, ours):
    with pytest.raises(
        ValueError, match=f"the same rounds of both, got {len(theirs)} and {len(ours)}"
    ):
        timing.ratio(theirs, ours)


def test_rivals_take_turns_and_another_one_begins_each_round(monkeypatch):
    monkeypatch.setattr(timing, "calls_for", lambda fn, device: 1)
    order = []
    variants = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = timing.interleave(variants, device=CPU, rounds=3)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert {name: len(s) for name, s in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_batch_is_timed_per_call():
    assert 0.004 < timing.batch_seconds(lambda: time.sleep(0.005), 4, CPU) < 1.0


def test_short_functions_are_called_more_often():
    assert timing.calls_for(lambda: None, CPU) == 500
    assert timing.calls_for(lambda: time.sleep(0.02), CPU) == 1


def test_a_rotation_takes_each_set_in_turn():
    rotation = timing.Rotation(lambda a, b: (a, b), [(1, 2), (3, 4)])
    assert [rotation() for _ in range(3)] == [(1, 2), (3, 4), (1, 2)]


def test_rotated_inputs_do_not_fit_the_cache(monkeypatch):
    monkeypatch.setattr(timing, "cache_bytes", lambda device: 1000)
    assert timing.copies(100, CPU) == 20
    # one set is never enough, and a small one has no thousand copies
    assert timing.copies(10_000, CPU) == 2
    assert timing.copies(1, CPU) == 64


def test_peaks_are_measured():
    peaks = timing.measure_peaks(CPU, tiny=True)
    assert peaks.copy > 0
    assert set(peaks.matmul) == {"float32", "bfloat16"} and min(peaks.matmul.values()) > 0
    assert timing.peak_bytes(lambda: None, CPU) is None


@pytest.mark.gpu
def test_a_gpu_is_timed_by_its_own_clock():
    device = torch.device("cuda")
    cycles = 2_000_000
    short = timing.batch_seconds(lambda: torch.cuda._sleep(cycles), 5, device)
    long = timing.batch_seconds(lambda: torch.cuda._sleep(4 * cycles), 5, device)
    assert 3.0 < long / short < 5.0
    a = torch.zeros(1 << 20, device=device)
    assert timing.peak_bytes(lambda: a + 1, device) == a.nbytes
