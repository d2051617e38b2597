"""Group task scores, compare, render tables.

Input is what `tinytsm.evaluate.record` makes: one dict per task, with the scores of the model (absent in a run of
baselines), of seasonal naive, and of the pack's classical baselines. Every mean over tasks is the geometric mean of
scores relative to seasonal naive on the same windows, so seasonal naive itself is 1 everywhere.
"""

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from tinytsm.metrics import LEVELS, geometric_mean, relative
from tinytsm.pack import SCORES

# weather and air-quality stations, street counters and road loops: measuring devices that are filed under other
# domains than Energy
_SENSORS = (
    "kdd_cup_2018*",
    "pedestrian_*",
    "jena_weather*",
    "temperature_rain*",
    "loop_seattle*",
    "m_dense*",
)

Results = Mapping[str, Mapping[str, Any]]


def summarise(results: Results, published: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Geometric means by group, beside those of the baselines and of published models.

    results: task name to record. published: the pack's published.json. Returns "headline" (per kind: tasks, windows
    scored and by the rules, scores; the model's, or None in a run of baselines), "gift" and "ltsf" (per group: tasks,
    and scores by column), "averages"
    (ltsf: per data set the plain mean over its horizons, the figure that papers print), "calibration" (gift: per
    group, see `_calibration`), and "published" (tasks, and scores by model, best first) over the tasks that both
    sides hold.
    """
    shared = _published_tasks(published)
    summary: dict[str, Any] = {"headline": {}}
    for kind, scores in SCORES.items():
        of_kind = {name: r for name, r in results.items() if r["kind"] == kind}
        if not of_kind:
            continue
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for name, entry in of_kind.items():
            for group in _groups(entry, is_published=name in shared):
                groups.setdefault(group, []).append(entry)
        summary[kind] = {
            group: {"tasks": len(entries), "scores": _means(entries, scores)}
            for group, entries in sorted(groups.items(), key=lambda item: _order(item[0]))
        }
        if kind == "gift":
            summary["calibration"] = {group: _calibration(groups[group]) for group in summary[kind]}
        everything = summary[kind]["all"]
        summary["headline"][kind] = {
            "tasks": everything["tasks"],
            "windows": sum(entry["windows"] for entry in of_kind.values()),
            "all_windows": sum(entry["all_windows"] for entry in of_kind.values()),
            **everything["scores"].get("model", dict.fromkeys(scores)),
        }
    if averages := _averages(results):
        summary["averages"] = averages
    rows = [name for name in results if name in shared]
    if published and rows:
        summary["published"] = {
            "tasks": len(rows),
            "of": len(shared),
            "scores": _published_means(results, published["models"], rows),
        }
    return summary


def _groups(entry: Mapping[str, Any], *, is_published: bool) -> Iterable[str]:
    yield "all"
    if entry["kind"] == "ltsf":
        yield f"data set {entry['dataset']}"
        yield f"horizon {entry['horizon']}"
        return
    yield f"term {entry['term']}"
    yield f"freq {entry['freq']}"
    yield f"domain {entry['domain']}"
    if entry["domain"] == "Energy" or any(fnmatch.fnmatch(entry["dataset"], p) for p in _SENSORS):
        yield "energy and sensors"
    if is_published:
        yield "published"


def _order(group: str) -> tuple[int, int]:
    """Sorts groups by kind and keeps the pack's order within one; horizons by length."""
    heads = ("all", "term", "freq", "domain", "energy", "published", "data", "horizon")
    head, _, rest = group.partition(" ")
    return heads.index(head), int(rest) if head == "horizon" else 0


def _means(
    entries: Sequence[Mapping[str, Any]], scores: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    # a column that lacks a task of the group is left out: its mean would be over other tasks than its neighbours'
    columns = set.intersection(*({*e["baselines"], *_own(e)} for e in entries))
    return {
        column: {
            key: geometric_mean(_relative(entry, column)[key] for entry in entries)
            for key in scores
        }
        for column in sorted(columns, key=lambda c: (c != "model", c))
    }


def _calibration(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over tasks, by forecaster, of coverage by level (`below`) and of the histogram `pit`; every task weighs the same.

    error: mean over tasks and levels of |coverage - level|, so that tasks off to opposite sides do not cancel out.
    """
    columns: dict[str, dict[str, Any]] = {}
    for who in ("model", "seasonal_naive"):
        scored = [s for e in entries if (s := e.get(who)) and s.get("pit") and s["points"]]
        if not scored:
            continue
        coverage = {k: fmean(s["below"][k] for s in scored) for k in scored[0]["below"]}
        columns[who] = {
            "coverage": coverage,
            "pit": [fmean(shares) for shares in zip(*(s["pit"] for s in scored), strict=True)],
            "error": fmean(abs(s["below"][str(q)] - q) for s in scored for q in LEVELS),
        }
    return {"tasks": len(entries), "scores": columns}


def _averages(results: Results) -> dict[str, dict[str, Any]]:
    datasets: dict[str, list[Mapping[str, Any]]] = {}
    for entry in results.values():
        if entry["kind"] == "ltsf":
            datasets.setdefault(entry["dataset"], []).append(entry)
    return {
        dataset: {
            "horizons": [entry["horizon"] for entry in entries],
            "scores": {
                who: {key: fmean(e[who][key] for e in entries) for key in SCORES["ltsf"]}
                for who in ("model", "seasonal_naive")
                if all(who in entry for entry in entries)
            },
        }
        for dataset, entries in datasets.items()
    }


def _own(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return ("model",) if "relative" in entry else ()


def _relative(entry: Mapping[str, Any], column: str) -> Mapping[str, float | None]:
    return entry["relative"] if column == "model" else entry["baselines"][column]


def _published_tasks(published: Mapping[str, Any] | None) -> set[str]:
    return set(published["models"]["seasonal_naive"]) if published else set()


def _published_means(
    results: Results, models: Mapping[str, Mapping[str, Sequence[float]]], rows: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    naive = models["seasonal_naive"]
    table = {
        model: {
            key: geometric_mean(relative(scores[row][i], naive[row][i]) for row in rows)
            for i, key in enumerate(SCORES["gift"])
        }
        for model, scores in models.items()
        if all(row in scores for row in rows)
    }
    own = [results[row] for row in rows if "relative" in results[row]]
    if len(own) == len(rows):
        table["model"] = {
            key: geometric_mean(e["relative"][key] for e in own) for key in SCORES["gift"]
        }

    def place(item: tuple[str, dict[str, float | None]]) -> float:
        mase = item[1]["mase"]
        return math.inf if mase is None else mase

    return dict(sorted(table.items(), key=place))


def render(results: Results, summary: Mapping[str, Any], *, name: str) -> str:
    """The results as text tables: every task, then the groups, then the published models. name: the model's."""
    parts = []
    for kind, scores in SCORES.items():
        entries = {task: r for task, r in results.items() if r["kind"] == kind}
        if entries:
            parts.append(_task_table(entries, scores, name))
            parts.append(_group_table(summary[kind], kind, scores, name))
            if note := _sample_note(summary["headline"][kind]):
                parts.append(note)
    if "averages" in summary:
        parts.append(_average_table(summary["averages"], name))
    if "calibration" in summary:
        parts.append(_calibration_table(summary["calibration"], name))
    if "published" in summary:
        published = summary["published"]
        rows = [
            [f"> {name}" if model == "model" else model, *map(_number, means.values())]
            for model, means in published["scores"].items()
        ]
        title = (
            f"published GIFT-Eval scores, {published['tasks']} of {published['of']} configurations, "
            "geometric means relative to seasonal naive"
        )
        parts.append(f"{title}\n{text_table(['model', 'MASE', 'CRPS'], rows)}")
    return "\n\n".join(parts)


def _sample_note(headline: Mapping[str, Any]) -> str:
    scored, of = headline["windows"], headline["all_windows"]
    if scored == of:
        return ""
    return f"A SAMPLE: {scored} of {of} windows were scored; baselines and published scores are not so cut"


def _task_table(entries: Results, scores: Sequence[str], name: str) -> str:
    columns = list(dict.fromkeys(column for e in entries.values() for column in e["baselines"]))
    with_model = any("model" in e for e in entries.values())
    header = ["task", "series", "windows"]
    for who in ([name] if with_model else []) + ["naive"]:
        header += [f"{who} {key.upper()}" for key in scores]
    for who in ([name] if with_model else []) + columns:
        header += [f"{who} r.{key.upper()}" for key in scores]
    rows = []
    for task, e in entries.items():
        some = e["windows"] != e["all_windows"]
        row = [task, str(e["series"]), f"{e['windows']}" + (f"/{e['all_windows']}" if some else "")]
        for who in (["model"] if with_model else []) + ["seasonal_naive"]:
            row += [_number(e.get(who, {}).get(key)) for key in scores]
        if with_model:
            row += [_number(e.get("relative", {}).get(key)) for key in scores]
        for who in columns:
            row += [_number(e["baselines"].get(who, {}).get(key)) for key in scores]
        rows.append(row)
    note = (
        "r. = relative to seasonal naive; windows N/M = only N of the task's M windows were scored"
    )
    return f"{text_table(header, rows)}\n{note}"


def _average_table(averages: Mapping[str, Any], name: str) -> str:
    header = ["ltsf mean over horizons", "horizons"]
    columns = list(dict.fromkeys(who for a in averages.values() for who in a["scores"]))
    for who in columns:
        label = name if who == "model" else "naive"
        header += [f"{label} {key.upper()}" for key in SCORES["ltsf"]]
    rows = [
        [dataset, "/".join(map(str, a["horizons"]))]
        + [_number(a["scores"].get(who, {}).get(key)) for who in columns for key in SCORES["ltsf"]]
        for dataset, a in averages.items()
    ]
    return text_table(header, rows)


def _group_table(groups: Mapping[str, Any], kind: str, scores: Sequence[str], name: str) -> str:
    columns = list(dict.fromkeys(column for g in groups.values() for column in g["scores"]))
    header = [f"{kind} group", "tasks"] + [
        f"{name if column == 'model' else column} {key.upper()}"
        for column in columns
        for key in scores
    ]
    rows = [
        [group, str(g["tasks"])]
        + [_number(g["scores"].get(column, {}).get(key)) for column in columns for key in scores]
        for group, g in groups.items()
    ]
    return f"geometric means relative to seasonal naive\n{text_table(header, rows)}"


def _calibration_table(groups: Mapping[str, Any], name: str) -> str:
    intervals = (("0.025", "0.975"), ("0.1", "0.9"), ("0.3", "0.7"))
    columns = list(dict.fromkeys(who for g in groups.values() for who in g["scores"]))
    header = ["calibration", "tasks"]
    for who in columns:
        label = name if who == "model" else "naive"
        header += [f"{label} {100 * (float(b) - float(a)):.0f} %" for a, b in intervals]
        header += [f"{label} error"]
    rows = []
    for group, of_group in groups.items():
        row = [group, str(of_group["tasks"])]
        for who in columns:
            if (scores := of_group["scores"].get(who)) is None:
                row += ["-"] * (len(intervals) + 1)
                continue
            coverage = scores["coverage"]
            row += [f"{100 * (coverage[b] - coverage[a]):.1f} %" for a, b in intervals]
            row += [_number(scores["error"])]
        rows.append(row)
    note = "share of labels in the central intervals, and mean distance of coverage from its level"
    return f"{text_table(header, rows)}\n{note}; means over tasks"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
