"""Intervals of a ratio: by hand where bases agree, against coverage where they do not."""

import json
import math

import numpy as np
import pytest

from tinytsm import compare
from tinytsm.evaluate import main
from tinytsm.pack import PackError


def results(mase, bases, kind="gift", **fields):
    scores = ("mase", "crps") if kind == "gift" else ("mse", "mae")
    return {
        f"{i}/short": {"kind": kind, "dataset": f"{base}_h", "base": base, "windows": 4}
        | {"relative": dict.fromkeys(scores, value), "seasonal_naive": dict.fromkeys(scores, 2.0)}
        | fields
        for i, (value, base) in enumerate(zip(mase, bases, strict=True))
    }


def test_ratio_by_hand():
    a, b = results([0.5, 0.8, 0.9], "xyz"), results([1.0, 1.0, 0.6], "xyz")
    got = compare.compare(a, b)["gift"]
    assert (got["mase"]["tasks"], got["mase"]["bases"]) == (3, 3)
    assert got["mase"]["ratio"] == pytest.approx((0.5 * 0.8 * 1.5) ** (1 / 3))
    assert got["mase"]["wins"] == pytest.approx(2 / 3)
    # the extremes draw the best base, or the worst, three times
    assert got["mase"]["low"] == pytest.approx(0.5)
    assert got["mase"]["high"] == pytest.approx(1.5)


def test_an_even_difference_has_no_width():
    got = compare.compare(results([0.4, 0.8], "xy"), results([0.5, 1.0], "xy"))["gift"]["crps"]
    assert [got[key] for key in ("ratio", "low", "high")] == pytest.approx([0.8] * 3)


def test_tasks_of_one_base_count_as_one_witness(rng):
    logs = np.repeat(rng.normal(0.0, 0.1, size=12), 6)
    a, b = np.exp(logs), np.ones(72)

    def width(bases):
        got = compare.compare(results(a, bases), results(b, bases))["gift"]["mase"]
        return math.log(got["high"] / got["low"])

    blocks, singles = np.repeat(np.arange(12), 6), np.arange(72)
    # six tasks that say the same are no six observations: the interval is sqrt(6) wider
    assert width(blocks) / width(singles) == pytest.approx(math.sqrt(6), rel=0.05)
    expected = 2 * 1.96 * logs[::6].std() / math.sqrt(12)
    assert width(blocks) == pytest.approx(expected, rel=0.1)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(5), 0
    for _ in range(100):
        base_effect = rng.normal(0.02, 0.05, size=20)
        logs = np.repeat(base_effect, 3) + rng.normal(0, 0.02, size=60)
        bases = np.repeat(np.arange(20), 3)
        got = compare.compare(results(np.exp(logs), bases), results(np.ones(60), bases))
        held += got["gift"]["mase"]["low"] <= math.exp(0.02) <= got["gift"]["mase"]["high"]
    # a percentile bootstrap of 20 blocks is a little narrow
    assert 0.86 <= held / 100 <= 0.98


def test_same_seed_same_interval(rng):
    a = results(rng.uniform(0.5, 1.0, size=30), range(30))
    b = results(rng.uniform(0.5, 1.0, size=30), range(30))
    assert compare.compare(a, b, seed=3) == compare.compare(a, b, seed=3)
    assert compare.compare(a, b, seed=3) != compare.compare(a, b, seed=4)


def test_only_tasks_of_both_count_and_undefined_scores_are_left_out():
    a, b = results([0.5, 0.5, None], "xyz"), results([1.0, 1.0, 1.0], "xyz")
    del b["0/short"]
    got = compare.compare(a, b)
    # what has no ratio is not among the tasks that a share is of
    assert (got["gift"]["mase"]["tasks"], got["gift"]["mase"]["bases"]) == (1, 1)
    assert got["gift"]["mase"]["ratio"] == pytest.approx(0.5)
    assert "better on 100% of 1 tasks, 1 base" in compare.render(got, names=("a", "b"))
    nothing = compare.compare(results([None], "x"), results([1.0], "x"))["gift"]["mase"]
    assert nothing["ratio"] is None and nothing["tasks"] == 0


def test_one_base_has_no_interval():
    """Its tasks rise and fall together: whatever is drawn, it is the same."""
    got = compare.compare(results([0.5, 0.9], "xx"), results([1.0, 1.0], "xx"))
    assert got["gift"]["mase"]["low"] is None and got["gift"]["mase"]["high"] is None
    line = compare.render(got, names=("a", "b")).splitlines()[1]
    assert line.startswith("gift MASE  0.6708  no interval from one base data set  better on 100%")


def test_files_that_cannot_be_compared():
    a = results([0.5], "x")
    with pytest.raises(PackError, match="0/short: 4 windows in one file, 3 in the other"):
        compare.compare(a, results([0.5], "x", windows=3))
    with pytest.raises(PackError, match="share no task"):
        compare.compare(a, {})
    # a study's file: tasks by strategy
    with pytest.raises(PackError, match="wanted --output files of `tinytsm evaluate --model`"):
        compare.compare({"one pass": a}, {"one pass": a})


def test_as_many_windows_are_not_the_same_windows():
    a = results([0.5], "x")
    for naive in (2.1, None):
        other = {"seasonal_naive": {"mase": naive, "crps": 2.0}}
        with pytest.raises(PackError, match=f"seasonal naive has mase 2.0 in one file, {naive} in"):
            compare.compare(a, results([0.5], "x", **other))
    # six digits are what a committed file has
    rounded = {"seasonal_naive": {"mase": 2.000001, "crps": 2.0}}
    assert compare.compare(a, results([0.5], "x", **rounded))["gift"]["mase"]["ratio"] == 1.0


def test_the_command_prints_a_line_for_each_score_and_json(tmp_path, capsys):
    for name, value in (("new", 0.9), ("old", 1.0)):
        tasks = results([value, value], "xy") | {
            "e/ltsf/96": results([value], "e", kind="ltsf")["0/short"]
        }
        (tmp_path / f"{name}.json").write_text(json.dumps({"tasks": tasks}))
    assert main(["--compare", str(tmp_path / "new.json"), str(tmp_path / "old.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("new / old")
    assert lines[1].startswith("gift MASE  0.9000  95 % interval 0.9000 .. 0.9000")
    assert [line.split()[:2] for line in lines[3:5]] == [["ltsf", "MSE"], ["ltsf", "MAE"]]
    assert json.loads(lines[-1])["ltsf"]["mae"]["wins"] == 1.0
    (tmp_path / "old.json").write_text("{}")
    assert main(["--compare", str(tmp_path / "new.json"), str(tmp_path / "old.json")]) == 2
    assert "old.json: no 'tasks'" in capsys.readouterr().err
