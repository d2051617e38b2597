"""One training step of each preset by each path: tokens per second, share of the matmul peak, ratio to eager.

The peak is a large square product, in the blocks' dtype and on the same threads. A step's work counts the products
that any implementation needs: causal attention at half a square, three passes (forward, and backward for
inputs and weights; the series themselves get none), no optimizer, which is timed with the step all the same. Paths: the
definitions of the ops, the ops that ship (the kernels of the device), each with and without torch.compile, and on a GPU,
compiled, the kernels of attention alone, embedding and loss being the compiler's; on a CPU the ops that ship also by
as many processes as training takes there, instead of as many threads, and, where it is fast at bfloat16, in what the
others train in, float32, beside the definitions and the peak in float32. In every round the eager definitions take their turn, so
`ratio` is how many times faster than them a path is. Compilation is a benchmark of its own. Torch's threads are those of
OMP_NUM_THREADS.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch._inductor.utils import fresh_cache
from torch.utils.benchmark import Timer

from bench.record import TINY, pick_device
from bench.step import path_taken
from tinytsm import ops
from tinytsm.config import LAYER_PATTERN, PRESETS, QUANTILES, ModelConfig, TrainConfig
from tinytsm.kernels import reference
from tinytsm.trainer import Trainer, find_compiler, pick_processes
from tinytsm.world import World, joined

ON_GPU = pick_device().type == "cuda"
# the compiler's own tracing
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)
BLOCKS = ops.pick_precision(pick_device())
PRESET_NAMES = ["nano"] if TINY or not ON_GPU else list(PRESETS)
TOKENS = 1024 if TINY else 1 << 16 if ON_GPU else 8192
# univariate series of full context
CONFIG = TrainConfig(batch_tokens=TOKENS, short_share=0, multivariate_share=0)
PROCESSES = 1 if TINY else pick_processes(PRESETS["nano"], CONFIG, pick_device())
# in tiny mode the compiler's own time would be all there is
COMPILES = not TINY and (ON_GPU or find_compiler() is not None)
# What trains comes first: where time runs out, the last are cut.
RIVALS = [
    *(["processes compiled"] if COMPILES and PROCESSES > 1 else []),
    *(["shipped compiled"] if COMPILES else []),
    *(["attention compiled"] if COMPILES and ON_GPU else []),
    *(["definitions compiled"] if COMPILES else []),
    *(["shipped compiled float32"] if COMPILES and not ON_GPU and BLOCKS != torch.float32 else []),
    "definitions",
    "shipped",
]


def step_flop(config: ModelConfig, tokens: int) -> float:
    """Useful FLOP of a step on univariate series of full context."""
    width = config.d_model
    # the series are data: no pass makes a gradient of them
    per_token = (2 * config.patch + ops.FRAME_FEATURES) * 3 * width * 2 / 3 + 2 * width * width
    for layer in range(config.n_layers):
        per_token += width * width + 3 * width * config.d_ff
        if LAYER_PATTERN[layer % len(LAYER_PATTERN)] == "time":
            per_token += 3 * width * width + config.context_patches * width
        else:
            # a lone variate needs its values alone
            per_token += width * width
    per_token += width * config.head_rank
    head = config.head_rank * config.patch * (1 + len(QUANTILES))
    pairs = sum(len(ks) / stride for ks, stride in reference.octaves(config.horizon_patches))
    return 6.0 * tokens * (per_token + pairs * head)


def make_trainer(
    preset: str, out: Path, device: torch.device, world: World | None = None
) -> Trainer:
    return Trainer(PRESETS[preset], CONFIG, out, device=device, world=world)


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Inside, torch computes on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def matmul_peak(device: torch.device) -> Callable[[torch.dtype], float]:
    """FLOP/s of a large product, by dtype."""
    size = 256 if TINY else 8192 if ON_GPU else 2048

    @functools.cache
    def measure(dtype: torch.dtype) -> float:
        a = torch.randn(size, size, device=device).to(dtype)
        timer = Timer("a @ a", globals={"a": a}, num_threads=torch.get_num_threads())
        return 2 * size**3 / timer.blocked_autorange(min_run_time=0.01 if TINY else 1).median

    return measure


@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("rival", RIVALS)
def bench_step(
    benchmark: BenchmarkFixture, timed: Callable[..., Any], tmp_path: Path, device: torch.device,
    matmul_peak: Callable[[torch.dtype], float], preset: str, rival: str,
) -> None:  # fmt: skip
    benchmark.group = f"training step {preset}, {TOKENS} tokens"
    path, *more = rival.split()
    threads = torch.get_num_threads()
    truth_trainer = make_trainer(preset, tmp_path, device)
    whole_batch = truth_trainer.plan.batch(0, device)
    processes = PROCESSES if path == "processes" else 1
    own_threads = threads // processes
    command = [sys.executable, "-m", "bench.companion", preset, str(own_threads)]
    with (
        joined(device, processes=processes, command=command) as world,
        on_threads(own_threads),
    ):
        trainer = make_trainer(preset, tmp_path, device, world)
        batch = trainer.plan.batch(0, device)
        if "float32" in more:
            truth_trainer.model.block_dtype = trainer.model.block_dtype = torch.float32

        def eager() -> Any:
            with on_threads(threads), path_taken("definitions"):
                return truth_trainer.step(whole_batch)

        def step() -> Any:
            # one more, the others are told
            world.of_first(1.0, device)
            with path_taken(path):
                return trainer.step(batch)

        with path_taken("definitions"):
            truth = truth_trainer.forward_backward(whole_batch)
        with path_taken(path):
            if "compiled" in more:
                torch.compiler.reset()
                trainer.compile()
            ours = trainer.forward_backward(batch)
        torch.testing.assert_close(ours, truth, rtol=2e-3, atol=0)
        for (name, p), q in zip(
            trainer.model.named_parameters(), truth_trainer.model.parameters(), strict=True
        ):
            if q.grad is None:
                assert p.grad is None or not p.grad.any(), name
                continue
            assert p.grad is not None, name
            error = (p.grad - q.grad).norm() / q.grad.norm()
            # bfloat16 rounds other intermediate values when they are fused
            assert error < 0.05, (name, float(error))

        loss, norm, _ = timed(
            step,
            bytes_moved=0,
            calls=10 if ON_GPU else 1,
            rounds=5,
            against=None if rival == "definitions" else eager,
        )
        world.of_first(0.0, device)
    assert loss.isfinite() and norm.isfinite()
    # None under --benchmark-disable
    if benchmark.stats:
        seconds = benchmark.extra_info["us_per_call"] / 1e6
        flops = step_flop(trainer.plan.model, TOKENS) / seconds
        peak = matmul_peak(trainer.model.block_dtype)
        benchmark.extra_info |= {
            "tokens/s": TOKENS / seconds,
            "GFLOP/s": flops / 1e9,
            "of_matmul_peak": flops / peak,
            "matmul_peak GFLOP/s": peak / 1e9,
            "threads": threads,
            "processes": processes,
        }
        del benchmark.extra_info["GB/s"]


@pytest.mark.skipif(not COMPILES, reason="tiny mode, or no compiler")
@pytest.mark.parametrize("preset", PRESET_NAMES)
def bench_compile(
    benchmark: BenchmarkFixture, tmp_path: Path, device: torch.device, preset: str
) -> None:
    """Everything that a run compiles before its first step, without a cache."""
    benchmark.group = "compile"

    def compile_anew() -> None:
        torch.compiler.reset()
        with fresh_cache():
            make_trainer(preset, tmp_path, device).compile()

    benchmark.pedantic(compile_anew, rounds=1)
