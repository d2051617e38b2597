"""Evaluation packs: tasks, series, windows.

A pack is a folder with manifest.json (data sets, tasks, rules), one Parquet table per data set whose column `target`
holds one series per row, and, where someone made them, baselines.json and published.json. docs/evaluation.md has
the rules. Nothing here needs a model or torch.
"""

import fnmatch
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinytsm import metrics

# the kinds of task, and the scores that each is compared by
SCORES = {"gift": ("mase", "crps"), "ltsf": ("mse", "mae")}


class PackError(ValueError):
    """The pack, or what was asked of it, cannot be used; the message is one line for a person."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One data set at one horizon, by the manifest.

    base: what the data set was made from; those of one base at several frequencies are not independent. reader: the
    series at `path`, each (T,), NaN where missing. windows: forecasts per series; `distance` steps lie between two of
    them. split: for ltsf, the rows at which training, validation and test end; None for gift, whose windows end at
    each series' own end.
    """

    name: str
    dataset: str
    base: str
    path: Path
    reader: Callable[[Path], list[np.ndarray]]
    kind: str
    term: str
    freq: str
    domain: str
    season_length: int
    horizon: int
    series: int
    variates: int
    windows: int
    distance: int
    split: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        counts = (self.horizon, self.windows, self.distance, self.season_length, self.series)
        if min(counts) < 1:
            raise PackError(
                f"{self.name}: horizon, windows, distance, season_length and series must be at least 1, got "
                f"{', '.join(map(str, counts))}"
            )
        # an end counted from the back would take the test rows for training
        if self.split is not None and not 0 < self.split[0] <= self.split[1] < self.split[2]:
            raise PackError(
                f"{self.name}: wanted 0 < train_end <= val_end < test_end, got {self.split}"
            )


def load_tasks(
    pack: Path, *, patterns: Sequence[str] = (), kinds: Sequence[str] = tuple(SCORES)
) -> list[Task]:
    """The pack's tasks in the manifest's order, of these kinds and with a name that fits a glob (none: all).

    Raises PackError for a folder that is no pack and for a glob that fits nothing.
    """
    path = pack / "manifest.json"
    tasks: list[Task] = []
    for entry in field_of(read_json(path), "datasets", path, list):
        tasks += _dataset_tasks(entry, pack)
    chosen = [task for task in choose(tasks, patterns) if task.kind in kinds]
    if not chosen:
        raise PackError(f"no task of {pack} is left; wanted kinds {', '.join(kinds)}")
    return chosen


def choose(tasks: list[Task], patterns: Sequence[str]) -> list[Task]:
    """The tasks with a name that fits a glob (none: all). Raises PackError for a glob that fits nothing, and for a name
    of two tasks: results are kept by name."""
    names = Counter(task.name for task in tasks)
    if twice := [name for name, count in names.items() if count > 1]:
        raise PackError(f"each task needs a name of its own, got {twice[0]!r} twice")
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(task.name, pattern) for task in tasks):
            known = ", ".join(task.name for task in tasks[:4])
            raise PackError(f"no task fits {pattern!r}; names read like {known}")
    if not patterns:
        return tasks
    return [task for task in tasks if any(fnmatch.fnmatchcase(task.name, p) for p in patterns)]


def _dataset_tasks(entry: Mapping[str, Any], pack: Path) -> Iterator[Task]:
    where = pack / "manifest.json"
    name = field_of(entry, "name", where, str)
    where = Path(f"{where} ({name})")
    path = pack / field_of(entry, "file", where, str)
    freq = field_of(entry, "freq", where, str)
    common = {
        "dataset": name,
        "base": _base(entry, name),
        "path": path,
        "reader": _read_parquet,
        "freq": freq,
        "domain": entry.get("domain", "unknown"),
        "season_length": field_of(entry, "season_length", where, int)
        if entry.get("season_length") is not None
        else _season(freq, where),
        "series": _parquet_rows(path),
        "variates": entry.get("num_variates", 1),
    }
    for rule in field_of(entry, "tasks", where, list):
        kind = field_of(rule, "kind", where)
        if kind == "gift":
            term = field_of(rule, "term", where, str)
            horizon = field_of(rule, "prediction_length", where, int)
            yield Task(
                name=f"{name}/{term}",
                kind=kind,
                term=term,
                horizon=horizon,
                windows=field_of(rule, "windows", where, int),
                distance=rule.get("distance", horizon),
                **common,
            )
        elif kind == "ltsf":
            first, start, end = (
                field_of(rule, key, where, int) for key in ("train_end", "val_end", "test_end")
            )
            horizons = field_of(rule, "horizons", where, list)
            if not all(isinstance(horizon, int) for horizon in horizons):
                raise PackError(f"{where}: 'horizons' must be int each, got {horizons}")
            for horizon in horizons:
                yield Task(
                    name=f"{name}/ltsf/{horizon}",
                    kind=kind,
                    term="ltsf",
                    horizon=horizon,
                    windows=end - horizon + 1 - start,
                    distance=1,
                    split=(first, start, end),
                    **common,
                )
        else:
            raise PackError(f"{where}: task kind must be one of {', '.join(SCORES)}, got {kind!r}")


def _base(entry: Mapping[str, Any], name: str) -> str:
    """The GIFT-Eval data set that this one is, at any frequency, where the manifest names it; else its own name."""
    return re.split(r"[/ ]", entry.get("gift_eval_equivalent") or name)[0]


def _season(freq: str, where: Path) -> int:
    try:
        return metrics.season_length(freq)
    except ValueError as error:
        raise PackError(f"{where}: {error}") from error


def read_series(task: Task) -> list[np.ndarray]:
    """The task's series, each (T,), NaN where missing: float32 as stored for gift; for ltsf standardised, float64.

    Standardised means by the mean and population standard deviation of the training rows (1 where that is 0).
    """
    series = task.reader(task.path)
    if any(np.isinf(x).any() for x in series):
        raise PackError(f"{task.path}: infinite values; missing ones must be NaN")
    if task.split is None:
        return series
    standard = []
    for x in series:
        train = x[: task.split[0]].astype(np.float64)
        train = train[~np.isnan(train)]
        if not len(train):
            raise PackError(f"{task.path}: a variate has no observed value in its training rows")
        standard.append((x.astype(np.float64) - train.mean()) / (train.std() or 1.0))
    return standard


def _read_parquet(path: Path) -> list[np.ndarray]:
    reader = _parquet()
    try:
        column = reader.read_table(path, columns=["target"])["target"].combine_chunks()
        # a null row would have no length and shift every series after it
        ends = np.cumsum(column.fill_null([]).value_lengths().to_numpy())
        values = column.flatten().to_numpy(zero_copy_only=False)
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise PackError(f"{path}: no readable column 'target' of numbers: {text}") from error
    if values.dtype.kind not in "fiu":
        raise PackError(f"{path}: no readable column 'target' of numbers: got {values.dtype}")
    return np.split(values, ends[:-1])


def starts(task: Task, length: int, *, stride: int = 1) -> np.ndarray:
    """Where the labels of a series' windows start: everything before is context.

    length: T of the series. stride: for ltsf only, every stride-th window. Raises PackError where the windows do not
    fit the series.
    """
    if task.split is None:
        last = length - task.horizon
        found = last - task.distance * np.arange(task.windows - 1, -1, -1)
    else:
        last = min(length, task.split[2]) - task.horizon
        found = np.arange(task.split[1], last + 1, stride)
    if not len(found) or found[0] < 1 or (task.split and length < task.split[2]):
        raise PackError(
            f"{task.name}: {task.windows} windows of {task.horizon} steps do not fit a series of {length}"
        )
    return found


def windows(
    task: Task, series: Sequence[np.ndarray], *, stride: int = 1, max_windows: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Context (T,) and labels (H,) of each window, series by series; both are views, nothing is copied.

    max_windows: at most so many of them, evenly spread over all windows of all series from the first to the last.
    """
    found = [starts(task, len(x), stride=stride) for x in series]
    ends = np.cumsum([len(of_series) for of_series in found])
    chosen = np.arange(ends[-1])
    if max_windows is not None and max_windows < len(chosen):
        chosen = np.linspace(0, len(chosen) - 1, max_windows).round().astype(int)
    for i, flat in zip(np.searchsorted(ends, chosen, side="right"), chosen, strict=True):
        # counted from the end, a window's place needs no offset of its series
        start = found[i][flat - ends[i]]
        yield series[i][:start], series[i][start : start + task.horizon]


def count_windows(task: Task, *, stride: int = 1, max_windows: int | None = None) -> int:
    """Forecasts that `score` will ask for, without reading the series."""
    per_series = task.windows
    if task.split is not None:
        per_series = len(starts(task, task.split[2], stride=stride))
    every = task.series * per_series
    return every if max_windows is None else min(every, max_windows)


def load_baselines(pack: Path) -> dict[str, dict[str, dict[str, float | None]]]:
    """Task name to baseline to score relative to seasonal naive, from baselines.json; empty where the pack has none.

    A baseline was run on a sample of the windows, so it is divided by seasonal naive on that same sample.
    """
    path = pack / "baselines.json"
    if not path.exists():
        return {}
    found = {}
    for entry in field_of(read_json(path), "tasks", path, list):
        kind = field_of(entry, "kind", path, str)
        if kind not in SCORES:
            raise PackError(f"{path}: 'kind' must be one of {', '.join(SCORES)}, got {kind!r}")
        last = (
            field_of(entry, "term", path, str)
            if kind == "gift"
            else f"ltsf/{field_of(entry, 'prediction_length', path)}"
        )
        sample = field_of(entry, "sample", path, dict)
        naive = field_of(sample, "SeasonalNaive", path, dict)
        found[f"{field_of(entry, 'dataset', path, str)}/{last}"] = {
            name: {
                key: metrics.relative(_score(scores, key, path), _score(naive, key, path))
                for key in SCORES[kind]
            }
            for name, scores in sample.items()
            if name != "SeasonalNaive"
        }
    return found


def _score(scores: Any, key: str, path: Path) -> float | None:
    value = field_of(scores, key, path)
    if value is None or isinstance(value, int | float):
        return value
    raise PackError(f"{path}: {key!r} must be a number, got {value!r}")


def load_published(pack: Path) -> dict[str, Any] | None:
    """published.json: per model and task MASE and CRPS, seasonal_naive among the models; None where there is none."""
    path = pack / "published.json"
    if not path.exists():
        return None
    document = read_json(path)
    field_of(field_of(document, "models", path), "seasonal_naive", path)
    return document


def field_of(entry: Any, key: str, where: Path, kind: type = object) -> Any:
    """entry[key]; PackError, naming the place, where it is missing or of another type."""
    if not isinstance(entry, dict) or key not in entry:
        raise PackError(f"{where}: no {key!r}")
    if not isinstance(entry[key], kind):
        raise PackError(f"{where}: {key!r} must be {kind.__name__}, got {entry[key]!r}")
    return entry[key]


def read_json(path: Path) -> Any:
    """The document in a file. Raises PackError where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PackError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise PackError(f"{path} is not JSON: {error}") from error


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise PackError("reading a pack needs pyarrow: pip install 'tinytsm[parquet]'") from error
    return pyarrow.parquet


def _parquet_rows(path: Path) -> int:
    try:
        return _parquet().read_metadata(path).num_rows
    except (OSError, ValueError) as error:
        if isinstance(error, PackError):
            raise
        raise PackError(f"cannot read {path}: {' '.join(str(error).split())}") from error
