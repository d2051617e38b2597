"""Batches: fixed shapes whatever they hold, halved where memory runs out."""

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tinytsm import TinyTSM
from tinytsm.config import ModelConfig
from tinytsm.model import Model

SMALL = ModelConfig(
    d_model=32, n_heads=2, d_ff=64, n_layers=3, head_rank=16, context_patches=32, horizon_patches=4
)


@pytest.fixture
def forecaster() -> TinyTSM:
    model = Model(SMALL, torch.Generator().manual_seed(1))
    torch.nn.init.normal_(model.head, std=0.3, generator=torch.Generator().manual_seed(2))
    return TinyTSM(model.requires_grad_(False).eval())


def limit(
    forecaster: TinyTSM, monkeypatch: pytest.MonkeyPatch, rows: int, error: Callable[[], Exception]
) -> list[int]:
    """A network that runs out of memory above so many rows; returns the list of what it was asked for."""
    asked: list[int] = []
    forward = forecaster.model.forward

    def limited(x, *arguments):
        asked.append(len(x))
        if len(x) > rows:
            raise error()
        return forward(x, *arguments)

    monkeypatch.setattr(forecaster.model, "forward", limited)
    return asked


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory"),
        lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError,
    ],
)
def test_a_batch_is_halved_until_it_fits(
    forecaster: TinyTSM, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception], rng
) -> None:
    series = [rng.normal(size=100) for _ in range(40)]
    forecaster = forecaster.with_options(effort="fast", symmetry=True)
    wanted, _ = forecaster.predict_quantiles(series, 10, batch_size=7)
    asked = limit(forecaster, monkeypatch, 7, error)
    quantiles, _ = forecaster.predict_quantiles(series, 10, batch_size=32)
    # stays at what fitted; 8 rows are one too many. Batches run side by side, so each size may be tried more than once
    assert list(dict.fromkeys(asked)) == [32, 16, 8, 4] and asked.count(4) == 20
    torch.testing.assert_close(quantiles, wanted, rtol=1e-5, atol=1e-5)


def test_one_item_that_does_not_fit_is_an_error(
    forecaster: TinyTSM, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(forecaster, monkeypatch, 3, lambda: torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        forecaster.predict_quantiles([np.zeros((4, 50))], 10, effort="fast")


def test_other_faults_are_not_retried(forecaster: TinyTSM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = limit(forecaster, monkeypatch, 0, lambda: RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        forecaster.predict_quantiles([np.zeros(50)], 10)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "options", [{"effort": "fast"}, {"effort": "best"}, {"effort": "fast", "augment": True}]
)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_batches_of_every_size_give_the_same_bits(
    forecaster: TinyTSM, options: dict, precision: torch.dtype, rng: np.random.Generator
) -> None:
    forecaster.model.block_dtype = precision
    forecaster = forecaster.with_options(**options)
    own = [rng.normal(size=n).cumsum() for n in (40, 700)] + [rng.normal(size=(3, 90)).cumsum(1)]
    alone = [forecaster.predict_quantiles([x], 20)[0][0] for x in own]
    mates = [
        rng.normal(size=rng.integers(1, 900)) * 10.0 ** rng.integers(-9, 9) for _ in range(257)
    ]
    for size in (1, 2, 3, 17, 64, 255, 257):
        for slot in {0, size // 2, size}:
            batch = [*mates[:slot], *own, *mates[slot:size]]
            quantiles, _ = forecaster.predict_quantiles(batch, 20)
            for i, wanted in enumerate(alone):
                assert torch.equal(quantiles[slot + i].squeeze(), wanted.squeeze())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("horizon", [20, 300])
def test_threads_change_no_bit_and_stay_as_they_were(
    forecaster: TinyTSM, precision: torch.dtype, horizon: int, rng: np.random.Generator
) -> None:
    before = torch.get_num_threads()
    forecaster.model.block_dtype = precision
    series = list(rng.normal(size=(100, 3, 90)).cumsum(2))
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            quantiles, _ = forecaster.predict_quantiles(series, horizon)
            found.append(np.stack([np.asarray(one) for one in quantiles]))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_each_batch_computes_on_one_thread_and_no_other_thread_does(
    forecaster: TinyTSM, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    before = torch.get_num_threads()
    forward, inside, started = forecaster.model.forward, [], []

    def watched(*arguments):
        inside.append(torch.get_num_threads())
        # what a user's thread finds that starts now, and keeps for life
        thread = threading.Thread(target=lambda: started.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return forward(*arguments)

    monkeypatch.setattr(forecaster.model, "forward", watched)
    try:
        torch.set_num_threads(3)
        for count in (1, 100):
            forecaster.predict_quantiles(list(rng.normal(size=(count, 90))), 20)
    finally:
        torch.set_num_threads(before)
    assert set(inside) == {1} and set(started) == {3} and len(inside) > 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_forecasts() -> None:
    code = """
import os, sys, warnings
import torch
from tinytsm import TinyTSM
from tinytsm.config import ModelConfig
from tinytsm.model import Model

warnings.simplefilter("ignore")
torch.set_num_threads(2)
model = TinyTSM(Model(ModelConfig(n_layers=3), torch.Generator().manual_seed(0)).requires_grad_(False))
series = [[0.0, 1.0, 5.0, 2.0]] * 40
wanted = model.forecast(series, 8).mean
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(not (model.forecast(series, 8).mean == wanted).all())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_longer_horizon_has_the_same_first_steps(
    forecaster: TinyTSM, rng: np.random.Generator
) -> None:
    # as many patches, so the same passes: one, and one that goes on over missing tokens, and several stages
    series = list(rng.normal(size=(3, 200)).cumsum(1))
    for patches in (4, 6, 30):
        whole = list(forecaster.predict_stream(series, 32 * patches, effort="fast"))
        for length in (32 * patches - 31, 32 * patches - 5):
            found = forecaster.predict_stream(series, length, effort="fast")
            for (quantiles, mean), (all_quantiles, all_mean) in zip(found, whole, strict=True):
                assert torch.equal(quantiles, all_quantiles[:length])
                assert torch.equal(mean, all_mean[:length])


def test_the_shape_of_a_pass_is_the_items_alone(
    forecaster: TinyTSM, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = limit(forecaster, monkeypatch, 10**9, MemoryError)
    for count in (3, 33):
        forecaster.predict_quantiles([np.zeros(40)] * count, 5, strides=(1,), symmetry=True)
    # mirrored rows share the pass: 16 series of 16 tokens, twice
    assert asked == [32, 32, 32, 32]


def test_what_the_caller_casts_to_and_where_it_allocates_change_nothing(
    forecaster: TinyTSM, rng: np.random.Generator
) -> None:
    series = [rng.normal(size=300), rng.normal(size=(3, 90))]

    def forecast() -> list[torch.Tensor]:
        quantiles, mean = forecaster.predict_quantiles(series, 300, effort="best")
        return [*quantiles, *mean, *(one.tokens for one in forecaster.embed(series))]

    plain = forecast()
    with torch.autocast("cpu", torch.bfloat16):
        cast = forecast()
    # as under torch.set_default_device; nothing can be read from there
    with torch.device("meta"):
        elsewhere = forecast()
    for wanted, *others in zip(plain, cast, elsewhere, strict=True):
        assert all(torch.equal(wanted, other) for other in others)


def test_more_is_read_than_a_missing_end_hides(rng: np.random.Generator) -> None:
    # one token reaches farther than half of the context
    config = dataclasses.replace(SMALL, context_patches=16, horizon_patches=12)
    model = Model(config, torch.Generator().manual_seed(1))
    forecaster = TinyTSM(model.requires_grad_(False).eval())
    series = 500 + rng.normal(size=2000)
    series[-300:] = np.nan
    quantiles, _ = forecaster.predict_quantiles([series], 900, effort="fast")
    assert ((torch.as_tensor(quantiles) - 500).abs() < 100).all()


def test_a_thread_that_cannot_start_is_an_error_and_no_hang() -> None:
    code = """
import threading
import torch
from tinytsm import forward

torch.set_num_threads(3)
start, started = threading.Thread.start, []

def limited(thread):
    if len(started) == 3:
        raise RuntimeError("can't start new thread")
    started.append(thread)
    start(thread)

threading.Thread.start = limited
try:
    forward._pool(3)
except RuntimeError as error:
    print(error)
threading.Thread.start = start
print(len(list(forward._side_by_side(torch.device("cpu"), list, [[1], [2]]))), torch.get_num_threads())
"""
    # workers that waited for the missing one would keep the process for ever
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines() == ["can't start new thread", "2 3"]
