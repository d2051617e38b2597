"""Processes of this tree with a log and a deadline; one that does not keep it is killed with its helpers."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.record import ROOT


def environment() -> dict[str, str]:
    """This process's, in which the tree is found without being installed and output is not held back."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def start(arguments: Sequence[str], *, log: Path, env: Mapping[str, str]) -> subprocess.Popen:
    """Python with these arguments, in a process group of its own, its output at the end of the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen, seconds: float) -> int | None:
    """The exit code, waited for so long; None where it had to be killed."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        # the whole group: the compiler has helpers of its own
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None
