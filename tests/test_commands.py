"""The commands that walk through a history: backtest, anomalies, impute, finetune, as a user meets them."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinytsm import TinyTSM, checkpoint, cli
from tinytsm.commands import console
from tinytsm.options import ForecastOptions

ROOT = Path(__file__).resolve().parents[1]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, miniature: TinyTSM) -> Path:
    """A working folder with a wide table of two series, and a model that costs nothing."""
    t = np.arange(90)
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "date": pd.date_range("2024-01-01", periods=90).strftime("%Y-%m-%d"),
            "north": np.sin(t / 4) + 0.1 * rng.normal(size=90),
            "south": 5 + np.cos(t / 4) + 0.1 * rng.normal(size=90),
        }
    )
    table.loc[70, "north"] = 500.0
    table.loc[40:44, "south"] = np.nan
    table.to_csv(tmp_path / "data.csv", index=False)
    monkeypatch.chdir(tmp_path)

    def load(model: str, device: str, options: ForecastOptions = miniature.options) -> TinyTSM:
        return miniature.with_options(**asdict(options))

    monkeypatch.setattr(console, "load_model", load)
    return tmp_path


def test_backtest(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    miniature: TinyTSM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib")
    flags = ["data.csv", "--horizon", "5", "--windows", "3"]
    assert cli.main(["backtest", *flags, "--output", "w.csv", "--plot", "w.png"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "forecaster,mase,crps,mae,mse,coverage_80,windows"
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == [
        "TinyTSM",
        "seasonal naive",
        "relative",
    ]
    assert "tinytsm: wrote w.csv\n" in err and "tinytsm: wrote w.png\n" in err
    assert len(pd.read_csv("w.csv")) == 2 * 3 * 5
    drawn = []
    monkeypatch.setattr(console, "draw", lambda chart, panels, *, last: drawn.append(last))
    for more in ([], ["--step", "2", "--windows", "40"], ["--last", "9"]):
        assert cli.main(["backtest", *flags, "--plot", "w.png", *more]) == 0
    # three times what the windows span, a hundred at least
    assert drawn == [100, 3 * (39 * 2 + 5), 9]
    capsys.readouterr()
    assert Path("w.png").read_bytes()[:8] == PNG
    assert cli.main(["backtest", *flags, "--json", "--season", "7"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["windows"] == 6 and document["scores"]["relative"]["coverage_80"] is None
    frame = pd.read_csv("data.csv", parse_dates=["date"], float_precision="round_trip")
    wanted = miniature.backtest(
        frame, 5, windows=3, season=7, id_column=None, timestamp_column="date", target=None
    )
    assert document["scores"]["TinyTSM"]["mase"] == wanted.scores.loc["TinyTSM", "mase"]
    assert cli.main(["backtest", *flags, "--json", "--season", "7", "--context-length", "4"]) == 0
    cut = json.loads(capsys.readouterr().out)["scores"]
    assert cut["seasonal naive"] == document["scores"]["seasonal naive"]
    assert cut["TinyTSM"]["mase"] != document["scores"]["TinyTSM"]["mase"]


def test_covariates(place: Path, capsys: pytest.CaptureFixture[str], miniature: TinyTSM) -> None:
    table = pd.read_csv("data.csv")
    kinds = np.where(np.arange(95) % 9 < 2, "sale", "none")
    table["day"] = kinds[:90]
    table.to_csv("known.csv", index=False)
    dates = pd.date_range("2024-03-31", periods=5).strftime("%Y-%m-%d")
    coming = pd.DataFrame({"date": dates, "day": kinds[90:], "south": np.ones(5), "moon": 0})
    coming.to_csv("coming.csv", index=False)
    flags = ["known.csv", "--horizon", "5"]
    assert cli.main(["forecast", *flags, "--future", "coming.csv", "--quantiles", ".5"]) == 0
    out, err = capsys.readouterr()
    assert "tinytsm: columns that the history does not have are not used: moon\n" in err
    assert re.search(r"tinytsm: covariates \(day, south\) count in [01] of 1 series", err)
    # a column of numbers that the future has is no target
    assert {line.split(",")[0] for line in out.splitlines()[1:]} == {"north"}
    known = np.column_stack((kinds == "sale", kinds == "none", [*table["south"], *[1.0] * 5]))
    q, _, _ = miniature.predict_with_covariates([table["north"]], [known], 5, [0.5])
    got = [float(line.split(",")[-1]) for line in out.splitlines()[1:]]
    np.testing.assert_allclose(got, q[0, :, 0], rtol=1e-11)

    flags += ["--windows", "2", "--target", "north", "--json"]
    assert cli.main(["backtest", *flags, "--covariate", "day", "--covariate", "south"]) == 0
    score = json.loads(capsys.readouterr().out)["scores"]["TinyTSM"]["mae"]
    medians = [
        miniature.predict_with_covariates([table["north"][:o]], [known[: o + 5]], 5, [0.5])[0]
        for o in (80, 85)
    ]
    truth = table["north"].to_numpy()[80:].reshape(2, 1, 5, 1)
    assert score == pytest.approx(np.abs(np.stack(medians) - truth).mean())
    for flag, message in (
        (
            "--covariate=wind",
            "column 'wind' for the covariates is missing; the table has: date, north, south, day",
        ),
        ("--covariate=north", "column 'north' is the target and cannot be a covariate too"),
    ):
        assert cli.main(["backtest", *flags, flag]) == 2
        assert message in capsys.readouterr().err


def test_anomalies(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    flags = ["anomalies", "data.csv", "--threshold", "1e-9"]
    assert cli.main([*flags, "--only", "--plot", "a.png"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "item_id,date,target_name,value,predictions,0.1,0.9,z,probability,anomaly"
    assert [line.split(",")[:2] for line in lines[1:2]] == [["north", "2024-03-11"]]
    assert re.search(r"tinytsm: \d+ of 180 values are anomalies\n", err)
    assert Path("a.png").read_bytes()[:8] == PNG
    assert cli.main([*flags, "--json"]) == 0
    north, south = json.loads(capsys.readouterr().out)["series"]
    assert (north["item_id"], south["item_id"]) == ("north", "south")
    assert north["z"][0] is None and north["anomaly"][70] is True and len(north["date"]) == 90


def test_impute(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("pyarrow")
    assert cli.main(["impute", "data.csv", "--output", "x.parquet", "--plot", "x.png"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "tinytsm: 5 of 180 values filled\n" in err
    table = pd.read_parquet("x.parquet")
    filled = table[table["imputed"]]
    assert filled["item_id"].eq("south").all() and len(filled) == 5
    assert table["value"].notna().all() and (filled["0.1"] <= filled["0.9"]).all()
    assert cli.main(["impute", "data.csv", "--quantiles", ".25", "--output", "x.json"]) == 0
    document = json.loads(Path("x.json").read_text())
    assert document["quantile_levels"] == [0.25] and len(document["series"][1]["0.25"]) == 90


@pytest.mark.parametrize("command", ["impute", "anomalies", "backtest"])
def test_csv_keeps_every_bit_of_what_was_observed(
    place: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    table = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=40)})
    table["y"] = 1234567890123.0 + 7 * np.arange(40)
    table.loc[1::2, "y"] += 0.123
    table.loc[3, "y"] = np.nan
    table.to_csv("large.csv", index=False)
    more = ["--horizon", "30", "--windows", "1"] if command == "backtest" else []
    assert cli.main([command, "large.csv", "--output", "x.csv", *more]) == 0
    got = pd.read_csv("x.csv", dtype=str)
    column = got["actual" if command == "backtest" else "value"]
    wanted = table["y"].iloc[-len(got) :]
    seen = wanted.notna().to_numpy()
    assert column[seen].astype(float).tolist() == wanted[seen].tolist()
    assert column.iloc[-2] == "1234567890389"
    if command == "impute":
        assert (got.loc[seen, ["0.1", "0.9"]].to_numpy() == column[seen].to_numpy()[:, None]).all()


def test_a_backtest_says_which_series_are_left_out(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv("data.csv")
    table["new"] = [np.nan] * 87 + [1.0, 2.0, 3.0]
    table.to_csv("short.csv", index=False)
    flags = ["--horizon", "5", "--json", "--output", "windows.csv", "--plot", "windows.png"]
    assert cli.main(["backtest", "short.csv", *flags]) == 0
    out, err = capsys.readouterr()
    note = "series 'new': 90 steps leave no window of 5 steps with values in it and before it: left out"
    assert f"tinytsm: {note}\n" in err and note in json.loads(out)["notes"]
    assert "new" not in set(pd.read_csv("windows.csv")["item_id"])
    assert Path("windows.png").stat().st_size > 10_000


def test_finetune(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["finetune", "data.csv", "--horizon", "5", "--output"]
    assert cli.main([*flags, "tuned", "--steps", "2", "--batch-size", "4", "--mode", "lora"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["output"] == "tuned" and report["steps"] == 2
    assert re.search(r"step 0: held-back loss [\d.]+ \(zero-shot\)\n", err)
    assert ("did not help" in err) == (report["kept"] == "zero-shot")
    assert TinyTSM.from_pretrained("tuned", device="cpu").config.d_model == 16
    # work that could not be saved is not begun
    for output, message in (
        (".", "is the working folder; name a new folder"),
        ("data.csv/x", "cannot be written (Not a directory); name another folder"),
    ):
        assert cli.main([*flags, output]) == 2
        err = capsys.readouterr().err
        assert err.endswith(f"tinytsm: error: {output} {message}\n") and "step 0" not in err
    # and a disk that fails later is no fault of the program

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full_disk)
        assert cli.main([*flags, "t", "--steps", "1"]) == 2
    assert capsys.readouterr().err.endswith(
        "tinytsm: error: t cannot be written (No space left on device)\n"
    )
    assert cli.main(["finetune", "data.csv", "--horizon", "40", "--output", "t"]) == 2
    assert "wanted one of at least 120" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["backtest", "--horizon", "5"], ["anomalies"], ["impute"]], ids=lambda flags: flags[0]
)
def test_effort_changes_what_is_forecast(
    place: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    def result(*more: str) -> str:
        assert cli.main([flags[0], "data.csv", *flags[1:], *more]) == 0
        return capsys.readouterr().out

    best = result("--effort", "best")
    assert (
        result("--effort", "fast")
        == result("--effort", "best", "--strides", "1", "--no-symmetry", "--no-adjust")
        != best
    )
    assert cli.main([flags[0], "data.csv", *flags[1:], "--strides", "1,x"]) == 2
    assert "error: --strides must be auto or read like 1,2,4, got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["backtest", "data.csv"], "the following arguments are required: --horizon"),
        (["backtest", "data.csv", "--horizon", "5", "--windows", "0"], "--windows must be a whole number"),
        (["backtest", "data.csv", "--horizon", "90"], "series 'north': 90 steps leave no window of 90 steps"),
        (["anomalies", "data.csv", "--threshold", "2"], "--threshold must be a number between 0 and 1, got '2'"),
        (["anomalies", "data.csv", "--step", "x"], "--step must be a whole number of at least 1, got 'x'"),
        (["impute", "data.csv", "--quantiles", "90"], "quantile level 90 is outside (0, 1)"),
        (["impute", "none.csv"], "none.csv: no such file; check the path"),
        (["impute", "data.csv", "--plot", "x.gif"], "x.gif: wanted a name that ends in .png"),
        (["finetune", "data.csv", "--horizon", "5"], "the following arguments are required: --output"),
        (["finetune", "data.csv", "--horizon", "5", "--output", "t", "--learning-rate", "-1"], "--learning-rate must"),
        (["finetune", "data.csv", "--horizon", "5", "--output", "t", "--seed", "-1"],
         "--seed must be a whole number of at least 0, got '-1'"),
        (["anomalies", "data.csv", "--model", "no"], "--model no: no such file or folder"),
    ],
)  # fmt: skip
def test_errors_are_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert cli.main(flags) == 2
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert out == "" and last.startswith(f"tinytsm: error: {message}")


def test_every_example_of_a_help_text_is_a_command_that_parses() -> None:
    parser = cli.build_parser()
    seen = 0
    for name in ("forecast", "backtest", "finetune", "anomalies", "impute"):
        with pytest.raises(SystemExit) as leave:
            parser.parse_args([name, "--help"])
        assert leave.value.code == 0
    subparsers: Any = next(a for a in parser._actions if a.dest == "command").choices
    for name, sub in subparsers.items():
        for line in (sub.epilog or "").splitlines():
            if match := re.search(r"tinytsm (" + name + r" .*?)(?: \||$)", line):
                parser.parse_args(match[1].split())
                seen += 1
    assert seen >= 12


def test_bad_input_is_answered_without_torch(place: Path) -> None:
    code = (
        "import sys; from tinytsm.cli import main\n"
        "for c in (['backtest', '--horizon', '3'], ['anomalies'], ['impute'],\n"
        "          ['finetune', '--horizon', '3', '--output', 'x']):\n"
        "    assert main([c[0], 'none.csv', *c[1:]]) == 2 and 'torch' not in sys.modules, c"
    )
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
