"""Train a Tiny-TSM model on series that SynthTS makes up as it goes.

    python -m tinytsm.train --compile                         # the nano preset, until stopped
    python -m tinytsm.train --compile --max-seconds 600       # ten minutes, learning-rate decay included
    python -m tinytsm.train --resume --out runs/nano          # go on where a run was stopped
    python -m tinytsm.train --branch-from runs/nano --out runs/longer --max-seconds 3600
    python -m tinytsm.train --init-from runs/nano --out runs/more --max-seconds 3600
    torchrun --nproc-per-node 4 -m tinytsm.train --preset tiny --compile      # several GPUs

A run writes `log.csv`, `loss.png` and `checkpoints/` under --out, and can be stopped at any time: Ctrl-C and SIGTERM
finish the step, save and say how to go on; so does --piece-seconds, by the clock and with exit code 75. On CPU a run
bounded by --steps gives the same bits however often it is stopped and resumed. The last line printed is one JSON
document.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tinytsm import checkpoint, data
from tinytsm.config import PRESETS, ModelConfig, TrainConfig, add_flags, from_dict, given, to_dict
from tinytsm.data import BATCHES_VERSION, GeneratorError
from tinytsm.errors import InputError, TrainingError
from tinytsm.trainer import (
    Trainer,
    find_compiler,
    own_device,
    pick_processes,
    use_huge_pages,
)
from tinytsm.world import LostProcessError, joined

# Exit codes of sysexits.h: EX_TEMPFAIL of a piece that leaves more to do, EX_SOFTWARE where the device failed.
_GO_ON, _DEVICE_FAILED = 75, 70


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The flags of the trainer."""
    parser = argparse.ArgumentParser(
        prog="python -m tinytsm.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--preset", choices=PRESETS, default="nano", help="model size (default: nano)"
    )
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/PRESET)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in --out"
    )
    start.add_argument(
        "--branch-from", type=Path, metavar="RUN",
        help="go on in --out from where another run's learning rate had not begun to fall, optimizer and clock included",
    )  # fmt: skip
    start.add_argument(
        "--init-from", type=Path, metavar="PATH",
        help="start from another run's or release's weights: fresh optimizer and clock, the items after those that it is known to have seen",
    )  # fmt: skip
    parser.add_argument(
        "--new-mixture", action="store_true",
        help="let a run go on although the generator's mixture has changed since",
    )  # fmt: skip
    parser.add_argument(
        "--piece-seconds", type=float, default=math.inf, metavar="SECONDS",
        help="save and stop, with exit code 75, after so long, compilation included",
    )  # fmt: skip
    parser.add_argument(
        "--end-in", type=float, metavar="SECONDS",
        help="instead of --max-seconds: a time box that ends so long from now, compilation included; saving comes after",
    )  # fmt: skip
    add_flags(parser, TrainConfig, title="training")
    add_flags(parser, ModelConfig, title="model (default: the preset's)")
    return parser.parse_args(argv)


def settle(args: argparse.Namespace, out: Path) -> tuple[ModelConfig, TrainConfig, Path | None]:
    """Settings of the run and the checkpoint that it goes on from: the stored ones first, then the flags."""
    found = checkpoint.newest(out)
    if found is not None and not args.resume:
        raise ValueError(f"{out} holds a run already: --resume it, or give another --out")
    if found is None and (out / checkpoint.BEFORE_DECAY).exists():
        # --branch-from would take it for the new run's
        raise ValueError(
            f"{out} holds a run already, of which {checkpoint.BEFORE_DECAY}/ alone is left: remove that, or give another --out"
        )
    if found is None and args.resume:
        raise ValueError(f"nothing to resume in {out}: it has no checkpoints")
    if args.branch_from is not None:
        found = checkpoint.before_decay(args.branch_from)
    if found is None:
        base = PRESETS[args.preset]
        if args.init_from is not None:
            base = checkpoint.load_config(args.init_from)
        model = dataclasses.replace(base, **given(args, ModelConfig))
        return model, TrainConfig(**given(args, TrainConfig)), None
    model = checkpoint.load_config(found)
    if changed := given(args, ModelConfig):
        flags = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise ValueError(f"a run that goes on keeps its model; drop {flags}")
    _, _, state = checkpoint.load_training(found)
    if state["mixture"] != BATCHES_VERSION and not args.new_mixture:
        raise ValueError(
            f"{found} was trained on mixture {state['mixture']}, the generator is now at {BATCHES_VERSION}: "
            "the series would change mid-run; give --new-mixture to go on all the same"
        )
    stored = from_dict(TrainConfig, state["train"])
    train = dataclasses.replace(stored, **given(args, TrainConfig))
    if train.optimizer != stored.optimizer:
        raise ValueError(
            f"a run that goes on keeps its optimizer, {stored.optimizer}, got {train.optimizer}: drop --optimizer, or "
            "take the weights alone with --init-from"
        )
    return model, train, found


def main(argv: list[str] | None = None) -> int:
    """The command; returns the process's exit code."""
    began = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    use_huge_pages()
    out = args.out or Path("runs") / args.preset
    try:
        with contextlib.ExitStack() as company:
            return _train(_set_up(args, out, argv, company), args, began)
    except InputError as error:
        _say(f"tinytsm.train: error: {error}")
        return 2
    except LostProcessError as error:
        _say(_fell_over(str(error), out))
        return 1
    except TrainingError as error:
        _say(f"tinytsm.train: error: {error}")
        return 1
    except GeneratorError as error:
        # that of a process alone
        print(f"tinytsm.train: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(_fell_over(f"cannot write the run ({error})", out), file=sys.stderr)
        return 1
    except torch.AcceleratorError as error:
        first_line = str(error).partition("\n")[0]
        print(_fell_over(f"the device failed ({first_line})", out), file=sys.stderr)
        return _DEVICE_FAILED


def _say(text: str) -> None:
    """Tell the user, once for all processes."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)


def _set_up(
    args: argparse.Namespace, out: Path, argv: list[str], company: contextlib.ExitStack
) -> Trainer:
    """The trainer of this process, beside the others, which end with `company`. Raises InputError."""
    try:
        if args.end_in is not None and "max_seconds" in given(args, TrainConfig):
            raise ValueError("give --max-seconds or --end-in, not both")
        if args.end_in is not None and not 0 < args.end_in < math.inf:
            raise ValueError(f"--end-in must be a positive number of seconds, got {args.end_in}")
        model_config, config, found = settle(args, out)
        device = own_device(config.device)
        processes = pick_processes(model_config, config, device)
        company.callback(torch.set_num_threads, torch.get_num_threads())
        threads = config.threads or max(1, torch.get_num_threads() // processes)
        torch.set_num_threads(threads)
        _say("preparing the generator (compiled once on a machine: a minute or two) ...")
        preparing = time.perf_counter()
        data.prepare()
        spent = time.perf_counter() - preparing
        _say(f"prepared in {spent:.0f} s{_uncounted(args)}")
        command = [sys.executable, "-m", "tinytsm.train", *argv, "--threads", str(threads)]
        world = company.enter_context(joined(device, processes=processes, command=command))
        trainer = Trainer(model_config, config, out, device=device, world=world)
        if found is not None:
            trainer.restore(found)
        elif args.init_from is not None:
            trainer.init_from(checkpoint.resolve(args.init_from))
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error
    return trainer


def _fell_over(what: str, out: Path) -> str:
    return (
        f"tinytsm.train: error: {what}; go on from the last checkpoint with: "
        f"python -m tinytsm.train --resume --out {out}"
    )


def _uncounted(args: argparse.Namespace) -> str:
    """What is said of the seconds before the first step: only a box that ends by the clock counts them."""
    return ", not counted" if args.end_in is None else ""


def _train(trainer: Trainer, args: argparse.Namespace, began: float) -> int:
    """Compile, train and report; returns the exit code. began: of the process, on `time.perf_counter`'s clock."""
    config, first = trainer.config, trainer.world.rank == 0
    parameters = sum(p.numel() for p in trainer.model.parameters())
    attention = ", ".join(f"{kind} attention by {by}" for kind, by in trainer.attention.items())
    _say(
        f"{parameters:,} parameters on {trainer.device}, processes: {trainer.world.size}, blocks in {trainer.model.block_dtype}, {attention}"
    )
    _say(json.dumps(to_dict(trainer.plan.model)))
    settings = to_dict(config)
    if args.end_in is not None:
        settings["max_seconds"] = f"until {args.end_in:g} s after the start"
    _say(json.dumps(settings))
    if args.end_in is not None or trainer.clock.progress < 1:
        lacks = config.compile and trainer.device.type == "cpu" and find_compiler() is None
        if lacks:
            _say("no C++ compiler found (g++ or clang++): going on without --compile")
        if lacks or not config.compile:
            trainer.warm_up()
        else:
            _say("compiling (a minute or two; later runs find it cached) ...")
            trainer.compile()
            _say(f"compiled in {trainer.compile_seconds:.0f} s{_uncounted(args)}")

    def on_signal(number: int, frame: Any) -> None:
        trainer.stop_signal = number

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    trainer.clock.start()
    if args.end_in is not None:
        trainer.end_at(began + args.end_in)
    box = trainer.config.max_seconds
    bar = None
    if first:
        bar = tqdm(
            total=1000 if box else config.steps,
            bar_format="{percentage:3.0f}% |{bar:20}| {postfix} [{elapsed}<{remaining}]",
            initial=round(1000 * trainer.clock.progress) if box else trainer.clock.step,
        )
    try:
        outcome = trainer.run(bar, until=began + args.piece_seconds)
    finally:
        if bar is not None:
            bar.close()
        for s, handler in before.items():
            signal.signal(s, handler)
    if not first:
        # torchrun takes any other code for a failure and ends the first process, which still saves
        return 0
    _finish(trainer, outcome, parameters)
    if outcome == "stopped":
        return 128 + (trainer.stop_signal or signal.SIGTERM)
    return _GO_ON if outcome == "paused" else 0


def _finish(trainer: Trainer, outcome: str, parameters: int) -> None:
    """Draw the loss, say how to go on, and print one JSON line."""
    out = trainer.out
    try:
        from tinytsm.plot import loss_curve

        loss_curve(out / "log.csv", out / "loss.png")
    except (ImportError, InputError) as error:
        print(f"no loss curve drawn: {error}", file=sys.stderr)
    if outcome != "complete":
        print(
            f"{outcome}; go on with: python -m tinytsm.train --resume --out {out}", file=sys.stderr
        )
    summary = {
        "outcome": outcome,
        "out": str(out),
        "step": trainer.clock.step,
        "tokens": trainer.tokens,
        "seconds": round(trainer.clock.seconds, 1),
        "compile_seconds": round(trainer.compile_seconds, 1),
        "decay_start": trainer.clock.decay_start,
        "held_out": trainer.scores and trainer.scores._asdict(),
        "skipped": trainer.skipped,
        "parameters": parameters,
        "mixture": BATCHES_VERSION,
        "versions": checkpoint.fingerprint(),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    sys.exit(main())
