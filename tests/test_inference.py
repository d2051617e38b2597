"""Strategies around one forward pass: phases and interleaving, averaging, the mirror image, efforts."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from tinytsm import TinyTSM
from tinytsm.config import PRESETS, ModelConfig
from tinytsm.forward import Forward, Query
from tinytsm.inference import (
    _periods,
    choose_stretches,
    choose_strides,
    forecast_items,
    interleave,
    phases,
    stretched_steps,
)
from tinytsm.inputs import Item
from tinytsm.model import Model
from tinytsm.options import Strategy

SMALL = ModelConfig(
    d_model=32, n_heads=2, d_ff=64, n_layers=3, head_rank=16, context_patches=32, horizon_patches=4
)


@pytest.fixture(scope="module")
def forecaster() -> TinyTSM:
    model = Model(SMALL, torch.Generator().manual_seed(1))
    torch.nn.init.normal_(model.head, std=0.3, generator=torch.Generator().manual_seed(2))
    return TinyTSM(model.requires_grad_(False).eval())


def predict(forecaster: TinyTSM, values: object, horizon: int, **options) -> torch.Tensor:
    quantiles, _ = forecaster.predict_quantiles([values], horizon, **options)
    assert isinstance(quantiles, torch.Tensor)
    return quantiles[0]


class Continue(Forward):
    """In place of the network: goes on counting in the steps that a query shows, with a spread of 1."""

    def __init__(self) -> None:
        self.config = SMALL

    def run(self, queries):
        results = []
        for query in queries:
            step = query.values[:, -1:] - query.values[:, -2:-1]
            mean = torch.from_numpy(query.values[:, -1:] + step * np.arange(1, query.length + 1))
            results.append((mean[..., None] + torch.linspace(-1, 1, 9), mean))
        return results


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [1, 2, 3, 6, 7, 50])
@pytest.mark.parametrize("steps", [40, 41, 45])
def test_phases_interleave_to_the_steps_that_follow(stride: int, length: int, steps: int) -> None:
    # a counter: phase by phase it is again one, of larger steps, so the next steps are known exactly
    item = Item(np.arange(float(steps))[None])
    ((quantiles, mean),) = forecast_items(
        [item], length, forward=Continue(), strategy=Strategy((stride,), symmetry=False)
    )
    assert mean[0].tolist() == list(range(steps, steps + length))
    assert quantiles.shape == (1, length, 9) and (quantiles[..., 4] == mean).all()


def test_phases_see_what_the_definition_says() -> None:
    item = Item(np.arange(10.0)[None])
    # phase r ends at step T - r and has spacing s; the one that forecasts the nearest step first
    ends = [query.values[0].tolist() for query in phases(item, 4, 100)]
    assert ends == [[2, 6], [3, 7], [0, 4, 8], [1, 5, 9]]
    assert len(phases(item, 4, 3)) == 3  # the fourth would forecast nothing that is asked for


def test_interleaving_takes_turns() -> None:
    parts = [(torch.full((1, 3, 9), float(i)), torch.full((1, 3), float(i))) for i in range(3)]
    quantiles, mean = interleave(parts, 3, 8)
    assert mean[0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1] and quantiles.shape == (1, 8, 9)


def test_strides_are_averaged_level_by_level(forecaster: TinyTSM, rng: np.random.Generator) -> None:
    x = rng.normal(size=700).cumsum()
    both = predict(forecaster, x, 30, strides=(1, 3))
    each = [predict(forecaster, x, 30, strides=(s,)) for s in (1, 3)]
    torch.testing.assert_close(both, (each[0] + each[1]) / 2, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(each[0], each[1])
    assert (both.diff(dim=-1) >= 0).all()


def test_a_stride_that_would_see_nothing_is_left_out(forecaster: TinyTSM) -> None:
    plain = predict(forecaster, [3.0, 5.0], 4, strides=(1,))
    assert torch.equal(predict(forecaster, [3.0, 5.0], 4, strides=(1, 4)), plain)
    # every other step is missing: one phase of two would be blind
    gappy = np.where(np.arange(100) % 2, np.nan, np.sin(np.arange(100.0)))
    plain = predict(forecaster, gappy, 4, strides=(1,))
    assert torch.equal(predict(forecaster, gappy, 4, strides=(2,)), plain)
    # so it would be where only steps older than a pass reads were all there
    gappy = np.sin(np.arange(3000.0))
    gappy[1900::2] = np.nan
    plain = predict(forecaster, gappy, 4, strides=(1,))
    assert torch.equal(predict(forecaster, gappy, 4, strides=(2,)), plain)
    gappy[2002] = 0.5
    assert not torch.equal(predict(forecaster, gappy, 4, strides=(2,)), plain)


def test_symmetry_makes_the_forecast_odd_to_the_bit(
    forecaster: TinyTSM, rng: np.random.Generator
) -> None:
    x = np.exp(rng.normal(size=300))
    up, down = (predict(forecaster, sign * x, 200, symmetry=True) for sign in (1, -1))
    assert torch.equal(up, -down.flip(-1))
    # without it the network tells up from down
    up, down = (predict(forecaster, sign * x, 20, symmetry=False) for sign in (1, -1))
    assert not torch.allclose(up, -down.flip(-1), rtol=1e-3)


def test_symmetry_averages_the_two_forecasts(forecaster: TinyTSM, rng: np.random.Generator) -> None:
    x = rng.normal(size=300)
    up, down = (predict(forecaster, sign * x, 20, symmetry=False) for sign in (1, -1))
    wanted = (up - down.flip(-1)) / 2
    torch.testing.assert_close(
        predict(forecaster, x, 20, symmetry=True), wanted, rtol=1e-5, atol=1e-5
    )


def test_efforts_are_their_parts(forecaster: TinyTSM, rng: np.random.Generator) -> None:
    x = rng.normal(size=500)
    fast = predict(forecaster, x, 20, effort="fast")
    assert torch.equal(
        fast,
        predict(forecaster, x, 20, effort="best", strides=(1,), symmetry=False, adjust=False),
    )
    best = predict(forecaster, x, 20, effort="best")
    parts = predict(forecaster, x, 20, effort="fast", strides="auto", symmetry=True, adjust=True)
    assert torch.equal(best, parts)
    assert torch.equal(predict(forecaster.with_options(effort="fast"), x, 20), fast)


class Record(Continue):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[Query] = []

    def run(self, queries):
        self.queries += queries
        return super().run(queries)


def test_companions_stand_beside_a_series_and_are_not_forecast(rng: np.random.Generator) -> None:
    season = np.tile(rng.normal(size=24), 20)
    pair = rng.normal(size=(2, 50))
    forward = Record()
    forecasts = forecast_items(
        [Item(season[None] * 1e300), Item(pair)],
        5,
        forward=forward,
        strategy=Strategy((1,), symmetry=False, augment=True),
    )
    assert [q.shape for q, _ in forecasts] == [(1, 5, 9), (2, 5, 9)]
    beside, own = (query.values for query in forward.queries)
    assert np.array_equal(own, pair)
    assert np.array_equal(beside[0], season * 1e300)
    # the value a period before, the change, and the mean of a period, up to level and scale
    wanted = (season[:400], np.diff(season)[23:423])
    for got, want in zip(beside[1:3, 24:424], wanted, strict=True):
        assert np.corrcoef(got, want)[0, 1] == pytest.approx(1, abs=1e-6)
    assert np.ptp(beside[3, 24:]) < 1e-6


def test_phases_of_companions_are_those_of_all_steps() -> None:
    # made before the series is cut into phases: the change is that of one step, not of four
    forward = Record()
    strategy = Strategy((4,), symmetry=False, augment=True)
    forecast_items([Item(np.arange(80.0)[None])], 4, forward=forward, strategy=strategy)
    assert [query.values.shape for query in forward.queries] == [(4, 20)] * 4
    step = np.diff(forward.queries[0].values[1])
    assert np.allclose(forward.queries[0].values[2][1:] * 4, step[-1])


def test_augmentation_changes_the_forecast_and_keeps_its_contract(
    forecaster: TinyTSM, rng: np.random.Generator
) -> None:
    x = rng.normal(size=300).cumsum()
    plain, augmented = (predict(forecaster, x, 40, augment=a) for a in (False, True))
    assert augmented.shape == plain.shape and not torch.allclose(augmented, plain)
    assert (augmented.diff(dim=-1) >= 0).all()
    assert (predict(forecaster, np.full(40, 7.0), 9, augment=True) == 7.0).all()
    # variates of its own have no companions
    pair = rng.normal(size=(2, 90))
    for a, b in zip(
        forecaster.predict_quantiles([pair], 9, augment=True),
        forecaster.predict_quantiles([pair], 9),
        strict=True,
    ):
        assert torch.equal(a[0], b[0])


@pytest.mark.parametrize(
    ("steps", "length", "period", "strides"),
    [
        (10**6, 63, 24, (1,)),  # near horizons gain nothing
        (10**6, 64, 0, (1, 8)),
        (10**6, 64, 32, (1, 8)),
        (10**6, 64, 24, (1, 4)),  # 24 / 8 = 3 steps say little of a period
        (10**6, 64, 7, (1,)),  # 7 would be aliased
        (10**6, 64, 2, (1,)),
        (8 * 512, 64, 0, (1, 8)),
        (8 * 512 - 1, 64, 0, (1, 4)),
        (4 * 512 - 1, 64, 0, (1,)),
        (10**6, 129, 0, (8,)),  # one pass does not reach
        (10**6, 129, 24, (4,)),
        (100, 129, 0, (1,)),
    ],
)
def test_the_rule_of_strides(
    steps: int, length: int, period: int, strides: tuple[int, ...]
) -> None:
    assert choose_strides(steps, length=length, dominant_period=period, config=SMALL) == strides


def test_the_rule_finds_the_period(forecaster: TinyTSM, rng: np.random.Generator) -> None:
    # a season of 7 steps, which no stride of the rule divides; without it strides are averaged
    noise = rng.normal(size=5000)
    season = 5 * np.tile(rng.normal(size=7), 715)[:5000] + 0.1 * noise
    for x, same in ((season, True), (noise, False)):
        auto, plain = (predict(forecaster, x, 100, strides=s, adjust=False) for s in ("auto", (1,)))
        assert torch.equal(auto, plain) == same


def test_a_period_does_not_depend_on_the_items_beside(rng: np.random.Generator) -> None:
    items = [Item(rng.normal(size=(v, n)).cumsum(1)) for v in (1, 1, 1, 3) for n in (9, 4000)]
    items += [Item(5 * np.sin(np.arange(4000.0) * 2 * np.pi / p)[None]) for p in (7, 24, 50)]
    gappy = items[-1].values.copy()
    gappy[0, 3030:3040] = np.nan
    items.append(Item(gappy))
    by_rule, augmented = (
        Strategy(None, symmetry=False),
        Strategy((1,), symmetry=False, augment=True),
    )
    ask = functools.partial(_periods, length=SMALL.horizon_length, config=SMALL, strategy=by_rule)
    together, lags = ask(items)
    assert [(n, lag) for n, lag in zip(together, lags, strict=True)] == [
        (n, lag) for item in items for n, lag in zip(*ask([item]), strict=True)
    ]
    assert together[-4:] == lags[-4:] == [7, 24, 50, 50]
    # nothing to look for where nothing depends on it
    assert set(_periods(items, 40, config=SMALL, strategy=by_rule)[0]) == {0}
    # companions depend on it at every horizon, and stand beside single series only
    alone = [n if len(item.values) == 1 else 0 for n, item in zip(together, items, strict=True)]
    assert _periods(items, 10, config=SMALL, strategy=augmented)[0] == alone


@pytest.mark.parametrize("cycle", [11, 23, 25, 53])
def test_a_season_that_is_nearly_a_calendars_comes_out(
    cycle: int, rng: np.random.Generator
) -> None:
    season = np.sin(2 * np.pi * np.arange(1000) / cycle)
    item = Item((season + 0.05 * rng.normal(size=1000))[None])
    forward = Record()
    strategy = Strategy((1,), symmetry=False, adjust=True)
    forecast_items([item], 5, forward=forward, strategy=strategy)
    own, without = (query.values[0] for query in forward.queries)
    assert np.array_equal(own, item.values[0])
    assert np.std(without) < 0.1 * np.std(own)


def test_shapes_hold_the_span() -> None:
    forward = Forward(Model(SMALL), device=torch.device("cpu"), batch_size=None, symmetric=False)

    def tokens(span: int, length: int = 1) -> int:
        return forward.shape(Query(np.zeros((1, span)), length, span)).tokens

    assert [tokens(n) for n in (1, 512, 513, 1024, 10**6)] == [16, 16, 32, 32, 32]
    # missing tokens after the context count too
    assert tokens(512, length=SMALL.horizon_length + 1) == 32


@pytest.mark.parametrize("variates", [1, 3])
def test_a_short_history_is_also_read_stretched(
    miniature: TinyTSM, rng: np.random.Generator, variates: int
) -> None:
    # patches of 8 steps, and 32 steps in one pass: stretches of 4, 8 reach 4 steps, and 12 does not
    series, length = rng.normal(size=(variates, 15)).cumsum(1), 4
    config = miniature.config
    assert choose_stretches(15, length=length, dominant_period=0, config=config) == (4, 8)
    wanted, wanted_mean = [], []
    for r in (1, 4, 8):
        held = np.repeat(series, r, axis=1)
        quantiles, mean = miniature.predict_quantiles([held], length * r, effort="fast")
        wanted.append(quantiles[0][:, r // 2 :: r])
        wanted_mean.append(mean[0][:, r // 2 :: r])
    quantiles, mean = miniature.predict_quantiles([series], length, adjust=False)
    torch.testing.assert_close(quantiles[0], torch.stack(wanted).mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mean[0], torch.stack(wanted_mean).mean(0), rtol=1e-4, atol=1e-4)


def test_of_a_longer_history_the_newest_steps_are_read_stretched(
    miniature: TinyTSM, rng: np.random.Generator
) -> None:
    # half a context, 64 steps, holds 16, 8, 5 steps stretched, which must be 4 horizons
    series, length = rng.normal(size=50).cumsum(), 2
    config = miniature.config
    assert choose_stretches(50, length=length, dominant_period=0, config=config) == (4, 8)
    wanted = []
    for newest, r in ((50, 1), (16, 4), (8, 8)):
        held = np.repeat(series[-newest:], r)
        quantiles, _ = miniature.predict_quantiles([held], length * r, effort="fast")
        wanted.append(quantiles[0][r // 2 :: r])
    quantiles, _ = miniature.predict_quantiles([series], length, adjust=False)
    torch.testing.assert_close(quantiles[0], torch.stack(wanted).mean(0), rtol=1e-4, atol=1e-4)
    # not where the newer half of it shows nothing
    series[-5:] = np.nan
    held = np.repeat(series[-16:], 4)
    one, _ = miniature.predict_quantiles([held], length * 4, effort="fast")
    plain, _ = miniature.predict_quantiles([series], length, effort="fast")
    quantiles, _ = miniature.predict_quantiles([series], length, adjust=False)
    wanted = [plain[0], one[0][2::4]]
    torch.testing.assert_close(quantiles[0], torch.stack(wanted).mean(0), rtol=1e-4, atol=1e-4)


def test_of_long_histories_32_patches_are_read_stretched() -> None:
    for name in ("nano", "tiny"):
        read = [stretched_steps(20_000, r, PRESETS[name]) for r in (4, 8, 12)]
        assert read == [256, 128, 85]


def test_long_horizons_seasons_and_chosen_strides_are_not_stretched(
    miniature: TinyTSM, rng: np.random.Generator
) -> None:
    config = miniature.config

    def chosen(steps: int, length: int, dominant_period: int = 0) -> tuple[int, ...]:
        return choose_stretches(
            steps, length=length, dominant_period=dominant_period, config=config
        )

    assert chosen(10, 2) == (4, 8, 12)
    # a context of 128 steps must hold all of a short one, a quarter to a twelfth of a longer one 4 horizons
    assert chosen(4 * config.patch, 2) == (4,)
    assert chosen(4 * config.patch + 1, 2) == chosen(1000, 2) == (4, 8)
    assert chosen(1000, 4) == (4,) and chosen(1000, 5) == ()
    assert chosen(9, 9) == ()
    # no longer than what was seen, and not where a season shows
    assert chosen(5, 5) != () == chosen(5, 6)
    assert chosen(10, 2, dominant_period=4) == ()
    series = rng.normal(size=20).cumsum()
    one, _ = miniature.predict_quantiles([series], 4, strides=(1,))
    fast, _ = miniature.predict_quantiles([series], 4, effort="fast")
    rule, _ = miniature.predict_quantiles([series], 4, strides="auto")
    assert torch.equal(one[0], fast[0]) and not torch.equal(one[0], rule[0])
    seasonal = np.tile(rng.normal(size=5), 6) + 0.01 * rng.normal(size=30)
    fast, _ = miniature.predict_quantiles([seasonal], 4, effort="fast")
    rule, _ = miniature.predict_quantiles([seasonal], 4, strides="auto", adjust=False)
    assert torch.equal(fast[0], rule[0])


def test_the_model_says_what_its_adjusted_forecasts_weigh(
    miniature: TinyTSM, rng: np.random.Generator
) -> None:
    series = np.resize(rng.normal(size=12), 120) + 0.1 * rng.normal(size=120)
    model = Model(dataclasses.replace(miniature.config, adjusted_weight=0.0)).eval()
    model.load_state_dict(miniature.model.state_dict())
    quantiles = {
        (weight, adjust): predict(forecaster, series, 8, adjust=adjust)
        for weight, forecaster in ((1, miniature), (0, TinyTSM(model)))
        for adjust in (True, False)
    }
    assert torch.equal(quantiles[0, True], quantiles[0, False])
    assert torch.equal(quantiles[0, False], quantiles[1, False])
    assert not torch.allclose(quantiles[1, True], quantiles[1, False])
