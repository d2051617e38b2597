"""Studies: questions about a model, answered with tables and pictures.

    tinytsm study calibration --model runs/nano        against laws that are known
    tinytsm study sifi --model runs/nano data.csv      accuracy and time by stride and horizon
    tinytsm study strategies --pack DIR --model nano   what each strategy gives and costs on a pack

`tinytsm study NAME --help` tells the flags of each.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

# each has a `main(argv)` and is imported when it is asked for
STUDIES = {
    "calibration": "regret and coverage where the best forecast is known",
    "sifi": "accuracy and time by stride and horizon",
    "strategies": "what each strategy gives and costs on a pack",
}


def new_parser(name: str, manual: str) -> argparse.ArgumentParser:
    """The parser of a study; manual: its module's docstring, whose first paragraph describes it."""
    description, _, rest = manual.partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"tinytsm study {name}",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def carry_out(
    name: str, args: argparse.Namespace, work: Callable[[argparse.Namespace], int]
) -> int:
    """Check `--output` and `--plot`, then work. Returns the exit code: 2 for what cannot be used."""
    from tinytsm import plot
    from tinytsm.errors import InputError
    from tinytsm.files import check_output
    from tinytsm.pack import PackError

    try:
        if args.output is not None:
            check_output(args.output, (".json",))
        if args.plot is not None:
            check_output(args.plot, plot.SUFFIXES)
            plot.require_matplotlib()
        return work(args)
    except (PackError, InputError) as error:
        print(f"tinytsm study {name}: error: {error}", file=sys.stderr)
        return 2


def main(argv: Sequence[str] | None = None) -> int:
    """The command `tinytsm study`. Returns the exit code: 2 for a study that is not there."""
    argv = list(sys.argv[1:] if argv is None else argv)
    listing = "\n".join(f"  {name:<13}{text}" for name, text in STUDIES.items())
    if argv and argv[0] in ("-h", "--help"):
        print(f"{(__doc__ or '').strip()}\n\nstudies:\n{listing}")
        return 0
    if not argv or argv[0] not in STUDIES:
        got = repr(argv[0]) if argv else "none"
        print(f"tinytsm study: error: name a study, got {got}\n{listing}", file=sys.stderr)
        return 2
    name = f"tinytsm.study_{argv[0]}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        print(f"tinytsm study: error: this version has no study {argv[0]!r}", file=sys.stderr)
        return 2
    return int(module.main(argv[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main())
