"""Laws of SynthTS's couplers: who is changed by whom, with which lag, and how strongly."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinytsm.synth import multivariate, philox

ROOT = Path(__file__).parents[1]


def independent(variates: int, length: int, *, index: int = 0) -> np.ndarray:
    """(V, T) white noise, standardised, so that any relation found is the coupler's."""
    out = np.random.default_rng(index).normal(size=(variates, length))
    return (out - out.mean(1, keepdims=True)) / out.std(1, keepdims=True)


def couple(name: str, series: np.ndarray, *, index: int = 0) -> np.ndarray:
    """A coupled copy of series (V, T)."""
    out = series.copy()
    getattr(multivariate, name)(philox.stream(9, index, 2), out)
    return out


def best_lag(leader: np.ndarray, follower: np.ndarray, *, most: int = 110) -> tuple[int, float]:
    """The lag at which follower (T,) resembles leader (T,) most, and that correlation."""
    length = leader.size
    r = [np.corrcoef(leader[: length - k], follower[k:])[0, 1] for k in range(most)]
    lag = int(np.argmax(np.abs(r)))
    return lag, float(r[lag])


@pytest.mark.parametrize("name", multivariate.COUPLERS)
def test_coupled_variates_are_finite_and_move(name: str) -> None:
    for variates, length in ((1, 50), (2, 1), (2, 3), (3, 100), (7, 333)):
        for index in range(40):
            # Levels and scales far apart, as base series come
            series = independent(variates, length, index=index) if length > 1 else np.ones((2, 1))
            series = 1e3 + series * 10.0 ** np.arange(variates)[:, None]
            out = couple(name, series, index=index)
            assert np.isfinite(out).all()
            assert length < 3 or (np.ptp(out, axis=1) > 1e-9).all()
            assert np.array_equal(out, couple(name, series, index=index))


def test_couplers_without_compiler_agree(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np, tests.test_multivariate as t\n"
        "x = t.independent(3, 50)\n"
        "np.savez(sys.argv[1], **{n: t.couple(n, x) for n in t.multivariate.COUPLERS})"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "plain.npz")]
    subprocess.run(command, env=environment, cwd=ROOT, check=True)
    plain = np.load(tmp_path / "plain.npz")
    for name in multivariate.COUPLERS:
        jitted = couple(name, independent(3, 50))
        np.testing.assert_allclose(jitted, plain[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("lag", [0, 1, 17])
def test_lag_is_recovered(lag: int) -> None:
    parent, child = independent(2, 3000)
    child *= 0.5
    multivariate.add_lagged(parent, lag, multivariate.LINEAR, 0.0, -1.0, child)
    found, r = best_lag(parent, child)
    assert found == lag
    assert r < -0.8


def test_links_have_their_shapes() -> None:
    x = np.linspace(-40.0, 40.0, 801)

    def values(kind: int, bend: float) -> np.ndarray:
        return np.array([multivariate.link(value, kind, bend) for value in x])

    np.testing.assert_array_equal(values(multivariate.LINEAR, 0.3), x)
    np.testing.assert_array_equal(values(multivariate.RECTIFIED, 0.3), np.maximum(x - 0.3, 0.0))
    np.testing.assert_array_equal(np.unique(values(multivariate.THRESHOLD, 0.3)), [-1.0, 1.0])
    np.testing.assert_allclose(values(multivariate.SINE, -0.3), np.sin(1.3 * x))
    for kind in (multivariate.SIGMOID, multivariate.SATURATING):
        curve = values(kind, 0.0)
        assert (np.diff(curve) >= 0.0).all() and np.ptp(curve) < 2.01
    # Half-way at its bend
    assert multivariate.link(0.7, multivariate.SIGMOID, 0.7) == pytest.approx(1.0)


def test_graph_leaves_a_root_and_relates_the_rest() -> None:
    related = apart = 0
    for index in range(60):
        base = independent(2, 2000, index=index)
        out = couple("couple_graph", base, index=index)
        same = [np.allclose(out[v], base[v], atol=1e-9) for v in range(2)]
        # The first in causal order has no parents
        assert any(same)
        if all(same):
            # No edge: nothing but chance relates them
            apart += 1
            assert abs(np.corrcoef(out)[0, 1]) < 0.12
        else:
            child = same.index(False)
            _, r = best_lag(out[1 - child], out[child])
            related += abs(r) > 0.25
            # The child's past tells nothing of the parent: leads run one way
            _, backward = best_lag(out[child, :-1], out[1 - child, 1:])
            assert abs(backward) < 0.12
    assert apart > 3 and related > 25


def test_coregionalisation_is_one_matrix() -> None:
    positive = 0
    for index in range(40):
        base = independent(4, 600, index=index)
        out = couple("couple_coregionalised", base, index=index)
        weights, *_ = np.linalg.lstsq(base.T, out.T, rcond=None)
        np.testing.assert_allclose(base.T @ weights, out.T, atol=1e-9)
        if weights.min() > -1e-9:
            positive += 1
            np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-9)
    assert 10 < positive < 30


def test_factors_are_shared() -> None:
    ours, chance = [], []
    for index in range(60):
        base = independent(6, 800, index=index)
        out = couple("couple_factors", base, index=index)
        upper = np.triu_indices(6, 1)
        ours.append(np.abs(np.corrcoef(out)[upper]).mean())
        chance.append(np.abs(np.corrcoef(base)[upper]).mean())
    assert np.mean(ours) > 8 * np.mean(chance)


def test_copies_follow_one_leader() -> None:
    for index in range(40):
        base = independent(4, 2000, index=index)
        out = couple("couple_copies", base, index=index)
        leaders = [v for v in range(4) if np.allclose(out[v], base[v], atol=1e-9)]
        assert len(leaders) == 1
        for v in set(range(4)) - set(leaders):
            _, r = best_lag(out[leaders[0]], out[v])
            assert abs(r) > 0.6


def test_leads_change_the_target_alone() -> None:
    explained = []
    for index in range(40):
        base = independent(3, 2000, index=index)
        out = couple("couple_leads", base, index=index)
        changed = [v for v in range(3) if not np.allclose(out[v], base[v], atol=1e-9)]
        assert len(changed) == 1
        others = [v for v in range(3) if v not in changed]
        explained.append(max(abs(best_lag(out[v], out[changed[0]])[1]) for v in others))
    assert np.median(explained) > 0.5


def test_graph_relates_what_it_connects_and_nothing_else() -> None:
    """The graph is drawn again from its stream; variates without a common ancestor stay independent at every lag."""
    variates, length, lags = 5, 2000, 100
    unrelated, direct = [], []
    for index in range(60):
        base = independent(variates, length, index=index)
        out = couple("couple_graph", base, index=index)
        rng = philox.stream(9, index, 2)
        order = multivariate._order(rng, variates)
        density = philox.between(rng, 0.4, 1.0)
        linear_only = philox.bernoulli(rng, 0.3)
        ancestors: dict[int, set[int]] = {int(order[0]): {int(order[0])}}
        for place in range(1, variates):
            child, parents = int(order[place]), []
            for _ in range(min(place, 3)):
                if not philox.bernoulli(rng, density):
                    continue
                parents.append(int(order[philox.integer(rng, 0, place)]))
                kind = multivariate.LINEAR
                if not linear_only:
                    kind = philox.integer(rng, 0, multivariate._LINKS)
                # The call's arguments in their order: lag, bend, weight
                lag = int(multivariate._lag(rng, length))
                philox.normal(rng), philox.normal(rng)
            own = philox.log_uniform(rng, 0.05, 2.0)
            ancestors[child] = {child}.union(*(ancestors[p] for p in parents))
            if not parents:
                np.testing.assert_allclose(out[child], base[child], atol=1e-9)
            elif len(parents) == 1 and kind == multivariate.LINEAR and own < 0.5:
                found, r = best_lag(out[parents[0]], out[child])
                direct.append(found == lag and abs(r) > 0.8)
        for a in range(variates):
            for b in range(variates):
                if a != b and not ancestors[a] & ancestors[b]:
                    unrelated.append(abs(best_lag(out[a], out[b], most=lags)[1]))
    assert len(unrelated) > 40 and len(direct) > 20
    # The largest of so many correlations of independent series, each normal with deviation 1 / sqrt(T)
    most = np.sqrt(2 * np.log(len(unrelated) * lags) / (length - lags))
    assert max(unrelated) < 1.25 * most
    assert all(direct)
