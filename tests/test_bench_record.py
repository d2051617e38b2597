import json

import pytest
import torch

from bench import record

ROW = {"name": "op", "ratio": 2.0, "ratio_low": 1.9, "ratio_high": 2.1}


def document(**changes):
    return record.header("probe", torch.device("cpu"), command="x") | {"rows": []} | changes


@pytest.mark.parametrize(
    ("described", "wanted"),
    [
        ({"device": "NVIDIA H200", "kind": "cuda"}, "nvidia-h200"),
        ({"device": "AMD EPYC", "kind": "cpu", "cores": 2}, "cpu-amd-epyc-2-cores"),
        (
            {"device": "Intel(R) Core(TM) i7", "kind": "cpu", "cores": 8},
            "cpu-intel-core-i7-8-cores",
        ),
    ],
)
def test_a_machine_has_one_folder(described, wanted):
    assert record.slug(described) == wanted


def test_a_header_says_what_figures_depend_on():
    head = document()
    assert head["machine"]["kind"] == "cpu" and head["machine"]["threads"] >= 1
    # a wheel may leave its build, such as +cu130, out of its name
    release = torch.__version__.partition("+")[0]
    assert head["versions"]["torch"] in (release, torch.__version__)
    assert {"commit", "date", "command", "section", "tiny"} <= head.keys()


def test_a_document_is_written_whole_and_read_again(tmp_path):
    written = document(tiny=False, rows=[{"name": "a", "us": 1.23456789, "n": 3, "why": None}])
    path = record.write(written, tmp_path)
    assert path == tmp_path / record.slug(written["machine"]) / "probe.json"
    (found,) = record.read_all(tmp_path, "probe")
    # six digits: more is noise
    assert found["rows"] == [{"name": "a", "us": 1.23457, "n": 3, "why": None}]
    assert record.read_all(tmp_path, "other") == []
    assert [p.name for p in path.parent.iterdir()] == ["probe.json"]


def test_tiny_sizes_are_no_results():
    with pytest.raises(ValueError, match="tiny sizes are no results: give another folder than"):
        record.write(document(tiny=True), record.RESULTS)


@pytest.mark.parametrize(
    ("now", "fell"),
    [
        (ROW, False),
        # a fall within the tolerance, one that the spread covers, and one that is lost
        (ROW | {"ratio": 1.75, "ratio_high": 1.8}, False),
        (ROW | {"ratio": 1.2, "ratio_high": 1.95}, False),
        (ROW | {"ratio": 1.2, "ratio_high": 1.3}, True),
        (ROW | {"ratio": 3.0, "ratio_high": 3.1}, False),
    ],
)
def test_a_ratio_that_fell_is_named(now, fell):
    lines, compared = record.regressions([now], [ROW])
    assert compared == 1
    assert lines == (["op: 1.20, committed 2.00"] if fell else [])


def test_only_ratios_of_the_same_benchmark_are_compared():
    withheld = {"name": "op", "withheld": "tests of op: failed"}
    assert record.regressions([withheld], [ROW]) == (["op: tests of op: failed, committed 2.00"], 0)
    assert record.regressions([ROW], [withheld]) == ([], 0)
    assert record.regressions([ROW | {"name": "new"}], [ROW]) == ([], 0)


def test_the_committed_document_is_read_from_git(monkeypatch):
    asked = []

    def git(*arguments):
        asked.append(arguments)
        return json.dumps({"rows": [ROW]})

    monkeypatch.setattr(record, "_git", git)
    now = document(machine={"device": "NVIDIA H200", "kind": "cuda"})
    assert record.committed(now) == {"rows": [ROW]}
    assert asked[-1] == ("show", "HEAD:bench/results/nvidia-h200/probe.json")
    monkeypatch.setattr(record, "_git", lambda *arguments: None)
    assert record.committed(now) is None


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TINYTSM_BENCH_DEVICE", raising=False)
    assert record.pick_device() == torch.device("cpu")
    with pytest.raises(
        ValueError, match="device cuda was asked for, but torch sees 0 of that kind"
    ):
        record.pick_device("cuda")
