"""The study of strategies: what is compared, the figures by hand, and the command with its resumption."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinytsm import evaluate, study, study_strategies
from tinytsm.options import EFFORTS
from tinytsm.pack import load_tasks

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


SWITCHES = ("symmetry", "adjust", "augment")


class Constant:
    """Forecasts `value` at every level, one more for each part of a strategy that is switched on."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value
        self.asked: list[dict] = []

    def with_options(self, **changes: Any) -> "Constant":
        self.asked.append(changes)
        return Constant((changes["strides"] != (1,)) + sum(changes[k] for k in SWITCHES))

    def predict_quantiles(self, inputs, prediction_length, quantile_levels):
        quantiles = np.full((len(inputs), prediction_length, len(quantile_levels)), self.value)
        return quantiles, quantiles[..., 0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pack of two tasks: labels of 4, in steps of 1 and of 2; seasonal naive misses by 1 and by 2."""
    entries = []
    for name, step in (("one", 1.0), ("two", 2.0)):
        # the last two are the labels of one window
        values = [4 - 3 * step, 4 - 2 * step, 4 - step, 4.0, 4.0]
        table = pa.table({"target": pa.array([values], pa.list_(pa.float64()))})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        task = {"kind": "gift", "term": "short", "prediction_length": 2, "windows": 1}
        entry = {"name": name, "file": f"{name}.parquet", "freq": "D", "domain": "Energy"}
        entries.append(entry | {"season_length": 1, "tasks": [task]})
    (tmp_path / "manifest.json").write_text(json.dumps({"datasets": entries}))
    models = {"seasonal_naive": {"one/short": [1.0, 1.0]}}
    (tmp_path / "published.json").write_text(json.dumps({"models": models}))
    return tmp_path


def records_of(folder: Path) -> dict[str, dict]:
    done: dict = {}
    study_strategies.study(load_tasks(folder), Constant(), done=done)
    published = json.loads((folder / "published.json").read_text())
    return {r["strategy"]: r for r in study_strategies.summarise(done, published)}


def test_every_effort_and_every_switch_is_compared_with_one_pass() -> None:
    found = study_strategies.strategies()
    assert next(iter(found)) == study_strategies.PLAIN
    assert set(EFFORTS.values()) <= set(found.values())
    assert len(set(found.values())) == len(found)
    plain = found[study_strategies.PLAIN]
    for one in (
        plain._replace(strides=None),
        plain._replace(symmetry=True),
        plain._replace(adjust=True),
        plain._replace(augment=True),
    ):
        assert one in found.values()


def test_a_strategy_is_handed_over_as_options(folder: Path) -> None:
    model = Constant()
    study_strategies.study(load_tasks(folder)[:1], model, done={})
    off = dict.fromkeys(SWITCHES, False)
    assert model.asked[0] == {"strides": (1,), **off}
    assert {"strides": "auto", **off} in model.asked
    assert len(model.asked) == len(study_strategies.strategies())


def test_scores_by_hand(folder: Path) -> None:
    found = records_of(folder)
    # one pass misses 4 by 4, seasonal naive by 1 and by 2: ratios of 4 and 2
    plain, mirrored = found["one pass"], found["symmetry"]
    assert plain["groups"]["all"]["mase"] == pytest.approx(8**0.5)
    assert plain["groups"]["published"] == {
        "tasks": 1,
        "mase": pytest.approx(4.0),
        "crps": plain["groups"]["published"]["crps"],
    }
    assert mirrored["groups"]["all"]["mase"] == pytest.approx(8**0.5 * 3 / 4)
    # nothing lies in an interval without width, and every label above every level
    assert plain["covered"] == 0 and plain["error"] == pytest.approx(0.5)
    assert plain["effort"] == "fast" and mirrored["effort"] is None
    assert {r["effort"] for r in found.values()} == {None, *EFFORTS}
    assert plain["windows"] == plain["all_windows"] == 2


def test_cost_is_relative_to_one_pass(folder: Path) -> None:
    done: dict = {}
    study_strategies.study(load_tasks(folder), Constant(), done=done)
    for i, records in enumerate(done.values()):
        for entry in records.values():
            entry["model"] |= {"cpu_seconds": 1.0 + i, "seconds": 0.5}
    found = study_strategies.summarise(done)
    assert [r["cost"] for r in found] == [1.0 + i for i in range(len(found))]
    assert {r["per_second"] for r in found} == {2.0}
    # tasks that a strategy lacks are left out of all
    del done["symmetry"]["one/short"]
    assert {r["groups"]["all"]["tasks"] for r in study_strategies.summarise(done)} == {1}


class Slow(Constant):
    """Spends a fifth of a second of processor time on the first forecast of each strategy, as a model that compiles."""

    def __init__(self, known: set[str], strategy: str = "") -> None:
        super().__init__()
        self.known, self.strategy = known, strategy

    def with_options(self, **changes: Any) -> "Slow":
        return Slow(self.known, str(changes))

    def predict_quantiles(self, inputs, prediction_length, quantile_levels):
        began = time.process_time()
        while self.strategy not in self.known and time.process_time() - began < 0.2:
            pass
        self.known.add(self.strategy)
        return super().predict_quantiles(inputs, prediction_length, quantile_levels)


def test_a_first_call_is_nobodys_time(folder: Path) -> None:
    done: dict = {}
    study_strategies.study(load_tasks(folder), Slow(set()), done=done)
    times = [r["model"]["cpu_seconds"] for records in done.values() for r in records.values()]
    assert max(times) < 0.1


def test_the_command_writes_resumes_and_refuses(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"one")
    model = Constant()
    monkeypatch.setattr(evaluate, "load_model", lambda path, device: (model, [weights]))
    output = folder / "out.json"
    flags = ["strategies", "--pack", str(folder), "--model", "runs/m", "--output", str(output)]
    assert study.main([*flags, "--tasks", "one/*"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("| strategy | effort | MASE, CRPS: all (1) |")
    assert out[2].startswith("| one pass | `fast` | 4.000, ")
    assert json.loads(out[-1])["one pass"]["mase"] == pytest.approx(4.0)
    first = json.loads(output.read_text())
    assert [r["strategy"] for r in first["records"]] == list(study_strategies.strategies())

    model.asked.clear()
    assert study.main([*flags, "--resume"]) == 0
    assert "(2)" in capsys.readouterr().out.splitlines()[0]
    second = json.loads(output.read_text())
    # one task is kept, the other is new
    assert len(model.asked) == len(study_strategies.strategies())
    assert second["tasks"]["symmetry"]["one/short"] == first["tasks"]["symmetry"]["one/short"]

    assert study.main([*flags, "--resume", "--max-windows", "1"]) == 2
    assert "max_windows" in capsys.readouterr().err
    weights.write_bytes(b"two")
    assert study.main([*flags, "--resume"]) == 2
    assert "made with model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        study.main([*flags[:5], "--resume"])


def test_a_sample_is_named(folder: Path) -> None:
    record = records_of(folder)["one pass"]
    assert "2 windows. Off by" in study_strategies.render([record])
    sample = study_strategies.render([record | {"all_windows": 5}])
    assert "A SAMPLE: 2 of 5 windows" in sample
