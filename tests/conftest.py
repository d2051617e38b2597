"""What every test shares: seeds that depend on nothing but the test, and the `gpu` marker.

Hypothesis draws the same examples in every run: the long search with other seeds is `python -m tests.fuzz`.
Torch is imported only when a test asks for it, so that tests of the generator and the layout start at once.
Warnings are errors: pyproject.toml says so.
"""

import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch

    from tinytsm import TinyTSM

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _seed(request: pytest.FixtureRequest) -> int:
    # a checksum, because hash() is salted anew in every process
    return zlib.crc32(request.node.name.encode())


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """Torch's global generator starts every test at the same place, whichever tests ran before."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(_seed(request))


@pytest.fixture(autouse=True)
def _as_precise_as_before() -> Iterator[None]:
    """A trainer on a GPU tells torch to multiply in TF32, for the process: the next test shall not."""
    torch = sys.modules.get("torch")
    before = torch.get_float32_matmul_precision() if torch else None
    yield
    if torch and before:
        torch.set_float32_matmul_precision(before)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A NumPy generator seeded by the test's name."""
    return np.random.default_rng(_seed(request))


@pytest.fixture(scope="session")
def miniature() -> "TinyTSM":
    """A forecaster that knows nothing and costs nothing, for what does not depend on how good it is."""
    import torch

    from tinytsm import TinyTSM
    from tinytsm.config import ModelConfig
    from tinytsm.model import Model

    config = ModelConfig(
        d_model=16, n_heads=2, d_ff=32, n_layers=3, head_rank=8,
        patch=8, context_patches=16, horizon_patches=4,
    )  # fmt: skip
    model = Model(config, torch.Generator().manual_seed(1))
    torch.nn.init.normal_(model.head, std=0.3, generator=torch.Generator().manual_seed(2))
    return TinyTSM(model.requires_grad_(False).eval())


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is released, built from a copy of this tree without a network."""
    pytest.importorskip("setuptools", minversion="77", reason="builds without a network")
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    # a copy, because a build leaves files behind and would take up those of an earlier one
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    for name in ("tinytsm", "kernels", "synth"):
        shutil.copytree(
            ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    subprocess.run([*command, "--outdir", folder, tree], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def tf32() -> None:
    """float32 is multiplied as training multiplies it on a GPU."""
    import torch

    # `_as_precise_as_before` takes it back
    torch.set_float32_matmul_precision("high")


@pytest.fixture
def silent_overflow() -> Iterator[None]:
    """A GPU overflows to infinity in silence; the interpreter's NumPy would warn."""
    with np.errstate(over="ignore"):
        yield


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels in Triton's interpreter keep to their tensors and race with nobody, or fail: see `tests.memory`."""
    from triton.runtime import interpreter

    from tests.memory import watch

    watch(interpreter, monkeypatch)


@pytest.fixture
def attention_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make dispatch take whole tiles wherever one is long enough ("whole"), or never ("stream")."""
    from tinytsm.kernels import attention

    def whole_tile(length, qkv, *, causal, backward):
        fits = request.param == "whole" and length <= 128
        return (64 if length <= 64 else 128) if fits else None

    monkeypatch.setattr(attention, "whole_tile", whole_tile)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Uninitialised memory holds NaN (the largest value, in integer tensors).

    A kernel that leaves a hole in its output then fails the comparison with its definition, always
    instead of now and then.
    """
    import torch

    def poison(tensor: "torch.Tensor") -> "torch.Tensor":
        if tensor.is_floating_point() or tensor.is_complex():
            return tensor.fill_(float("nan"))
        if tensor.dtype is torch.bool:
            return tensor.fill_(True)
        return tensor.fill_(torch.iinfo(tensor.dtype).max)

    def poisoning(allocate):
        return lambda *args, **kwargs: poison(allocate(*args, **kwargs))

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoning(getattr(torch, name)))
    for name in ("new_empty", "new_empty_strided"):
        monkeypatch.setattr(torch.Tensor, name, poisoning(getattr(torch.Tensor, name)))
    yield
