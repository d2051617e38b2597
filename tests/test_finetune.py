"""Fine-tuning: it learns what the series repeat, and changes nothing where it does not help."""

import copy

import numpy as np
import pytest
import torch

from tinytsm import TinyTSM, finetune
from tinytsm.config import ModelConfig
from tinytsm.model import Model

SMALL = ModelConfig(
    d_model=32, n_heads=2, d_ff=64, n_layers=3, head_rank=16, context_patches=16, horizon_patches=2,
    patch=8,
)  # fmt: skip


@pytest.fixture
def untrained() -> TinyTSM:
    return TinyTSM(Model(SMALL, torch.Generator().manual_seed(0)).requires_grad_(False).eval())


@pytest.mark.parametrize("lora", [False, True])
def test_a_merged_model_stands_apart(untrained: TinyTSM, lora: bool) -> None:
    model = copy.deepcopy(untrained.model)
    if lora:
        finetune.add_lora(model, 2, torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    plain = finetune.merged(model)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    after, first = plain.state_dict(), weights(untrained)
    assert all(torch.equal(after[name], first[name]) for name in first)
    assert torch.equal(plain.levels, untrained.model.levels)


def waves(count: int = 6, steps: int = 160) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    t = np.arange(steps)
    return [
        np.sin((t + rng.uniform(0, 16)) * 2 * np.pi / 16) + 0.05 * rng.normal(size=steps)
        for _ in range(count)
    ]


def weights(forecaster: TinyTSM) -> dict[str, torch.Tensor]:
    return copy.deepcopy(forecaster.model.state_dict())


# an untrained head, which is frozen under lora, can do little with what the blocks learn
@pytest.mark.parametrize(("mode", "share"), [("full", 0.8), ("lora", 0.95)])
def test_it_learns_what_the_series_repeat(untrained: TinyTSM, mode: str, share: float) -> None:
    # one pass: with the seasons taken out there is little left to learn
    untrained = untrained.with_options(effort="fast")
    before = weights(untrained)
    tuned = untrained.fit(waves(), 8, mode=mode, steps=20, learning_rate=1e-2, batch_size=8)
    report = tuned.fit_report
    assert report is not None and report.kept == "tuned"
    assert report.tuned_loss < share * report.zero_shot_loss
    assert report.history[0] == (0, report.zero_shot_loss)
    assert (report.best_step, report.tuned_loss) in report.history
    # on series of the same kind that it has never seen, too
    fresh = [2 + 3 * x for x in waves(8)[6:]]
    _, checks = finetune.split(fresh, 8)
    losses = [finetune.held_back_loss(f, checks, 8) for f in (untrained, tuned)]
    assert losses[1] < share * losses[0]
    # the model it came from is as it was, and the tuned one is of plain parts
    after = weights(untrained)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert weights(tuned).keys() == before.keys()
    assert not any(p.requires_grad for p in tuned.model.parameters())
    changed = {k for k, v in weights(tuned).items() if not torch.equal(v, before[k])}
    if mode == "lora":
        assert changed and all(k.startswith("blocks.") and k.endswith("weight") for k in changed)
        assert report.trainable < sum(p.numel() for p in untrained.model.parameters())
    else:
        assert "head" in changed


def test_a_fit_that_does_not_help_changes_nothing(untrained: TinyTSM) -> None:
    # so large a step breaks any model
    kept = untrained.fit(waves(), 8, steps=30, learning_rate=5.0, check_every=10, patience=2)
    report = kept.fit_report
    assert kept.with_options(effort="fast").fit_report is report
    assert report is not None and report.kept == "zero-shot"
    before, after = weights(untrained), weights(kept)
    assert all(torch.equal(before[k], after[k]) for k in before)
    # stopped early: two checks without a gain after the best one
    assert report.steps <= max(report.best_step, 0) + 20


def test_the_same_seed_gives_the_same_weights(untrained: TinyTSM) -> None:
    fits = [
        untrained.fit(
            waves(), 8, steps=3, check_every=3, learning_rate=1e-3, seed=seed, mode="lora"
        )
        for seed in (1, 1, 2)
    ]
    reports = [f.fit_report for f in fits]
    assert reports[0] == reports[1] != reports[2]


def test_nothing_held_back_is_trained_on(untrained: TinyTSM) -> None:
    rows = [np.arange(100.0), np.arange(20.0), np.full(50, 3.0), np.full(40, np.nan)]
    train, checks = finetune.split(rows, 8)
    # 100 // 24 = 4 windows of 8 held back; 20 steps are too few to hold any back
    assert [len(x) for x in train] == [68, 20, 34]
    assert [len(c.context) for c in checks] == [68, 76, 84, 92]
    for c in checks:
        assert c.actual[0] == c.context[-1] + 1
    rng = np.random.default_rng(0)
    # the unit of a window is its largest value: what is held back would dwarf all others
    marked = [np.concatenate((np.sin(np.arange(88.0)), np.full(32, 1e9)))]
    clean, _ = finetune.split(marked, 8)
    for _ in range(20):
        _, target, _ = finetune.windows(untrained, clean, 8, rng)
        assert float(target[~target.isnan()].abs().median()) > 1e-3


def test_windows_hold_the_series_where_the_trainer_does(untrained: TinyTSM) -> None:
    row = np.arange(1.0, 61.0)
    x, target, resolution = finetune.windows(untrained, [row], 50, np.random.default_rng(0))
    tokens, patch = SMALL.context_patches, SMALL.patch
    assert x.shape == (50, tokens * patch)
    assert target.shape == (50, tokens + SMALL.horizon_patches, patch)
    assert (resolution >= 0).all()
    torch.testing.assert_close(target[:, :tokens].flatten(1), x, equal_nan=True)
    flat = target.flatten(1)
    # equal steps apart in the unit of each window, through the seam
    steps = flat.diff(dim=1)
    for one in steps:
        known = one[~one.isnan()]
        torch.testing.assert_close(known, known[:1].expand_as(known))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "qlora"}, "mode must be one of full, lora, got 'qlora'"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 1.5}, "steps must be a whole number of at least 1, got 1.5"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0, got 0"),
        ({"prediction_length": 60}, "the longest of 6 series has 160 steps, wanted one of at least 180"),
    ],
)  # fmt: skip
def test_errors(untrained: TinyTSM, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        untrained.fit(waves(), **({"prediction_length": 8} | options))


@pytest.mark.parametrize("step", [5, 155])
def test_an_infinite_value_is_named_wherever_it_is(untrained: TinyTSM, step: int) -> None:
    rows = waves(2)
    rows[1][step] = np.inf
    with pytest.raises(ValueError, match=rf"inputs\[1\] is infinite at variate 0, step {step}"):
        untrained.fit(rows, 8, steps=1)


def test_series_in_any_container(untrained: TinyTSM) -> None:
    (wave,) = waves(1)
    wave[[30, 159]] = np.nan
    wave = wave.astype(np.float16)
    reports = [
        untrained.fit(inputs, 8, steps=1, check_every=1).fit_report
        for inputs in ([wave], wave, wave[None], torch.from_numpy(wave), [wave.astype(float)])
    ]
    assert all(report == reports[0] for report in reports)
    assert (
        untrained.fit(torch.from_numpy(np.stack(waves(2))).bfloat16(), 8, steps=1).fit_report
        is not None
    )


def test_what_was_tuned_can_be_saved(untrained: TinyTSM, tmp_path) -> None:
    tuned = untrained.fit(waves(), 8, mode="lora", steps=2, check_every=2, learning_rate=1e-2)
    tuned.save_pretrained(tmp_path / "tuned")
    again = TinyTSM.from_pretrained(tmp_path / "tuned", device="cpu", precision="float32")
    a, _ = again.predict_quantiles(waves(1), 8)
    b, _ = tuned.predict_quantiles(waves(1), 8)
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    # saved over an older one; but never over something else
    tuned.save_pretrained(tmp_path / "tuned")
    with pytest.raises(ValueError, match="is not a saved model alone; name a new folder"):
        tuned.save_pretrained(tmp_path)
