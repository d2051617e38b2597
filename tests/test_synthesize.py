"""`tinytsm synth`: the generator's own bits in the file, whatever stopped the writing, in constant memory."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tinytsm import cli, gallery, synthesize
from tinytsm.errors import InputError
from tinytsm.synth import generator, mixture
from tinytsm.synthesize import Request, write

ROOT = Path(__file__).resolve().parents[1]
REQUEST = Request(items=50, length=40, variates=2, seed=3)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four items of REQUEST
    monkeypatch.setattr(synthesize, "CHUNK_VALUES", 320)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "series.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesize, "CHUNK_VALUES", 320)
        write(path, REQUEST)
    return path


# What is in the file


def test_file_holds_the_items_to_the_bit(whole: Path) -> None:
    table = pq.read_table(whole)
    assert table.column_names == ["item_id", "variate", "family", "target"]
    assert table["item_id"].to_pylist() == [i for i in range(50) for _ in range(2)]
    assert table["variate"].to_pylist() == [0, 1] * 50
    assert set(table["family"].to_pylist()) == {"mixture"}
    # Missing values are NaN inside a list, never null
    assert table["target"].combine_chunks().flatten().null_count == 0
    for row, values in enumerate(table["target"].to_pylist()):
        wanted = generator.sample(3, row // 2, 40, 2)[row % 2]
        np.testing.assert_array_equal(np.array(values), wanted)


def test_file_says_what_made_it(whole: Path) -> None:
    note = json.loads(pq.read_schema(whole).metadata[b"tinytsm.synth"])
    assert (note["seed"], note["items"], note["length"], note["variates"]) == (3, 50, 40, 2)
    assert note["mixture"] == mixture.MIXTURE_VERSION


def test_row_groups_are_the_chunks(whole: Path) -> None:
    metadata = pq.read_metadata(whole)
    assert metadata.num_row_groups == REQUEST.chunks == 13
    rows = [metadata.row_group(i).num_rows for i in range(13)]
    assert rows == [8] * 12 + [4]


def test_families_take_turns(tmp_path: Path) -> None:
    names = synthesize.match_families(["spectral.*_noise", "dynamics.e?s", "trend.linear"])
    assert names == ("trend.linear", "dynamics.ets", "spectral.coloured_noise")
    request = Request(items=20, length=30, seed=1, families=names, float32=True)
    write(tmp_path / "f.parquet", request)
    table = pq.read_table(tmp_path / "f.parquet")
    assert table["family"].to_pylist() == [names[i % 3] for i in range(20)]
    for item, values in enumerate(table["target"].to_pylist()):
        wanted = generator.sample_family(names[item % 3], 1, item, 30).astype(np.float32)
        np.testing.assert_array_equal(np.array(values, np.float32), wanted)


def test_a_larger_file_begins_alike(whole: Path, tmp_path: Path) -> None:
    write(tmp_path / "less.parquet", Request(items=9, length=40, variates=2, seed=3))
    less = pq.read_table(tmp_path / "less.parquet")["target"].combine_chunks().flatten()
    more = pq.read_table(whole)["target"].combine_chunks().flatten()
    np.testing.assert_array_equal(less.to_numpy(), more.to_numpy()[: 9 * 80])


# Stopping and going on


def test_workers_do_not_change_a_byte(whole: Path, tmp_path: Path) -> None:
    write(tmp_path / "series.parquet", REQUEST, workers=3)
    assert (tmp_path / "series.parquet").read_bytes() == whole.read_bytes()
    assert os.listdir(tmp_path) == ["series.parquet"]


def test_an_interrupted_call_goes_on(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "series.parquet"
    seen: list[int] = []

    def stop(count: int) -> None:
        seen.append(count)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, REQUEST, advance=stop)
    assert not path.exists()
    parts = sorted((tmp_path / "series.parquet.parts").glob("chunk-*.parquet"))
    assert 3 <= len(parts) < 13
    # As a machine leaves a file that it lost power over
    parts[1].write_bytes(parts[1].read_bytes()[:100])
    seen.clear()
    seen += [0, 0, 0]
    write(path, REQUEST, advance=stop)
    assert sum(seen) == REQUEST.items
    assert path.read_bytes() == whole.read_bytes()
    assert os.listdir(tmp_path) == ["series.parquet"]


def test_finished_chunks_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "series.parquet"
    made: list[int] = []
    real = synthesize.values_of

    def counting(request: Request, items: range) -> np.ndarray:
        made.append(items.start)
        if len(made) == 5:
            raise RuntimeError("planted")
        return real(request, items)

    monkeypatch.setattr(synthesize, "values_of", counting)
    with pytest.raises(RuntimeError, match="planted"):
        write(path, REQUEST)
    write(path, REQUEST)
    assert sorted(made) == sorted([*range(0, 50, 4), 16])


def test_a_killed_process_is_gone_on_from(whole: Path, tmp_path: Path) -> None:
    path, parts = tmp_path / "series.parquet", tmp_path / "series.parquet.parts"
    script = (
        "import pathlib, sys, time\n"
        "from tinytsm import synthesize as s\n"
        "s.CHUNK_VALUES = 320\n"
        "request = s.Request(items=50, length=40, variates=2, seed=3)\n"
        "s.write(pathlib.Path(sys.argv[1]), request, advance=lambda _: time.sleep(1))\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 300
    while len(list(parts.glob("chunk-*"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists()
    write(path, REQUEST, workers=2)
    assert path.read_bytes() == whole.read_bytes()


def test_memory_does_not_grow_with_the_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak(items: int) -> int:
        tracemalloc.start()
        write(tmp_path / f"{items}.parquet", Request(items=items, length=40, variates=2, seed=3))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    monkeypatch.setattr(synthesize, "CHUNK_VALUES", 40_000)
    peak(1000)
    few, many = peak(2000), peak(12_000)
    # A chunk's values, 320 kB, in all they would be 7.7 MB
    assert few > 320_000
    assert many < 1.2 * few


def test_a_finished_file_is_left_and_another_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "series.parquet"
    small = Request(items=3, length=20)
    write(path, small)
    stamp = path.stat().st_mtime_ns
    seen: list[int] = []
    write(path, small, advance=seen.append)
    assert (seen, path.stat().st_mtime_ns) == ([3], stamp)
    with pytest.raises(InputError, match="is there already; delete it, or give another name"):
        write(path, Request(items=4, length=20))
    path.write_text("not ours")
    with pytest.raises(InputError, match="is there already"):
        write(path, small)
    assert path.read_text() == "not ours"


def test_what_a_finished_call_left_behind_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "made.parquet"
    with monkeypatch.context() as context:
        context.setattr(synthesize.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            write(path, REQUEST)
    assert len(list(tmp_path.iterdir())) == 2
    write(path, REQUEST)
    assert list(tmp_path.iterdir()) == [path]


def test_the_start_of_another_request_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "series.parquet"

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, REQUEST, advance=stop)
    with pytest.raises(InputError, match='holds the start of another request, .*"seed": 3'):
        write(path, Request(items=50, length=40, variates=2, seed=4))


# The command


def test_command_writes_and_sums_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.parquet"
    flags = ["--items", "7", "--length", "25", "--seed", "2", "--workers", "2"]
    assert cli.main(["synth", "--out", str(path), *flags]) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out.splitlines()[-1])
    assert (summary["items"], summary["points"]) == (7, 175)
    assert summary["bytes"] == path.stat().st_size
    assert '"seed": 2' in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either --out FILE or --show PNG"),
        (["--out", "x.parquet"], "--out needs --items N"),
        (["--out", "x.csv", "--items", "1"], "wanted a name that ends in .parquet"),
        (["--out", "no/x.parquet", "--items", "1"], "no folder 'no'; create it first"),
        (["--show", "x"], "x: wanted a name that ends in .png, .svg, .pdf"),
        (["--out", "x.parquet", "--items", "0"], "items must be between 1 and .* got 0"),
        (["--out", "x.parquet", "--items", "1", "--length", "0"], "length must be .* got 0"),
        (["--out", "x.parquet", "--items", "1", "--seed", "-1"], "seed must be in .* got -1"),
        (["--out", "x.parquet", "--items", "1", "--workers", "0"], "at least 1, got 0"),
        (
            ["--out", "x.parquet", "--items", "1", "--length", "9999999", "--variates", "900"],
            "an item must have at most",
        ),
        (
            ["--out", "x.parquet", "--items", "1", "--families", "trend.none"],
            "no family matches 'trend.none'; there are trend.linear",
        ),
        (
            ["--out", "x.parquet", "--items", "1", "--families", "chaos.*", "--variates", "2"],
            "a family alone is one series, got variates 2",
        ),
    ],
)
def test_command_says_what_it_wants(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["synth", *flags]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert os.listdir(tmp_path) == []


def test_show_draws_the_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(
        gallery, "draw", lambda path, *, seed, families: drawn.append((path, seed, families))
    )
    png = tmp_path / "g.png"
    assert cli.main(["synth", "--show", str(png), "--seed", "4"]) == 0
    assert cli.main(["synth", "--show", str(png), "--families", "dynamics.ets"]) == 0
    assert cli.main(["synth", "--show", str(png), "--families", "*"]) == 0
    assert drawn == [(png, 4, ()), (png, 0, ("dynamics.ets",)), (png, 0, generator.families())]
