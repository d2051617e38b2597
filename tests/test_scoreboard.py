"""Means over tasks: which of them count, and what does not cancel out."""

import pytest

from tinytsm import scoreboard
from tinytsm.metrics import LEVELS


def entry(relative, baselines):
    fields = {"kind": "gift", "term": "short", "freq": "D", "domain": "Sales", "dataset": "d"}
    counts = {"windows": 1, "all_windows": 1}
    return fields | counts | {"relative": relative, "baselines": baselines}


def test_a_group_mean_never_mixes_tasks_between_columns():
    ours = {"mase": 0.5, "crps": 0.25}
    results = {
        "a/short": entry(ours, {"Theta": {"mase": 2.0, "crps": 2.0}}),
        "b/short": entry({"mase": 2.0, "crps": None}, {}),
    }
    scores = scoreboard.summarise(results)["gift"]["all"]["scores"]
    assert scores == {"model": {"mase": pytest.approx(1.0), "crps": pytest.approx(0.25)}}


def test_a_model_without_a_score_is_not_the_best():
    published = {"seasonal_naive": [2.0, 4.0], "best": [0.5, 3.0], "none": [None, 3.0]}
    models = {name: {"a/short": scores} for name, scores in published.items()}
    results = {"a/short": entry({"mase": None, "crps": 0.9}, {})}
    found = scoreboard.summarise(results, {"models": models})["published"]["scores"]
    assert list(found) == ["best", "seasonal_naive", "none", "model"]


def test_errors_of_calibration_do_not_cancel_out():
    def scored(shift):
        below = {str(level): level + shift for level in LEVELS}
        return {"model": {"points": 5, "below": below, "pit": [0.1] * 10}}

    got = scoreboard._calibration([scored(0.05), scored(-0.05)])["scores"]["model"]
    assert got["error"] == pytest.approx(0.05)
    assert got["coverage"]["0.5"] == pytest.approx(0.5)
