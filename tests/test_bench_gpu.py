import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench import gpu


def part(code: str, **changes) -> gpu.Part:
    settings: dict[str, Any] = {
        "name": "a part",
        "section": "step",
        "minutes": 1.0,
        "command": ("-c", code),
    }
    return gpu.Part(**settings | changes)


def run(tmp_path, which: gpu.Part, minutes: float = 1.0):
    return gpu.run_part(which, minutes=minutes, out=tmp_path, env=dict(os.environ))


def test_a_part_that_passes_gets_its_folder_and_its_time(tmp_path):
    row = run(tmp_path, part("import sys; print(sys.argv[1:])"))
    assert row["outcome"] == "passed" and row["seconds"] >= 0
    log = (tmp_path / "logs" / "a-part.log").read_text()
    assert log.strip() == str(["--out", str(tmp_path), "--minutes", "0.80"])


def test_a_part_that_fails_says_its_last_line(tmp_path):
    row = run(tmp_path, part("raise SystemExit('no such thing')"))
    assert (row["outcome"], row["why"]) == ("failed", "no such thing")


def test_a_part_that_takes_too_long_is_stopped(tmp_path):
    row = run(tmp_path, part("import time; time.sleep(60)"), minutes=0.03)
    assert row["outcome"] == "out of time" and row["seconds"] < 30


@pytest.mark.parametrize(
    ("changes", "minutes", "why"),
    [
        ({"needs": ("no_such_package",)}, 1.0, "not installed: no_such_package"),
        ({"files": ("bench/no_such_file.py",)}, 1.0, "no bench/no_such_file.py here"),
        ({}, -0.1, "the time box is spent"),
    ],
)
def test_a_part_that_cannot_run_costs_only_itself(tmp_path, changes, minutes, why):
    row = run(tmp_path, part("raise SystemExit(1)", **changes), minutes)
    assert (row["outcome"], row["why"]) == ("skipped", why)


def test_tests_that_were_all_skipped_prove_nothing(tmp_path):
    # the file is named after the command, as pytest wants it
    code = "print('3 skipped in 0.1 s')"
    row = run(tmp_path, part(code, files=("tests/conftest.py",)))
    assert row["outcome"] == "skipped"
    row = run(tmp_path, part("print('3 passed')", files=("tests/conftest.py",)))
    assert row["outcome"] == "passed"


def test_each_section_has_parts_and_fits_ten_minutes():
    assert {p.section for p in gpu.PARTS} == set(gpu.SECTIONS)
    for p in gpu.PARTS:
        for file in p.files:
            assert file.startswith(("bench/bench_", "tests"))


def test_the_command_runs_the_chosen_parts_and_writes_after_each(tmp_path, monkeypatch, capsys):
    seen = []

    def fake(which, *, minutes, out, env):
        seen.append(which.name)
        verdicts = Path(env["TINYTSM_BENCH_VERDICTS"])
        if which.name == "kernels":
            # the tests of the ops come first, so that the benchmarks know their outcome
            assert json.loads(verdicts.read_text())["grid_loss"] == "failed"
        bad = which.name == "tests of grid_loss"
        return {"part": which.name, "outcome": "failed" if bad else "passed", "seconds": 0.0}

    monkeypatch.setattr(gpu, "run_part", fake)
    arguments = ["--device", "cpu", "--section", "kernels", "--out", str(tmp_path)]
    assert gpu.main(arguments) == 1
    assert "memory" not in seen and "kernels" in seen
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["failed"] == ["tests of grid_loss"]
    kept = json.loads((Path(said["results"]) / "parts.json").read_text())
    parts = [row["part"] for row in kept["parts"]]
    # the tests of the ops run at once, in any order; they are kept in the order of the parts
    assert sorted(parts) == sorted(seen)
    assert parts == [p.name for p in gpu.PARTS if p.section == "kernels"]
