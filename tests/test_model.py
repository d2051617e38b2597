"""The network's contract: causal, equivariant, permutable, ordered, and of the stated size."""

import dataclasses

import pytest
import torch
from torch import Tensor

from tinytsm.config import PRESETS, QUANTILES, ModelConfig
from tinytsm.model import Model, Tokens

SMALL = ModelConfig(
    d_model=32, n_heads=2, d_ff=64, n_layers=3, head_rank=16, context_patches=16, horizon_patches=4
)


def make_model(**changes: object) -> Model:
    model = Model(dataclasses.replace(SMALL, **changes), torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    # forecasts that depend visibly on the tokens
    torch.nn.init.normal_(model.head, std=0.3, generator=torch.Generator().manual_seed(2))
    return model.requires_grad_(False)


def make_series(rows: int = 4, patches: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, patches * SMALL.patch, generator=generator).cumsum(1)
    x[0, :100] = float("nan")
    x[1, 70:140] = float("nan")
    return x


def run(model: Model, x: Tensor, variates: int = 1, present: Tensor | None = None) -> Tokens:
    return model(x, torch.zeros(len(x)), variates, present)


def quantiles(model: Model, tokens: Tokens, token: int = -1) -> Tensor:
    return model.forecast(tokens, token, SMALL.horizon_patches)[1]


def test_presets_have_their_size() -> None:
    count = {name: sum(p.numel() for p in Model(c).parameters()) for name, c in PRESETS.items()}
    assert 22e6 <= count["tiny"] <= 24e6
    assert 1.7e6 <= count["nano"] <= 1.8e6
    assert 5.9e6 <= count["mini"] <= 6.1e6


@pytest.mark.parametrize("norm", ["dart", "last", "prefix", "none"])
@pytest.mark.parametrize("poison", [float("nan"), 1e30, -7.0])
def test_the_future_does_not_reach_the_past(norm: str, poison: float) -> None:
    model, x = make_model(norm=norm), make_series()
    changed = x.clone()
    changed[:, 8 * SMALL.patch :] = poison
    for before, after in zip(run(model, x), run(model, changed), strict=True):
        assert torch.equal(before[:, :8], after[:, :8])


def test_the_leaky_norm_fails_that_test() -> None:
    model, x = make_model(norm="revin"), make_series()
    changed = x.clone()
    changed[:, 8 * SMALL.patch :] = -7.0
    assert not torch.equal(run(model, x).h[:, :8], run(model, changed).h[:, :8])


@pytest.mark.parametrize("norm", ["dart", "revin"])
def test_gradients_to_later_inputs_are_exactly_zero_unless_the_norm_leaks(norm: str) -> None:
    model = make_model(norm=norm)
    x = make_series()[2:].requires_grad_()
    tokens = run(model, x)
    quantiles(model, tokens, token=7).sum().backward()
    assert x.grad is not None
    future = x.grad[:, 8 * SMALL.patch :]
    assert x.grad[:, : 8 * SMALL.patch].abs().max() > 0
    assert (future.abs().max() == 0) == (norm == "dart")


@pytest.mark.parametrize("variates", [1, 2])
@pytest.mark.parametrize("read", [[15], [3, 15], [9, 2]])
def test_reading_some_tokens_gives_what_they_are(read: list[int], variates: int) -> None:
    model, x = make_model(n_layers=6), make_series()
    whole, some = run(model, x, variates), model(x, torch.zeros(len(x)), variates, None, read)
    for a, b in zip(whole, some, strict=True):
        torch.testing.assert_close(a[:, read], b, rtol=1e-5, atol=1e-6)


def test_truncating_the_future_changes_nothing_but_rounding() -> None:
    model, x = make_model(), make_series()
    whole, part = run(model, x), run(model, x[:, : 8 * SMALL.patch])
    a, b = quantiles(model, whole, token=7), quantiles(model, part, token=7)
    assert ((a - b).abs() <= 1e-5 * whole.scale[:, 7, None, None]).all()


def test_equivariance() -> None:
    model, x = make_model(), make_series()
    base = run(model, x)
    scaled = run(model, 8.0 * x)
    assert torch.equal(quantiles(model, scaled), 8.0 * quantiles(model, base))
    moved = run(model, 3.7 * x + 50.0)
    error = quantiles(model, moved) - (3.7 * quantiles(model, base) + 50.0)
    assert (error.abs() <= 1e-4 * 3.7 * base.scale[:, -1, None, None]).all()


def test_permuting_variates_permutes_forecasts() -> None:
    model, x = make_model(), make_series(rows=6)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    straight = run(model, x, variates=3)
    permuted = run(model, x[order], variates=3)
    error = quantiles(model, permuted) - quantiles(model, straight)[order]
    assert (error.abs() <= 1e-5 * straight.scale[order, -1, None, None]).all()
    alone = run(model, x)
    assert not torch.allclose(quantiles(model, alone), quantiles(model, straight))


def test_an_absent_variate_is_as_if_it_were_not_there() -> None:
    model, x = make_model(), make_series(rows=2)
    two = run(model, x, variates=2)
    filler = torch.full((2, x.shape[1]), 5.0)
    present = torch.tensor([True, True, False, False])
    four = run(model, torch.cat((x, filler)), variates=4, present=present)
    torch.testing.assert_close(four.h[:2], two.h, rtol=1e-5, atol=1e-5)


def test_one_variate_equals_the_general_feature_attention() -> None:
    model, x = make_model(), make_series(rows=3)
    alone = run(model, x)
    # three items of two variates, the second absent: the general path with nobody to attend to
    pairs = torch.stack((x, torch.zeros_like(x)), 1).flatten(0, 1)
    present = torch.tensor([True, False] * 3)
    padded = run(model, pairs, variates=2, present=present)
    torch.testing.assert_close(padded.h[::2], alone.h, rtol=1e-5, atol=1e-5)


def test_quantiles_never_cross() -> None:
    model = make_model()
    torch.nn.init.normal_(model.head, std=30.0, generator=torch.Generator().manual_seed(3))
    q = quantiles(model, run(model, make_series()))
    assert q.shape[-1] == len(QUANTILES)
    assert (q.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("level", [0.0, 5.0, 1e6])
def test_degenerate_frames_forecast_their_location(level: float) -> None:
    model = make_model()
    x = torch.full((2, 16 * SMALL.patch), level)
    x[1] = float("nan")
    tokens = run(model, x)
    assert (tokens.scale == 0).all() and (tokens.weight == 0).all()
    q = quantiles(model, tokens)
    torch.testing.assert_close(q[0], torch.full_like(q[0], level), rtol=1e-6, atol=0)
    assert (q.diff(dim=-1) == 0).all() and (q[1] == 0).all()


def test_rounding_noise_that_the_edge_reports_is_degenerate() -> None:
    model = make_model()
    x = make_series()[3:] * 1e-8
    assert model(x, torch.tensor([0.0])).scale[0, -1] > 0
    assert model(x, torch.tensor([1e-6])).scale[0, -1] == 0


def test_frame_features_change_the_forecast() -> None:
    x = make_series()
    with_features, without = make_model(), make_model(frame_features=False)
    assert not torch.allclose(run(with_features, x).h, run(without, x).h)


def test_on_cpu_what_is_next_to_the_blocks_is_bfloat16_in_training_alone() -> None:
    model, x = make_model().requires_grad_(True), make_series()
    target = torch.randn(4, 20, SMALL.patch, generator=torch.Generator().manual_seed(3))
    # so that the blocks' own rounding does not hide the others'
    model.blocks = torch.nn.ModuleList()
    model.last_time_block = -1

    def outputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        model.block_dtype = dtype
        tokens = run(model, x)
        total, _ = model.loss(tokens, target, torch.zeros(4, dtype=torch.int64))
        return tokens.h.detach(), total.detach()

    with torch.no_grad():
        for exact, rounded in zip(outputs(torch.float32), outputs(torch.bfloat16), strict=True):
            assert torch.equal(exact, rounded)
    for exact, rounded in zip(outputs(torch.float32), outputs(torch.bfloat16), strict=True):
        assert not torch.equal(exact, rounded)
        torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.05)
