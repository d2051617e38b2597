"""The study of strides: windows, losses by hand, and the command from a file to table, JSON and picture."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tinytsm import study, study_sifi


class Offset:
    """Forecasts 0 plus the stride less one, at every level; the rule's stride counts as 3."""

    def predict_quantiles(self, inputs, prediction_length, quantile_levels, **options):
        strides = options["strides"]
        stride = 3 if strides == "auto" else max(strides)
        quantiles = np.full((len(inputs), prediction_length, len(quantile_levels)), stride - 1.0)
        return quantiles, quantiles[..., 0]


def test_windows_leave_as_much_context_as_they_ask_for() -> None:
    x = np.arange(10.0)
    found = list(study_sifi.held_out([x, x[:5]], 3, 3))
    assert [(i, len(context), labels.tolist()) for i, context, labels in found] == [
        (0, 7, [7, 8, 9]),
        (0, 4, [4, 5, 6]),
    ]


def test_losses_by_hand() -> None:
    labels = np.array([[1.0, np.nan], [2.0, 4.0], [0.0, 0.0]])
    loss, error, coverage = study_sifi.losses(labels, np.zeros((3, 2, 9)), np.array([0, 0, 1]))
    # levels average to one half, so the loss is half the error
    assert error.tolist() == [7 / 3, 0] and loss.tolist() == pytest.approx([7 / 6, 0])
    assert coverage == pytest.approx(2 / 5)


def test_records_are_relative_to_one_pass() -> None:
    # labels of 4: one pass misses by 4, stride s by 5 - s
    records = study_sifi.study(
        Offset(), [np.full(40, 4.0)], horizons=[5, 100], strides=[2], windows=2
    )
    found = {r["strategy"]: r["mae"] for r in records}
    assert found == pytest.approx(
        {
            "one pass": 1,
            "mirrored": 1,
            "adjusted": 1,
            "rule": 0.5,
            "rule, mirrored": 0.5,
            "rule, adjusted": 0.5,
            "2": 0.75,
            "1 and 2": 0.75,
        }
    )
    assert {r["horizon"] for r in records} == {5} and records[0]["forecasts"] == 2


class Slow(Offset):
    """Spends a fifth of a second of processor time on its first forecast, as a model that compiles."""

    warm = False

    def predict_quantiles(self, inputs, prediction_length, quantile_levels, **options):
        began = time.process_time()
        while not self.warm and time.process_time() - began < 0.2:
            pass
        self.warm = True
        return super().predict_quantiles(inputs, prediction_length, quantile_levels, **options)


def test_a_first_call_is_nobodys_time() -> None:
    records = study_sifi.study(Slow(), [np.full(40, 4.0)], horizons=[5], strides=[2], windows=1)
    assert max(r["seconds"] for r in records) < 0.1


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.csv"
    days = pd.date_range("2024-01-01", periods=60).strftime("%Y-%m-%d")
    pd.DataFrame({"date": days, "y": 4.0, "z": 2.0}).to_csv(data, index=False)
    monkeypatch.setattr(study_sifi, "load_model", lambda path, device: (Offset(), []))
    flags = ["sifi", str(data), "--model", "m", "--horizon", "7", "--strides", "2", "3"]
    flags += ["--output", str(tmp_path / "o.json"), "--plot", str(tmp_path / "o.png")]
    assert study.main(flags) == 0
    out = capsys.readouterr().out
    assert "1 and 3" in out and json.loads(out.splitlines()[-1])["best"]["7"]
    assert len(json.loads((tmp_path / "o.json").read_text())["records"]) == 10
    assert (tmp_path / "o.png").stat().st_size > 5000
    assert study.main([*flags[:4], "--horizon", "50"]) == 2
    assert "no series is twice as long as the horizon 50" in capsys.readouterr().err
