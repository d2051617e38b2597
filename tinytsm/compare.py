"""How sure a difference between two results is.

Tasks of one base data set (its frequencies and terms) rise and fall together, so a paired bootstrap draws bases, not
tasks: Efron and Tibshirani, An Introduction to the Bootstrap (1993), sections 8.6 (blocks) and 13.3 (percentiles).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinytsm.pack import SCORES, PackError

_RESAMPLES = 10_000
_INTERVAL = (2.5, 97.5)

Results = Mapping[str, Mapping[str, Any]]


def compare(a: Results, b: Results, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Ratios of the geometric means of two results' relative scores, a / b, over the tasks that both scored.

    a, b: records by task name, as a results file holds them. Returns, per kind, "tasks", "bases", and per score its
    "ratio" (below 1: a is better), the ends "low" and "high" of its 95 % interval, and "wins", the share of tasks
    that a is better at. Raises PackError where no task is in both, or where they scored different windows of one.
    """
    comparison = {}
    for kind, scores in SCORES.items():
        names = [name for name in a if name in b and a[name]["kind"] == kind]
        names = [name for name in names if "relative" in a[name] and "relative" in b[name]]
        for name in names:
            counts = [r[name]["windows"] for r in (a, b)]
            if counts[0] != counts[1]:
                raise PackError(
                    f"{name}: {counts[0]} windows in one file, {counts[1]} in the other"
                )
        if names:
            # results written before records named the base
            bases = [a[name].get("base", a[name]["dataset"]) for name in names]
            comparison[kind] = {"tasks": len(names), "bases": len(set(bases))} | {
                key: _ratio(
                    [(a[n]["relative"][key], b[n]["relative"][key]) for n in names], bases, seed
                )
                for key in scores
            }
    if not comparison:
        raise PackError("the two files share no task that a model was scored on")
    return comparison


def _ratio(
    pairs: Sequence[tuple[float | None, float | None]], bases: Sequence[str], seed: int
) -> dict[str, float | None]:
    # a score that is undefined or 0 has no logarithm
    kept = [(math.log(x / y), base) for (x, y), base in zip(pairs, bases, strict=True) if x and y]
    if not kept:
        return dict.fromkeys(("ratio", "low", "high", "wins"))
    logs = np.array([log for log, _ in kept])
    _, block = np.unique([base for _, base in kept], return_inverse=True)
    sums, counts = np.bincount(block, logs), np.bincount(block)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.exp(np.percentile(means, _INTERVAL))
    wins = float((logs < 0).mean())
    return {"ratio": math.exp(logs.mean()), "low": float(low), "high": float(high), "wins": wins}


def render(comparison: Mapping[str, Mapping[str, Any]], *, names: tuple[str, str]) -> str:
    """One line per kind and score."""
    lines = [f"{names[0]} / {names[1]}, relative scores: below 1, {names[0]} is better"]
    for kind, scores in SCORES.items():
        for key in scores if kind in comparison else ():
            of_kind = comparison[kind]
            s = of_kind[key]
            if s["ratio"] is None:
                continue
            lines.append(
                f"{kind} {key.upper()}  {s['ratio']:.4f}  95 % interval {s['low']:.4f} .. {s['high']:.4f}  "
                f"better on {s['wins']:.0%} of {of_kind['tasks']} tasks, {of_kind['bases']} base data sets"
            )
    return "\n".join(lines)
