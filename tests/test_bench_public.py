"""The pack of public data: made from files as their repositories have them, and read by the evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import public
from tinytsm import pack

SOURCES = (
    public.Source("NAB", "servers", "5T", "Web/CloudOps", "real/*", long=True),
    public.Source("Rdatasets", "births", "M", "Healthcare", "births", ("Births",), ("State",)),
)


@pytest.fixture
def clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(public, "SOURCES", SOURCES)
    real = tmp_path / "clones" / "NAB" / "data" / "real"
    real.mkdir(parents=True)
    rows = "\n".join(f"2014-01-01 00:{t % 60:02}:00,{t % 288}" for t in range(3000))
    (real / "a.csv").write_text(f"timestamp,value\n{rows}\n")
    csv = tmp_path / "clones" / "Rdatasets" / "csv"
    csv.mkdir(parents=True)
    lines = ["rownames,State,Month,Births"]
    # a month before the first known one, one that is missing, a state whose births never change, one with too few
    for state, births in (
        ("ACT", ["NA", *range(30), "NA", *range(31, 60)]),
        ("NSW", [7] * 60),
        ("NT", list(range(40))),
    ):
        lines += [f"1,{state},1975 Jan,{n}" for n in births]
    (csv / "births.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "clones"


def test_the_pack_holds_the_series_and_can_be_scored(clones: Path, tmp_path: Path, capsys) -> None:
    assert public.main([str(clones), str(tmp_path / "pack")]) == 0
    assert json.loads(capsys.readouterr().out) == {"datasets": 2, "series": 2, "tasks": 3}
    short, long, births = pack.load_tasks(tmp_path / "pack")
    assert (short.name, short.horizon, short.windows) == ("servers/short", 48, 20)
    # spread over the newer half; and side by side where there is no more room
    assert short.distance == 75
    assert (long.name, long.horizon, long.windows, long.distance) == ("servers/long", 480, 4, 480)
    assert (births.season_length, births.windows, births.distance) == (12, 3, 12)
    (servers,), (act,) = pack.read_series(short), pack.read_series(births)
    np.testing.assert_array_equal(servers, np.arange(3000) % 288)
    wanted = np.arange(60.0)
    wanted[30] = np.nan
    np.testing.assert_array_equal(act, wanted)
    for task in (short, long, births):
        found = list(pack.windows(task, pack.read_series(task)))
        assert len(found) == task.windows * task.series
        assert all(len(labels) == task.horizon <= len(context) for context, labels in found)


def test_a_clone_that_is_missing_is_named(clones: Path, tmp_path: Path, capsys) -> None:
    (clones / "NAB" / "data" / "real" / "a.csv").unlink()
    assert public.main([str(clones), str(tmp_path / "pack")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "real/*.csv: no such file; python -m bench.public --help" in err


def test_every_source_has_a_name_a_place_and_a_known_frequency() -> None:
    names = [source.name for source in public.SOURCES]
    assert len(set(names)) == len(names)
    for source in public.SOURCES:
        assert source.clone in public._PLACES and source.names.split()
        assert source.freq in public._HORIZONS and source.freq in public._SEASONS
