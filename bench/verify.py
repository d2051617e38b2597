"""Whether the unmodified tests of an op pass here: without that, no ratio of its kernel is printed."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from bench.record import ROOT

# The ops whose kernels are ours: their tests decide whether a ratio may be printed.
OPS = ("dart_patch_embed", "grid_loss", "causal_attention", "feature_attention")
# Where the tests are of those whose kernel on a CPU is another one.
_ON_CPU = {"grid_loss": "cpu_training", "causal_attention": "cpu_training"}
# What `python -m bench.gpu` has found already, as {op: verdict}, so that each benchmark file need not ask again.
VERDICTS = "TINYTSM_BENCH_VERDICTS"
_SECONDS = 300


def verdict(code: int | None, output: str | None = None) -> str:
    """What a process's exit code says, None where it was stopped, and its output, where it is pytest's: `passed`,
    `failed`, `skipped`, `out of time`."""
    if code is None:
        return "out of time"
    if code:
        return "failed"
    # a file whose tests were all skipped exits with 0 as well, and proves nothing
    skipped = output is not None and not re.search(r"\b[1-9]\d* passed\b", output)
    return "skipped" if skipped else "passed"


@functools.cache
def tests_of(op: str, device: str) -> str:
    """Of the tests of an op's kernel on "cuda" or "cpu": `passed`, `failed`, `skipped`, `out of time`, or `absent` where
    there are none."""
    file = f"tests/test_{_ON_CPU.get(op, op) if device == 'cpu' else op}.py"
    path = os.environ.get(VERDICTS)
    if device == "cuda" and path is not None and Path(path).exists():
        known = json.loads(Path(path).read_text())
        if op in known:
            return str(known[op])
    if not (ROOT / file).exists():
        return "absent"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file]
    try:
        done = subprocess.run(
            command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return verdict(None)
    return verdict(done.returncode, done.stdout)
