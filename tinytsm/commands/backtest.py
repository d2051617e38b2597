"""`tinytsm backtest`: would these forecasts have been any good?"""

import argparse
import json
from typing import Any

from tinytsm import options
from tinytsm.commands import console

_EXAMPLES = """\
examples:
  tinytsm backtest sales.csv --horizon 12
      forecast the newest 5 x 12 steps from what came before them; scores to standard output
  tinytsm backtest sales.csv --horizon 12 --windows 20 --step 1 --output windows.csv --plot windows.png
      twenty origins one step apart; every forecast to a file, the newest ones drawn
  tinytsm backtest load.csv --horizon 24 --target load --covariate temperature --covariate holiday
      what it would be worth to know the weather and the holidays
  tinytsm backtest load.parquet --horizon 24 --season 24 --json | jq .scores.relative.mase
      how many times the error of seasonal naive

Scores: mase and crps (lower is better), mae, mse, and coverage_80, the share of values inside the 80 % interval; the row
"relative" is TinyTSM divided by seasonal naive, below 1 where TinyTSM is better.
"""


def add_parser(commands: Any) -> None:
    """Add `tinytsm backtest` to the command line."""
    parser = console.add_command(
        commands,
        "backtest",
        run,
        help="forecast the past from rolling origins and score it",
        description="Forecast the past of each series from rolling origins, and score it beside seasonal naive.",
        epilog=_EXAMPLES,
    )
    console.add_data_flag(parser)
    parser.add_argument(
        "--horizon", required=True, metavar="H", help="steps of each forecast, 1 or more"
    )
    parser.add_argument(
        "--windows", metavar="N", default="5", help="origins per series, at most (default: 5)"
    )
    parser.add_argument("--step", metavar="N", help="steps between origins (default: the horizon)")
    parser.add_argument(
        "--season", metavar="N", help="steps of the season (default: the frequency's usual one)"
    )
    parser.add_argument(
        "--context-length",
        metavar="N",
        help="forecast from only the newest N steps before an origin (default: all)",
    )
    console.add_model_flags(parser)
    options.add_flags(parser)
    console.add_column_flags(parser)
    parser.add_argument(
        "--covariate",
        metavar="NAME",
        action="append",
        default=[],
        help="column that each forecast knows, in its own steps too; repeat the flag for several",
    )
    console.add_output_flags(
        parser,
        picture="the newest forecasts over the history",
        last="3 times what the windows span, at least 100",
    )


def run(args: argparse.Namespace) -> None:
    """Carry out `tinytsm backtest` with the flags of `add_parser`. Raises UsageError and InputError."""
    from tinytsm import backtest, frames
    from tinytsm.inputs import check_horizon

    horizon = check_horizon(args.horizon)
    windows = console.whole(args.windows, "--windows")
    step, season = console.whole(args.step, "--step"), console.whole(args.season, "--season")
    context_length = console.whole(args.context_length, "--context-length")
    span = (windows - 1) * (step or horizon) + horizon
    last = console.whole(args.last, "--last") or max(3 * span, 100)
    output, chart = console.check_files(args)
    console.check_device(args.device)
    chosen = console.forecast_options(args)
    model = console.find_model(args.model)
    series, layout, notes = console.read_series(args, covariates=args.covariate)
    planned, left_out = backtest.plan(
        series, horizon=horizon, windows=windows, step=step, context_length=context_length
    )
    for line in left_out:
        console.note(line)
    notes += left_out
    used = [series[i] for i in sorted({window.series for window in planned})]
    if season is None:
        repeated = sorted({backtest.season_of(one) for one in used})
        listed = ", ".join(f"{steps:,}" for steps in repeated)
        console.note(f"seasonal naive repeats the last {listed} steps; --season N changes that")
    forecaster = console.load_model(model, args.device, chosen)
    with console.progress(len(planned), "window") as advance:
        result = backtest.run(
            forecaster, series, planned, horizon=horizon, season=season, context_length=context_length,
            quantile_levels=frames.QUANTILES, layout=layout, progress=advance,
        )  # fmt: skip
    scores = result.scores.reset_index()
    if output is not None:
        head = {"model": model, "horizon": horizon, "notes": notes}
        console.write_result(result.forecasts, output, as_json=False, head=head, layout=layout)
    if args.json:
        # NaN is no JSON
        known = result.scores.astype(object).where(result.scores.notna(), None)
        rows = known.to_dict(orient="index")
        head = {"model": model, "horizon": horizon, "windows": len(planned), "notes": notes}
        console.write_text(json.dumps(head | {"scores": rows}, allow_nan=False) + "\n", None)
    else:
        console.write_text(console.to_csv(scores), None)
    if chart is not None:
        console.draw(chart, backtest.panels(used, result, layout), last=last)
