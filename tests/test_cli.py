"""The command line as a user meets it: results, notes, one-line errors, exit status."""

import io
import json
import os
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tinytsm
from tinytsm import cli
from tinytsm.commands import console

ROOT = Path(__file__).resolve().parents[1]


class Flat:
    """Forecasts 0 plus the quantile level at every step."""

    def predict_quantiles(
        self, inputs: Sequence[np.ndarray], prediction_length: int, quantile_levels: Sequence[float]
    ) -> tuple[Any, Any]:
        mean = np.zeros((len(inputs), prediction_length))
        return mean[..., None] + np.asarray(quantile_levels), mean


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one wide table, and a model that forecasts like Flat."""
    days = pd.date_range("2024-01-01", periods=30).strftime("%Y-%m-%d")
    pd.DataFrame({"date": days, "y": np.arange(30)}).to_csv(tmp_path / "data.csv", index=False)
    (tmp_path / "runs" / "nano").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "load_model", lambda model, device, options=None: Flat())
    return tmp_path


def forecast(*flags: str) -> int:
    return cli.main(["forecast", *flags])


def test_csv_to_standard_output(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert forecast("data.csv", "--horizon", "2", "--quantiles", ".1,.9") == 0
    out, err = capsys.readouterr()
    assert out == (
        "item_id,date,target_name,predictions,0.1,0.9\n"
        "y,2024-01-31,y,0.5,0.1,0.9\n"
        "y,2024-02-01,y,0.5,0.1,0.9\n"
    )
    assert err.splitlines() == [
        "tinytsm: frequency D",
        "tinytsm: 1 series, 30 steps; model nano",
    ]


def test_files(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    for name in ("out.csv", "out.parquet", "out.json"):
        assert forecast("data.csv", "--horizon", "2", "--output", name) == 0
        out, err = capsys.readouterr()
        assert out == ""
        assert f"tinytsm: wrote {name}\n" in err
    table = pd.read_csv("out.csv", parse_dates=["date"])
    pd.testing.assert_frame_equal(table, pd.read_parquet("out.parquet"), check_dtype=False)
    assert json.loads(Path("out.json").read_text())["series"][0]["predictions"] == [0.5, 0.5]
    assert forecast("out.parquet", "--horizon", "1", "--target", "0.1", "--freq", "D") == 0
    # nothing temporary stays behind
    assert sorted(p.name for p in place.iterdir()) == [
        "data.csv",
        "out.csv",
        "out.json",
        "out.parquet",
        "runs",
    ]


def test_json_is_one_document(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert forecast("data.csv", "--horizon", "2", "--json", "--quantiles", "0.25,0.75") == 0
    assert json.loads(capsys.readouterr().out) == {
        "model": "nano",
        "horizon": 2,
        "quantile_levels": [0.25, 0.75],
        "notes": ["frequency D"],
        "series": [
            {
                "item_id": "y",
                "target_name": "y",
                "freq": "D",
                "timestamp": ["2024-01-31T00:00:00", "2024-02-01T00:00:00"],
                "predictions": [0.5, 0.5],
                "quantiles": {"0.25": [0.25, 0.25], "0.75": [0.75, 0.75]},
            }
        ],
    }


def test_the_mean_and_filled_steps(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rare.csv").write_text("date,y\n2024-01-01,5\n2024-01-02,6\n2024-01-04,7\n")
    assert forecast("rare.csv", "--horizon", "1", "--fill", "0", "--mean", "--json") == 0
    out, err = capsys.readouterr()
    assert "tinytsm: 1 of 4 steps have no row and count as 0\n" in err
    assert json.loads(out)["series"][0]["mean"] == [0.0]
    assert forecast("rare.csv", "--horizon", "1", "--mean", "--quantiles", ".1") == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("predictions,mean,0.1")
    assert forecast("rare.csv", "--horizon", "1", "--fill", "nothing") == 2
    assert "fill must be a number such as 0, got 'nothing'" in capsys.readouterr().err


def test_pipe_in(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"step,y\n1,5\n2,6\n4,7\n")))
    assert forecast("-", "--horizon", "1", "--timestamp-column", "step", "--quantiles", "0.5") == 0
    assert capsys.readouterr().out.splitlines()[1] == "y,5,y,0.5,0.5"


def test_plot(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert forecast("data.csv", "--horizon", "2", "--plot", "p.png", "--last", "10") == 0
    assert Path("p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "tinytsm: wrote p.png\n" in capsys.readouterr().err


def test_the_model_is_the_shipped_one_or_the_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, name in (
        ([], "nano"),
        (["--model", "nano"], "nano"),
        (["--model", "runs/nano"], "runs/nano"),
    ):
        assert forecast("data.csv", "--horizon", "1", *flags) == 0
        assert f"; model {name}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["none.csv", "--horizon", "1"], "none.csv: no such file; check the path"),
        (["data.csv"], "the following arguments are required: --horizon (see tinytsm forecast --help)"),
        (["data.csv", "--horizon", "0"], "horizon (prediction_length) must be a whole number of at least 1, got '0'"),
        (["data.csv", "--horizon", "-3"], "horizon (prediction_length) must be a whole number of at least 1, got '-3'"),
        (["data.csv", "--horizon", "1.5"], "horizon (prediction_length) must be a whole number of at least 1, got '1.5'"),
        (["data.csv", "--horizon", "1", "--quantiles", "10,90"], "quantile level 10 is outside (0, 1); write"),
        (["data.csv", "--horizon", "1", "--quantiles", ","], "quantile levels are empty"),
        (["data.csv", "--horizon", "1", "--last", "0"], "--last must be a whole number of at least 1, got '0'"),
        (["data.csv", "--horizon", "1", "--context-length", "x"], "--context-length must be a whole number"),
        (["data.csv", "--horizon", "1", "--output", "x.txt"], "x.txt: wanted a name that ends in .csv, .json"),
        (["data.csv", "--horizon", "1", "--plot", "x.csv"], "x.csv: wanted a name that ends in .png, .svg, .pdf"),
        (["data.csv", "--horizon", "1", "--output", "no/x.csv"], "no/x.csv: no folder 'no'; create it first"),
        (["data.csv", "--horizon", "1", "--model", "no"], "--model no: no such file or folder, and no shipped model (nano, tiny); name one"),
        (["data.csv", "--horizon", "1", "--device", "gpu"], "--device must be auto, cpu, cuda, cuda:1 or mps, got 'gpu'"),
        (["data.csv", "--horizon", "1", "--target", "z"], "column 'z' for the target is missing; the table has: date, y"),
        (["data.csv", "--horizon", "1", "--freq", "x"], "unknown frequency 'x'; use one such as"),
        (["data.csv", "--horizon", "200000"], "the table: 200000 steps of D lead beyond the year 2262"),
        (["text.csv", "--horizon", "1"], "line 3, column 'y': 'abc' is not a number; write it as 1234.5"),
        (["empty.csv", "--horizon", "1"], "empty.csv is empty; it needs a header line"),
        (["blank.csv", "--horizon", "1"], "series 'y': every value is missing; fill in at least one"),
        (["data.csv", "--horizon", "1", "--nonsense"], "unrecognized arguments: --nonsense (see tinytsm forecast --help)"),
    ],
)  # fmt: skip
def test_errors_are_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    (place / "text.csv").write_text("ds,y\n2024-01-01,1\n2024-01-02,abc\n2024-01-03,3\n")
    (place / "empty.csv").touch()
    (place / "blank.csv").write_text("ds,y\n2024-01-01,\n2024-01-02,\n2024-01-03,\n")
    assert forecast(*flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"tinytsm: error: {message}")
    assert err.count("\n") == 1


def test_a_damaged_model_is_the_users_to_mend(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        @staticmethod
        def from_pretrained(path: Path, *, device: str) -> None:
            raise ValueError(f"{path} is damaged\nat byte 5 ({device})")

    monkeypatch.undo()
    monkeypatch.chdir(place)
    monkeypatch.setitem(sys.modules, "tinytsm.forecast", types.SimpleNamespace(TinyTSM=Broken))
    assert forecast("data.csv", "--horizon", "1", "--model", "runs/nano", "--device", "cpu") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "tinytsm: error: --model runs/nano: runs/nano is damaged at byte 5 (cpu)"


def test_a_fault_of_the_program_shows_where(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(model: str, device: str, options: object) -> Flat:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(console, "load_model", fail)
    assert forecast("data.csv", "--horizon", "1") == 1
    assert "ZeroDivisionError: ours" in capsys.readouterr().err


def test_interrupt(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(model: str, device: str, options: object) -> Flat:
        raise KeyboardInterrupt

    monkeypatch.setattr(console, "load_model", stop)
    assert forecast("data.csv", "--horizon", "1") == 130


def test_other_commands_get_their_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "evaluate"):
        seen: list[list[str]] = []

        def main(argv: list[str], seen: list[list[str]] = seen) -> int:
            seen.append(argv)
            return 7

        monkeypatch.setitem(sys.modules, f"tinytsm.{name}", types.SimpleNamespace(main=main))
        assert cli.main([name, "--steps", "5", "--help"]) == 7
        assert seen == [["--steps", "5", "--help"]]


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tinytsm {tinytsm.__version__}\n"
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("forecast", "train", "evaluate"))
    assert forecast("--help") == 0
    assert "tinytsm forecast sales.csv --horizon 12" in capsys.readouterr().out
    assert cli.main([]) == 2
    assert capsys.readouterr().err.startswith(
        "tinytsm: error: the following arguments are required: COMMAND"
    )


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_bad_input_is_answered_without_torch(place: Path) -> None:
    (place / "bad.csv").write_text("ds,y\n2024-01-01,1\n2024-01-01,2\n")
    done = run_python(
        "import sys; from tinytsm.cli import main\n"
        "assert main(['train-no-such']) == 2 and 'pandas' not in sys.modules\n"
        "assert main(['forecast', 'bad.csv', '--horizon', '3']) == 2 and 'torch' not in sys.modules",
        place,
    )
    assert done.returncode == 0, done.stderr
    assert "line 3, column 'ds': time stamp 2024-01-01 is there twice" in done.stderr


# forecasts of nothing but zeros, without loading a network
FLAT = """
import os, sys; from tinytsm import cli
import numpy as np
class Flat:
    def predict_quantiles(self, inputs, prediction_length, quantile_levels):
        return np.zeros((len(inputs), prediction_length, len(quantile_levels))), None
from tinytsm.commands import console
console.load_model = lambda *a: Flat()
{output}
sys.exit(cli.main(['forecast', 'data.csv', '--horizon', '{horizon}']))
"""


def test_a_reader_that_leaves_early_is_no_error(place: Path) -> None:
    left = "read, write = os.pipe(); os.close(read); os.dup2(write, 1)"
    done = run_python(FLAT.format(output=left, horizon=5000), place)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr


FULL = "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk to write to")
# what fits in the buffer, and what does not
@pytest.mark.parametrize("horizon", [3, 5000])
def test_a_full_output_is_one_line(place: Path, horizon: int) -> None:
    done = run_python(FLAT.format(output=FULL, horizon=horizon), place)
    assert done.returncode == 2, done.stderr
    line = "tinytsm: error: standard output cannot be written (No space left on device); send it elsewhere"
    assert done.stderr.splitlines()[-1] == line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk to write to")
def test_a_full_output_of_other_commands_is_one_line(place: Path) -> None:
    # whatever PYTHONUNBUFFERED says
    buffered = "sys.stdout.reconfigure(write_through=False)"
    done = run_python(
        f"import os, sys; from tinytsm import cli; {buffered}; {FULL}; sys.exit(cli.main(['doctor']))",
        place,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1


def test_a_closed_output_is_one_line(place: Path) -> None:
    done = run_python(FLAT.format(output="sys.stdout = None", horizon=3), place)
    assert done.returncode == 2, done.stderr
    assert "error: standard output cannot be written (it is closed)" in done.stderr.splitlines()[-1]
