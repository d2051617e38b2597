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
# a results file may have been kept with six digits
_SAME = 1e-5

Results = Mapping[str, Mapping[str, Any]]


def compare(a: Results, b: Results, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Ratios of the geometric means of two results' relative scores, a / b, over the tasks that both scored.

    a, b: records by task name, as a results file holds them. Returns, per kind and score, "tasks" and "bases" (those
    where both scores have a logarithm), the "ratio" (below 1: a is better), the ends "low" and "high" of its 95 %
    interval (None of a single base, which tells nothing of others), and "wins", the share of tasks that a is better
    at. Raises PackError where no task is in both, or where they scored different windows of one.
    """
    comparison = {}
    for kind, scores in SCORES.items():
        # a study's file, which has tasks by strategy, holds no record here
        names = [name for name in a if name in b and a[name].get("kind") == kind]
        names = [name for name in names if "relative" in a[name] and "relative" in b[name]]
        for name in names:
            _check_windows(name, a[name], b[name])
        if names:
            # results written before records named the base
            bases = [a[name].get("base", a[name]["dataset"]) for name in names]
            comparison[kind] = {
                key: _ratio(
                    [(a[n]["relative"][key], b[n]["relative"][key]) for n in names], bases, seed
                )
                for key in scores
            }
    if not comparison:
        raise PackError(
            "the two files share no task that a model was scored on; wanted --output files of "
            "`tinytsm evaluate --model`"
        )
    return comparison


def _check_windows(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raise PackError unless two records of a task are of the same windows."""
    if a["windows"] != b["windows"]:
        raise PackError(f"{name}: {a['windows']} windows in one file, {b['windows']} in the other")
    # as many, but others: seasonal naive, which both are relative to, tells them apart
    for key in SCORES[a["kind"]]:
        x, y = (record["seasonal_naive"][key] for record in (a, b))
        if (x is None) != (y is None) or x is not None and not math.isclose(x, y, rel_tol=_SAME):
            raise PackError(
                f"{name}: seasonal naive has {key} {x} in one file, {y} in the other, so their windows are not "
                "the same; score both with the same --max-windows and --ltsf-stride"
            )


def _ratio(
    pairs: Sequence[tuple[float | None, float | None]], bases: Sequence[str], seed: int
) -> dict[str, float | None]:
    # a score that is undefined or 0 has no logarithm
    kept = [(math.log(x / y), base) for (x, y), base in zip(pairs, bases, strict=True) if x and y]
    found: dict[str, float | None] = {"tasks": len(kept)}
    found["bases"] = len({base for _, base in kept})
    if not kept:
        return found | dict.fromkeys(("ratio", "low", "high", "wins"))
    logs = np.array([log for log, _ in kept])
    found |= {"ratio": math.exp(logs.mean()), "wins": float((logs < 0).mean())}
    if found["bases"] == 1:
        return found | {"low": None, "high": None}
    _, block = np.unique([base for _, base in kept], return_inverse=True)
    sums, counts = np.bincount(block, logs), np.bincount(block)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.exp(np.percentile(means, _INTERVAL))
    return found | {"low": float(low), "high": float(high)}


def render(comparison: Mapping[str, Mapping[str, Any]], *, names: tuple[str, str]) -> str:
    """One line per kind and score."""
    lines = [f"{names[0]} / {names[1]}, relative scores: below 1, {names[0]} is better"]
    for kind, scores in SCORES.items():
        for key in scores if kind in comparison else ():
            s = comparison[kind][key]
            if s["ratio"] is None:
                continue
            interval = "no interval from one base data set"
            if s["low"] is not None:
                interval = f"95 % interval {s['low']:.4f} .. {s['high']:.4f}"
            lines.append(
                f"{kind} {key.upper()}  {s['ratio']:.4f}  {interval}  "
                f"better on {s['wins']:.0%} of {s['tasks']} tasks, {s['bases']} base data sets"
            )
    return "\n".join(lines)
