"""GIFT-Eval's data folder, made here in its format: rules, streams, and the results table against gluonts."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tinytsm import evaluate, gift_eval, metrics
from tinytsm.evaluate import main
from tinytsm.pack import PackError, read_series

pa = pytest.importorskip("pyarrow")

NAN = float("nan")
LEVELS = [*metrics.LEVELS, *metrics.INTERVAL]


def write_dataset(path: Path, freq: str, files, *, kind=None) -> None:
    """A Hugging Face folder as `Dataset.save_to_disk` leaves it. files: per Arrow file, its items."""
    path.mkdir(parents=True)
    nested = np.ndim(files[0][0][0]) == 1
    kind = kind or pa.list_(pa.list_(pa.float32()) if nested else pa.float32())
    entries = []
    for i, items in enumerate(files):
        name = f"data-{i:05d}-of-{len(files):05d}.arrow"
        entries.append({"filename": name})
        columns = {
            "item_id": [f"{i}-{j}" for j in range(len(items))],
            "start": pa.array([0] * len(items), pa.timestamp("s")),
            "freq": [freq] * len(items),
            "target": pa.array([np.asarray(x).tolist() for x in items], kind),
        }
        table = pa.table(columns)
        with (
            pa.OSFile(str(path / name), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as out,
        ):
            # several record batches to a file, as long data sets have
            out.write_table(table, max_chunksize=2)
    state = {"_data_files": entries, "_fingerprint": path.name, "_split": None}
    (path / "state.json").write_text(json.dumps(state))
    (path / "dataset_info.json").write_text("{}")


@pytest.fixture
def folder(tmp_path, rng):
    """Two files of ragged weeks; a pair of hourly variates; days with gaps and flat stretches."""

    def walk(*shape):
        return np.float32(rng.normal(size=shape).cumsum(axis=-1).round(2))

    weeks = [walk(n) for n in (40, 60, 33, 50, 41)]
    write_dataset(tmp_path / "m4_weekly", "W-SUN", [weeks[:3], weeks[3:]])
    write_dataset(tmp_path / "ett1" / "H", "H", [[walk(2, 1000)]])
    days = [walk(400), walk(330), np.zeros(350, np.float32)]
    days[0][[5, 6, 390]] = NAN
    days[1][300:] = NAN
    days[2][-4:] = 1
    write_dataset(tmp_path / "kdd_cup_2018_with_missing" / "D", "D", [days])
    return tmp_path


def test_tasks_follow_the_benchmarks_rules(folder):
    tasks = {task.name: task for task in gift_eval.load_tasks(folder)}
    # weeks of M4 take its own horizon and one window; days too short for more terms have one
    assert list(tasks) == [
        "ett1/H/short",
        "ett1/H/medium",
        "ett1/H/long",
        "kdd_cup_2018/D/short",
        "m4_weekly/W/short",
    ]
    told = {
        name: (t.horizon, t.windows, t.series, t.variates, t.season_length, t.domain)
        for name, t in tasks.items()
    }
    assert told["ett1/H/short"] == (48, 3, 2, 2, 24, "Energy")
    assert told["ett1/H/medium"] == (480, 1, 2, 2, 24, "Energy")
    assert told["ett1/H/long"] == (720, 1, 2, 2, 24, "Energy")
    assert told["kdd_cup_2018/D/short"] == (30, 2, 3, 1, 1, "Nature")
    assert told["m4_weekly/W/short"] == (13, 1, 5, 1, 1, "Econ/Fin")
    assert tasks["ett1/H/long"].base == "ett1"


@pytest.mark.parametrize(
    ("name", "freq", "length", "task", "horizon", "windows", "season"),
    [
        ("bizitobs_application", "10S", 8000, "bizitobs_application/10S/short", 60, 14, 360),
        ("bizitobs_application", "10S", 8000, "bizitobs_application/10S/long", 900, 1, 360),
        ("LOOP_SEATTLE/5T", "5min", 9000, "loop_seattle/5T/short", 48, 19, 288),
        ("solar/10T", "10T", 52560, "solar/10T/medium", 480, 11, 144),
        ("hierarchical_sales/W", "W-WED", 260, "hierarchical_sales/W/short", 8, 4, 1),
        ("saugeenday/M", "ME", 780, "saugeen/M/short", 12, 7, 12),
        ("us_births/D", "D", 7305, "us_births/D/short", 30, 20, 1),
        ("m4_yearly", "A-DEC", 40, "m4_yearly/A/short", 6, 1, 1),
        # three windows by the rule for others
        ("m4_hourly", "H", 1000, "m4_hourly/H/short", 48, 1, 24),
        ("m4_quarterly", "Q-DEC", 40, "m4_quarterly/Q/short", 8, 1, 4),
        ("covid_deaths", "D", 212, "covid_deaths/D/short", 30, 1, 1),
        ("my_own", "W-SUN", 100, "my_own/W/short", 8, 2, 1),
    ],
)
def test_a_data_set_by_the_rules(tmp_path, name, freq, length, task, horizon, windows, season):
    write_dataset(tmp_path / name, freq, [[np.zeros(length + 7), np.zeros(length)]])
    (got,) = gift_eval.load_tasks(tmp_path, patterns=[task])
    assert (got.horizon, got.windows, got.season_length) == (horizon, windows, season)


def test_series_are_mapped_in_the_order_of_rows_files_and_variates(folder):
    tasks = {task.name: task for task in gift_eval.load_tasks(folder)}
    weeks = read_series(tasks["m4_weekly/W/short"])
    assert [len(x) for x in weeks] == [40, 60, 33, 50, 41]
    pair = read_series(tasks["ett1/H/short"])
    assert [len(x) for x in pair] == [1000, 1000]
    assert not np.array_equal(pair[0], pair[1])
    days = read_series(tasks["kdd_cup_2018/D/short"])
    assert np.flatnonzero(np.isnan(days[0])).tolist() == [5, 6, 390]
    # nothing is copied out of the mapped file
    before = pa.total_allocated_bytes()
    again = read_series(tasks["ett1/H/short"])
    assert pa.total_allocated_bytes() - before < again[0].nbytes / 2
    assert all(x.dtype == np.float32 and not x.flags.owndata for x in again)


def test_the_shortest_item_decides_the_windows(tmp_path):
    items = [np.zeros((2, length)) for length in (1000, 400, 700)]
    write_dataset(tmp_path / "bitbrains_rnd" / "H", "H", [items[:1], items[1:]])
    (task,) = gift_eval.load_tasks(tmp_path)
    # the first item alone would have three
    assert (task.windows, task.series, task.variates) == (1, 6, 2)
    assert [len(x) for x in read_series(task)] == [1000, 1000, 400, 400, 700, 700]


def test_a_history_without_a_value_is_forecast_as_zeros(tmp_path, miniature):
    late = np.r_[np.full(27, NAN), np.full(13, 3.0)]
    write_dataset(tmp_path / "m4_weekly", "W-SUN", [[late, np.full(40, 3.0)]])
    (task,) = gift_eval.load_tasks(tmp_path)
    scores = evaluate.score(task, miniature)
    # 13 errors of 3, and a constant that is its own forecast
    assert scores["forecasts"] == 2 and scores["mse"] == 4.5


class Drifting:
    """Quantiles around the last value, a mean beside the median: every score has something to tell."""

    def predict_quantiles(self, inputs, prediction_length, quantile_levels):
        quantiles, points = [], []
        for x in inputs:
            q, point = metrics.seasonal_naive(
                x, horizon=prediction_length, season=1, levels=quantile_levels
            )
            quantiles.append(q)
            points.append(point + 0.25)
        return np.stack(quantiles), np.stack(points)


@pytest.fixture
def drifting(monkeypatch, tmp_path_factory):
    weights = tmp_path_factory.mktemp("model") / "model.safetensors"
    weights.write_bytes(b"one")
    monkeypatch.setattr(
        evaluate, "load_model", lambda path, device, options: (Drifting(), [weights])
    )


def run_csv(folder: Path, out: Path, *flags: str) -> dict[str, dict[str, str]]:
    flags = ("--gift-eval", str(folder), "--model", "runs/drifting", "--csv", str(out), *flags)
    assert main(flags) == 0
    with out.open(newline="") as file:
        return {row["dataset"]: row for row in csv.DictReader(file)}


# gluonts 0.17 calls NumPy and pandas in ways that both warn about
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("task", "freq", "season"),
    [
        ("ett1/H/short", "h", 24),
        ("ett1/H/long", "h", 24),
        ("kdd_cup_2018/D/short", "D", 1),
        ("m4_weekly/W/short", "W-SUN", 1),
    ],
)
def test_the_table_is_what_gluonts_evaluates(folder, drifting, tmp_path, task, freq, season):
    """The benchmark's own loop: gluonts splits, predicts and evaluates."""
    pd = pytest.importorskip("pandas")
    ev = pytest.importorskip("gluonts.ev.metrics")
    gluonts = pytest.importorskip("gluonts.model")
    forecast = pytest.importorskip("gluonts.model.forecast")
    split = pytest.importorskip("gluonts.dataset.split")

    class Predictor(gluonts.Predictor):
        def predict(self, dataset):
            for entry in dataset:
                q, mean = Drifting().predict_quantiles(
                    [entry["target"]], self.prediction_length, LEVELS
                )
                yield forecast.QuantileForecast(
                    np.vstack([mean, q[0].T]),
                    start_date=entry["start"] + len(entry["target"]),
                    forecast_keys=["mean", *map(str, LEVELS)],
                )

    row = run_csv(folder, tmp_path / "all_results.csv", "--tasks", task)[task]
    (spec,) = gift_eval.load_tasks(folder, patterns=[task])
    # in float64, where gluonts would sum float32 labels in their own precision
    data = [
        {"start": pd.Period("2020-01-01", freq=freq), "target": x.astype(float), "item_id": str(i)}
        for i, x in enumerate(read_series(spec))
    ]
    _, template = split.split(data, offset=-spec.horizon * spec.windows)
    theirs = gluonts.evaluate_model(
        Predictor(prediction_length=spec.horizon),
        test_data=template.generate_instances(
            prediction_length=spec.horizon, windows=spec.windows, distance=spec.horizon
        ),
        metrics=[
            ev.MSE(forecast_type="mean"),
            ev.MSE(forecast_type=0.5),
            ev.MAE(),
            ev.MASE(),
            ev.MAPE(),
            ev.SMAPE(),
            ev.MSIS(),
            ev.RMSE(),
            ev.NRMSE(),
            ev.ND(),
            ev.MeanWeightedSumQuantileLoss(quantile_levels=list(metrics.LEVELS)),
        ],
        axis=None,
        mask_invalid_label=True,
        allow_nan_forecast=False,
        seasonality=season,
    ).iloc[0]
    assert len(theirs) == 11
    for name, value in theirs.items():
        assert float(row[f"eval_metrics/{name}"]) == pytest.approx(value, rel=1e-9), name


def test_the_table_has_the_benchmarks_columns(folder, drifting, tmp_path):
    path = tmp_path / "all_results.csv"
    rows = run_csv(folder, path)
    header = (
        "dataset,model,eval_metrics/MSE[mean],eval_metrics/MSE[0.5],eval_metrics/MAE[0.5],"
        "eval_metrics/MASE[0.5],eval_metrics/MAPE[0.5],eval_metrics/sMAPE[0.5],eval_metrics/MSIS,"
        "eval_metrics/RMSE[mean],eval_metrics/NRMSE[mean],eval_metrics/ND[0.5],"
        "eval_metrics/mean_weighted_sum_quantile_loss,domain,num_variates"
    )
    assert path.read_text().splitlines()[0] == header
    assert len(rows) == 5
    row = rows["ett1/H/medium"]
    assert (row["model"], row["domain"], row["num_variates"]) == ("drifting", "Energy", "2")


def test_results_resume_and_group_as_those_of_a_pack(folder, drifting, tmp_path, capsys):
    output = tmp_path / "results.json"
    flags = ["--output", str(output)]
    run_csv(folder, tmp_path / "a.csv", "--tasks", "m4*", *flags)
    rows = run_csv(folder, tmp_path / "a.csv", "--resume", *flags)
    assert next(iter(rows)) == "m4_weekly/W/short" and len(rows) == 5
    # nothing is left to score, and the table is asked for elsewhere
    assert run_csv(folder, tmp_path / "b.csv", "--resume", *flags) == rows
    summary = json.loads(output.read_text())["summary"]
    assert summary["gift"]["energy and sensors"]["tasks"] == 4
    assert summary["gift"]["freq W"]["tasks"] == 1
    (folder / "m4_weekly" / "state.json").write_text(
        (folder / "m4_weekly" / "state.json").read_text().replace("m4_weekly", "other")
    )
    flags = ["--gift-eval", str(folder), "--model", "runs/drifting", "--resume", *flags]
    assert main(flags) == 2
    assert "made with manifest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: None, "no data set in"),
        (
            lambda f: write_dataset(f / "a", "D", [[[1] * 99]], kind=pa.list_(pa.int64())),
            "rows of floats",
        ),
        (lambda f: write_dataset(f / "a", "B", [[[1.0] * 99]]), "freq must be one of M, W, D"),
        (lambda f: write_dataset(f / "a", "-", [[[1.0] * 99]]), "freq must read like"),
        (lambda f: write_dataset(f / "a", "D", [[[1.0] * 30]]), "1 windows of 30 .* of 30"),
        (lambda f: break_file(f, "data-00000-of-00001.arrow", "x"), "cannot read .*00001.arrow"),
        (lambda f: break_file(f, "state.json", "{"), "state.json is not JSON"),
        (lambda f: break_file(f, "state.json", "{}"), "no '_data_files'"),
        (
            lambda f: break_file(f, "state.json", '{"_data_files": [], "_indices_files": [{}]}'),
            "picked by an indices file",
        ),
    ],
)
def test_a_bad_folder_is_one_line_and_exit_code_2(tmp_path, spoil, message, capsys):
    spoil(tmp_path)
    assert main(["--gift-eval", str(tmp_path), "--baselines-only"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(PackError, match=message):
        raise PackError(last)


def break_file(folder: Path, name: str, text: str) -> None:
    write_dataset(folder / "a", "D", [[[1.0] * 99]])
    (folder / "a" / name).write_text(text)


def test_csv_is_for_gift_eval_alone(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--pack", str(folder), "--baselines-only", "--csv", "a.csv"])
    assert stop.value.code == 2
    assert "--csv needs --gift-eval" in capsys.readouterr().err
