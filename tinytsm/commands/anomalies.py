"""`tinytsm anomalies`: which values were unlikely in the light of what came before them?"""

import argparse
from typing import Any

from tinytsm import options
from tinytsm.commands import console

_EXAMPLES = """\
examples:
  tinytsm anomalies load.csv --only
      the unlikely values alone, CSV to standard output
  tinytsm anomalies load.csv --step 1 --threshold 1e-4 --output scored.csv --plot scored.png
      every value forecast from all before it; every step to a file, and drawn
  cat load.csv | tinytsm anomalies - --only --json | jq '.series[].timestamp'

probability is the chance, under the forecast, of a value at least so far out on either side; z is the same as a normal
score. Values in the first --warmup steps have no score. Scores use the past alone. Without --nonnegative zero is no floor
here, whatever the history.
"""


def add_parser(commands: Any) -> None:
    """Add `tinytsm anomalies` to the command line."""
    parser = console.add_command(
        commands,
        "anomalies",
        run,
        help="score how unlikely each value was, given its past",
        description="Score how unlikely each value was, given only what came before it.",
        epilog=_EXAMPLES,
    )
    console.add_data_flag(parser)
    parser.add_argument(
        "--threshold", metavar="P", default="0.001",
        help="probability below which a value is an anomaly (default: 0.001)",
    )  # fmt: skip
    parser.add_argument(
        "--step", metavar="N", default="8",
        help="steps forecast at a time: 1 is the most sensitive, 8 as many times faster (default: 8)",
    )  # fmt: skip
    parser.add_argument(
        "--warmup", metavar="N", default="64",
        help="steps of history before the first score; about half of a short series (default: 64)",
    )  # fmt: skip
    parser.add_argument("--only", action="store_true", help="write the anomalies alone")
    console.add_model_flags(parser)
    options.add_flags(parser)
    console.add_column_flags(parser)
    console.add_output_flags(parser, picture="the 80 % band and the anomalies over the history")


def run(args: argparse.Namespace) -> None:
    """Carry out `tinytsm anomalies` with the flags of `add_parser`. Raises UsageError and InputError."""
    from tinytsm import anomalies

    threshold = console.number(args.threshold, "--threshold", low=0, high=1)
    step = console.whole(args.step, "--step")
    warmup = console.whole(args.warmup, "--warmup")
    last = console.whole(args.last, "--last")
    output, chart = console.check_files(args)
    console.check_device(args.device)
    chosen = console.forecast_options(args)
    model = console.find_model(args.model)
    series, layout, notes = console.read_series(args)
    planned = len(anomalies.origins(series, step=step, warmup=warmup))
    forecaster = anomalies.unfloored(console.load_model(model, args.device, chosen))
    with console.progress(planned, "forecast") as advance:
        scored = anomalies.score(forecaster, series, step=step, warmup=warmup, progress=advance)
    table = anomalies.to_frame(series, scored, layout, threshold=threshold)
    console.note(f"{int(table['anomaly'].sum()):,} of {len(table):,} values are anomalies")
    head = {"model": model, "threshold": threshold, "step": step, "notes": notes}
    shown = table[table["anomaly"]] if args.only else table
    console.write_result(shown, output, as_json=args.json, head=head, layout=layout)
    if chart is not None:
        console.draw(chart, anomalies.panels(series, scored, threshold=threshold), last=last)
