"""The `tinytsm` command.

    tinytsm forecast sales.csv --horizon 12                        forecast to standard output as CSV
    tinytsm forecast sales.csv --horizon 12 --output next.parquet --plot next.png
    cat load.csv | tinytsm forecast - --horizon 48 --quantiles .05,.5,.95 --json | jq .series[0]
    tinytsm backtest sales.csv --horizon 12 --windows 10           how good would it have been, against seasonal naive
    tinytsm finetune sales.csv --horizon 12 --output runs/sales    a model that has seen these series
    tinytsm anomalies load.csv --only                              values that their past made unlikely
    tinytsm impute sensor.csv --output whole.csv                   missing values, filled from both sides
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
import importlib
import json
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tinytsm import __version__, options
from tinytsm.commands import anomalies, backtest, console, finetune, impute

if TYPE_CHECKING:
    from tinytsm.frames import Forecast

# these read their own flags; the rest of the command line is theirs
_FORWARDED = {
    "train": ("tinytsm.train", "train a model on made-up series (tinytsm train --help)"),
    "export": ("tinytsm.export", "make a release of a run (tinytsm export --help)"),
    "evaluate": ("tinytsm.evaluate", "score a model on a pack of series (tinytsm evaluate --help)"),
    "scale": ("tinytsm.scale", "forecast Parquet larger than memory (tinytsm scale --help)"),
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


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand; `run` of the parsed namespace carries it out."""
    parser = console.Parser(
        prog="tinytsm",
        description="Forecast time series with a tiny foundation model.",
        epilog="Start with: tinytsm forecast --help",
    )
    parser.add_argument("--version", action="version", version=f"tinytsm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    forecast = console.add_command(
        commands,
        "forecast",
        _forecast,
        help="forecast the series of a CSV or Parquet file",
        description="Forecast the series of a CSV or Parquet file, with quantiles.",
        epilog=_EXAMPLES,
    )
    _add_forecast_flags(forecast)
    for command in (backtest, finetune, anomalies, impute):
        command.add_parser(commands)
    for name, (_, text) in _FORWARDED.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _add_forecast_flags(parser: argparse.ArgumentParser) -> None:
    console.add_data_flag(parser)
    parser.add_argument(
        "--horizon", required=True, metavar="H", help="steps to forecast, 1 or more"
    )
    console.add_model_flags(parser)
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
    console.add_column_flags(parser)
    console.add_output_flags(parser, picture="fan chart", last="3 horizons, at least 100")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status of the module's docstring."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and argv[0] in _FORWARDED:
            module = importlib.import_module(_FORWARDED[argv[0]][0])
            status = int(module.main(argv[1:]) or 0)
            console.flush()
            return status
        args = build_parser().parse_args(argv)
        args.run(args)
    except console.UsageError as error:
        return _complain(str(error))
    except SystemExit as leave:  # --help and --version, and the commands that parse for themselves
        if isinstance(leave.code, str):
            return _complain(leave.code)
        return leave.code or 0
    except BrokenPipeError:
        # the reader has seen enough
        console.discard_output()
    except KeyboardInterrupt:
        console.note("interrupted")
        return 130
    except Exception as error:  # noqa: BLE001 - the last line of defence: everything must become an exit status
        # only a command that reads tables has loaded pandas, and only it can raise this
        tables = sys.modules.get("tinytsm.tables")
        if tables is not None and isinstance(error, tables.InputError):
            return _complain(str(error))
        traceback.print_exc()
        return 1
    return 0


def _complain(message: str) -> int:
    line = " ".join(message.split())
    console.note(f"error: {line}")
    return 2


def _forecast(args: argparse.Namespace) -> None:
    from tinytsm import frames

    horizon = frames.check_horizon(args.horizon)
    levels = frames.QUANTILES
    if args.quantiles is not None:
        levels = console.quantiles(args.quantiles)
    context_length = console.whole(args.context_length, "--context-length")
    last = console.whole(args.last, "--last") or max(3 * horizon, 100)
    output, chart = console.check_files(args)
    console.check_device(args.device)
    chosen = console.forecast_options(args)
    model = console.find_model(args.model)
    series, layout, notes = console.read_series(args, horizon=horizon)
    forecaster = console.load_model(model, args.device, chosen)
    with console.progress(len(series), "series") as advance:
        forecasts = frames.forecast_series(
            forecaster,
            series,
            prediction_length=horizon,
            quantile_levels=levels,
            context_length=context_length,
            progress=advance,
        )

    if args.json or (output is not None and output.suffix.lower() == ".json"):
        head = {"model": model, "horizon": horizon, "quantile_levels": levels, "notes": notes}
        document = json.dumps(
            head | {"series": [_as_json(f, levels) for f in forecasts]}, allow_nan=False
        )
        console.write_text(document + "\n", output)
    else:
        table = frames.to_frame(
            forecasts,
            quantile_levels=levels,
            id_column=layout.id_column or "item_id",
            timestamp_column=layout.timestamp_column or "timestamp",
        )
        console.write_table(table, output)
    if chart is not None:
        from tinytsm import plot

        console.draw(chart, [plot.panel(f, levels) for f in forecasts], last=last)


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


if __name__ == "__main__":
    sys.exit(main())
