"""The doctor: what it finds is what is there, and what it advises follows from it."""

import json
import platform

import pytest
import torch

from tinytsm import cli, doctor, gate


def test_it_finds_what_is_there() -> None:
    found = doctor.examine()
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert len(found["devices"]) == torch.cuda.device_count()
    assert (found["ops"] == "Triton kernels") == bool(found["devices"])
    assert set(found["attention"]) == {"causal", "feature"}
    assert ("triton" in found["attention"].values()) == bool(found["devices"])


def test_advice_follows_from_what_is_missing() -> None:
    found = doctor.examine()
    found["packages"] = dict.fromkeys(found["packages"], "1")
    found |= {"cxx_compiler": "g++", "cuda": None, "devices": []}
    assert doctor.advice(found) == []
    found["packages"]["pyarrow"] = None
    found |= {"cxx_compiler": None, "cuda": "13.0"}
    lines = doctor.advice(found)
    assert len(lines) == 3
    assert "pip install 'tinytsm[parquet]'" in lines[0]
    assert "uncompiled" in lines[1] and "nvidia-smi" in lines[2]


def test_the_command_prints_for_people_and_for_programs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["doctor"]) == 0
    assert "blocks in" in capsys.readouterr().out
    bad = gate.Report(case="planted", arch=90, faults=("spills",))
    monkeypatch.setattr(gate, "reports", lambda **_: iter([bad]))
    assert cli.main(["doctor", "--json", "--arch", "90"]) == 1
    assert json.loads(capsys.readouterr().out)["kernels"][0]["case"] == "planted"
    assert cli.main(["doctor", "--arch", "90"]) == 1
    assert gate.line(bad) in capsys.readouterr().out


def test_an_unknown_chip_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        doctor.main(["--arch", "12345"])
    assert stop.value.code == 2
    assert "invalid choice: 12345" in capsys.readouterr().err
