"""Files that results go to."""

import sys
from pathlib import Path

import pytest

from tinytsm.errors import InputError
from tinytsm.files import check_output, write_atomic


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]

    def write(temporary: Path) -> None:
        temporary.write_text("new")

    write_atomic(path, write)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wanted a name that ends in \.csv, \.json"):
        check_output(tmp_path / "x.txt", (".csv", ".json"))
    with pytest.raises(InputError, match="no folder .*create it first"):
        check_output(tmp_path / "no" / "x.csv", (".csv",))
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match="is a folder; give a file name"):
        check_output(tmp_path / "d.csv", (".csv",))


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'tinytsm\[parquet\]'"):
        check_output(tmp_path / "t.parquet", (".parquet",))
