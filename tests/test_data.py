"""Batches: the same bits for any number of workers and processes, honest windows, clean endings."""

import dataclasses
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest
import torch

from tinytsm.config import STRETCHES, ModelConfig, TrainConfig
from tinytsm.data import Batch, Feeder, GeneratorError, Plan
from tinytsm.synth import dispatch, generator, philox

MODEL = ModelConfig(
    d_model=32, n_heads=2, d_ff=64, n_layers=3, head_rank=16, context_patches=32, horizon_patches=4
)
TRAIN = TrainConfig(batch_tokens=512, mask_share=0.5, seed=5)
CPU = torch.device("cpu")


def take(plan: Plan, count: int, *, start: int = 0, workers: int = 1) -> list[Batch]:
    with Feeder(plan, start=start, device=CPU, workers=workers, prefetch=2) as feeder:
        taken = []
        for _ in range(count):
            b = next(feeder)
            taken.append(
                b._replace(x=b.x.clone(), target=b.target.clone(), resolution=b.resolution.clone())
            )
        return taken


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the bit, missing values included."""
    return torch.equal(a.nan_to_num(-7e30), b.nan_to_num(-7e30))


def same(a: Batch, b: Batch) -> bool:
    tensors = all(
        equal(getattr(a, n), getattr(b, n)) for n in ("x", "target", "resolution", "offset")
    )
    return tensors and (a.variates, a.number) == (b.variates, b.number)


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return take(Plan(MODEL, TRAIN), 12)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_do_not_change_a_bit(batches: list[Batch], workers: int) -> None:
    assert all(map(same, take(Plan(MODEL, TRAIN), 12, workers=workers), batches))


def test_a_restart_goes_on_where_it_was(batches: list[Batch]) -> None:
    assert all(map(same, take(Plan(MODEL, TRAIN), 5, start=7, workers=2), batches[7:]))


def test_processes_share_a_batch(batches: list[Batch]) -> None:
    parts = [take(Plan(MODEL, TRAIN, rank=rank, world=2), 6) for rank in range(2)]
    for whole, first, second in zip(batches[:6], *parts, strict=True):
        for name in ("x", "target", "resolution", "offset"):
            joined = torch.cat((getattr(first, name), getattr(second, name)))
            assert equal(joined, getattr(whole, name))


def test_batches_differ_and_seeds_differ(batches: list[Batch]) -> None:
    assert not same(batches[0]._replace(number=1), batches[1])
    other = take(Plan(MODEL, TrainConfig(batch_tokens=512, seed=6)), 1)[0]
    assert not same(other, batches[0])


def test_every_bucket_comes_up_in_its_share() -> None:
    plan = Plan(MODEL, TRAIN)
    drawn = [plan.bucket(i) for i in range(2000)]
    for bucket, share in zip(plan.buckets, plan.shares, strict=True):
        assert abs(drawn.count(bucket) / 2000 - share) < 0.04


def test_what_is_shown_is_also_a_target(batches: list[Batch]) -> None:
    for batch in batches:
        context = batch.target.flatten(1)[:, : batch.x.shape[1]]
        shown = ~batch.x.isnan()
        assert torch.equal(batch.x[shown], context[shown])
        assert batch.x[shown].abs().max() <= 1


def test_first_shown_value_is_zero(batches: list[Batch]) -> None:
    for batch in batches:
        for row in batch.x:
            shown = row[~row.isnan()]
            assert len(shown) == 0 or shown[0] == 0


def test_masking_hides_whole_patches_that_stay_targets() -> None:
    masked = take(Plan(MODEL, TrainConfig(batch_tokens=512, mask_share=1.0)), 6)
    hidden = 0
    for batch in masked:
        x = batch.x.unflatten(1, (-1, MODEL.patch))
        known = ~batch.target[:, : x.shape[1]].isnan()
        # a record may begin inside a patch; after that one, a patch is hidden whole or not at all
        shown = (~x.isnan()).any(-1)
        begun = shown.cumsum(1) - shown.int() > 0
        gone = (x.isnan() & known).any(-1) & begun
        assert not (gone & shown).any()
        hidden += int(gone.sum()) * MODEL.patch
    plain = take(Plan(MODEL, TrainConfig(batch_tokens=512, mask_share=0.0)), 6)
    visible = sum(int((~b.x.isnan()).sum()) for b in plain)
    assert 0.05 < hidden / visible < 0.8


def test_short_contexts_are_common() -> None:
    taken = take(Plan(MODEL, TRAIN), 60)
    # on the steps for short contexts more than on the others
    for short, least, most in ((True, 0.5, 0.85), (False, 0.1, 0.45)):
        rows = [b.x for b in taken if (b.x.shape[1] == 16 * MODEL.patch) is short]
        brief = torch.cat([(~x.isnan()).sum(1) < 3 * MODEL.patch for x in rows])
        whole = torch.cat([(~x.isnan()).all(1) for x in rows])
        assert least < brief.float().mean() < most
        assert whole.float().mean() > 0.05


def test_no_history_is_hidden_whole() -> None:
    plan = Plan(MODEL, dataclasses.replace(TRAIN, mask_share=1.0))
    for batch in take(plan, 40):
        known = batch.target[:, : -MODEL.horizon_patches].flatten(1)
        shown, there = (~batch.x.isnan()).any(1), (~known.isnan()).sum(1)
        assert shown[there >= 3 * MODEL.patch].all()
        # nothing of a history of less than four patches
        few = there < 3 * MODEL.patch
        assert torch.equal(batch.x[few].isnan(), known[few].isnan())


def test_some_short_records_have_their_values_held() -> None:
    held = records = 0
    for batch in take(Plan(MODEL, TRAIN), 60):
        context = batch.x.shape[1]
        for row in batch.target.flatten(1):
            first = int((~row.isnan()).int().argmax())
            # begun within the context, and varied enough for its steps to tell
            if 0 < first <= context - 48 and row[first:context].unique().numel() > 3:
                records += 1
                held += any(
                    (context - first) % r == 0
                    and _constant_within(row[first:context].view(-1, r))
                    and _constant_within(row[context : context + 2 * r].view(-1, r))
                    for r in STRETCHES
                )
    assert records > 100
    assert 0.1 < held / records < 0.35


def _constant_within(blocks: torch.Tensor) -> bool:
    return equal(blocks, blocks[:, :1].expand_as(blocks))


def test_patches_of_any_length_have_windows() -> None:
    for patch in (1, 2, 3, 5, 12):
        model = dataclasses.replace(MODEL, patch=patch, context_patches=16)
        for batch in take(Plan(model, TRAIN), 8):
            assert batch.x.shape[1] == 16 * patch
            assert not batch.target.isnan().all()


def test_offsets_cover_the_grid() -> None:
    plan = Plan(MODEL, TRAIN)
    offsets = plan.offsets(3)
    counts = np.bincount(offsets.numpy(), minlength=16)
    assert counts.max() - counts.min() <= 1


def test_production_is_bounded() -> None:
    made: list[int] = []
    plan = Plan(MODEL, TRAIN)
    with Feeder(
        plan, start=0, device=CPU, workers=1, prefetch=3, fill=lambda number, _: made.append(number)
    ) as feeder:
        deadline = time.monotonic() + 5
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert made == [0, 1, 2]
        next(feeder), next(feeder)
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert made == [0, 1, 2, 3]


@numba.njit
def _planted(rng, out):
    # Purpose and index of a stream stand in its words; see philox.stream
    out[:] = 1.0
    if rng[4] % 64 == 17:
        raise ArithmeticError("planted")
    for t in range(out.size):
        out[t] = philox.normal(rng)


@pytest.fixture
def faulty_family() -> Iterator[str]:
    """A family that raises for some items, in jitted code, as a fault in a prior would."""
    families = dispatch._families
    row = families.names.index("noise.white")
    dispatch.prepare()
    _planted.compile(families.arguments)
    # Numba's annotations know less of what is compiled than `dispatch` uses
    compiled: Any = _planted.overloads[families.arguments]
    kept = families.addresses[row]
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    families.addresses[row] = address
    yield families.names[row]
    families.addresses[row] = kept


def test_an_error_in_a_worker_surfaces_with_its_item_and_family(faulty_family: str) -> None:
    plan = Plan(MODEL, TrainConfig(batch_tokens=4096, seed=5))
    threads = threading.active_count()
    feeder = Feeder(plan, start=0, device=CPU, workers=2, prefetch=2)
    with pytest.raises(GeneratorError) as caught:
        for _ in range(200):
            next(feeder)
    assert threading.active_count() == threads
    found = re.fullmatch(
        rf"batch (\d+) of seed 5 failed at item (\d+), in {faulty_family}: ArithmeticError\('planted'\)",
        str(caught.value),
    )
    assert found, str(caught.value)
    batch, item = int(found[1]), int(found[2])
    assert item % 64 == 17
    assert item in range(plan.first_item(batch), plan.first_item(batch + 1))
    assert isinstance(caught.value.__cause__, ArithmeticError)
    # It is the batch that fails, in any thread, and the family, in any call
    with pytest.raises(GeneratorError, match=f"item {item}, in {faulty_family}"):
        plan.fill(batch, torch.empty(plan.values(plan.bucket(batch))))
    with pytest.raises(ArithmeticError, match="planted"):
        generator.sample_family(faulty_family, 5, 17, 50)


def test_an_error_of_another_kind_in_a_worker_is_raised_as_it_is() -> None:
    def fail(number: int, buffer: torch.Tensor) -> None:
        raise MemoryError(f"batch {number}")

    with (
        Feeder(Plan(MODEL, TRAIN), start=3, device=CPU, workers=1, fill=fail) as feeder,
        pytest.raises(MemoryError, match="batch 3"),
    ):
        next(feeder)


def test_closing_leaves_no_thread() -> None:
    before = threading.active_count()
    with Feeder(Plan(MODEL, TRAIN), start=0, device=CPU, workers=3, prefetch=2):
        assert threading.active_count() == before + 3
    assert threading.active_count() == before


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="make it a multiple of"):
        Plan(MODEL, TrainConfig(batch_tokens=96))


def test_batch_size_does_not_change_an_item(batches: list[Batch]) -> None:
    large = take(Plan(MODEL, dataclasses.replace(TRAIN, batch_tokens=1024)), 6)
    for small, more in zip(batches[:6], large, strict=True):
        assert len(more.x) == 2 * len(small.x)
        for name in ("x", "target", "resolution"):
            assert equal(getattr(more, name)[: len(small.x)], getattr(small, name))


def test_batches_are_views_of_the_ring() -> None:
    with Feeder(Plan(MODEL, TRAIN), start=0, device=CPU, workers=2, prefetch=2) as feeder:
        taken = [next(feeder) for _ in range(12)]
    for batch in taken:
        # One memory for all three, and no more memories than the ring has
        assert batch.x.untyped_storage().data_ptr() == batch.target.untyped_storage().data_ptr()
    assert len({batch.x.untyped_storage().data_ptr() for batch in taken}) == 4


def test_waiting_is_counted_where_production_is_slow() -> None:
    plan = Plan(MODEL, TRAIN)

    def slow(number: int, buffer: torch.Tensor) -> None:
        time.sleep(0.1)

    with Feeder(plan, start=0, device=CPU, workers=1, prefetch=2, fill=slow) as feeder:
        for _ in range(6):
            next(feeder)
        assert 0.4 < feeder.wait_seconds
    with Feeder(plan, start=0, device=CPU, workers=1, prefetch=2, fill=lambda *_: None) as feeder:
        next(feeder)
        first = feeder.wait_seconds
        for _ in range(6):
            time.sleep(0.1)
            next(feeder)
        # Made while the consumer was busy
        assert feeder.wait_seconds - first < 0.3


def test_closing_does_not_wait_for_a_consumer() -> None:
    # The ring is full and nobody takes: the worker sleeps on an empty queue and must be woken
    feeder = Feeder(
        Plan(MODEL, TRAIN), start=0, device=CPU, workers=2, prefetch=1, fill=lambda *_: None
    )
    time.sleep(0.2)
    closer = threading.Thread(target=feeder.close)
    closer.start()
    closer.join(timeout=30)
    assert not closer.is_alive()
