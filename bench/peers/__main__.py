"""How fast the peers forecast on this machine, side by side with tinytsm.

    python -m bench.peers                                 batch 64, contexts 512 and 2048, horizon 96
    python -m bench.peers --context 512 --rounds 5
    python -m bench.peers --only tinytsm Chronos --device cpu

Run it in the environment of bench/peers/requirements.txt; a peer whose package is missing is named and left out.
Weights are random: they do not change the time. Every round lets all neural models take their turn; the classical
ones, fitted to each series, are timed on a sample of the batch. A context longer than a model's own is cut by it, and
the table says to what. Progress goes to standard error; a table and one line of JSON to standard output.
"""

import argparse
import json
import logging
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench import record, tables, timing
from bench.peers.models import PEERS, Peer, Predict


def _series(batch: int, context: int) -> np.ndarray:
    """Random walks with a daily cycle: nothing that a classical model finds trivial."""
    rng = np.random.default_rng(0)
    cycle = np.sin(np.arange(context) * 2 * np.pi / 24 + rng.uniform(0, 6, (batch, 1)))
    return rng.standard_normal((batch, context)).cumsum(1) + 10 * cycle


def _checked(peer: Peer, predict: Predict, series: np.ndarray, horizon: int) -> None:
    """Raise ValueError unless the peer forecasts every step of every series."""
    out = np.asarray(predict(series))
    wanted = (len(series), horizon)
    if out.shape[:2] != wanted or not np.isfinite(out).all():
        raise ValueError(
            f"{peer.name} must give finite forecasts of shape {wanted}, got {out.shape}"
        )


def measure(
    peers: list[Peer], *, batch: int, context: int, horizon: int, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    """One row per peer: parameters, the context that it uses, seconds per series, series per second."""
    series = _series(batch, context)
    calls: dict[str, Predict] = {}
    sampled: dict[str, np.ndarray] = {}
    for peer in peers:
        print(f"building {peer.name} at context {context} ...", file=sys.stderr)
        calls[peer.name] = peer.build(context, horizon, device)
        sampled[peer.name] = series[: peer.sample]
        _checked(peer, calls[peer.name], sampled[peer.name], horizon)
    neural = {
        p.name: timing.Rotation(calls[p.name], [(series,)]) for p in peers if p.sample is None
    }
    print("timing ...", file=sys.stderr)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    if neural:
        # outputs end on the host, so the host's clock is the right one on a GPU as well
        seconds |= timing.interleave(neural, device=torch.device("cpu"), rounds=rounds)
    for peer in peers:
        if peer.sample is not None:
            began = time.perf_counter()
            calls[peer.name](sampled[peer.name])
            seconds[peer.name] = [time.perf_counter() - began]
    return [
        {
            "name": peer.name,
            "parameters": peer.parameters,
            "gives": peer.gives,
            "batch": len(sampled[peer.name]),
            "context": context,
            "used": min(context, peer.longest or context),
            "horizon": horizon,
            "latency_ms": 1e3 * median(seconds[peer.name]),
            "series/s": len(sampled[peer.name]) / median(seconds[peer.name]),
        }
        for peer in peers
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--context", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--horizon", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each neural model")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="peers whose names begin so")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="folder of results (default: bench/results)")
    args = parser.parse_args(argv)
    # both announce on import what they do not find
    logging.disable(logging.WARNING)
    device = record.pick_device(args.device)
    if record.TINY:
        args.batch, args.context, args.rounds = 2, args.context[:1], 1
    wanted = [p for p in PEERS if not args.only or p.name.startswith(tuple(args.only))]
    present = [p for p in wanted if find_spec(p.package) is not None]
    missing = sorted({p.package for p in wanted} - {p.package for p in present})
    if missing:
        print(
            f"not installed: {', '.join(missing)}; see bench/peers/requirements.txt",
            file=sys.stderr,
        )
    document = record.header("peers", device, command="python -m bench.peers")
    document |= {"missing": missing, "rows": []}
    for package in ("chronos-forecasting", "granite-tsfm", "statsforecast", "transformers"):
        document["versions"] |= record.version_of(package)
    for context in args.context:
        document["rows"] += measure(
            present,
            batch=args.batch,
            context=context,
            horizon=args.horizon,
            rounds=args.rounds,
            device=device,
        )
        # after each context, so that a run cut short keeps the first
        path = record.write(document, args.out or record.default_folder())
    print(tables.peers([document]))
    print(json.dumps({"results": str(path), "rows": len(document["rows"]), "missing": missing}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
