import json
from typing import Any

import numpy as np
import pytest
import torch

from bench.peers import __main__ as peers
from bench.peers import models
from bench.peers.models import Peer

CPU = torch.device("cpu")


def naive(name: str, **settings) -> Peer:
    def build(context, horizon, device):
        return lambda series: np.repeat(series[:, -1:], horizon, 1)

    given: dict[str, Any] = {
        "package": "torch",
        "build": build,
        "gives": "points",
        "parameters": 10,
    }
    return Peer(name=name, **given | settings)


def test_a_row_says_what_was_timed():
    peers_ = [naive("short", longest=16), naive("classical", parameters=None, sample=2)]
    rows = peers.measure(peers_, batch=4, context=32, horizon=5, rounds=2, device=CPU)
    assert [row["used"] for row in rows] == [16, 32]
    assert [row["batch"] for row in rows] == [4, 2]
    for row in rows:
        assert row["series/s"] == pytest.approx(1e3 * row["batch"] / row["latency_ms"])


def test_a_peer_must_forecast_every_step():
    def build(context, horizon, device):
        return lambda series: np.full((len(series), horizon - 1), 1.0)

    with pytest.raises(ValueError, match=r"x must give finite forecasts of shape \(4, 5\)"):
        peers.measure(
            [naive("x", build=build)], batch=4, context=32, horizon=5, rounds=1, device=CPU
        )


def test_a_peer_must_have_its_makers_parameters():
    with pytest.raises(ValueError, match="y must have 10 parameters, got 6"):
        models._count(torch.nn.Linear(2, 2), "y", 10)


def test_missing_packages_cost_their_own_rows(tmp_path, monkeypatch, capsys):
    there = [naive("here"), naive("elsewhere", package="no_such_package")]
    monkeypatch.setattr(peers, "PEERS", there)
    arguments = ["--batch", "2", "--context", "32", "64", "--horizon", "3", "--rounds", "1"]
    assert peers.main([*arguments, "--device", "cpu", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "not installed: no_such_package" in said.err
    last = json.loads(said.out.splitlines()[-1])
    assert last["missing"] == ["no_such_package"] and last["rows"] == 2
    document = json.loads((tmp_path / last["results"]).read_text())
    assert [row["context"] for row in document["rows"]] == [32, 64]


def test_names_are_unique_and_ours_are_all_there():
    names = [peer.name for peer in models.PEERS]
    assert len(set(names)) == len(names)
    assert {"tinytsm nano, fast", "tinytsm mini, fast", "tinytsm tiny, fast"} <= set(names)
    (nano,) = (peer for peer in models.PEERS if peer.name == "tinytsm nano, fast")
    predict = nano.build(64, 96, CPU)
    assert tuple(predict(np.random.default_rng(0).standard_normal((2, 64))).shape) == (2, 96, 9)
