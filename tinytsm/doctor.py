"""What this machine has, what tinytsm makes of it, and what each kernel costs on its GPU.

    tinytsm doctor                  versions, devices, compilers; with a GPU also the kernels' report
    tinytsm doctor --arch 90        the kernels' report for an H100 or H200, which need not be there
    tinytsm doctor --json           the same as one JSON document

The kernels' report compiles every configuration that the presets select and reads its registers, spills and shared
memory from the machine code. The exit code is 1 if one of them is at fault.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
from importlib import metadata
from typing import Any

import torch

from tinytsm import __version__, gate, ops
from tinytsm.config import PRESETS
from tinytsm.trainer import find_compiler, pick_attention

_NEEDED = ("torch", "numpy", "numba", "pandas", "safetensors")
_OPTIONAL = {
    "triton": "comes with torch for CUDA; runs the kernels",
    "matplotlib": "pip install 'tinytsm[plot]'",
    "pyarrow": "pip install 'tinytsm[parquet]'",
    "onnxscript": "pip install 'tinytsm[onnx]'",
}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def examine() -> dict[str, Any]:
    """Versions, processors, compilers, and the paths that follow from them."""
    devices = [
        {
            "name": torch.cuda.get_device_name(i),
            "capability": list(torch.cuda.get_device_capability(i)),
            "memory_gib": round(torch.cuda.get_device_properties(i).total_memory / 2**30, 1),
        }
        for i in range(torch.cuda.device_count())
    ]
    device = torch.device("cuda" if devices else "cpu")
    return {
        "tinytsm": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in (*_NEEDED, *_OPTIONAL)},
        "cpu_cores": os.cpu_count(),
        "compute_threads": torch.get_num_threads(),
        "cxx_compiler": find_compiler(),
        "cuda": torch.version.cuda,
        "devices": devices,
        "trains_on": str(device),
        "blocks_in": str(ops.pick_precision(device)).removeprefix("torch."),
        "ops": ops.computed_by(device),
        "attention": pick_attention("auto", PRESETS["tiny"], device),
    }


def advice(found: dict[str, Any]) -> list[str]:
    """What is missing, and what that costs; one line each."""
    lines = [
        f"{name} is missing: {hint}"
        for name, hint in _OPTIONAL.items()
        if found["packages"][name] is None
    ]
    if found["cxx_compiler"] is None and not found["devices"]:
        lines.append("no C++ compiler (g++ or clang++): training runs uncompiled, and slower")
    if found["cuda"] and not found["devices"]:
        lines.append("torch is built for CUDA but sees no device: check the driver with nvidia-smi")
    return lines


def main(argv: list[str] | None = None) -> int:
    """The command; returns the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="tinytsm doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--arch", type=int, nargs="+", choices=sorted(gate.SHARED_LIMIT),
        help="compute capabilities for the kernels' report (default: this machine's GPUs)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args(argv)
    found = examine()
    seen = {10 * major + minor for major, minor in (d["capability"] for d in found["devices"])}
    archs = args.arch or sorted(seen & gate.SHARED_LIMIT.keys())
    if archs and found["packages"]["triton"] is None:
        print(
            "tinytsm doctor: error: the kernels' report needs triton; run: pip install triton",
            file=sys.stderr,
        )
        return 2
    if not args.json:
        _show(found)
        if archs:
            print(f"\nkernels\n{gate.HEADER}")
    done = []
    # listing the kernels imports triton, which need not be there
    for report in gate.reports(archs=archs, full=False) if archs else ():
        done.append(report)
        if not args.json:
            print(gate.line(report), flush=True)
    if args.json:
        print(json.dumps(found | {"kernels": [dataclasses.asdict(r) for r in done]}, indent=1))
    return 1 if any(r.faults for r in done) else 0


def _show(found: dict[str, Any]) -> None:
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v or '-'}" for k, v in value.items())
        elif name == "devices":
            value = (
                ", ".join(
                    "{name} (sm_{0}{1}, {memory_gib} GiB)".format(*d["capability"], **d)
                    for d in value
                )
                or "none"
            )
        print(f"{name.replace('_', ' '):16} {value if value is not None else 'none'}")
    for line in advice(found):
        print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
