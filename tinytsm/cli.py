"""The `tinytsm` command.

    tinytsm forecast sales.csv --horizon 12                        forecast to standard output as CSV
    tinytsm forecast sales.csv --horizon 12 --output next.parquet --plot next.png
    cat load.csv | tinytsm forecast - --horizon 48 --quantiles .05,.5,.95 --json | jq .series[0]
    tinytsm train --preset nano --max-seconds 600                  train a model into runs/
    tinytsm evaluate --pack DIR --model runs/nano                  score it
    tinytsm study calibration --model runs/nano                    compare it with the best forecast there is
    tinytsm synth --out series.parquet --items 100000              write made-up series
    tinytsm diversity --pack DIR                                   how much of it the generator reaches
    tinytsm doctor                                                 what this machine has, and what is used

Results go to standard output or to files; notes and progress go to standard error. Exit status: 0 done, 1 a fault of
the program, 2 something in the input or the flags (one line says what), 130 interrupted.
Bad input is answered before torch is loaded.
"""

import argparse
import functools
import importlib
import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tinytsm import __version__, options

if TYPE_CHECKING:
    from tinytsm.frames import Forecast, Forecaster

# these read their own flags; the rest of the command line is theirs
_FORWARDED = {
    "train": ("tinytsm.train", "train a model on made-up series (tinytsm train --help)"),
    "export": ("tinytsm.export", "make a release of a run (tinytsm export --help)"),
    "evaluate": ("tinytsm.evaluate", "score a model on a pack of series (tinytsm evaluate --help)"),
    "study": ("tinytsm.study", "questions about a model, answered (tinytsm study --help)"),
    "synth": ("tinytsm.synthesize", "write made-up series to a file (tinytsm synth --help)"),
    "diversity": (
        "tinytsm.diversity",
        "how much of real data the generator reaches (tinytsm diversity --help)",
    ),
    "doctor": ("tinytsm.doctor", "what this machine has, and what is used (tinytsm doctor --help)"),
}
_EXAMPLES = """\
examples:
  tinytsm forecast sales.csv --horizon 12
      forecast every series of the file, CSV to standard output
  tinytsm forecast sales.csv --horizon 12 --output next.csv --plot next.png
      write the table to a file and draw the last points with the forecast
  tinytsm forecast shops.parquet --horizon 14 --id-column shop --target sold --quantiles .05,.5,.95
      a long table: one row per shop and day
  cat load.csv | tinytsm forecast - --horizon 48 --json
      pipes: table in, JSON out

A table is wide (one time stamp column, each number column a series) or long (ids, time stamps, target); which one,
the columns' roles and the frequency are inferred, and flags settle what cannot be.
"""


class _UsageError(Exception):
    """A command line that cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand; `run` of the parsed namespace carries it out."""
    parser = _Parser(
        prog="tinytsm",
        description="Forecast time series with a tiny foundation model.",
        epilog="Start with: tinytsm forecast --help",
    )
    parser.add_argument("--version", action="version", version=f"tinytsm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    forecast = commands.add_parser(
        "forecast",
        help="forecast the series of a CSV or Parquet file",
        description="Forecast the series of a CSV or Parquet file, with quantiles.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_forecast_flags(forecast)
    forecast.set_defaults(run=_forecast)
    for name, (_, text) in _FORWARDED.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _add_forecast_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help="CSV or Parquet file; - reads standard input")
    parser.add_argument(
        "--horizon", required=True, metavar="H", help="steps to forecast, 1 or more"
    )
    parser.add_argument(
        "--model", metavar="PATH", help="checkpoint or run folder (default: newest in runs/)"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)"
    )
    parser.add_argument(
        "--quantiles",
        metavar="LIST",
        help="levels between 0 and 1 (default: .1,.2,.3,.4,.5,.6,.7,.8,.9)",
    )
    parser.add_argument(
        "--context-length",
        metavar="N",
        help="use only the newest N steps of each series (default: all)",
    )
    options.add_flags(parser)
    columns = parser.add_argument_group("columns (inferred where not given)")
    columns.add_argument("--timestamp-column", metavar="NAME", help="dates, or whole numbers")
    columns.add_argument("--id-column", metavar="NAME", help="names the series of a long table")
    columns.add_argument(
        "--target",
        metavar="NAME",
        action="append",
        help="column to forecast; repeat the flag for several",
    )
    columns.add_argument(
        "--freq", metavar="STEP", help="h, D, B, W, MS, QE, 15min, ...; a number for integer stamps"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="FILE",
        default="-",
        help=".csv, .parquet or .json; - is standard output (default)",
    )
    output.add_argument("--json", action="store_true", help="one JSON document instead of CSV")
    output.add_argument("--plot", metavar="FILE", help="fan chart as .png, .svg or .pdf")
    output.add_argument(
        "--last",
        metavar="N",
        help="steps of history in the chart (default: 3 horizons, at least 100)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status of the module's docstring."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and argv[0] in _FORWARDED:
            module = importlib.import_module(_FORWARDED[argv[0]][0])
            return int(module.main(argv[1:]) or 0)
        args = build_parser().parse_args(argv)
        args.run(args)
        sys.stdout.flush()
    except _UsageError as error:
        return _complain(str(error))
    except SystemExit as leave:  # --help and --version, and the commands that parse for themselves
        if isinstance(leave.code, str):
            return _complain(leave.code)
        return leave.code or 0
    except BrokenPipeError:
        # the reader has seen enough; what is still buffered must not raise again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _note("interrupted")
        return 130
    except Exception as error:  # noqa: BLE001 - the last line of defence: everything must become an exit status
        # only a command that reads tables has loaded pandas, and only it can raise this
        frames = sys.modules.get("tinytsm.frames")
        if frames is not None and isinstance(error, frames.InputError):
            return _complain(str(error))
        traceback.print_exc()
        return 1
    return 0


def _complain(message: str) -> int:
    line = " ".join(message.split())
    print(f"tinytsm: error: {line}", file=sys.stderr)
    return 2


def _note(message: str) -> None:
    print(f"tinytsm: {message}", file=sys.stderr)


def _forecast(args: argparse.Namespace) -> None:
    from tinytsm import frames, tables

    horizon = frames.check_horizon(args.horizon)
    levels = frames.QUANTILES
    if args.quantiles is not None:
        levels = frames.check_quantiles(
            [part for part in args.quantiles.split(",") if part.strip()]
        )
    context_length = _count(args.context_length, "--context-length")
    last = _count(args.last, "--last") or max(3 * horizon, 100)
    output = None
    if args.output != "-":
        output = tables.check_output(args.output, (".csv", ".json", *tables.PARQUET_SUFFIXES))
    if args.plot is not None:
        from tinytsm import plot

        chart = tables.check_output(args.plot, plot.SUFFIXES)
        plot.require_matplotlib()
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", args.device):
        raise _UsageError(f"--device must be auto, cpu, cuda, cuda:1 or mps, got {args.device!r}")
    try:
        chosen = options.from_flags(args)
    except ValueError as error:
        raise _UsageError(str(error)) from None
    model = _find_model(args.model)

    table = frames.read_table(args.data, id_column=args.id_column)
    layout, notes = frames.infer_layout(
        table, id_column=args.id_column, timestamp_column=args.timestamp_column, target=args.target
    )
    series, more = frames.split_frame(table, layout, freq=args.freq)
    # a horizon that leaves the calendar is the user's error too
    for one in series:
        one.timeline.future(horizon)
    notes += more
    for note in notes:
        _note(note)
    steps = sum(len(one.values) for one in series)
    _note(f"{len(series):,} series, {steps:,} steps; model {model}")

    from tqdm import tqdm

    forecaster = _load(model, args.device, chosen)
    # tqdm is silent where standard error is not a terminal
    with tqdm(total=len(series), unit="series", disable=None, file=sys.stderr, leave=False) as bar:
        forecasts = frames.forecast_series(
            forecaster,
            series,
            prediction_length=horizon,
            quantile_levels=levels,
            context_length=context_length,
            progress=bar.update,
        )

    names = {
        "id_column": layout.id_column or "item_id",
        "timestamp_column": layout.timestamp_column or "timestamp",
    }
    suffix = "" if output is None else output.suffix.lower()
    if args.json or suffix == ".json":
        head = {"model": str(model), "horizon": horizon, "quantile_levels": levels, "notes": notes}
        document = json.dumps(
            head | {"series": [_as_json(f, levels) for f in forecasts]}, allow_nan=False
        )
        _write(document + "\n", output)
    else:
        table = frames.to_frame(forecasts, quantile_levels=levels, **names)
        if output is not None and suffix in tables.PARQUET_SUFFIXES:
            tables.write_atomic(output, functools.partial(table.to_parquet, index=False))
        else:
            # 12 digits keep what a forecast can mean and drop the noise of binary fractions
            _write(table.to_csv(index=False, float_format="%.12g", lineterminator="\n"), output)
    if output is not None:
        _note(f"wrote {output}")
    if args.plot is not None:
        drawn = plot.fan_chart(chart, [plot.panel(f, levels) for f in forecasts], last=last)
        left = f" ({drawn} of {len(forecasts):,} series)" if drawn < len(forecasts) else ""
        _note(f"wrote {chart}{left}")


def _count(text: str | None, flag: str) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise _UsageError(f"{flag} must be a whole number of at least 1, got {text!r}")
    return int(text)


def _find_model(path: str | None) -> Path:
    from tinytsm.frames import InputError

    if path is not None:
        if not Path(path).exists():
            raise InputError(f"--model {path}: no such file or folder; train one with: make train")
        return Path(path)
    newest = max(
        (
            (weights.stat().st_mtime, run)
            for run in Path("runs").glob("[!.]*")
            for weights in run.glob("**/model*.safetensors")
        ),
        default=None,
    )
    if newest is None:
        raise InputError(
            "no model in runs/; train one with: make train, or name one with --model PATH"
        )
    return newest[1]


def _load(model: Path, device: str, chosen: options.ForecastOptions) -> "Forecaster":
    from tinytsm.forecast import TinyTSM
    from tinytsm.frames import InputError

    try:
        return TinyTSM.from_pretrained(model, device=device).with_options(**asdict(chosen))
    except (ValueError, OSError) as error:
        raise InputError(f"--model {model}: {error}") from None
    # torch says so, in either way, where the device that was asked for is not there
    except (RuntimeError, AssertionError) as error:
        if device in ("auto", "cpu"):
            raise
        raise InputError(f"--device {device}: {str(error).splitlines()[0]}") from None


def _as_json(forecast: "Forecast", levels: Sequence[float]) -> dict[str, Any]:
    dates = hasattr(forecast.index, "tz")
    return {
        "item_id": str(forecast.series.item),
        "target_name": str(forecast.series.target),
        "freq": forecast.series.timeline.freq,
        "timestamp": [stamp.isoformat() if dates else int(stamp) for stamp in forecast.index],
        "predictions": forecast.median.tolist(),
        "quantiles": {str(q): forecast.quantiles[:, i].tolist() for i, q in enumerate(levels)},
    }


def _write(text: str, output: Path | None) -> None:
    from tinytsm import tables

    if output is None:
        sys.stdout.write(text)
    else:
        tables.write_atomic(output, lambda path: _write_text(path, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
