"""What bench/conftest.py makes of benchmarks, good and bad, in a pytest of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PROBE = """
import time
import pytest
from bench.timing import Peaks

@pytest.fixture
def peaks():
    return Peaks(10.0, {"float32": 1.0, "bfloat16": 2.0})

def slow():
    time.sleep(0.004)

def fast():
    time.sleep(0.001)
    return 7

def bench_right(benchmark, timed):
    benchmark.group = "probe"
    assert timed(fast, bytes_moved=1e6, calls=1, rounds=3, flop=1e6, against=slow) == 7

def bench_wrong(benchmark, timed):
    timed(fast, bytes_moved=1e6, calls=1, rounds=2, against=slow)
    raise AssertionError("not the definition's result")

def bench_untested(benchmark, timed):
    timed(fast, bytes_moved=1e6, calls=1, rounds=2, against=slow, op="no_such_op")
"""


def run(tmp_path, *arguments, **environment):
    (tmp_path / "bench_probe.py").write_text(PROBE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "bench.conftest", "--benchmark-only"]
    command += ["-p", "no:cacheprovider", "-o", "python_files=bench_*.py"]
    command += ["-o", "python_functions=bench_*", "--save", str(tmp_path / "out"), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TINYTSM_BENCH_DEVICE": "cpu"} | environment
    return subprocess.run(
        [*command, "bench_probe.py"],
        check=False,
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    done = run(folder, "--compare", TINYTSM_BENCH_TINY="0")
    (path,) = (folder / "out").glob("*/probe.json")
    return done, json.loads(path.read_text())


def test_a_right_result_is_kept_with_its_ratio(probe):
    _, document = probe
    row = next(row for row in document["rows"] if row["name"] == "bench_right")
    assert row["group"] == "probe"
    # 4 ms against 1 ms; a busy machine stretches both
    assert row["ratio"] > 1 and row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert row["GB/s"] == pytest.approx(1e6 / row["us_per_call"] * 1e6 / 1e9, rel=1e-4)
    assert row["of_copy"] == pytest.approx(row["GB/s"] / 10, rel=1e-4)
    assert row["of_matmul"] == pytest.approx(row["TFLOP/s"], rel=1e-4)


def test_no_ratio_is_printed_of_what_is_wrong_or_untested(probe):
    done, document = probe
    rows = {row["name"]: row for row in document["rows"]}
    for name, reason in {
        "bench_wrong": "its result is wrong",
        "bench_untested": "tests of no_such_op: absent",
    }.items():
        assert rows[name]["withheld"] == reason and "ratio" not in rows[name]
        assert f"no ratio for {name}: {reason}" in done.stdout
    assert done.returncode == 1
    assert "nothing to compare with" in done.stdout


def test_what_is_left_after_the_time_box_is_skipped(tmp_path):
    done = run(tmp_path, "--minutes", "0.000001", TINYTSM_BENCH_TINY="1")
    # the first begins the box
    assert "2 skipped" in done.stdout


def test_tiny_sizes_are_not_compared(tmp_path):
    done = run(tmp_path, "--compare", TINYTSM_BENCH_TINY="1")
    assert done.returncode == 4
    assert "--compare needs full sizes: unset TINYTSM_BENCH_TINY" in done.stderr
