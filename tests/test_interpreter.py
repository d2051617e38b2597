"""Without a GPU the kernels' tests run in Triton's interpreter: each file in a process of its own.

The interpreter is chosen when Triton is imported, so it cannot share a process with tests that compile.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
FILES = (
    "test_causal_attention.py",
    "test_dart_patch_embed.py",
    "test_feature_attention.py",
    "test_grid_loss.py",
    "test_kernel_training.py",
    "test_memory.py",
    "test_triton_support.py",
)


def run(file: str) -> subprocess.CompletedProcess[str]:
    # the interpreter is Python code: more threads only get in its way
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{file}"]
    return subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest,
) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """Of each file that is asked for, its run: as many at once as there are cores, up to four."""
    name = test_kernels_in_the_interpreter.__name__
    asked = [
        str(item.callspec.params["file"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == name
    ]
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    yield {file: pool.submit(run, file) for file in asked}
    pool.shutdown(cancel_futures=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="these files run on the GPU itself")
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="these files run in this process")
@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
@pytest.mark.parametrize("file", FILES)
def test_kernels_in_the_interpreter(
    file: str, runs: dict[str, Future[subprocess.CompletedProcess[str]]]
) -> None:
    result = runs[file].result()
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    # a file that skips itself proves nothing
    assert passed and int(passed[1]) > 2, result.stdout[-2000:]


def test_every_file_of_kernel_tests_is_listed():
    needs_kernels = {
        path.name
        for path in (ROOT / "tests").glob("test_*.py")
        if "kernel_device()" in path.read_text() and path.name != Path(__file__).name
    }
    assert needs_kernels == set(FILES)
