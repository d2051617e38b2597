"""Embeddings: one vector per patch, causal, the same whatever level and scale the series has."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tinytsm import TinyTSM


def test_shapes_and_frames(miniature: TinyTSM) -> None:
    rng = np.random.default_rng(0)
    series = [rng.normal(size=n) for n in (1, 8, 9, 100, 5000)] + [rng.normal(size=(3, 100))]
    found = miniature.embed(series)
    counts = [1, 1, 2, 13, miniature.config.context_patches, 13]
    for one, count, variates in zip(found, counts, (1, 1, 1, 1, 1, 3), strict=True):
        assert one.tokens.shape == (variates, count, miniature.config.d_model)
        assert one.loc.shape == one.scale.shape == (variates, count)
        assert one.pooled.shape == (variates, miniature.config.d_model)
        assert one.tokens.isfinite().all()
    # the frame of the newest token stands among the newest values
    assert abs(found[3].loc[0, -1]) < 1 and 0.7 < found[3].scale[0, -1] < 1.3


def test_alone_or_in_company(miniature: TinyTSM) -> None:
    rng = np.random.default_rng(1)
    series = [rng.normal(size=n) for n in (40, 900, 40)]
    together = miniature.embed(series)
    for one, value in zip(together, series, strict=True):
        assert torch.equal(one.tokens, miniature.embed([value])[0].tokens)


def test_level_and_scale_are_in_the_frame_alone(miniature: TinyTSM) -> None:
    x = np.random.default_rng(2).normal(size=300)
    plain, moved = miniature.embed([x, 1024 * x + 7e5])
    torch.testing.assert_close(plain.tokens, moved.tokens, rtol=0, atol=2e-3)
    torch.testing.assert_close(1024 * plain.loc + 7e5, moved.loc, rtol=1e-6, atol=1e-2)
    torch.testing.assert_close(1024 * plain.scale, moved.scale, rtol=1e-4, atol=1e-2)


def test_the_newest_value_reaches_the_newest_token_alone(miniature: TinyTSM) -> None:
    x = np.random.default_rng(3).normal(size=104)
    changed = x.copy()
    changed[-1] += 3
    before, after = (one.tokens for one in miniature.embed([x, changed]))
    torch.testing.assert_close(before[:, :-1], after[:, :-1], rtol=0, atol=1e-4)
    assert (before[:, -1] - after[:, -1]).abs().max() > 0.01


def test_a_bad_input_is_named(miniature: TinyTSM) -> None:
    with pytest.raises(ValueError, match=r"inputs\[1\] is empty"):
        miniature.embed([[1.0, 2.0], []])
    with pytest.raises(ValueError, match="inputs must be an array or a list of arrays, got 5"):
        miniature.embed(5)
    with pytest.raises(ValueError, match="inputs is empty: wanted at least one series"):
        miniature.embed([])


def test_tokens_start_at_the_first_value(miniature: TinyTSM, rng: np.random.Generator) -> None:
    x = rng.normal(size=40)
    late, plain = miniature.embed([np.r_[np.full(60, np.nan), x], x])
    assert torch.equal(late.tokens, plain.tokens) and torch.equal(late.loc, plain.loc)


def test_threads_do_not_meet(miniature: TinyTSM) -> None:
    series = list(np.random.default_rng(4).normal(size=(2, 40)))
    alone = [miniature.embed([x])[0].tokens for x in series]

    def differs(i: int) -> bool:
        return not torch.equal(miniature.embed([series[i % 2]])[0].tokens, alone[i % 2])

    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(differs, range(400)))
