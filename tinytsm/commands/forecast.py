"""`tinytsm forecast`: the steps to come of every series of a table."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tinytsm import options
from tinytsm.commands import console

if TYPE_CHECKING:
    from tinytsm.frames import Forecast

_EXAMPLES = """\
examples:
  tinytsm forecast sales.csv --horizon 12
      forecast every series of the file, CSV to standard output
  tinytsm forecast sales.csv --horizon 12 --output next.csv --plot next.png
      write the table to a file and draw the last points with the forecast
  tinytsm forecast shops.parquet --horizon 14 --id-column shop --target sold --quantiles .05,.5,.95
      a long table: one row per shop and day
  tinytsm forecast load.csv --horizon 24 --target load --future weather.csv
      with what is known of the next 24 hours: the columns that both tables have, such as temperature or holiday
  cat load.csv | tinytsm forecast - --horizon 48 --json
      pipes: table in, JSON out

A table is wide (one time stamp column, each number column a series) or long (ids, time stamps, target); which one,
the columns' roles and the frequency are inferred, and flags settle what cannot be.
"""


def add_parser(commands: Any) -> None:
    """Add `tinytsm forecast` to the command line."""
    parser = console.add_command(
        commands,
        "forecast",
        run,
        help="forecast the series of a CSV or Parquet file",
        description="Forecast the series of a CSV or Parquet file, with quantiles.",
        epilog=_EXAMPLES,
    )
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
        "--mean",
        action="store_true",
        help="a column of the mean too: what to stock of things that rarely sell, whose median is 0",
    )
    parser.add_argument(
        "--context-length",
        metavar="N",
        help="use only the newest N steps of each series (default: all)",
    )
    parser.add_argument(
        "--future",
        metavar="FILE",
        help="table of what is known of the steps to come: its columns that the data have too are covariates",
    )
    options.add_flags(parser)
    console.add_column_flags(parser)
    console.add_output_flags(parser, picture="fan chart", last="3 horizons, at least 100")


def run(args: argparse.Namespace) -> None:
    """Carry out `tinytsm forecast` with the flags of `add_parser`. Raises UsageError and InputError."""
    from tinytsm import frames
    from tinytsm.inputs import check_horizon

    horizon = check_horizon(args.horizon)
    levels = frames.QUANTILES
    if args.quantiles is not None:
        levels = console.quantiles(args.quantiles)
    context_length = console.whole(args.context_length, "--context-length")
    last = console.whole(args.last, "--last") or max(3 * horizon, 100)
    output, chart = console.check_files(args)
    console.check_device(args.device)
    chosen = console.forecast_options(args)
    model = console.find_model(args.model)
    series, layout, notes = console.read_series(args, horizon=horizon, future=args.future)
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
    if layout.covariates:
        counted = sum(one.weight > 0 for one in forecasts)
        names = ", ".join(map(str, layout.covariates))
        console.note(
            f"covariates ({names}) count in {counted:,} of {len(forecasts):,} series, where they helped in the newest past"
        )

    if args.json or (output is not None and output.suffix.lower() == ".json"):
        head = {"model": model, "horizon": horizon, "quantile_levels": levels, "notes": notes}
        document = json.dumps(
            head | {"series": [_as_json(f, levels, mean=args.mean) for f in forecasts]},
            allow_nan=False,
        )
        console.write_text(document + "\n", output)
    else:
        table = frames.to_frame(
            forecasts,
            quantile_levels=levels,
            id_column=layout.id_name,
            timestamp_column=layout.stamp_name,
            mean=args.mean,
        )
        console.write_table(table, output)
    if chart is not None:
        from tinytsm import plot

        console.draw(chart, [plot.panel(f, levels) for f in forecasts], last=last)


def _as_json(forecast: "Forecast", levels: Sequence[float], *, mean: bool) -> dict[str, Any]:
    dates = hasattr(forecast.index, "tz")
    return {
        "item_id": str(forecast.series.item),
        "target_name": str(forecast.series.target),
        "freq": forecast.series.timeline.freq,
        "timestamp": [stamp.isoformat() if dates else int(stamp) for stamp in forecast.index],
        "predictions": forecast.median.tolist(),
        **({"mean": forecast.mean.tolist()} if mean else {}),
        "quantiles": {str(q): forecast.quantiles[:, i].tolist() for i, q in enumerate(levels)},
    }
