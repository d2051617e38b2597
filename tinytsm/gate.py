"""Compile every kernel for a GPU that need not be there, and check what the machine code costs.

    python -m tinytsm.gate                        # what the presets select, for sm_90
    python -m tinytsm.gate --full --arch 80 90 100

Each configuration that `tinytsm.ops` can select is compiled by calling the kernel's own launcher. A configuration
fails if it does not compile, if it spills more than a few registers, if it asks for more shared memory than a block may
have, or if it multiplies without tensor cores. The exit code is 1 if any does.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tinytsm.config import PRESETS, QUANTILES

# Largest dynamic shared memory of a block, in bytes, by compute capability (CUDA C++ programming guide, "Technical
# specifications per compute capability").
SHARED_LIMIT = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
# The tensor-core instruction that a dot must become.
TENSOR_CORES = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}
# Bytes of a thread that may lie in local memory: the assembler gives up a few registers for room for another block.
_SPILL_LIMIT = 32
_COUNTED = ("HGMMA", "UTCHMMA", "HMMA", "LDL", "STL", "FFMA")
# tf32: float32 where torch is told to multiply it so
_DTYPES = {
    "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What one compiled kernel costs. registers: per thread. stack, shared: bytes. spills: local loads and stores."""

    case: str
    arch: int
    faults: tuple[str, ...]
    kernel: str = ""
    registers: int = 0
    stack: int = 0
    spills: int = 0
    shared: int = 0
    warps: int = 0
    matrix: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """A configuration: `launch` calls a launcher on meta tensors, which compiles what it would run."""

    name: str
    launch: Callable[[], object]


class _Driver:
    """Stands in for a GPU's driver: names the chip, and can do nothing else."""

    def __init__(self, arch: int):
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        # the key of a kernel's cache: one for each chip
        return self.target.arch

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        raise RuntimeError("compiling only: there is no device")


@contextlib.contextmanager
def offline(arch: int) -> Iterator[list[Any]]:
    """Inside, launches compile for compute capability `arch` (90 is sm_90) and run nothing.

    Yields the list of what they compiled. Raises RuntimeError in Triton's interpreter, which compiles nothing.
    """
    import triton
    from triton.runtime.driver import driver

    if triton.knobs.runtime.interpret:
        raise RuntimeError("nothing compiles in the interpreter: unset TRITON_INTERPRET")
    built: list[Any] = []
    interface = triton.runtime.jit.KernelInterface
    was_driver, was_item = driver._active, interface.__getitem__

    def compile_only(kernel: Any, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            built.append(kernel.warmup(*args, grid=grid, **options))

        return launch

    driver.set_active(_Driver(arch))
    interface.__getitem__ = compile_only
    try:
        yield built
    finally:
        driver._active = was_driver
        interface.__getitem__ = was_item


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    out = subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True)
    return out.stdout + out.stderr


def inspect(kernel: Any, *, case: str, arch: int) -> Report:
    """Read a compiled kernel's machine code; every kernel of this project holds a dot."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = os.path.join(folder, "kernel.cubin")
        Path(cubin).write_bytes(kernel.asm["cubin"])
        usage = re.search(r"REG:(\d+) STACK:(\d+)", _tool("cuobjdump", "-res-usage", cubin))
        code = _tool("nvdisasm", "-c", cubin)
    if usage is None:
        raise RuntimeError(f"cuobjdump says nothing of the resources of {kernel.metadata.name}")
    count = {name: len(re.findall(rf"\b{name}\b", code)) for name in _COUNTED}
    registers, stack = int(usage[1]), int(usage[2])
    wanted = TENSOR_CORES[arch]
    faults = []
    if stack > _SPILL_LIMIT:
        faults.append(f"spills {stack} bytes")
    if kernel.metadata.shared > SHARED_LIMIT[arch]:
        faults.append(f"shared memory over {SHARED_LIMIT[arch]} bytes")
    if not count[wanted]:
        faults.append(f"no {wanted}")
    matrix = next((name for name in _COUNTED[:3] if count[name]), "FFMA")
    return Report(
        case=case,
        kernel=kernel.metadata.name,
        arch=arch,
        registers=registers,
        stack=stack,
        spills=count["LDL"] + count["STL"],
        shared=kernel.metadata.shared,
        warps=kernel.metadata.num_warps,
        matrix=f"{matrix} {count[matrix]}",
        faults=tuple(faults),
    )


@contextlib.contextmanager
def _products(name: str) -> Iterator[None]:
    """Inside, torch multiplies float32 to full accuracy, or in TF32 where a case's name says so."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _embed(*, tokens: int, patch: int, dtype: torch.dtype, backward: bool) -> None:
    from tinytsm.kernels import dart_patch_embed

    series, columns = 256, 384
    x = torch.empty(series, tokens * patch, device="meta")
    if backward:
        frame = torch.empty(series, tokens, device="meta")
        moves = torch.empty(series, tokens, 4, device="meta")
        grad = torch.empty(series, tokens, columns, dtype=dtype, device="meta")
        dart_patch_embed.launch_backward(x, frame, frame, moves, grad, patch)
    else:
        resolution = torch.empty(series, device="meta")
        weight = torch.empty(2 * patch + 4, columns, dtype=dtype, device="meta")
        dart_patch_embed.launch_forward(x, resolution, weight, patch, 32.0, 512.0, True)


def _loss(*, rank: int, patch: int, dtype: torch.dtype, backward: bool) -> None:
    from tinytsm.kernels import grid_loss

    # one octave is enough: they share their kernel
    series, tokens, horizon, quantiles = 16, 64, 1, len(QUANTILES)
    h = torch.empty(series, tokens, rank, dtype=dtype, device="meta")
    weight = torch.empty(horizon, rank, patch * (1 + quantiles), dtype=dtype, device="meta")
    target = torch.empty(series, tokens + horizon, patch, device="meta")
    frame = torch.empty(series, tokens, device="meta")
    offset = torch.empty(series, dtype=torch.int64, device="meta")
    levels = torch.empty(quantiles, device="meta")
    inputs = (h, weight, target, frame, frame, frame, offset, levels)
    if backward:
        grid_loss.launch_backward(*inputs, torch.empty(1, device="meta"))
    else:
        grid_loss.launch_forward(*inputs)


def _attention(
    *, length: int, width: int, dtype: torch.dtype, causal: bool, backward: bool
) -> None:
    from tinytsm.kernels import attention

    series, tokens, heads = (4, length, 8) if causal else (4 * length, 64, 8)
    qkv = torch.empty(series, tokens, 3, heads, width, dtype=dtype, device="meta")
    # what dispatch does not select on this chip
    if not attention.supports(qkv):
        return
    gain = torch.empty(width, device="meta")
    table = torch.empty(2, tokens, width // 2, device="meta") if causal else gain
    state = table if causal else torch.empty(series, dtype=torch.int8, device="meta")
    inputs = (qkv, gain, gain, table, state)
    if backward:
        out = torch.empty(series, tokens, heads, width, dtype=dtype, device="meta")
        lse = torch.empty(heads, series * tokens, device="meta")
        attention.launch_backward(*inputs, out, lse, out, length, causal=causal)
    else:
        attention.launch_forward(*inputs, length, causal=causal)


def _attention_cases(*, full: bool) -> Iterator[Case]:
    from tinytsm.kernels import attention

    # blocks run in bfloat16 on every GPU that has it
    choices = {
        (config.d_model // config.n_heads, config.context_patches, "bf16")
        for config in PRESETS.values()
    }
    if full:
        # the longest group of each tile, and one that is streamed
        choices = set(
            itertools.product(attention.HEAD_WIDTHS, (64, 128, 129), set(_DTYPES) - {"tf32"})
        )
    for width, tokens, dtype in sorted(choices):
        # an item has far fewer variates than a series has tokens
        groups = {"causal": tokens, "feature": tokens if full else 64}
        for (kind, length), backward in itertools.product(groups.items(), (False, True)):
            launch = functools.partial(
                _attention, length=length, width=width, dtype=_DTYPES[dtype],
                causal=kind == "causal", backward=backward,
            )  # fmt: skip
            direction = "bwd" if backward else "fwd"
            yield Case(f"{kind} {direction} E{width} L{length} {dtype}", launch)


def cases(*, full: bool) -> Iterator[Case]:
    """What `tinytsm.ops` selects for the presets, or everything that it can select."""
    from tinytsm.kernels import dart_patch_embed

    configs = PRESETS.values()
    # embedding and head keep float32 weights, and training multiplies them in TF32; the others are for callers of the ops
    patches = dart_patch_embed.PATCHES if full else sorted({c.patch for c in configs})
    for dtype, patch in itertools.product(_DTYPES if full else ("fp32", "tf32"), patches):
        settings: dict[str, Any] = {"patch": patch, "dtype": _DTYPES[dtype]}
        embed = functools.partial(_products(dtype)(_embed), **settings)
        loss = functools.partial(_products(dtype)(_loss), **settings, rank=64)
        # contexts of up to 16 tokens share a tile; longer ones walk through whole tiles
        for tokens in (16, 64):
            launch = functools.partial(embed, tokens=tokens, backward=False)
            yield Case(f"embed fwd P{patch} N{tokens} {dtype}", launch)
        launch = functools.partial(embed, tokens=64, backward=True)
        yield Case(f"embed bwd P{patch} {dtype}", launch)
        for backward in (False, True):
            launch = functools.partial(loss, backward=backward)
            yield Case(f"loss {'bwd' if backward else 'fwd'} P{patch} {dtype}", launch)
    # a lone tile may serve two presets
    yield from {case.name: case for case in _attention_cases(full=full)}.values()


def reports(*, archs: list[int], full: bool) -> Iterator[Report]:
    """Compile every case for every chip; one that does not compile is reported as a fault.

    A kernel that several cases share, as lengths that are streamed do, is reported with the first of them.
    """
    seen = set()
    for case in cases(full=full):
        for arch in archs:
            with offline(arch) as built:
                try:
                    case.launch()
                # whatever a compiler may throw
                except Exception as error:  # noqa: BLE001
                    yield Report(case=case.name, arch=arch, faults=(f"no code: {error!r:.80}",))
                    continue
            for kernel in built:
                if kernel.hash not in seen:
                    seen.add(kernel.hash)
                    yield inspect(kernel, case=case.name, arch=arch)


_ROW = "{:26} {:>4} {:>5} {:>6} {:>7} {:>6} {:>11}  {}"
HEADER = _ROW.format("case", "sm", "regs", "spills", "shared", "warps", "matrix", "").rstrip()


def line(r: Report) -> str:
    """One kernel's row under HEADER."""
    cells = (r.case, r.arch, r.registers, r.spills, r.shared, r.warps, r.matrix)
    return _ROW.format(*cells, ", ".join(r.faults)).rstrip()


def main(argv: list[str] | None = None) -> int:
    """The command; returns the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tinytsm.gate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--arch", type=int, nargs="+", default=[90], choices=sorted(SHARED_LIMIT),
        help="compute capabilities (default: 90)",
    )  # fmt: skip
    parser.add_argument("--full", action="store_true", help="every patch length, dtype and tile")
    args = parser.parse_args(argv)

    import triton

    began = time.perf_counter()
    print(f"triton {triton.__version__}, torch {torch.__version__}")
    print(HEADER)
    done = []
    for r in reports(archs=args.arch, full=args.full):
        done.append(r)
        print(line(r), flush=True)
    bad = sum(bool(r.faults) for r in done)
    summary = {
        "kernels": len(done),
        "faulty": bad,
        "seconds": round(time.perf_counter() - began, 1),
        "triton": triton.__version__,
        "torch": torch.__version__,
    }
    print(json.dumps(summary))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
