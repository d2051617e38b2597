"""What the commands share: flags, reading a table, loading a model, writing results.

Results go to standard output or to files, everything else to standard error. Heavy modules are imported where they are
used, so that help and bad flags are answered at once.
"""

import argparse
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, overload

from tinytsm import files, options
from tinytsm.config import shipped
from tinytsm.errors import InputError
from tinytsm.options import ForecastOptions

if TYPE_CHECKING:
    import pandas as pd

    from tinytsm.columns import Layout
    from tinytsm.forecast import TinyTSM
    from tinytsm.frames import Series

TABLE_SUFFIXES = (".csv", ".json", ".parquet", ".pq")


class UsageError(Exception):
    """A command line that cannot be understood."""


class Parser(argparse.ArgumentParser):
    """A parser whose faults are exceptions, so that one place turns them into an exit status."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError, where argparse would leave the process."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def note(message: str) -> None:
    """Say one line on standard error."""
    print(f"tinytsm: {message}", file=sys.stderr)


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], **texts: str
) -> argparse.ArgumentParser:
    """A subcommand's parser with its manual: help, description and epilog (real examples)."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, formatter_class=argparse.RawDescriptionHelpFormatter, **texts
    )
    parser.set_defaults(run=run)
    return parser


def add_data_flag(parser: argparse.ArgumentParser) -> None:
    """The table to read."""
    parser.add_argument("data", help="CSV or Parquet file; - reads standard input")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which model, and where it runs."""
    parser.add_argument(
        "--model", metavar="PATH", default="nano",
        help="checkpoint or run folder, or the name of a shipped model (default: nano)",
    )  # fmt: skip
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)"
    )


def add_column_flags(parser: argparse.ArgumentParser) -> None:
    """Which columns of the table mean what."""
    columns = parser.add_argument_group("columns (inferred where not given)")
    columns.add_argument("--timestamp-column", metavar="NAME", help="dates, or whole numbers")
    columns.add_argument("--id-column", metavar="NAME", help="names the series of a long table")
    columns.add_argument(
        "--target",
        metavar="NAME",
        action="append",
        help="column to use; repeat the flag for several",
    )
    columns.add_argument(
        "--freq", metavar="STEP", help="h, D, B, W, MS, QE, 15min, ...; a number for integer stamps"
    )
    columns.add_argument(
        "--fill",
        metavar="VALUE",
        help="of steps without a row, 0 where no row means no sale (default: they are gaps)",
    )


def add_output_flags(parser: argparse.ArgumentParser, *, picture: str, last: str = "all") -> None:
    """Where results go. picture: what --plot draws. last: words for the steps of history that it shows."""
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output", metavar="FILE", default="-",
        help=".csv, .parquet or .json; - is standard output (default)",
    )  # fmt: skip
    output.add_argument("--json", action="store_true", help="one JSON document instead of CSV")
    # argparse takes a percent sign for a place to fill in
    chart = picture.replace("%", "%%")
    output.add_argument("--plot", metavar="FILE", help=f"{chart} as .png, .svg or .pdf")
    output.add_argument(
        "--last", metavar="N", help=f"steps of history in the chart (default: {last})"
    )


@overload
def whole(text: str, flag: str, *, low: int = 1) -> int: ...
@overload
def whole(text: str | None, flag: str, *, low: int = 1) -> int | None: ...
def whole(text: str | None, flag: str, *, low: int = 1) -> int | None:
    """A flag's whole number of at least `low`, None where it was not given."""
    if text is None:
        return None
    if not text.isdecimal() or int(text) < low:
        raise UsageError(f"{flag} must be a whole number of at least {low}, got {text!r}")
    return int(text)


def number(text: str, flag: str, *, low: float, high: float) -> float:
    """A flag's number strictly between two bounds."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low < value < high:
        raise UsageError(f"{flag} must be a number between {low:g} and {high:g}, got {text!r}")
    return value


def check_files(args: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """Where the result and the picture go, None for standard output and no picture; asked before the work."""
    output = None if args.output == "-" else files.check_output(args.output, TABLE_SUFFIXES)
    if args.plot is None:
        return output, None
    from tinytsm import plot

    chart = files.check_output(args.plot, plot.SUFFIXES)
    plot.require_matplotlib()
    return output, chart


def check_device(device: str) -> None:
    """Raise UsageError for what is no name of a device; whether it is there is known once torch is loaded."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise UsageError(f"--device must be auto, cpu, cuda, cuda:1 or mps, got {device!r}")


def quantiles(text: str) -> tuple[float, ...]:
    """Levels written like .1,.5,.9. Raises InputError."""
    from tinytsm import frames

    return frames.check_quantiles([part for part in text.split(",") if part.strip()])


def forecast_options(args: argparse.Namespace) -> ForecastOptions:
    """The effort and kind of numbers that the flags of `options.add_flags` ask for. Raises UsageError."""
    try:
        return options.from_flags(args)
    except ValueError as error:
        raise UsageError(str(error)) from None


def find_model(path: str) -> str:
    """The path as given, when there is something. Raises InputError."""
    names = shipped()
    if path not in names and not Path(path).exists():
        raise InputError(
            f"--model {path}: no such file or folder, and no shipped model ({', '.join(names)}); name one of these, or "
            "train one with: make train"
        )
    return path


def load_model(
    path: str | Path, device: str, options: "ForecastOptions | None" = None
) -> "TinyTSM":
    """The model, with other defaults where a command has flags for them. Raises InputError."""
    from tinytsm.device import pick_device
    from tinytsm.forecast import TinyTSM

    try:
        place = pick_device(device)
    except ValueError as error:
        raise InputError(f"--device {device}: {error}") from None
    try:
        model = TinyTSM.from_pretrained(path, device=place)
        return model if options is None else model.with_options(**asdict(options))
    except (ValueError, OSError) as error:
        raise InputError(f"--model {path}: {error}") from None


def read_series(
    args: argparse.Namespace,
    *,
    horizon: int = 0,
    covariates: Sequence[str] = (),
    future: str | None = None,
) -> "tuple[list[Series], Layout, list[str]]":
    """Series of the table that the flags name, its layout, and the notes that were said.

    horizon: steps that will be forecast. covariates: columns to keep beside each series. future: the file of what is known
    of these steps. Raises InputError for what is wrong with a table, and where a horizon leaves the calendar.
    """
    from tinytsm import frames, tables

    table = tables.read_table(args.data, id_column=args.id_column)
    coming = None if future is None else tables.read_table(future, id_column=args.id_column)
    series, layout, notes = frames.read_frame(
        table,
        id_column=args.id_column,
        timestamp_column=args.timestamp_column,
        target=args.target,
        freq=args.freq,
        fill=args.fill,
        covariates=covariates,
        future_df=coming,
        horizon=horizon,
    )
    for one in series if horizon else ():
        one.timeline.future(horizon)
    for line in notes:
        note(line)
    steps = sum(len(one.values) for one in series)
    note(f"{len(series):,} series, {steps:,} steps; model {args.model}")
    return series, layout, notes


@contextmanager
def progress(total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """A bar on standard error, silent where that is not a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, disable=None, file=sys.stderr, leave=False) as bar:
        yield bar.update


def write_table(table: "pd.DataFrame", output: Path | None) -> None:
    """Write a result as Parquet where the file's name asks for it, else as CSV."""
    if output is not None and output.suffix.lower() in files.PARQUET_SUFFIXES:
        files.write_atomic(output, functools.partial(table.to_parquet, index=False))
        note(f"wrote {output}")
    else:
        write_text(to_csv(table), output)


def write_result(
    table: "pd.DataFrame",
    output: Path | None,
    *,
    as_json: bool,
    head: dict[str, Any],
    layout: "Layout",
) -> None:
    """Write a result in the form that the flags or the file's name ask for; a JSON document starts with `head`."""
    if as_json or (output is not None and output.suffix.lower() == ".json"):
        keys = [layout.id_name, "target_name"]
        document = json.dumps(head | {"series": _series(table, keys)}, allow_nan=False)
        write_text(document + "\n", output)
    else:
        write_table(table, output)


def to_csv(table: "pd.DataFrame") -> str:
    """The table as CSV without its index: ids and what was observed to the last bit, the rest in 12 digits."""
    import pandas as pd

    given = {table.columns[0], "value", "actual"}
    # quantiles of a step that was not filled in are its value
    observed = ~table.get("imputed", pd.Series(True, table.index))
    texts = {}
    for name, column in table.select_dtypes("floating").items():
        exact = column if name in given else column[observed]
        # 12 digits keep what a forecast can mean and drop the noise of binary fractions
        short = column.drop(exact.index).map("{:.12g}".format, na_action="ignore")
        texts[name] = pd.concat([exact.map(_exactly, na_action="ignore"), short])
    return str(table.assign(**texts).to_csv(index=False, lineterminator="\n"))


def _exactly(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


def _series(table: "pd.DataFrame", keys: list[str]) -> list[dict[str, Any]]:
    """One object per series: its names, then each other column as a list, null where missing."""
    result = []
    for names, rows in table.groupby(keys, sort=False):
        named = {key: str(name) for key, name in zip(keys, names, strict=True)}
        lists = {str(c): _values(rows[c]) for c in rows.columns if c not in keys}
        result.append(named | lists)
    return result


def _values(column: "pd.Series") -> list[Any]:
    if hasattr(column, "dt"):
        return [stamp.isoformat() for stamp in column]
    return column.astype(object).where(column.notna(), None).tolist()


def write_text(text: str, output: Path | None) -> None:
    """Write to the file, whole or not at all, or to standard output where it is None."""
    if output is None:
        flush(text)
    else:
        files.write_text(output, text)
        note(f"wrote {output}")


def flush(text: str = "") -> None:
    """Send a text, and what waits before it, to standard output now.

    Raises InputError where it takes no more, BrokenPipeError where its reader has left.
    """
    # Python's word for an output that was closed before it started
    if sys.stdout is None and not text:
        return
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        reason = error.strerror or error
        raise InputError(
            f"standard output cannot be written ({reason}); send it elsewhere"
        ) from None


def discard_output() -> None:
    """Send what is still buffered for standard output nowhere, where it must not raise again at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def draw(chart: Path, panels: list[Any], *, last: int | None) -> None:
    """Draw what there is room for and say what was left out."""
    from tinytsm import plot

    drawn = plot.fan_chart(chart, panels, last=last)
    left = f" ({drawn} of {len(panels):,} series)" if drawn < len(panels) else ""
    note(f"wrote {chart}{left}")
