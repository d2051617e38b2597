"""Results as files: what ran where, written whole, compared with the last committed ones.

A document is one section on one machine, bench/results/MACHINE/SECTION.json: a header (machine, versions, commit,
peaks of the same run) and rows. Tiny sizes prove that a benchmark runs; their documents say so, and nothing is
concluded from them.
"""

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tinytsm import device, files

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
TINY = os.environ.get("TINYTSM_BENCH_TINY", "0") not in ("", "0")
_PACKAGES = ("torch", "triton", "numpy", "numba", "flash-attn", "liger-kernel")
# A ratio may fall this far below the committed one before it counts as lost, if the spreads are apart as well.
TOLERANCE = 0.15


def default_folder() -> Path:
    """Where results go unless told otherwise; what is tiny must never stand among those that count."""
    return ROOT / "build" / "bench" if TINY else RESULTS


def pick_device(name: str = "auto") -> torch.device:
    """The GPU where there is one, else the CPU; TINYTSM_BENCH_DEVICE stands for `auto`.

    Raises ValueError for one that is not there.
    """
    name = os.environ.get("TINYTSM_BENCH_DEVICE", "auto") if name == "auto" else name
    found = device.pick_device(name)
    if found.type == "cuda":
        # as the trainer sets it: embedding and head multiply in TensorFloat-32
        torch.set_float32_matmul_precision("high")
    return found


def _processor() -> str:
    try:
        found = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def machine(device: torch.device) -> dict[str, Any]:
    """What figures depend on: the device by name, the processor, cores allowed and threads used."""
    described: dict[str, Any] = {
        "device": _processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "kind": device.type,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described["memory_gib"] = round(properties.total_memory / 2**30, 1)
        described["capability"] = f"{properties.major}.{properties.minor}"
    return described


def slug(described: Mapping[str, Any]) -> str:
    """A folder's name for a machine: a GPU's name, or the processor's and its cores."""
    name = described["device"]
    if described["kind"] == "cpu":
        name = f"cpu {name} {described['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    for name in _PACKAGES:
        found |= version_of(name)
    return found


def version_of(package: str) -> dict[str, str]:
    """{package: version}, or nothing where it is not installed."""
    try:
        return {package: metadata.version(package)}
    except metadata.PackageNotFoundError:
        return {}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], check=False, cwd=ROOT, capture_output=True, text=True
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def commit() -> str:
    """The commit that is measured, with `+` behind it if files differ; TINYTSM_COMMIT where there is no git."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if head is None:
        return os.environ.get("TINYTSM_COMMIT", "unknown")
    # what results were written since does not change what is measured
    changed = _git("status", "--porcelain", "--", ".", ":!bench/results", ":!README.md")
    return head.strip() + ("+" if changed else "")


def header(section: str, device: torch.device, *, command: str) -> dict[str, Any]:
    return {
        "section": section,
        "tiny": TINY,
        "machine": machine(device),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": command,
    }


def path_of(document: Mapping[str, Any], folder: Path) -> Path:
    return folder / slug(document["machine"]) / f"{document['section']}.json"


def _rounded(value: Any) -> Any:
    """Six significant digits: more is noise in a file that people read the differences of."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value


def write_text(text: str, path: Path) -> None:
    """Write a file whole or not at all, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, text)


def write_json(value: Mapping[str, Any], path: Path) -> None:
    write_text(json.dumps(_rounded(value), indent=1) + "\n", path)


def write(document: Mapping[str, Any], folder: Path) -> Path:
    """Write a section's document to its place; returns where.

    Raises ValueError for tiny sizes among the results that count.
    """
    if document["tiny"] and folder.resolve() == RESULTS:
        raise ValueError(f"tiny sizes are no results: give another folder than {folder}")
    path = path_of(document, folder)
    write_json(document, path)
    return path


def read_all(folder: Path, section: str) -> list[dict[str, Any]]:
    """Every machine's document of a section, by machine."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{section}.json"))]


def by_model(folder: Path, section: str) -> list[dict[str, Any]]:
    """Every model's document of a section that has one for each model instead of one for each machine."""
    return [json.loads(path.read_text()) for path in sorted((folder / section).glob("*.json"))]


def committed(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same section on the same machine as last committed, or None."""
    path = path_of(document, RESULTS).relative_to(ROOT).as_posix()
    text = _git("show", f"HEAD:{path}")
    return json.loads(text) if text else None


def regressions(
    now: Iterable[Mapping[str, Any]], before: Iterable[Mapping[str, Any]]
) -> tuple[list[str], int]:
    """Which ratios have fallen, one line each, and how many could be compared.

    Ratios of paired rounds are compared, never times: a busy or slower machine slows both sides of a ratio. One that is
    withheld now has fallen.
    """
    known = {row["name"]: row for row in before if "ratio" in row}
    lines, compared = [], 0
    for row in now:
        old = known.get(row["name"])
        if old is None:
            continue
        if "ratio" not in row:
            lines.append(
                f"{row['name']}: {row.get('withheld', 'none')}, committed {old['ratio']:.2f}"
            )
            continue
        compared += 1
        apart = row["ratio_high"] < old["ratio_low"]
        if apart and row["ratio"] < (1 - TOLERANCE) * old["ratio"]:
            lines.append(f"{row['name']}: {row['ratio']:.2f}, committed {old['ratio']:.2f}")
    return lines, compared
