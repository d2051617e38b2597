"""Reading tables: what is accepted, and one line for what is not."""

import gzip
import io
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinytsm.errors import InputError
from tinytsm.frames import read_frame
from tinytsm.tables import is_text, read_table


def read(tmp_path: Path, content: str | bytes, name: str = "t.csv") -> pd.DataFrame:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_separators_and_line_ends(tmp_path: Path, separator: str, newline: str) -> None:
    lines = [separator.join(row) for row in (["a", "b"], ["1", "2.5"], ["3", ""])]
    frame = read(tmp_path, newline.join(lines) + newline)
    assert frame["a"].tolist() == [1, 3]
    assert frame["b"].isna().tolist() == [False, True]
    assert frame.index.tolist() == [2, 3]
    assert frame.index.name == "line"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_excels_mark_of_the_separator_is_no_header(tmp_path: Path, newline: str) -> None:
    frame = read(tmp_path, newline.join(["\ufeffsep=;", "a;b", "1;2,5", "3;4"]))
    assert list(frame) == ["a", "b"]
    assert frame["a"].tolist() == [1, 3]
    assert frame.index.tolist() == [3, 4]


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    frame = read(tmp_path, 'id,y\n\na,1\n"b\nb",2\n   \nc,3\n')
    assert frame.index.tolist() == [3, 4, 7]


def test_an_empty_line_of_one_column_is_a_missing_value(tmp_path: Path) -> None:
    frame = read(tmp_path, "\nvalue\n1\n\n3\n\n5\n\n\n")
    assert frame["value"].fillna(0).tolist() == [1, 0, 3, 0, 5]
    assert frame.index.tolist() == [3, 4, 5, 6, 7]
    # as Python writes it on Windows, and a blank in the last line
    for text in ("value\r\r\n1\r\r\n2\r\r\n", "value\n1\n2\n \n"):
        assert read(tmp_path, text)["value"].tolist() == [1, 2]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_numbers_with_decimal_commas(tmp_path: Path, separator: str) -> None:
    lines = ("day,price,sold,kind", "1,1.234x50,7,a", "2,-0x5,,b", "3,,2x25,a", "4,3,1,c")
    text = "\n".join(lines).replace(",", separator).replace("x", ",")
    frame = read(tmp_path, text)
    assert frame["price"].fillna(0).tolist() == [1234.5, -0.5, 0, 3]
    assert frame["sold"].fillna(0).tolist() == [7, 0, 2.25, 1]
    assert frame["kind"].tolist() == ["a", "b", "a", "c"]
    assert frame.attrs["tinytsm.note"] == "commas are read as decimal points: price, sold"
    # where commas separate fields, or may set off thousands, they are none
    assert is_text(read(tmp_path, f"a{separator}b\n1,250{separator}1\n2,500{separator}2\n")["a"])


def test_months_with_a_point_are_no_fractions(tmp_path: Path) -> None:
    assert read(tmp_path, "m;y\n01.2024;1\n02.2024;2\n")["m"].tolist() == ["01.2024", "02.2024"]
    assert read(tmp_path, "m;y\n1.2024;1\n13.2024;2\n")["m"].tolist() == [1.2024, 13.2024]


def test_a_point_that_may_set_off_thousands_is_refused(tmp_path: Path) -> None:
    message = "t.csv, line 3, column 'y': 1.103 beside 988 may be a thousand or a fraction; write 1103, or 1.1030"
    with pytest.raises(InputError, match=message):
        read(tmp_path, "a;y\n1;988\n2;1.103\n3;2.250\n4;7\n")
    # fractions of one, other numbers of digits, nothing that goes on beyond hundreds, and other signs between fields
    for text in (
        "a;y\n1;0.988\n2;1\n",
        "a;y\n1;988\n2;1.13\n",
        "a;y\n1;5\n2;2.125\n",
        "a,y\n1,988\n2,1.103\n",
        "a\ty\n1\t988\n2\t1.103\n",
    ):
        assert read(tmp_path, text)["y"].dtype == float


def test_what_commas_are_read_as_is_said(tmp_path: Path) -> None:
    frame = read(tmp_path, "date;y\n2024-01-01;1,5\n2024-01-02;2,5\n2024-01-03;3\n")
    named: Any = dict.fromkeys(("id_column", "timestamp_column", "target", "freq"))
    (one,), _, notes = read_frame(frame, **named)
    assert one.values.tolist() == [1.5, 2.5, 3]
    assert notes == ["commas are read as decimal points: y", "frequency D"]


def test_numbers_keep_all_their_bits(tmp_path: Path) -> None:
    text = "1000000000.0000001,0.1,5e-324,1.7976931348623157e308"
    frame = read(tmp_path, f"a,b,c,d\n{text}\n")
    assert frame.iloc[0].tolist() == [float(number) for number in text.split(",")]


def test_ids_stay_text(tmp_path: Path) -> None:
    assert read(tmp_path, "item_id,y\n007,1\n")["item_id"].tolist() == ["007"]


@pytest.mark.parametrize(
    ("header", "named"), [("item_id", None), ("region", "region"), ("r", None)]
)
def test_only_an_empty_field_is_a_missing_id(
    tmp_path: Path, header: str, named: str | None
) -> None:
    (tmp_path / "t.csv").write_text(f"y,{header},z\n1,EU,2\n2,NA,\n,null,NA\n3,,nan\n4,UK,\n")
    frame = read_table(tmp_path / "t.csv", id_column=named)
    assert frame[header].fillna("missing").tolist() == ["EU", "NA", "null", "missing", "UK"]
    # words that mean missing still do among numbers, and where one of those is mistyped
    assert frame["y"].isna().tolist() == [False, False, True, False, False]
    assert frame["z"].isna().tolist() == [False, True, True, True, True]
    assert read(tmp_path, "y,a\n1,b\nx,b\nn/a,b\n4,b\n")["y"].isna().sum() == 1


def test_one_series_may_be_called_na(tmp_path: Path) -> None:
    assert read(tmp_path, "id,y\nNA,1\nNA,2\n")["id"].tolist() == ["NA", "NA"]


def test_what_other_programs_leave_is_dropped(tmp_path: Path) -> None:
    assert list(read(tmp_path, ",ds,y,\n0,2024-01-01,1,\n1,2024-01-02,2,\n")) == ["ds", "y"]
    assert list(read(tmp_path, ",y\n2024-01-01,1\n2024-01-02,2\n")) == ["timestamp", "y"]
    assert list(read(tmp_path, "\ufeffa,b\n1,2\n")) == ["a", "b"]


def test_parquet_keeps_its_index_and_is_known_by_its_bytes(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"y": [1.0, 2.0]}, index=pd.date_range("2024", periods=2, name="ds"))
    frame.to_parquet(tmp_path / "t.bin")
    got = read_table(tmp_path / "t.bin")
    assert list(got) == ["ds", "y"]
    assert (got.index.name, got.index.tolist()) == ("row", [1, 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"t\.csv is empty; it needs a header line and at least one row"),
        (" \n\n", r"t\.csv is empty"),
        ("a,b\n", r"has column names but no rows; add at least one row"),
        ("a,b\n1,2\n3\n", r"t\.csv, line 3: 1 fields where the header has 2; add or remove sep"),
        ("a,b\n1,2\n\n3,4,5\n", r"line 4: 3 fields where the header has 2"),
        ("a,b\n1,2,3\n4,5,6\n", r"line 2: 3 fields where the header has 2"),
        ("a,a\n1,2\n", r"line 1: column 'a' appears twice; rename one"),
        ("a,,c\n1,2,3\n", r"line 1: column 2 has no name; give it one"),
        ("2024-01-01,5\n2024-01-02,6\n", r"line 1: these are values, not column names; add a head"),
        (b"a,b\n1,caf\xe9\n", r"line 2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), r"is UTF-16 text; save it as UTF-8"),
        (b"a,b\n1,\x00\n", r"line 2: binary data; give a CSV or Parquet file"),
        (
            gzip.compress(b"a\n1\n", mtime=0),
            r"is gzip data; unpack it: zcat \S+/t\.csv \| tinytsm forecast -",
        ),
        ("sep=;\n", r"t\.csv is empty"),
        ("sep=;\na;b\n1;2\n3\n", r"t\.csv, line 4: 1 fields where the header has 2"),
        (b"PK\x03\x04junk", r"is a ZIP or Excel file; export the sheet as CSV"),
        (b"PAR1junk", r"is not a readable Parquet file"),
        ('a,b\n"1,2\n', r"t\.csv"),
    ],
)
def test_one_line_for_what_is_no_table(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: no such file; check the path"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a folder; give one CSV or Parquet file"):
        read_table(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_table("a\0b")


def test_missing_pyarrow_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'tinytsm\[parquet\]'"):
        read(tmp_path, b"PAR1", "t.parquet")


def read_pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> pd.DataFrame:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    return read_table("-")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_pipe(monkeypatch, b"a\n1\n2\n")["a"].tolist() == [1, 2]
    with pytest.raises(InputError, match=r"zcat FILE \| tinytsm forecast -"):
        read_pipe(monkeypatch, gzip.compress(b"a\n1\n", mtime=0))
    with pytest.raises(InputError, match="^standard input is empty"):
        read_pipe(monkeypatch, b"")


# bytes, and texts made of what CSV parsers trip over
_pieces = st.sampled_from(
    [",", ";", '"', "\n", "\r", "\t", "1", "nan", "a", "-", " ", "é", "2024-01-01"]
)
_junk = st.binary(max_size=200) | st.lists(_pieces, max_size=40).map(lambda p: "".join(p).encode())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=_junk | _junk.map(lambda b: b"a,b\n" + b) | _junk.map(lambda b: b"PAR1" + b))
def test_any_bytes_give_a_table_or_one_line(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        try:
            frame = read_pipe(monkeypatch, data)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert len(frame) > 0
            assert frame.index.is_unique
