"""The definitions of DART-Norm and the coarse-grid loss against loops that anyone can check by eye, in float64."""

import math

import numpy as np
import pytest
import torch

from tinytsm.kernels import reference

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


def naive_memory(seen: np.ndarray, half_life: float) -> tuple[float, float]:
    """Decayed mean and standard deviation of observed points, oldest first; zeros if there are none."""
    if len(seen) == 0:
        return 0.0, 0.0
    ages = np.arange(len(seen))[::-1]
    weights = [2.0 ** (-age / half_life) for age in ages]
    mean = math.fsum(w * v for w, v in zip(weights, seen, strict=True)) / math.fsum(weights)
    var = math.fsum(w * (v - mean) ** 2 for w, v in zip(weights, seen, strict=True))
    return mean, math.sqrt(var / math.fsum(weights))


def naive_embed(x, resolution, weight, *, patch, half_life_loc, half_life_scale):
    """One series: x (T,), weight (2P + 4, C)."""
    rows, frames = [], []
    last = None
    for token in range(len(x) // patch):
        past = x[: (token + 1) * patch]
        seen = past[~np.isnan(past)]
        loc, fast = naive_memory(seen, half_life_loc)
        slow_loc, scale = naive_memory(seen, half_life_scale)
        level = np.abs(seen).max(initial=0.0)
        usable = scale > 8 * np.finfo(np.float64).eps * level + resolution
        newest = past[-patch:]
        z = np.zeros(patch)
        features = np.zeros(4)
        if usable:
            z = np.where(np.isnan(newest), 0.0, np.arcsinh((newest - loc) / scale))
            if last is not None:
                features[0] = np.arcsinh((loc - last[0]) / scale)
                features[1] = np.log(scale / last[1])
            features[2] = np.arcsinh((loc - slow_loc) / scale)
            features[3] = np.log(max(fast / scale, np.finfo(np.float64).tiny))
        last = (loc, scale) if usable else None
        rows.append(np.concatenate((z, ~np.isnan(newest), features.clip(-10, 10))) @ weight)
        frames.append((loc, scale if usable else 0.0, min(1, len(seen) / 8) if usable else 0.0))
    return np.array(rows), *np.array(frames).T


def gappy_series(rng: np.random.Generator, steps: int, *, share: float = 0.2) -> np.ndarray:
    x = rng.standard_normal(steps).cumsum() + 3
    x[rng.random(steps) < share] = np.nan
    return x


@pytest.mark.parametrize("half_life_scale", [40.0, math.inf])
@pytest.mark.parametrize(("patch", "tokens"), [(1, 9), (5, 7), (16, 4)])
def test_embedding_equals_loops(rng, patch, tokens, half_life_scale):
    x = np.stack([gappy_series(rng, patch * tokens) for _ in range(6)])
    x[1] = np.nan
    x[2] = 4.0
    x[3, :-1] = np.nan
    x[4, patch : 3 * patch] = np.nan
    x[5, patch:] = 1e6
    resolution = np.array([0.0, 0.0, 0.0, 0.0, 0.5, 0.0])
    weight = rng.standard_normal((2 * patch + 4, 3))
    settings = {"patch": patch, "half_life_loc": 6.0, "half_life_scale": half_life_scale}
    ours = reference.dart_patch_embed(
        torch.from_numpy(x), torch.from_numpy(resolution), torch.from_numpy(weight), **settings
    )
    for series in range(len(x)):
        naive = naive_embed(x[series], resolution[series], weight, **settings)
        for a, b in zip(ours, naive, strict=True):
            np.testing.assert_allclose(a[series].numpy(), b, rtol=1e-9, atol=1e-9)


def test_features_can_be_left_out(rng):
    x = torch.from_numpy(gappy_series(rng, 64))[None]
    weight = torch.from_numpy(rng.standard_normal((36, 3)))
    settings = {"patch": 16, "half_life_loc": 6.0, "half_life_scale": 40.0}
    without = weight.clone()
    without[-4:] = 0
    a = reference.dart_patch_embed(x, torch.zeros(1), weight, **settings, features=False)
    b = reference.dart_patch_embed(x, torch.zeros(1), without, **settings)
    assert torch.equal(a[0], b[0])
    assert not torch.equal(
        a[0], reference.dart_patch_embed(x, torch.zeros(1), weight, **settings)[0]
    )


def softplus(v: float) -> float:
    return max(v, 0.0) + math.log1p(math.exp(-abs(v)))


def naive_pair(raw: np.ndarray, y: float) -> float:
    """Loss of one scored point; raw: (1 + Q,)."""
    half = len(LEVELS) // 2
    mean, median, gaps = raw[0], raw[1], [softplus(v - 1.0) for v in raw[2:]]
    quantiles = {LEVELS[half]: median}
    down = up = median
    for i in range(half):
        down -= gaps[i]
        up += gaps[half + i]
        quantiles[LEVELS[half - 1 - i]] = down
        quantiles[LEVELS[half + 1 + i]] = up
    assert sorted(quantiles) == list(LEVELS)
    pinball = np.mean([(q - (y < v)) * (y - v) for q, v in quantiles.items()])
    away = abs(y - mean)
    huber = away**2 / 2 if away < 3 else 3 * (away - 1.5)
    return (2 * pinball + huber / 4) * min(1.0, 100 / max(abs(y), 1e-30))


def naive_grid_loss(h, weight, target, loc, scale, token_weight, offset):
    patch = target.shape[-1]
    # first patch, first patch of the next octave, every how many tokens: the grid of the published presets
    grid = [(0, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8), (8, 16, 16), (16, 24, 16)]
    sums, counts = [], []
    for first, stop, stride in grid:
        if first >= len(weight):
            break
        total = count = 0.0
        for s in range(h.shape[0]):
            for i in range(h.shape[1]):
                if i % stride != offset[s] % stride or scale[s, i] == 0:
                    continue
                for k in range(first, min(stop, len(weight))):
                    raw = (h[s, i] @ weight[k]).reshape(patch, -1)
                    for p in range(patch):
                        y = (target[s, i + 1 + k, p] - loc[s, i]) / scale[s, i]
                        if not np.isnan(y):
                            total += token_weight[s, i] * naive_pair(raw[p], y)
                            count += token_weight[s, i]
        sums.append(total)
        counts.append(count)
    return np.array(sums), np.array(counts)


@pytest.mark.parametrize("horizon", [1, 3, 24])
def test_grid_loss_equals_loops(rng, horizon):
    series, tokens, rank, patch = 3, 16, 3, 2
    h = rng.standard_normal((series, tokens, rank))
    weight = rng.standard_normal((horizon, rank, patch * (1 + len(LEVELS))))
    target = 3 * rng.standard_normal((series, tokens + horizon, patch))
    target[rng.random(target.shape) < 0.2] = np.nan
    target[0, 5] = 1e4
    loc, scale = rng.standard_normal((series, tokens)), rng.random((series, tokens)) + 0.1
    scale[1, :9] = 0.0
    token_weight = rng.random((series, tokens))
    offset = np.array([0, 5, 15])
    inputs = (h, weight, target, loc, scale, token_weight, offset, np.array(LEVELS))
    ours = reference.grid_loss(*map(torch.from_numpy, inputs))
    for a, b in zip(ours, naive_grid_loss(*inputs[:-1]), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-10)


@pytest.mark.parametrize("horizon", [1, 2, 7, 24, 40])
def test_octaves_cover_the_horizon_once(horizon):
    grid = reference.octaves(horizon)
    assert [k for ks, _ in grid for k in ks] == list(range(horizon))
    assert all(stride <= reference.MAX_STRIDE for _, stride in grid)


def test_quantiles_rise_for_any_output(rng):
    raw = torch.from_numpy(50 * rng.standard_normal((100, 1 + len(LEVELS))))
    mean, quantiles = reference.quantile_outputs(raw)
    assert torch.equal(mean, raw[:, 0])
    assert (quantiles.diff(dim=-1) >= 0).all()
    assert torch.equal(quantiles[:, len(LEVELS) // 2], raw[:, 1])


def test_unknown_norm_is_named():
    with pytest.raises(ValueError, match="norm must be one of dart, .*, got 'batch'"):
        reference.frames(
            torch.zeros(1, 4), torch.zeros(1), patch=2, half_life_loc=2.0, half_life_scale=2.0,
            norm="batch",
        )  # fmt: skip
