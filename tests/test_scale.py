"""Scaling out: series dealt whole to blocks, bad ones reported, a killed worker survived."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinytsm import TinyTSM, scale
from tinytsm.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
OPTIONS: dict[str, Any] = {
    "prediction_length": 4, "quantile_levels": (0.1, 0.9), "id_column": "shop",
    "timestamp_column": "day", "target": "sold", "freq": None,
}  # fmt: skip


def panel(series: int, steps: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=steps)
    return pd.DataFrame(
        {
            "shop": np.repeat([f"s{i}" for i in range(series)], steps),
            "day": np.tile(days, series),
            "sold": rng.normal(size=series * steps).round(3),
            "unused": 1,
        }
    )


def test_series_are_dealt_whole_and_everywhere_alike() -> None:
    table = panel(40, 3)
    dealt = scale.deal(table, id_column="shop", blocks=5)
    numbers = dealt.groupby("shop")["__block"]
    assert (numbers.nunique() == 1).all()
    assert set(dealt["__block"]) == set(range(5))
    # in another process, with another seed for hash(), and with ids as categories
    code = (
        "import pandas as pd; from tinytsm import scale\n"
        "t = pd.DataFrame({'shop': [f's{i}' for i in range(40)]}).astype('category')\n"
        "print(scale.deal(t, id_column='shop', blocks=5)['__block'].tolist())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "7"},
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert out.strip() == str(numbers.first().loc[[f"s{i}" for i in range(40)]].tolist())


@pytest.fixture
def worker(miniature: TinyTSM, monkeypatch: pytest.MonkeyPatch) -> scale.BlockForecaster:
    monkeypatch.setattr(TinyTSM, "from_pretrained", lambda *a, **k: miniature)
    return scale.BlockForecaster("nano", "cuda", OPTIONS)


def test_a_block_is_forecast_as_a_frame(worker: scale.BlockForecaster, miniature: TinyTSM) -> None:
    table = panel(3, 30)
    got = worker(table.assign(__block=2))
    wanted = miniature.predict_df(table, **OPTIONS)
    pd.testing.assert_frame_equal(got.drop(columns="error"), wanted)
    assert (got["error"] == "").all() and list(got) == worker.columns()


def test_a_block_is_forecast_with_the_options(
    worker: scale.BlockForecaster, miniature: TinyTSM
) -> None:
    best = scale.BlockForecaster("nano", "cuda", OPTIONS | {"effort": "best"})
    got = best(panel(2, 30))["predictions"]
    wanted = miniature.predict_df(panel(2, 30), **OPTIONS, effort="best")["predictions"]
    pd.testing.assert_series_equal(got, wanted)
    assert not got.equals(worker(panel(2, 30))["predictions"])


def test_a_bad_series_costs_no_other(worker: scale.BlockForecaster, miniature: TinyTSM) -> None:
    table = panel(3, 30)
    table.loc[table["shop"] == "s1", "sold"] = np.inf
    got = worker(table)
    assert list(got) == worker.columns()
    (bad,) = got[got["error"] != ""].itertuples()
    assert bad.shop == "s1" and "the value is infinite" in bad.error and np.isnan(bad.predictions)
    good = table[table["shop"] != "s1"]
    wanted = miniature.predict_df(good, **OPTIONS)
    rest = got[got["error"] == ""].drop(columns="error").reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, wanted, check_dtype=False)


@pytest.mark.parametrize("ids", [["s1"], ["s0", "s1", "s2"]])
def test_rows_without_an_id_are_one_bad_series(
    worker: scale.BlockForecaster, ids: list[str]
) -> None:
    table = panel(3, 30)
    table["shop"] = table["shop"].mask(table["shop"].isin(ids))
    got = worker(table)
    (bad,) = got[got["error"] != ""].itertuples()
    assert pd.isna(bad.shop) and "the id is missing; fill it in" in bad.error
    assert len(got) == 1 + 4 * (3 - len(ids)) and list(got) == worker.columns()


def test_a_short_series_keeps_the_step_of_its_block(
    worker: scale.BlockForecaster, miniature: TinyTSM
) -> None:
    table = panel(4, 30)
    table = table[(table["shop"] != "s1") | (table["day"] < "2024-01-03")]
    wanted = miniature.predict_df(table[table["shop"] != "s2"], **OPTIONS)
    table.loc[table["shop"] == "s2", "sold"] = np.nan
    got = worker(table)
    assert got.loc[got["error"] != "", "shop"].tolist() == ["s2"]
    rest = got[got["error"] == ""].drop(columns="error")
    pd.testing.assert_frame_equal(rest, wanted, check_dtype=False)


def test_series_that_cannot_be_read_together_are_read_alone(
    worker: scale.BlockForecaster, miniature: TinyTSM
) -> None:
    table = panel(2, 30)
    iso, spelled = table["day"].dt.strftime("%Y-%m-%d"), table["day"].dt.strftime("%B %d, %Y")
    table["day"] = iso.where(table["shop"] == "s0", spelled)
    got = worker(table)
    assert (got["error"] == "").all()
    parts = [miniature.predict_df(rows, **OPTIONS) for _, rows in table.groupby("shop")]
    pd.testing.assert_frame_equal(got.drop(columns="error"), pd.concat(parts, ignore_index=True))


def test_without_ray_one_line_helps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert scale.main(["in", "--output", "out", "--horizon", "3"]) == 2
    wanted = "tinytsm scale: error: scaling out needs ray; run: pip install 'tinytsm[scale]'\n"
    assert capsys.readouterr().err == wanted


def test_a_bad_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["in", "--output", "out", "--horizon", "3", "--strides", "0"]) == 2
    wanted = "tinytsm scale: error: strides must be 'auto' or different whole numbers of at least 1, got [0]\n"
    assert capsys.readouterr().err == wanted


def complaint(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """What `tinytsm scale` says where it does not begin."""
    assert scale.main([*flags, "--horizon", "3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("tinytsm scale: error: ")


class FakeRay:
    """As much of Ray as is asked before the work, and a data set of so many rows."""

    def __init__(self, rows: int, names: tuple[str, ...]) -> None:
        self.data, self.DataContext = self, self
        self.rows, self.names = rows, names
        self.target_max_block_size = 2**27
        self.started: dict[str, object] = {}
        self.fault: Exception | None = None

    def init(self, **start: object) -> None:
        self.started = start
        if self.fault is not None:
            raise self.fault

    def get_current(self) -> "FakeRay":
        return self

    def cluster_resources(self) -> dict[str, float]:
        return {"object_store_memory": 2.0**30}

    def read_parquet(self, source: object, columns: list[str] | None = None) -> "FakeRay":
        return FakeRay(self.rows, tuple(n for n in self.names if columns is None or n in columns))

    def count(self) -> int:
        return self.rows

    def schema(self) -> "FakeRay":
        return self


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay(40, ("shop", "timestamp", "target"))
    monkeypatch.setattr(scale, "require_ray", lambda: fake)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return fake


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("none", "out", "source none: no such file or folder; check the path"),
        ("in", "in", "output in lies in the source in; name another folder"),
        ("in", "in/out", "output in/out lies in the source in; name another folder"),
        ("in", "file", "output file is a file; name a new folder"),
        ("in", "old", "output old is not empty, and forecasts of two runs would mix; empty it or name a new folder"),
    ],
)  # fmt: skip
def test_forecasts_get_a_folder_of_their_own(
    ray: FakeRay, capsys: pytest.CaptureFixture[str], source: str, output: str, message: str
) -> None:
    Path("file").touch()
    Path("old").mkdir()
    Path("old/0.parquet").touch()
    assert complaint(capsys, source, "--output", output) == message
    assert not ray.started
    with pytest.raises(InputError, match=message):
        scale.forecast_dataset([source], output, horizon=3, workers=1)
    # elsewhere is for Ray to say
    scale.check_places("s3://bucket/in", "s3://bucket/out")


def test_a_source_without_rows_or_columns_is_one_line(
    ray: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    line = complaint(capsys, "in", "--output", "out", "--id-column", "shp")
    assert line.startswith("column 'shp' is missing; the data set has: shop, timestamp, target; ")
    ray.rows = 0
    assert complaint(capsys, "in", "--output", "out") == (
        "source in has no rows; give a folder of Parquet files named *.parquet"
    )
    assert not Path("out").exists()


def test_a_bad_device_or_cluster_is_one_line(
    ray: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    line = complaint(capsys, "in", "--output", "out", "--device", "gpu")
    assert line == "--device must be auto, cpu, cuda, cuda:1 or mps, got 'gpu'"
    ray.fault = ConnectionError("Could not find any running Ray instance.")
    line = complaint(capsys, "in", "--output", "out", "--address", "auto")
    assert line == "Could not find any running Ray instance."
    # as Ray tells what a worker met
    ray.fault = OSError("Traceback\n  of a worker")
    ray.fault.cause = PermissionError(13, "Permission denied")  # type: ignore[attr-defined]
    assert complaint(capsys, "in", "--output", "out") == "[Errno 13] Permission denied"


def descendants(root: int) -> dict[int, str]:
    """Process id -> command line of everything below a process."""
    parents, lines = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(path.name)
            parents[pid] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            lines[pid] = (path / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: lines[pid] for pid in below - {root}}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the worker in /proc")
def test_more_than_memory_and_a_killed_worker(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pyarrow = pytest.importorskip("pyarrow")
    megabytes, steps, count = 80, 2048, 750
    table = panel(count, steps)
    # long names, because bytes cost less time than rows
    table["shop"] = table["shop"].str.zfill(64)
    # what is read, as it lies in the object store
    read = pyarrow.Table.from_pandas(table[["shop", "day", "sold"]], preserve_index=False)
    assert read.nbytes > 1.5 * megabytes * 2**20
    (tmp_path / "in").mkdir()
    # a series lies in several files
    for i in range(3):
        table.iloc[i::3].to_parquet(tmp_path / "in" / f"{i}.parquet", index=False)
    command = [sys.executable, "-m", "tinytsm.cli", "scale", str(tmp_path / "in")]
    command += ["--output", str(tmp_path / "out"), "--horizon", "4", "--workers", "1"]
    command += ["--id-column", "shop", "--timestamp-column", "day", "--target", "sold"]
    command += ["--quantiles", ".1,.5", "--effort", "fast"]
    command += ["--rows-per-block", "75000", "--object-store-mb", str(megabytes)]
    # on a machine that is busy with other tests too: time to start, and workers with a share of it
    slow = {
        "RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000", "RAY_worker_niceness": "0",
    }  # fmt: skip
    running = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    killed, stop = None, time.monotonic() + 900
    try:
        while killed is None and running.poll() is None and time.monotonic() < stop:
            time.sleep(0.2)
            for pid, line in descendants(running.pid).items():
                if "BlockForecaster" in line and list((tmp_path / "out").glob("*.parquet")):
                    os.kill(pid, signal.SIGKILL)
                    killed = pid
                    break
        out, err = running.communicate(timeout=900)
    finally:
        running.kill()
    assert running.returncode == 0, err[-3000:]
    assert killed is not None, "the run was over before a worker could be killed"
    assert f'"rows": {count * steps}, "blocks": 21' in out.splitlines()[-1]
    result = pd.read_parquet(tmp_path / "out")
    assert len(result) == 4 * count and (result["error"] == "").all()
    assert result.groupby("shop").size().eq(4).all() and result["shop"].nunique() == count
    # the same in this process; its threads may be others, which moves last bits
    some = table[table["shop"].isin(table["shop"].unique()[::50])]
    model = TinyTSM.from_pretrained(device="cpu")
    wanted = model.predict_df(some, **OPTIONS | {"quantile_levels": (0.1, 0.5)}, effort="fast")
    both = wanted.merge(result, on=["shop", "day", "target_name"], suffixes=("", "_scaled"))
    assert len(both) == len(wanted)
    for column in ("predictions", "0.1", "0.5"):
        np.testing.assert_allclose(both[f"{column}_scaled"], both[column], rtol=1e-5, atol=1e-6)
