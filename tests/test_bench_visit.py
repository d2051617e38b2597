"""A visit to a GPU machine: deadlines hold, what falls over goes on, nothing is trained on a bad machine."""

import json
import re
from pathlib import Path

import pytest

from bench import verify, visit
from tinytsm import TinyTSM, checkpoint, train
from tinytsm.config import TrainConfig, given

# Stands in for the trainer: falls over once, having left a checkpoint, and then must be told to go on.
_TRAINER = """
import pathlib, sys
arguments = sys.argv[1:]
folder = pathlib.Path(arguments[arguments.index("--out") + 1])
(folder / "checkpoints" / "step-1").mkdir(parents=True, exist_ok=True)
with (folder / "calls").open("a") as file:
    print(*arguments, file=file)
sys.exit(0 if "--resume" in arguments else 70)
"""


def test_a_process_past_its_time_is_killed_and_said_so(tmp_path: Path) -> None:
    one = visit.Visit(tmp_path, 60)
    assert not one.run("slow", "-c", "import time; time.sleep(60)", seconds=1)
    assert not one.run("bad", "-c", "import sys; print('why'); sys.exit(3)", seconds=30)
    assert one.run("good", "-c", "pass", seconds=30)
    found = {name: row["outcome"] for name, row in one.rows.items()}
    assert found == {"slow": "out of time", "bad": "exit 3", "good": "passed"}
    assert (tmp_path / "bad.log").read_text() == "why\n"


def test_a_trainer_that_falls_over_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visit, "_TRAIN", ("-c", _TRAINER))
    one = visit.Visit(tmp_path, 90)
    runs = {"tiny": ["--preset", "tiny", "--init-from", "nano", "--lr", "1"]}
    visit.train(one, runs, tmp_path / "release")
    first, second = (tmp_path / "tiny" / "calls").read_text().splitlines()
    assert "--init-from nano" in first and "--resume" not in first
    # the checkpoint has taken the place of what it began from
    assert "--init-from" not in second and "--preset tiny --lr 1 --resume" in second
    assert one.rows["train-tiny"]["outcome"] == "passed"
    # there are no weights in a made-up checkpoint
    assert one.rows["export-tiny"]["outcome"] == "exit 2"
    assert "--end-in" in first and "--end-in" in second


def test_a_run_is_released_while_it_is_trained(tmp_path: Path, miniature: TinyTSM) -> None:
    one = visit.Visit(tmp_path, 60)
    made = visit._Releases(one, tmp_path / "release")
    made.renew("tiny")
    assert made._making is None
    model = miniature.model
    for step in (1, 2):
        folder = tmp_path / "tiny" / "checkpoints" / f"step-{step}"
        checkpoint.save(folder, model.config, model.state_dict())
        made.finish("tiny")
        assert one.rows["export-tiny"]["outcome"] == "passed"
        assert made.made["tiny"] == folder
    found = {p.name for p in (tmp_path / "release" / "tiny").iterdir()}
    assert found >= {"config.json", "card.json"}
    # one that failed is told from the next run's, and would be made again
    (tmp_path / "nano" / "checkpoints" / "step-1").mkdir(parents=True)
    made.renew("nano")
    made.finish("tiny")
    assert one.rows["export-nano"]["outcome"] == "exit 2" and "nano" not in made.made


@pytest.mark.parametrize(
    ("failed", "withheld"),
    [
        ("tests-grid_loss", ["grid_loss"]),
        ("large-causal_attention", ["causal_attention"]),
        ("large-graphs", []),
    ],
)
def test_a_failing_op_withholds_its_own_ratios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: str, withheld: list[str]
) -> None:
    def start(self, name: str, *arguments: str):
        failing = name == failed
        return start_process(
            self, name, "-c", f"print('1 passed'); raise SystemExit({int(failing)})"
        )

    start_process = visit.Visit.start
    monkeypatch.setattr(visit.Visit, "start", start)
    one = visit.Visit(tmp_path, 60)
    assert not visit.prove(one, {})
    verdicts = json.loads((tmp_path / "verdicts.json").read_text())
    assert set(verdicts) == set(verify.OPS)
    assert [op for op, verdict in verdicts.items() if verdict != "passed"] == withheld


@pytest.mark.parametrize("proven", [True, False])
def test_training_waits_for_the_proofs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    proven: bool,
) -> None:
    trained: list[str] = []
    monkeypatch.setattr(visit, "prove", lambda one, runs: proven)
    monkeypatch.setattr(visit, "take_times", lambda one: 1e6)
    monkeypatch.setattr(visit, "train", lambda one, runs, releases: trained.extend(runs))
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"runs": {"tiny": []}}))
    code = visit.main(["--out", str(tmp_path / "out"), "--plan", str(plan), "--seconds", "5"])
    assert (code, trained) == ((0, ["tiny"]) if proven else (1, []))
    assert json.loads(capsys.readouterr().out)["good"] is proven
    assert (tmp_path / "out" / "visit.json").exists()


def test_the_plan_that_ships_trains_as_the_makefile_does() -> None:
    root = Path(visit.__file__).parent.parent
    recipe = re.search(r"^RECIPE_GPU := (.*)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    wanted = given(train.parse(recipe[1].split()), TrainConfig)
    plan = json.loads((root / "bench" / "visit.json").read_text())
    shipped = given(train.parse(plan["runs"]["tiny"]), TrainConfig)
    assert wanted and {name: shipped.get(name) for name in wanted} == wanted


def test_the_plan_that_ships_is_of_flags_that_the_trainer_has() -> None:
    plan = json.loads((Path(visit.__file__).parent / "visit.json").read_text())
    for flags in plan["runs"].values():
        train.parse(flags)
