"""`tinytsm impute`: what might the missing values have been?"""

import argparse
from typing import Any

from tinytsm import options
from tinytsm.commands import console

_EXAMPLES = """\
examples:
  tinytsm impute sensor.csv --output whole.csv
      every step of the frequency, missing values filled with the median
  tinytsm impute sensor.csv --quantiles .05,.95 --plot filled.png
      with the 90 % band of what was filled, drawn
  zcat sensor.csv.gz | tinytsm impute - --freq 10min --json

Missing is an empty field, and each step of the frequency that has no row. The column "imputed" says which values were
filled; a gap is forecast from both of its sides.
"""


def add_parser(commands: Any) -> None:
    """Add `tinytsm impute` to the command line."""
    parser = console.add_command(
        commands,
        "impute",
        run,
        help="fill missing values, with a band",
        description="Fill the missing values of each series from both sides of each gap, with quantiles.",
        epilog=_EXAMPLES,
    )
    console.add_data_flag(parser)
    parser.add_argument(
        "--quantiles", metavar="LIST", default=".1,.9",
        help="levels between 0 and 1 of the band (default: .1,.9)",
    )  # fmt: skip
    console.add_model_flags(parser)
    options.add_flags(parser)
    console.add_column_flags(parser)
    console.add_output_flags(parser, picture="the filled values and their band")


def run(args: argparse.Namespace) -> None:
    """Carry out `tinytsm impute` with the flags of `add_parser`. Raises UsageError and InputError."""
    from tinytsm import impute

    levels = console.quantiles(args.quantiles)
    last = console.whole(args.last, "--last")
    output, chart = console.check_files(args)
    console.check_device(args.device)
    chosen = console.forecast_options(args)
    model = console.find_model(args.model)
    series, layout, notes = console.read_series(args)
    forecaster = console.load_model(model, args.device, chosen)
    with console.progress(len(impute.gaps(series)), "gap") as advance:
        filled = impute.fill(forecaster, series, quantile_levels=levels, progress=advance)
    table = impute.to_frame(series, filled, layout, levels)
    console.note(f"{int(table['imputed'].sum()):,} of {len(table):,} values filled")
    head = {"model": model, "quantile_levels": levels, "notes": notes}
    console.write_result(table, output, as_json=args.json, head=head, layout=layout)
    if chart is not None:
        console.draw(chart, impute.panels(series, filled, levels), last=last)
