"""GIFT-Eval's data folder in, its results table out.

The folder is the benchmark's own (arXiv:2410.10393), a Hugging Face `datasets` folder per data set: Arrow streams,
state.json, dataset_info.json, at `<name>` or `<name>/<freq>`. Horizons, windows, terms and names follow the
benchmark's loader (gift_eval/data.py and the notebooks beside it); each variate is a series of its own.
Files are mapped, not read: a data set costs the memory of what is looked at.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinytsm import metrics
from tinytsm.pack import PackError, Task, choose, field_of, read_json

_HORIZONS = {"M": 12, "W": 8, "D": 30, "h": 48, "min": 48, "s": 60}
_HORIZONS_M4 = {"Y": 6, "Q": 8, "M": 18, "W": 13, "D": 14, "h": 48}
_TERMS = {"short": 1, "medium": 10, "long": 15}
_TEST_SHARE, _MAX_WINDOWS = 0.1, 20

# the benchmark's lists: what a folder holds does not tell them
_SHORT_NAMES = {
    "saugeenday": "saugeen",
    "temperature_rain_with_missing": "temperature_rain",
    "kdd_cup_2018_with_missing": "kdd_cup_2018",
    "car_parts_with_missing": "car_parts",
}
_DOMAINS = {
    "Econ/Fin": "m4_yearly m4_quarterly m4_monthly m4_weekly m4_daily m4_hourly",
    "Energy": "electricity ett1 ett2 solar",
    "Healthcare": "hospital covid_deaths us_births",
    "Nature": "saugeen temperature_rain kdd_cup_2018 jena_weather",
    "Sales": "car_parts restaurant hierarchical_sales",
    "Transport": "loop_seattle sz_taxi m_dense",
    "Web/CloudOps": "bitbrains_fast_storage bitbrains_rnd bizitobs_application bizitobs_service "
    "bizitobs_l2c",
}
_DOMAIN = {name: domain for domain, names in _DOMAINS.items() for name in names.split()}
_ALL_TERMS = (
    "electricity/15T electricity/H solar/10T solar/H kdd_cup_2018/H loop_seattle/5T loop_seattle/H "
    "sz_taxi/15T m_dense/H ett1/15T ett1/H ett2/15T ett2/H jena_weather/10T jena_weather/H "
    "bitbrains_fast_storage/5T bitbrains_rnd/5T bizitobs_application/10S bizitobs_service/10S "
    "bizitobs_l2c/5T bizitobs_l2c/H"
)
# the benchmark writes frequencies as pandas did before 2.2
_OLD_UNITS = {"Y": "A", "h": "H", "min": "T", "s": "S"}

_COLUMNS = {
    "eval_metrics/MSE[mean]": "mse",
    "eval_metrics/MSE[0.5]": "mse_median",
    "eval_metrics/MAE[0.5]": "mae",
    "eval_metrics/MASE[0.5]": "mase",
    "eval_metrics/MAPE[0.5]": "mape",
    "eval_metrics/sMAPE[0.5]": "smape",
    "eval_metrics/MSIS": "msis",
    "eval_metrics/RMSE[mean]": "rmse",
    "eval_metrics/NRMSE[mean]": "nrmse",
    "eval_metrics/ND[0.5]": "nd",
    "eval_metrics/mean_weighted_sum_quantile_loss": "crps",
}


def load_tasks(folder: Path, *, patterns: Sequence[str] = ()) -> list[Task]:
    """The tasks of the data sets that lie in a folder, `name/freq/term`, of which one fits a glob (none given: all).

    Raises PackError for a folder without data sets, a data set that cannot be read, and a glob that fits nothing.
    """
    names = [path.parent.relative_to(folder).as_posix() for path in state_files(folder)]
    if not names:
        raise PackError(
            f"no data set in {folder}; wanted folders <name> or <name>/<freq> with state.json"
        )
    return choose([task for name in names for task in _dataset_tasks(folder, name)], patterns)


def state_files(folder: Path) -> list[Path]:
    """The state.json of each data set in the folder, sorted; it holds the fingerprint of the data."""
    return sorted([*folder.glob("*/state.json"), *folder.glob("*/*/state.json")])


def _dataset_tasks(folder: Path, name: str) -> Iterator[Task]:
    path = folder / name
    table = _table(path)
    data_freq = table["freq"][0].as_py()
    try:
        multiple, unit = metrics.split_freq(data_freq)
    except ValueError as error:
        raise PackError(f"{path}: {error}") from error
    first, _, freq = name.partition("/")
    key = _SHORT_NAMES.get(first.lower(), first.lower())
    freq = freq or f"{multiple if multiple > 1 else ''}{_OLD_UNITS.get(unit, unit)}"
    horizons = _HORIZONS_M4 if "m4" in name else _HORIZONS
    if unit not in horizons:
        raise PackError(f"{path}: freq must be one of {', '.join(horizons)}, got {data_freq!r}")
    variates = _variates(table)
    shortest = int(_lengths(table).min())
    for term, times in _TERMS.items():
        if term != "short" and f"{key}/{freq}" not in _ALL_TERMS.split():
            continue
        horizon = times * horizons[unit]
        # in this order, as rounding of the product decides some ceilings
        windows = min(max(1, math.ceil(_TEST_SHARE * shortest / horizon)), _MAX_WINDOWS)
        yield Task(
            name=f"{key}/{freq}/{term}",
            dataset=f"{key}/{freq}",
            base=key,
            path=path,
            reader=read_targets,
            kind="gift",
            term=term,
            freq=freq,
            domain=_DOMAIN.get(key, "unknown"),
            season_length=metrics.season_length(data_freq),
            horizon=horizon,
            series=table.num_rows * variates,
            variates=variates,
            windows=1 if "m4" in name else windows,
            distance=horizon,
        )


def read_targets(path: Path) -> list[np.ndarray]:
    """The series of a data set, each (T,) float32, NaN where missing; the variates of an item one after another."""
    series = []
    for chunk in _table(path)["target"].chunks:
        rows = chunk.flatten() if _nested(chunk.type) else chunk
        ends = np.cumsum(rows.fill_null([]).value_lengths().to_numpy())
        values = rows.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        series += np.split(values, ends[:-1])
    return series


def all_results(results: Mapping[str, Mapping[str, Any]], model: str) -> str:
    """The benchmark's all_results.csv of `evaluate`'s records by task name; the scores are the model's, or naive's."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["dataset", "model", *_COLUMNS, "domain", "num_variates"])
    for name, entry in results.items():
        scores = _derived(entry.get("model", entry["seasonal_naive"]))
        row = ["nan" if scores[key] is None else scores[key] for key in _COLUMNS.values()]
        table.writerow([name, model, *row, entry["domain"], entry["variates"]])
    return text.getvalue()


def _derived(scores: Mapping[str, Any]) -> dict[str, Any]:
    rmse = None if scores["mse"] is None else math.sqrt(scores["mse"])
    size = scores["mean_absolute_label"]
    return {
        **scores,
        "rmse": rmse,
        "nrmse": metrics.relative(rmse, size),
        "nd": metrics.relative(scores["mae"], size),
    }


def _table(path: Path) -> Any:
    """The data set's columns target and freq, mapped from its Arrow streams in the order of state.json."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise PackError(
            "reading Arrow files needs pyarrow: pip install 'tinytsm[parquet]'"
        ) from error
    where = path / "state.json"
    state = read_json(where)
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise PackError(f"{path}: rows are picked by an indices file; save the data set flattened")
    tables = []
    for entry in field_of(state, "_data_files", where, list):
        file = path / field_of(entry, "filename", where, str)
        try:
            # the map stays open for as long as an array of it lives
            tables.append(pa.ipc.open_stream(pa.memory_map(str(file))).read_all())
        except (OSError, pa.ArrowInvalid) as error:
            raise PackError(f"cannot read {file}: {' '.join(str(error).split())}") from error
    try:
        table = pa.concat_tables(tables).select(["target", "freq"])
        kind = table.schema.field("target").type
        leaf = kind.value_type.value_type if _nested(kind) else kind.value_type
    except (KeyError, AttributeError, pa.ArrowInvalid) as error:
        text = " ".join(str(error).split())
        raise PackError(f"{path}: no columns 'target' (lists) and 'freq': {text}") from error
    if not pa.types.is_floating(leaf) or not table.num_rows:
        raise PackError(
            f"{path}: 'target' must hold rows of floats, got {table.num_rows} of {kind}"
        )
    return table


def _nested(kind: Any) -> bool:
    """Whether rows are lists of variates."""
    return hasattr(kind.value_type, "value_type")


def _variates(table: Any) -> int:
    return len(table["target"][0]) if _nested(table["target"].type) else 1


def _lengths(table: Any) -> np.ndarray:
    """Steps of each item, of its first variate."""
    found = []
    for chunk in table["target"].chunks:
        if _nested(chunk.type):
            starts = chunk.offsets.to_numpy()[:-1] - chunk.offsets[0].as_py()
            found.append(chunk.flatten().value_lengths().to_numpy()[starts])
        else:
            found.append(chunk.value_lengths().to_numpy())
    return np.concatenate(found)
