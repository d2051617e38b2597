"""One training step taken apart: where its time goes, and what memory it needs.

    python -m bench.step breakdown                        time by kind of work, for each preset and path
    python -m bench.step memory                           peak memory by preset, tokens of a batch and path
    python -m bench.step memory --preset tiny --minutes 2

Paths: `definitions` (every op as kernels/reference.py has it, run eagerly), `shipped` (the ops that this device gets),
`compiled` (the same, compiled part by part as the trainer does). Batches are random and of the trained context; the
generator takes no part. Each memory figure comes from a process of its own. One line of JSON comes last.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from bench import record, timing
from bench.record import ROOT, TINY
from tinytsm import ops
from tinytsm.config import PRESETS, TOKEN_MULTIPLE, TrainConfig
from tinytsm.data import Batch
from tinytsm.kernels import reference
from tinytsm.model import Model
from tinytsm.ops import pick_precision
from tinytsm.optim import Optimizer
from tinytsm.trainer import batch_loss
from tinytsm.world import World

PATHS = ("definitions", "shipped", "compiled")
# First match names the work; what an op or a kernel is called differs by library, so these are broad.
_KINDS = (
    ("embedding", r"embed"),
    ("loss", r"grid_loss|pinball"),
    # the project's own are whole tiles and streams
    ("attention", r"attention|attn|flash|fmha|sdpa|whole_(for|back)ward|stream_(for|back)ward"),
    ("matmul", r"gemm|matmul|nvjet|cutlass|cublas|mm\b|addmm|bmm|einsum|linear|mkldnn"),
    # a cast that the compiler fused with other work is no copy
    ("copies", r"memcpy|memset|(?<!_to_)copy_|clone|contiguous|cat\b"),
    ("pointwise and norms", r"triton_|cpp_fused|elementwise|vectorized|reduce|aten::"),
)


@contextlib.contextmanager
def path_taken(path: str) -> Iterator[None]:
    """Inside, the model computes its ops by this path."""
    with contextlib.ExitStack() as stack:
        if path in ("definitions", "attention"):
            embed = reference.dart_patch_embed
            stack.enter_context(mock.patch.object(ops, "dart_patch_embed", embed))
            stack.enter_context(mock.patch.object(ops, "grid_loss", _defined_loss))
        if path == "definitions":
            # a lone variate attends to no other: attention over time is all there is
            defined = _by_definition(ops.causal_attention)
            stack.enter_context(mock.patch.object(ops, "causal_attention", defined))
        yield


def _defined_loss(*inputs: Any, dtype: torch.dtype) -> Any:
    """The definition knows no dtype but its inputs'."""
    return reference.grid_loss(*inputs)


def _by_definition(attend: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **settings: Any) -> Any:
        return attend(*args, **settings | {"backend": "reference"})

    return call


class Step:
    """A model, its optimizer and a random batch of whole contexts; `forward_backward`, `update` and both."""

    def __init__(self, preset: str, *, tokens: int, path: str, device: torch.device):
        config = PRESETS[preset]
        generator = torch.Generator().manual_seed(0)
        series = max(1, tokens // config.context_patches)
        length, total = config.context_patches, config.context_patches + config.horizon_patches
        self.tokens = series * length
        self.model = Model(config, generator).to(device)
        self.model.block_dtype = pick_precision(device)
        if path == "compiled" and not TINY:
            self.model.compile_parts()
        self.optimizer = Optimizer(self.model, TrainConfig(), World())
        drawn = torch.randn(series, total, config.patch, generator=generator).to(device)
        self.batch = Batch(
            drawn[:, :length].reshape(series, -1).contiguous(),
            drawn,
            torch.zeros(series, device=device),
            (torch.arange(series) % TOKEN_MULTIPLE).to(device),
            1,
            0,
        )

    def forward_backward(self) -> None:
        self.model.zero_grad(set_to_none=True)
        batch_loss(self.model, self.batch, World()).backward()

    def update(self) -> None:
        self.optimizer.step(1e-3)

    def whole(self) -> None:
        self.forward_backward()
        self.update()


def _kind(name: str) -> str:
    return next((kind for kind, pattern in _KINDS if re.search(pattern, name.lower())), "other")


def breakdown(preset: str, path: str, *, tokens: int, device: torch.device) -> list[dict[str, Any]]:
    """Milliseconds of a step by kind of work: the device's own time, scaled to the step as it runs unprofiled."""
    repeats = 1 if TINY else 3
    with path_taken(path):
        step = Step(preset, tokens=tokens, path=path, device=device)
        step.whole()
        took = timing.interleave(
            {"step": step.forward_backward, "update": step.update}, device=device, rounds=repeats
        )
        gpu = device.type == "cuda"
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
        with profile(activities=activities) as profiled:
            for _ in range(repeats):
                step.forward_backward()
            timing.synchronize(device)
    spent: dict[str, float] = {}
    for event in profiled.key_averages():
        on_device = event.device_type == torch.autograd.DeviceType.CUDA
        if gpu and not on_device:
            continue
        own = event.self_device_time_total if gpu else event.self_cpu_time_total
        spent[_kind(event.key)] = spent.get(_kind(event.key), 0.0) + own
    milliseconds = 1e3 * sorted(took["step"])[repeats // 2]
    scale = milliseconds / max(sum(spent.values()), 1e-9)
    parts = {kind: own * scale for kind, own in spent.items()}
    parts["optimizer"] = 1e3 * sorted(took["update"])[repeats // 2]
    whole = sum(parts.values())
    return [
        {
            "preset": preset,
            "path": path,
            "tokens": step.tokens,
            "part": part,
            "ms": ms,
            "share": ms / whole,
        }
        for part, ms in sorted(parts.items(), key=lambda item: -item[1])
    ]


def peak_of_step(preset: str, path: str, *, tokens: int, device: torch.device) -> int:
    """Bytes at the peak of a step, weights and optimizer included: the device's, or this process's growth on CPU."""
    import resource

    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with path_taken(path):
        step = Step(preset, tokens=tokens, path=path, device=device)
        # the first step makes the optimizer's state, the second has it from the start
        for _ in range(2):
            step.whole()
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # in KiB on Linux
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident)


def memory(preset: str, path: str, *, tokens: int, device: torch.device) -> dict[str, Any]:
    """The peak of one setting, measured in a process of its own; one that fails says how."""
    row: dict[str, Any] = {"preset": preset, "path": path, "tokens": tokens}
    command = [sys.executable, "-m", "bench.step", "peak", "--device", device.type]
    command += ["--preset", preset, "--path", path, "--tokens", str(tokens)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return row | {"failed": lines[-1][:200] if lines else f"exit code {done.returncode}"}
    peak = json.loads(done.stdout.splitlines()[-1])["bytes"]
    return row | {"peak_MB": peak / 1e6}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("breakdown", "memory", "peak"))
    parser.add_argument("--preset", nargs="+", choices=list(PRESETS), help="default: all")
    parser.add_argument("--path", nargs="+", choices=PATHS, help="default: all")
    parser.add_argument("--tokens", type=int, nargs="+", help="tokens of a batch")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--minutes", type=float, default=60.0, help="start nothing new after this")
    parser.add_argument("--out", type=Path, help="folder of results")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = record.pick_device(args.device)
    presets = args.preset or (["nano"] if TINY else list(PRESETS))
    paths = args.path or list(PATHS)
    if args.what == "peak":
        peak = peak_of_step(presets[0], paths[0], tokens=args.tokens[0], device=device)
        print(json.dumps({"bytes": peak}))
        return 0
    large = device.type == "cuda" and not TINY
    if args.what == "breakdown":
        sizes = args.tokens or [1 << 17 if large else 1 << 13 if not TINY else 64]
    else:
        sizes = args.tokens or ([1 << 15, 1 << 17] if large else [1 << 13] if not TINY else [64])
    document = record.header(args.what, device, command=f"python -m bench.step {args.what}")
    document["rows"] = []
    deadline = time.monotonic() + 60 * args.minutes
    left_out, path_written = [], None
    settings = [(p, t, n) for p in presets for t in paths for n in sizes]
    for preset, path, tokens in settings:
        if time.monotonic() > deadline:
            left_out.append(f"{preset} {path} {tokens}")
            continue
        print(f"{args.what}: {preset}, {path}, {tokens} tokens ...", file=sys.stderr)
        if args.what == "breakdown":
            document["rows"] += breakdown(preset, path, tokens=tokens, device=device)
            torch.compiler.reset()
        else:
            document["rows"].append(memory(preset, path, tokens=tokens, device=device))
        path_written = record.write(document, args.out or record.default_folder())
    print(json.dumps({"results": str(path_written), "left_out": left_out}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
