"""Table files in.

`read_table` gives a frame whose index is where each row stands in its source ("line" of a CSV, "row" of a Parquet
file, both from 1), so that every later complaint can name it.
"""

import csv
import functools
import io
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tinytsm.errors import InputError
from tinytsm.files import PARQUET_SUFFIXES

ID_NAMES = ("item_id", "unique_id", "series_id", "id")
STANDARD_INPUT = "standard input"
_DELIMITERS = ",;\t|"
# What may mean something else than pandas reads: months, decimal commas, points that set off thousands.
_OTHER = r"\s*[-+]?(\d+|\d{1,3}(\.\d{3})+|\d\d\.\d{4})(,\d+)?\s*"


def read_table(path: str | Path, *, id_column: str | None = None) -> pd.DataFrame:
    """Read a CSV or Parquet file; "-" reads standard input.

    path: CSV in UTF-8 with a header line, separated by comma, semicolon, tab or bar; Parquet is known by its
        first bytes or its extension.
    id_column: kept as text, like the usual names of one, so that 007 stays 007. In a column of words only an empty field
        is missing.
    Returns a frame with one row per record; its index, named "line" or "row", is the place in the source. Its
    `attrs["tinytsm.note"]` says what was read otherwise than is usual.
    Raises InputError for whatever is not a table.
    """
    if str(path) == "-":
        name, data = STANDARD_INPUT, sys.stdin.buffer.read()
    else:
        name, data = str(path), _read_bytes(path)
    if data[:4] == b"PAR1" or Path(name).suffix.lower() in PARQUET_SUFFIXES:
        frame = _read_parquet(data, name)
    else:
        frame = _read_csv(_decode(data, name), name, id_column)
    if frame.empty:
        raise InputError(f"{name} has column names but no rows; add at least one row")
    return frame


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give one CSV or Parquet file in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path!r} cannot be read ({reason}); check the path") from None


def _decode(data: bytes, name: str) -> str:
    if not data.strip():
        raise InputError(f"{name} is empty; it needs a header line and at least one row")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{name} is UTF-16 text; save it as UTF-8")
    if data[:4] == b"PK\x03\x04":
        raise InputError(f"{name} is a ZIP or Excel file; export the sheet as CSV")
    if data[:2] == b"\x1f\x8b":
        file = "FILE" if name == STANDARD_INPUT else shlex.quote(name)
        raise InputError(f"{name} is gzip data; unpack it: zcat {file} | tinytsm forecast -")
    line = data.count(b"\n", 0, data.find(b"\0")) + 1
    if b"\0" in data:
        raise InputError(f"{name}, line {line}: binary data; give a CSV or Parquet file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    # the line with which Excel marks the separator; blank, so that the others keep their numbers
    text = re.sub(r"\Asep=[,;\t|](?=[\r\n]|\Z)", "", text, flags=re.IGNORECASE)
    if not text.strip():
        raise InputError(f"{name} is empty; it needs a header line and at least one row")
    return re.sub(r"\r+\n|\r", "\n", text)


def _records(text: str, delimiter: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every record that is not blank."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    line = 1
    try:
        for fields in reader:
            blank = not fields or (len(fields) == 1 and fields[0] and not fields[0].strip())
            if not blank:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{name}, line {line}: not a readable CSV record ({error})") from None


def is_text(column: pd.Series) -> bool:
    """Whether a column holds words; a number column with a few typing errors does not."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return True
    if pd.api.types.is_numeric_dtype(column) or column.dtype.kind in "mM":
        return False
    given = column.dropna()
    return len(given) > 0 and 2 * pd.to_numeric(given, errors="coerce").notna().sum() < len(given)


def _read_csv(text: str, name: str, id_column: str | None) -> pd.DataFrame:
    first = next(line for line in text.split("\n") if line.strip())
    delimiter = max(_DELIMITERS, key=first.count)
    header_line, header = next(_records(text, delimiter, name))
    names = _column_names(header, f"{name}, line {header_line}")
    single = len(names) == 1
    if single:
        text = text.rstrip()
    as_text = [c for c in names if c == id_column or c.lower() in ID_NAMES]
    try:
        with warnings.catch_warnings():
            # pandas only warns where every record is longer than the header
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # exact from pandas 3.1 on, where the argument only warns; before, the default loses last bits
            warnings.simplefilter("ignore", DeprecationWarning)
            read = functools.partial(
                pd.read_csv,
                sep=delimiter,
                header=0,
                names=names,
                index_col=False,
                low_memory=False,
                float_precision="round_trip",
                # of a single column a blank line is an empty field
                skip_blank_lines=not single,
                skiprows=header_line - 1 if single else 0,
            )
            frame = read(io.StringIO(text), dtype=dict.fromkeys(as_text, str))
            # NA, None and null mean missing among numbers, and are names among names
            words = [
                c for c in names if frame[c].isna().any() and (c in as_text or is_text(frame[c]))
            ]
            if words:
                frame[words] = read(
                    io.StringIO(text),
                    usecols=words,
                    dtype=str,
                    keep_default_na=False,
                    na_values=[""],
                )
            # where commas separate columns they are no decimal signs
            others = [c for c in names if c not in as_text and frame[c].dtype.kind not in "iub"]
            texts = frame[[]]
            if delimiter != "," and others:
                # most columns are dates or plain numbers, as their first rows tell
                first_rows = read(io.StringIO(text), usecols=others, dtype=str, nrows=50)
                others = [c for c in others if first_rows[c].dropna().str.fullmatch(_OTHER).all()]
            if delimiter != "," and others:
                texts = read(io.StringIO(text), usecols=others, dtype=str)
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        _check_widths(text, delimiter, len(header), name)
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{name} is not a readable CSV table ({reason})") from None
    # a record that is too short reads as missing values at its end
    if frame[names[-1]].isna().any():
        _check_widths(text, delimiter, len(header), name)

    lines: Sequence[int]
    before = header_line - 1 if single else 0
    if text.rstrip("\n").count("\n") == before + len(frame):
        lines = range(before + 2, before + len(frame) + 2)
    else:
        lines = [line for line, _ in _records(text, delimiter, name)][1:]
        if len(lines) != len(frame):
            raise InputError(f"{name}: unbalanced quotes; every opening quote needs a closing one")
    frame.index = pd.Index(lines, name="line")
    decimal = []
    for column in texts.columns:
        written = texts[column].set_axis(frame.index)
        read_as = _as_written(frame[column], written, name, pointed=delimiter == ";")
        if read_as.dtype.kind == "f" != frame[column].dtype.kind:
            decimal.append(column)
        frame[column] = read_as
    blank = [c for c, given in zip(names, header, strict=True) if not given.strip()]
    frame = _without_blank_columns(frame, blank, f"{name}, line {header_line}")
    if decimal:
        frame.attrs["tinytsm.note"] = f"commas are read as decimal points: {', '.join(decimal)}"
    return frame


def _as_written(column: pd.Series, texts: pd.Series, name: str, *, pointed: bool) -> pd.Series:
    """A column as its texts have it: with decimal commas, or as the months 01.2024 that pandas takes for fractions.

    pointed: whether points may set off thousands. Raises InputError where they seem to.
    """
    given = texts.dropna().str.strip()
    if given.str.fullmatch(r"(0[1-9]|1[0-2])\.(19|20)\d\d").all():
        return texts
    fractions = given.str.contains(r",(?!\d{3}$)", regex=True)
    if given.str.fullmatch(r"[-+]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?").all() and fractions.any():
        plain = given.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
        return plain.astype(np.float64).reindex(texts.index)
    thousands = given.str.fullmatch(r"[-+]?[1-9]\d?\d?\.\d{3}")
    hundreds = given.str.fullmatch(r"[-+]?[1-9]\d\d")
    others = given.str.fullmatch(r"[-+]?\d\d?")
    if pointed and thousands.any() and hundreds.any() and (thousands | hundreds | others).all():
        line, text = given.index[thousands][0], given[thousands].iloc[0]
        raise InputError(
            f"{name}, line {line}, column {column.name!r}: {text} beside {given[hundreds].iloc[0]} may be a thousand or a "
            f"fraction; write {text.replace('.', '')}, or {text}0"
        )
    return column


def _column_names(header: list[str], where: str) -> list[str]:
    given = [field.strip() for field in header]
    if all(map(_is_value, given)):
        raise InputError(
            f"{where}: these are values, not column names; add a header line such as timestamp,value"
        )
    named = [c for c in given if c]
    twice = next((c for c in named if named.count(c) > 1), None)
    if twice is not None:
        raise InputError(f"{where}: column {twice!r} appears twice; rename one of the two")
    return [c or f"column {i + 1}" for i, c in enumerate(given)]


def _is_value(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        digits = sum(c.isdigit() for c in text)
        return digits >= 4 and all(c.isdigit() or c in "-/.:TZ+ " for c in text)
    return True


def _without_blank_columns(frame: pd.DataFrame, blank: list[str], where: str) -> pd.DataFrame:
    """Drop what other programs leave behind: trailing separators and the row numbers of `to_csv`."""
    for column in blank:
        values = frame[column]
        is_first = column == frame.columns[0]
        numbers = is_first and np.array_equal(values.to_numpy(), np.arange(len(frame)))
        if len(frame.columns) > 1 and (numbers or values.isna().all()):
            frame = frame.drop(columns=column)
        elif is_first and "timestamp" not in frame.columns:
            frame = frame.rename(columns={column: "timestamp"})
        else:
            raise InputError(f"{where}: {column} has no name; give it one")
    return frame


def _check_widths(text: str, delimiter: str, wanted: int, name: str) -> None:
    for line, fields in _records(text, delimiter, name):
        got = len(fields)
        while got > wanted and not fields[got - 1].strip():
            got -= 1
        if got != wanted:
            raise InputError(
                f"{name}, line {line}: {got} fields where the header has {wanted}; "
                "add or remove separators, or quote the field that holds one"
            )


def _read_parquet(data: bytes, name: str) -> pd.DataFrame:
    try:
        import pyarrow as pa
    except ImportError:
        raise InputError(
            f"{name}: reading Parquet needs pyarrow; run: pip install 'tinytsm[parquet]'"
        ) from None
    try:
        frame = pd.read_parquet(io.BytesIO(data), engine="pyarrow")
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{name} is not a readable Parquet file ({reason})") from None
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    frame.columns = frame.columns.astype(str)
    frame.index = pd.RangeIndex(1, len(frame) + 1, name="row")
    return frame
