"""Regret of forecasters that are known to be right or wrong; the study command."""

import importlib
import json
from statistics import NormalDist

import numpy as np
import pytest

from tinytsm import evaluate, processes, study, study_calibration
from tinytsm.evaluate import SeasonalNaive
from tinytsm.metrics import LEVELS


class Normal:
    """Forecasts N(mean of the context, its deviation times `width`), whatever comes."""

    def __init__(self, width: float = 1.0) -> None:
        self.width = width

    def predict_quantiles(self, inputs, prediction_length, quantile_levels):
        z = np.array([NormalDist().inv_cdf(level) for level in quantile_levels])
        rows = [np.mean(x) + self.width * np.std(x) * z for x in inputs]
        quantiles = np.stack([np.tile(row, (prediction_length, 1)) for row in rows])
        return quantiles, quantiles.mean(2)


def study_of(forecaster, **options):
    sizes = {"contexts": [400], "horizon": 12, "count": 24, "seed": 1} | options
    records = study_calibration.study({"one": lambda season: forecaster}, **sizes)
    return {(r["process"], r["context"]): r for r in records}


def test_the_truth_has_no_regret_and_is_calibrated(rng):
    for process in processes.PROCESSES.values():
        paths = process(rng, count=5, length=30, horizon=8)
        got = study_calibration.scores(paths, processes.best_quantiles(paths, LEVELS))
        assert got["regret"] == pytest.approx(0, abs=1e-12)
        assert got["error"] == pytest.approx(0, abs=1e-12)
        assert len(got["regret_by_step"]) == 8


def test_regret_of_a_wrong_width_is_the_closed_form(rng):
    paths = processes.white_noise(rng, count=5, length=30, horizon=8)
    z = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
    twice = paths.mean[..., None] + 2 * paths.deviation[..., None] * z
    density = [NormalDist().pdf(x) for x in z]
    loss = [
        NormalDist().pdf(2 * x) + 2 * x * (NormalDist().cdf(2 * x) - q)
        for x, q in zip(z, LEVELS, strict=True)
    ]
    got = study_calibration.scores(paths, twice)
    assert got["regret"] == pytest.approx(sum(loss) / sum(density) - 1)
    assert got["coverage"]["0.9"] == pytest.approx(NormalDist().cdf(2 * z[-1]))


def test_knowing_white_noise_costs_one_part_in_its_length():
    got = study_of(Normal(), contexts=[20, 2000], count=400)
    # of a mean and deviation estimated from T points, the loss is larger by a few parts in T
    near, far = got["white noise", 20]["regret"], got["white noise", 2000]["regret"]
    assert 0.3 / 20 < near < 3 / 20
    assert 0.3 / 2000 < far < 3 / 2000
    assert near / far == pytest.approx(100, rel=0.5)
    # and on a random walk it is no forecast at all
    assert got["random walk", 2000]["regret"] > 1


def test_every_forecaster_sees_the_same_paths_and_the_seed_decides_them():
    both = {"a": lambda season: Normal(), "b": lambda season: Normal()}
    sizes = {"contexts": [50], "horizon": 4, "count": 6}
    records = study_calibration.study(both, seed=2, **sizes)
    assert [r["regret"] for r in records[::2]] == [r["regret"] for r in records[1::2]]
    again = study_calibration.study(both, seed=2, **sizes)
    other = study_calibration.study(both, seed=3, **sizes)
    assert again == records != other


def test_seasonal_naive_is_told_the_period():
    asked = set()

    def make(season):
        asked.add(season)
        return SeasonalNaive(season_length=season)

    records = study_calibration.study({"naive": make}, contexts=[200], horizon=50, count=40, seed=0)
    assert asked == {1, 7, 12, 24, 48}
    regret = {r["process"]: r["regret"] for r in records}
    # on a random walk it is the best forecast but for the width, which it estimates
    assert regret["random walk"] < 0.02
    # it repeats the noise: errors of variance 2 where 1 would do
    assert 0.3 < regret["seasonal + noise"] < 0.6


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(study_calibration, "load_model", lambda path, device: (Normal(), []))


def test_the_command_writes_table_json_and_picture(model, tmp_path, capsys):
    output, picture = tmp_path / "study.json", tmp_path / "study.svg"
    flags = ["calibration", "--model", "runs/normal", "--context", "60", "30", "60", "--count", "4"]
    flags += ["--horizon", "5", "--output", str(output), "--plot", str(picture)]
    assert study.main(flags) == 0
    out = capsys.readouterr().out.splitlines()
    document = json.loads(output.read_text())
    assert len(document["records"]) == 4 * 2 * 2
    assert document["settings"] == {
        "horizon": 5,
        "count": 4,
        "seed": 0,
        "context": [30, 60],
        "model": "normal",
    }
    longest = next(r for r in document["records"] if r["context"] == 60)
    headline = json.loads(out[-1])["regret_at_longest_context"]
    assert headline["white noise"] == longest["regret"]
    assert sum(line.startswith("AR(1)") for line in out) == 4
    assert "<svg" in picture.read_text()


def test_what_cannot_be_used_is_exit_code_2(model, monkeypatch, tmp_path, capsys):
    assert study.main(["calibration", "--model", "m", "--output", "no/folder.json"]) == 2
    assert "no folder" in capsys.readouterr().err
    assert study.main(["calibration", "--model", "m", "--seed", "-1"]) == 2
    assert "--seed must be at least 0, got -1" in capsys.readouterr().err
    monkeypatch.setattr(study_calibration, "load_model", evaluate.load_model)
    assert study.main(["calibration", "--model", str(tmp_path)]) == 2
    assert "cannot load" in capsys.readouterr().err
    assert study.main([]) == 2
    assert study.main(["nothing"]) == 2
    err = capsys.readouterr().err
    assert "got 'nothing'" in err and "calibration" in err
    monkeypatch.setitem(study.STUDIES, "absent", "not in this version")
    assert study.main(["absent"]) == 2
    assert "no study 'absent'" in capsys.readouterr().err
    assert study.main(["--help"]) == 0
    assert "study calibration" in capsys.readouterr().out


def test_a_broken_study_is_not_taken_for_an_absent_one(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("no module", name="torch")

    monkeypatch.setattr(study.importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError):
        study.main(["calibration"])


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("evaluate", ["--pack", "p"]),
        ("study_calibration", []),
        ("study_sifi", ["data.csv"]),
        ("study_strategies", ["--pack", "p"]),
    ],
)
def test_a_name_means_the_shipped_model_in_every_command(module: str, flags: list[str]) -> None:
    # as text it does, wherever the caller stands; as a Path it would be a folder first
    parser = importlib.import_module(f"tinytsm.{module}")._parser()
    assert parser.parse_args([*flags, "--model", "nano"]).model == "nano"
