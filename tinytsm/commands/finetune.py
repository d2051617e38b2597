"""`tinytsm finetune`: a model that has seen these series."""

import argparse
import json
from pathlib import Path
from typing import Any

from tinytsm.commands import console
from tinytsm.errors import InputError

_EXAMPLES = """\
examples:
  tinytsm finetune sales.csv --horizon 12 --output runs/sales
      learn from all but the newest steps, check on those, write the better model
  tinytsm finetune sales.csv --horizon 12 --mode lora --output runs/sales
      learn low-rank additions only: safer on little data
  tinytsm forecast sales.csv --horizon 12 --model runs/sales
      use it

The newest steps of each series (up to four horizons, at most a third) are held back and decide: where the tuned
weights do not forecast them at least 1 % better, the weights that were there before are written instead. Standard
output is one JSON document that says which were kept, and both losses.
"""


def add_parser(commands: Any) -> None:
    """Add `tinytsm finetune` to the command line."""
    parser = console.add_command(
        commands,
        "finetune",
        run,
        help="fine-tune on your series, or find that it does not help",
        description="Fine-tune a model on the series of a table; the result is never worse on what was held back.",
        epilog=_EXAMPLES,
    )
    console.add_data_flag(parser)
    parser.add_argument(
        "--horizon", required=True, metavar="H", help="the horizon that is to become better"
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder for the model, used as --model later"
    )
    parser.add_argument("--mode", choices=("full", "lora"), default="full", help="what is learnt")
    parser.add_argument("--steps", metavar="N", default="200", help="at most (default: 200)")
    parser.add_argument(
        "--batch-size", metavar="N", default="32", help="windows of a step (default: 32)"
    )
    parser.add_argument("--learning-rate", metavar="X", help="peak (default: the mode's)")
    parser.add_argument("--rank", metavar="N", default="8", help="of lora (default: 8)")
    parser.add_argument("--seed", metavar="N", default="0", help="of windows (default: 0)")
    console.add_model_flags(parser)
    console.add_column_flags(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `tinytsm finetune` with the flags of `add_parser`. Raises UsageError and InputError."""
    from tinytsm.inputs import check_horizon

    horizon = check_horizon(args.horizon)
    steps = console.whole(args.steps, "--steps")
    batch_size, rank = (
        console.whole(args.batch_size, "--batch-size"),
        console.whole(args.rank, "--rank"),
    )
    seed = console.whole(args.seed, "--seed", low=0)
    rate = None
    if args.learning_rate is not None:
        rate = console.number(args.learning_rate, "--learning-rate", low=0, high=1)
    console.check_device(args.device)
    model = console.find_model(args.model)
    series, _, _ = console.read_series(args)

    def say(step: int, loss: float) -> None:
        console.note(
            f"step {step}: held-back loss {loss:.4f}" + (" (zero-shot)" if not step else "")
        )

    forecaster = console.load_model(model, args.device)
    try:
        forecaster.check_folder(args.output)
        tuned = forecaster.fit(
            [one.values for one in series], horizon, mode=args.mode, steps=steps,
            batch_size=batch_size, learning_rate=rate, rank=rank, seed=seed, progress=say,
        )  # fmt: skip
        tuned.save_pretrained(args.output)
    except ValueError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{args.output} cannot be written ({reason})") from None
    report = tuned.fit_report
    assert report is not None
    if report.kept == "zero-shot":
        console.note("fine-tuning did not help: the weights are those it started from")
    console.note(f"wrote {Path(args.output)}")
    console.write_text(json.dumps({"output": args.output} | report._asdict()) + "\n", None)
