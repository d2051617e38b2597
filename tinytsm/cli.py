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
import sys
import traceback
from collections.abc import Sequence

from tinytsm import __version__
from tinytsm.commands import anomalies, backtest, console, finetune, forecast, impute
from tinytsm.errors import InputError

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


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand; `run` of the parsed namespace carries it out."""
    parser = console.Parser(
        prog="tinytsm",
        description="Forecast time series with a tiny foundation model.",
        epilog="Start with: tinytsm forecast --help",
    )
    parser.add_argument("--version", action="version", version=f"tinytsm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (forecast, backtest, finetune, anomalies, impute):
        command.add_parser(commands)
    for name, (_, text) in _FORWARDED.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status of the module's docstring."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and argv[0] in _FORWARDED:
            module = importlib.import_module(_FORWARDED[argv[0]][0])
            status = int(module.main(argv[1:]) or 0)
            console.flush()
            return status
        args, unknown = build_parser().parse_known_args(argv)
        if unknown:
            raise console.UsageError(
                f"unrecognized arguments: {' '.join(unknown)} (see tinytsm {args.command} --help)"
            )
        args.run(args)
    except (console.UsageError, InputError) as error:
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
    except Exception:  # noqa: BLE001 - the last line of defence: everything must become an exit status
        traceback.print_exc()
        return 1
    return 0


def _complain(message: str) -> int:
    line = " ".join(message.split())
    console.note(f"error: {line}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
