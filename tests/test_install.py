"""The released wheel in an environment of its own: what it declares and nothing else, no checkout, no network."""

import csv
import json
import os
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
NO_NETWORK = """
import socket
def refuse(*args, **kwargs):
    raise OSError("there is no network here")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


def outside() -> dict[str, str]:
    """The environment without what would lead back to the checkout."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def needed(requirements: list[str]) -> set[str]:
    """Names of the distributions that these requirements bring, the indirect ones included, without extras."""
    found: set[str] = set()
    todo = list(requirements)
    while todo:
        one = Requirement(todo.pop())
        name = canonicalize_name(one.name)
        if name not in found and (one.marker is None or one.marker.evaluate({"extra": ""})):
            found.add(name)
            todo += metadata.requires(name) or ()
    return found


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an example series and `env`: the wheel, installed by pip, and links to its dependencies."""
    folder = tmp_path_factory.mktemp("install")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = str(folder / "env" / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    command = [*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, env=outside(), check=True, capture_output=True)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (own,) = metadata.distributions(name="tinytsm", path=[str(site)])
    for name in needed(own.requires or []):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(str(distribution.locate_file(top)))
    (site / "no_network.py").write_text(NO_NETWORK)
    # each process of the environment starts with it
    (site / "no_network.pth").write_text("import no_network\n")
    shutil.copy(ROOT / "docs" / "examples" / "airline.csv", folder)
    return folder


def run(place: Path, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """A command of the environment, `tinytsm ...` or `python ...`."""
    command = [str(place / "env" / "bin" / words[0]), *words[1:]]
    return subprocess.run(
        command, cwd=place, env=outside(), input=given, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip


def test_a_first_forecast(place: Path) -> None:
    done = run(place, "tinytsm", "forecast", "airline.csv", "--horizon", "36")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [rows[0]["date"], rows[-1]["date"]] == ["1961-01-01", "1963-12-01"]
    # the weights that came along know that July is high and November low
    level = {row["date"][:7]: float(row["predictions"]) for row in rows}
    assert level["1961-07"] > 1.2 * level["1961-11"] > 300


def test_pipes(place: Path) -> None:
    table = (place / "airline.csv").read_text()
    done = run(place, "tinytsm", "forecast", "-", "--horizon", "2", "--json", given=table)
    assert done.returncode == 0, done.stderr
    (series,) = json.loads(done.stdout)["series"]
    assert series["timestamp"] == ["1961-01-01T00:00:00", "1961-02-01T00:00:00"]


FORECAST = ["forecast", "airline.csv", "--horizon", "2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*FORECAST, "--plot", "x.png"], "drawing needs matplotlib; run: pip install 'tinytsm[plot]'"),
        ([*FORECAST, "--output", "x.parquet"], "needs pyarrow; run: pip install 'tinytsm[parquet]'"),
        (["synth", "--out", "x.parquet", "--items", "5"], "needs pyarrow; run: pip install 'tinytsm[parquet]'"),
        (["scale", "in", "--output", "out", "--horizon", "2"], "needs ray; run: pip install 'tinytsm[scale]'"),
    ],
    ids=["plot", "parquet", "synth", "scale"],
)  # fmt: skip
def test_a_missing_extra_is_one_line(place: Path, words: list[str], message: str) -> None:
    done = run(place, "tinytsm", *words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.endswith(f"{message}\n")


def test_python_without_checkout_or_network(place: Path) -> None:
    code = """
import importlib, json, socket
import tinytsm.adapters.chronos, tinytsm.adapters.nixtla
from tinytsm import TinyTSM
said = {}
for library in ("fev", "gluonts", "sktime"):
    try:
        importlib.import_module(f"tinytsm.adapters.{library}")
    except ImportError as error:
        said[library] = str(error)
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError as error:
    said["network"] = str(error)
forecast = TinyTSM.from_pretrained().forecast([1, 2, 3, 1, 2, 3], 3)
print(json.dumps(said | {"file": tinytsm.__file__, "shape": forecast.quantiles.shape}))
"""
    done = run(place, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for library in ("fev", "gluonts", "sktime"):
        wanted = f"this adapter needs {library}; run: pip install 'tinytsm[{library}]'"
        assert said[library] == wanted
    assert said["network"] == "there is no network here"
    assert Path(said["file"]).is_relative_to(place) and said["shape"] == [3, 9]


def test_doctor(place: Path) -> None:
    done = run(place, "tinytsm", "doctor", "--json")
    assert done.returncode == 0, done.stderr
    packages = json.loads(done.stdout)["packages"]
    assert packages["torch"] and packages["matplotlib"] is None and packages["pyarrow"] is None
