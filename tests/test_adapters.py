"""Other libraries' own checks run on our adapters; each is skipped where its library is not installed."""

import importlib
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinytsm import TinyTSM
from tinytsm.errors import DataWarning
from tinytsm.options import ForecastOptions

ROOT = Path(__file__).resolve().parents[1]


def panel(ids: tuple[str, ...] = ("a", "b"), steps: int = 60) -> pd.DataFrame:
    """Long frame with Chronos-2's column names, daily, a covariate beside the target."""
    parts = []
    for i, name in enumerate(ids):
        t = np.arange(steps)
        stamps = pd.date_range("2024-01-01", periods=steps)
        target = 10 * i + np.sin(t / 3) + 0.01 * t
        parts.append(
            pd.DataFrame({"id": name, "timestamp": stamps, "target": target, "price": t % 7})
        )
    return pd.concat(parts, ignore_index=True)


def future_of(df: pd.DataFrame, steps: int) -> pd.DataFrame:
    stamps = pd.date_range(df["timestamp"].max() + pd.Timedelta(days=1), periods=steps)
    return pd.concat(
        [pd.DataFrame({"id": i, "timestamp": stamps, "price": 1.0}) for i in df["id"].unique()]
    )


# -- Chronos


def test_chronos_readme_runs_with_one_import_changed() -> None:
    # the call of Chronos-2's README, on a frame with its columns
    from tinytsm.adapters.chronos import Chronos2Pipeline

    with pytest.warns(UserWarning, match="amazon/chronos-2 names a Chronos model"):
        pipeline = Chronos2Pipeline.from_pretrained("amazon/chronos-2", device_map="cpu")
    context_df = panel()
    future_df = future_of(context_df, 24)
    pred_df = pipeline.predict_df(
        context_df,
        future_df=future_df,
        prediction_length=24,
        quantile_levels=[0.1, 0.5, 0.9],
        id_column="id",
        timestamp_column="timestamp",
        target="target",
    )
    assert list(pred_df) == ["id", "timestamp", "target_name", "predictions", "0.1", "0.5", "0.9"]
    assert pred_df["timestamp"].tolist() == future_df["timestamp"].tolist()
    np.testing.assert_array_equal(pred_df["predictions"], pred_df["0.5"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: f.drop(columns="id"),
            r"future_df \(--future\) has no column 'id'; it has: timestamp, price",
        ),
        (
            lambda f: f.assign(target=1.0),
            "column 'target' is the target and cannot be a covariate too",
        ),
        (
            lambda f: f.iloc[:-1],
            "the 5 steps from 2024-03-01 .* for series 'b', got 4 rows: add 1, the first 2024-03-05",
        ),
        (
            lambda f: f.assign(timestamp=f["timestamp"] + pd.Timedelta(days=1)),
            "the 5 steps from 2024-03-01 .* for series 'a', got 5 rows: add 1, the first 2024-03-01; leave out 1, the first 2024-03-06",
        ),
        (lambda f: f.iloc[:0], "has no rows; give the steps to come of each series"),
        (lambda f: f.assign(timestamp=None), "row 0, column 'timestamp': time stamp is"),
    ],
)
def test_mistakes_in_future_df_are_found(
    miniature: TinyTSM, monkeypatch: pytest.MonkeyPatch, spoil, message: str
) -> None:
    df = panel()
    # found before the work
    monkeypatch.setattr(TinyTSM, "predict_quantiles", None)
    with pytest.raises(ValueError, match=message):
        miniature.predict_df(
            df, id_column="id", prediction_length=5, future_df=spoil(future_of(df, 5))
        )


def test_future_df_in_any_order_changes_nothing(miniature: TinyTSM) -> None:
    df, future = panel(), future_of(panel(), 5)
    future["price"] = np.arange(10)
    ordered = miniature.predict_df(df, id_column="id", prediction_length=5, future_df=future)
    shuffled = future.sample(frac=1, random_state=0)
    given = miniature.predict_df(df, id_column="id", prediction_length=5, future_df=shuffled)
    pd.testing.assert_frame_equal(ordered, given)
    # each series has its own part of it
    q, _, _ = miniature.predict_with_covariates(
        [df.loc[df["id"] == i, "target"] for i in "ab"],
        [np.concatenate((np.arange(60) % 7, own)) for own in (np.arange(5), np.arange(5, 10))],
        5,
    )
    np.testing.assert_array_equal(ordered.iloc[:, 4:].to_numpy(), q.reshape(10, 9))


def test_what_the_history_does_not_have_is_not_used(miniature: TinyTSM) -> None:
    df, future = panel(), future_of(panel(), 5)
    plain = miniature.predict_df(df, id_column="id", prediction_length=5)
    future = future.rename(columns={"price": "weather"})
    with pytest.warns(DataWarning) as caught:
        given = miniature.predict_df(df, id_column="id", prediction_length=5, future_df=future)
    assert [str(one.message) for one in caught] == [
        "columns that the history does not have are not used: weather",
        "the future has no column of the history but ids and time stamps",
    ]
    pd.testing.assert_frame_equal(plain, given)


@pytest.mark.parametrize(
    "call", ["predict_df", "backtest", "impute", "anomaly_scores", "forecast", "cross_validation"]
)
def test_a_warning_points_at_the_callers_line(miniature: TinyTSM, call: str) -> None:
    from tinytsm.adapters.nixtla import NixtlaForecaster

    df = panel(ids=("a",))
    # one time stamp between two steps
    df["timestamp"] = df["timestamp"].mask(df.index == 5, df["timestamp"] + pd.Timedelta(hours=3))
    arguments: dict[str, Any] = {"id_column": "id"}
    forecaster: Any = miniature
    if call in ("forecast", "cross_validation"):
        forecaster = NixtlaForecaster(miniature)
        arguments = {"h": 3, "id_col": "id", "time_col": "timestamp", "target_col": "target"}
    elif call == "predict_df":
        arguments["prediction_length"] = 3
    elif call == "backtest":
        arguments["horizon"] = 3
    with pytest.warns(DataWarning, match="1 of 60 time stamps lie between steps") as caught:
        getattr(forecaster, call)(df, **arguments)
    assert Path(caught[0].filename).name == Path(__file__).name


@pytest.mark.parametrize("mixed", [False, True], ids=["both so", "dates in future_df"])
@pytest.mark.parametrize(
    "write",
    [
        lambda days: days.dt.strftime("%Y%m%d").astype(int),
        lambda days: days.dt.strftime("%d/%m/%Y"),
        lambda days: days.dt.to_period("D"),
    ],
    ids=["integers", "day first", "periods"],
)
def test_future_df_is_read_as_the_history(miniature: TinyTSM, write, mixed: bool) -> None:
    # the days to come, 1 to 5 March, could be months too
    df, future = panel(), future_of(panel(), 5)
    if not mixed:
        future["timestamp"] = write(future["timestamp"])
    df["timestamp"] = write(df["timestamp"])
    got = miniature.predict_df(df, id_column="id", prediction_length=5, future_df=future)
    assert [stamp.day for stamp in got["timestamp"]] == [1, 2, 3, 4, 5] * 2


# -- Nixtla


def test_nixtla_columns_and_values(miniature: TinyTSM) -> None:
    from tinytsm.adapters.nixtla import NixtlaForecaster

    df = panel().rename(columns={"id": "unique_id", "timestamp": "ds", "target": "y"})
    result = NixtlaForecaster(miniature).forecast(df, h=3, level=[95, 80], quantiles=[0.25])
    names = ["-lo-80", "-hi-80", "-lo-95", "-hi-95", "-q-25"]
    assert list(result) == ["unique_id", "ds", "TinyTSM", *("TinyTSM" + n for n in names)]
    values = [df.loc[df["unique_id"] == i, "y"].to_numpy() for i in "ab"]
    q, _ = miniature.predict_quantiles(values, 3, [0.1, 0.9, 0.025, 0.975, 0.25])
    np.testing.assert_allclose(
        result.iloc[:, 3:].to_numpy(), np.asarray(q).reshape(6, 5), rtol=0, atol=0
    )
    with pytest.raises(ValueError, match="level is a coverage in percent .* got 0.8|got 120"):
        NixtlaForecaster(miniature).forecast(df, h=3, level=[120])


def test_nixtla_covariates(miniature: TinyTSM) -> None:
    from tinytsm.adapters.nixtla import NixtlaForecaster

    names = {"id": "unique_id", "timestamp": "ds", "target": "y"}
    df, future = panel(), future_of(panel(), 3)
    given = NixtlaForecaster(miniature).forecast(
        df.rename(columns=names), h=3, X_df=future.rename(columns=names)
    )
    same = miniature.predict_df(df, id_column="id", prediction_length=3, future_df=future)
    np.testing.assert_array_equal(given["TinyTSM"], same["predictions"])


def test_nixtla_cross_validation(miniature: TinyTSM) -> None:
    from tinytsm.adapters.nixtla import NixtlaForecaster

    df = panel().rename(columns={"id": "unique_id", "timestamp": "ds", "target": "y"})
    result = NixtlaForecaster(miniature, alias="T").cross_validation(
        df, h=4, n_windows=2, level=[80]
    )
    assert list(result) == ["unique_id", "ds", "cutoff", "y", "T", "T-lo-80", "T-hi-80"]
    assert len(result) == 2 * 2 * 4
    merged = result.merge(df, on=["unique_id", "ds"], suffixes=("", "_given"))
    np.testing.assert_array_equal(merged["y"], merged["y_given"])
    # a forecast from a cutoff is the forecast of the frame cut there
    cut = df[df["ds"] <= result["cutoff"].min()]
    alone = NixtlaForecaster(miniature, alias="T").forecast(cut, h=4)
    first = result[result["cutoff"] == result["cutoff"].min()]
    np.testing.assert_array_equal(alone["T"], first["T"])


# -- GluonTS


def test_gluonts_evaluates_the_predictor() -> None:
    pytest.importorskip("gluonts")
    with warnings.catch_warnings():
        # GluonTS' own imports
        warnings.simplefilter("ignore")
        from gluonts.dataset.pandas import PandasDataset
        from gluonts.dataset.split import split
        from gluonts.ev.metrics import MASE, MeanWeightedSumQuantileLoss
        from gluonts.model import evaluate_model

        from tinytsm.adapters.gluonts import TinyTSMPredictor
    frame = panel(steps=80).drop(columns="price")
    predictor = TinyTSMPredictor(prediction_length=7, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = PandasDataset.from_long_dataframe(
            frame, item_id="id", timestamp="timestamp", freq="D"
        )
        _, template = split(dataset, offset=-21)
        pairs = template.generate_instances(prediction_length=7, windows=3)
        levels = predictor.levels
        metrics = [MASE(), MeanWeightedSumQuantileLoss(quantile_levels=levels)]
        table = evaluate_model(predictor, test_data=pairs, metrics=metrics, seasonality=7)
    # the same windows by our own backtest
    ours = predictor.model.backtest(frame, 7, windows=3, season=7, id_column="id").scores
    assert table["MASE[0.5]"].item() == pytest.approx(ours.loc["TinyTSM", "mase"], rel=1e-5)
    crps = table["mean_weighted_sum_quantile_loss"].item()
    assert crps == pytest.approx(ours.loc["TinyTSM", "crps"], rel=1e-5)

    # covariates as GluonTS lays them: one row each, the steps to come at its end
    known = np.arange(87.0)[None] % 5
    target = frame.loc[frame["id"] == "a", "target"].to_numpy()
    entry = {"target": target, "start": pd.Period("2024", "D"), "feat_dynamic_real": known}
    plain = {name: entry[name] for name in ("target", "start")}
    informed, other = predictor.predict([entry, plain])
    (alone,) = predictor.predict([plain])
    np.testing.assert_array_equal(other.forecast_array, alone.forecast_array)
    q, _, _ = predictor.model.predict_with_covariates([target], known, 7)
    np.testing.assert_array_equal(informed.quantile(0.5), q[0, :, 4])
    # leaderboards hold entries without a value
    blank, *_ = predictor.predict([{"target": [np.nan] * 5, "start": pd.Period("2024", "D")}])
    assert (blank.forecast_array == 0).all()
    entry = {"target": np.ones((2, 5)), "start": pd.Period("2024", "D"), "item_id": "x"}
    with pytest.raises(ValueError, match=r"target of 'x' must have shape \(T,\), got \(2, 5\)"):
        list(predictor.predict([entry]))


def test_gluonts_predictor_survives_its_own_file(tmp_path: Path) -> None:
    pytest.importorskip("gluonts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gluonts.model.predictor import Predictor

        from tinytsm.adapters.gluonts import TinyTSMPredictor

        options = {"effort": "fast", "strides": [1, 2]}
        TinyTSMPredictor(
            prediction_length=7, device="cpu", quantile_levels=[0.5], options=options
        ).serialize(tmp_path)
        again = Predictor.deserialize(tmp_path)
    assert isinstance(again, TinyTSMPredictor)
    assert (again.prediction_length, again.levels) == (7, [0.5])
    assert again.model.options == ForecastOptions(effort="fast", strides=(1, 2))


# -- fev and sktime, whose imports warn and take seconds: in a process of its own


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=600,
    )  # fmt: skip


def test_fev_task(tmp_path: Path) -> None:
    pytest.importorskip("fev")
    t = np.arange(60)
    pd.DataFrame(
        {
            "id": ["a", "b"],
            "timestamp": [list(pd.date_range("2024-01-01", periods=60))] * 2,
            "target": [list(np.sin(t / 3)), list(5 + np.cos(t / 4))],
            "price": [list(t % 5.0), list(t % 3.0)],
            "kind": [["a"] * 60, ["b"] * 60],
        }
    ).to_parquet(tmp_path / "data.parquet")
    done = run(
        "import os, json\n"
        f"os.environ['HF_HOME'] = {str(tmp_path / 'cache')!r}\n"
        "os.environ['HF_HUB_OFFLINE'] = '1'\n"
        "import fev\n"
        "from tinytsm.adapters.fev import TinyTSMModel\n"
        f"task = fev.Task(dataset_path={str(tmp_path / 'data.parquet')!r}, horizon=6, num_windows=2,\n"
        "    eval_metric='WQL', quantile_levels=[0.1, 0.5, 0.9], seasonality=7,\n"
        "    known_dynamic_columns=['price', 'kind'])\n"
        "model = TinyTSMModel(device='cpu', effort='fast')\n"
        "assert model.model.options.effort == 'fast'\n"
        "predictions = model.fit_predict(task)\n"
        "summary = task.evaluation_summary(predictions, model_name=model.model_name,\n"
        "    inference_time_s=model.inference_time)\n"
        "assert model.inference_time > 0\n"
        "print(json.dumps({'error': summary['test_error'], 'model': summary['model_name'],\n"
        "    'leak': model.trained_on_datasets}))\n"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = done.stdout.splitlines()[-1]
    assert '"model": "tinytsm"' in line and '"leak": []' in line
    error = float(line.split(": ")[1].split(",")[0])
    # the sum of |labels| is the unit: a forecast that knew nothing of the series would miss by about one
    assert 0 < error < 0.5


@pytest.fixture
def sktime_adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The adapter beside a stand-in for sktime, whatever is installed."""
    stand_in = types.SimpleNamespace(BaseForecaster=object)
    for name in ("sktime", "sktime.forecasting", "sktime.forecasting.base"):
        monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.setattr("tinytsm.adapters.require", lambda library: None)
    name = "tinytsm.adapters.sktime"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("index", "freq"),
    [
        (pd.period_range("2020-01", periods=8, freq="M"), None),
        (pd.RangeIndex(3, 11), None),
        (pd.date_range("2020-01-31", periods=8, freq="ME"), "ME"),
        (pd.date_range("2020-01-01", periods=8, freq="D"), "D"),
    ],
    ids=["periods", "numbers", "months", "days"],
)
def test_sktime_steps_without_a_row_are_missing(
    sktime_adapter: Any, index: pd.Index, freq: str | None
) -> None:
    y = pd.Series(np.arange(8.0), index)
    whole = sktime_adapter.on_every_step(y.drop(index[[2, 5]]), freq)
    wanted = y.mask(y.isin([2, 5]))
    pd.testing.assert_series_equal(whole, wanted, check_freq=False)
    assert sktime_adapter.on_every_step(y, None).equals(y)


def test_sktime_dates_of_no_known_step_stay(sktime_adapter: Any) -> None:
    y = pd.Series([1.0, 2, 3], pd.DatetimeIndex(["2020-01-01", "2020-01-03", "2020-01-08"]))
    assert sktime_adapter.on_every_step(y, None) is y
    assert sktime_adapter.on_every_step(y, "2D") is y


def test_sktime_forecasts_from_every_step(sktime_adapter: Any) -> None:
    seen = []

    class Model:
        def predict_quantiles(self, inputs: list[np.ndarray], length: int, levels: list[float]):
            seen.extend(inputs)
            return np.zeros((1, length, len(levels))), None

    sktime_adapter._load = lambda path, device: Model()
    forecaster = sktime_adapter.TinyTSMForecaster()
    y = pd.Series(np.arange(4.0), pd.date_range("2020-01-01", periods=4))
    forecaster._fit(y.iloc[[0, 1, 3]], None, None)
    forecaster.cutoff = y.index[-1:]
    horizon = types.SimpleNamespace(
        freq="D", to_relative=lambda cutoff: [1], to_absolute_index=lambda cutoff: cutoff
    )
    forecaster._predict(horizon, None)
    np.testing.assert_array_equal(seen, [[0, 1, np.nan, 3]])


def test_sktime_check_estimator() -> None:
    pytest.importorskip("sktime")
    done = run(
        "import warnings; warnings.simplefilter('ignore')\n"
        "import torch\n"
        "from sktime.utils.estimator_checks import check_estimator\n"
        "from tinytsm import TinyTSM\n"
        "from tinytsm.adapters import sktime\n"
        "from tinytsm.adapters.sktime import TinyTSMForecaster\n"
        "from tinytsm.config import ModelConfig\n"
        "from tinytsm.model import Model\n"
        # the interface is checked some hundred times: by a model that costs nothing
        "config = ModelConfig(d_model=16, n_heads=2, d_ff=32, n_layers=3, head_rank=8, patch=8,\n"
        "    context_patches=16, horizon_patches=4)\n"
        "small = TinyTSM(Model(config, torch.Generator().manual_seed(1)).requires_grad_(False))\n"
        "sktime._load = lambda path, device: small\n"
        "results = check_estimator(TinyTSMForecaster, raise_exceptions=False, verbose=False)\n"
        "failed = {k: v for k, v in results.items() if v != 'PASSED'}\n"
        "print(len(results), failed)\n"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    count, failed = done.stdout.splitlines()[-1].split(" ", 1)
    assert failed == "{}" and int(count) > 50


def test_sktime_forecasts_are_the_models() -> None:
    pytest.importorskip("sktime")
    model = TinyTSM.from_pretrained(device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tinytsm.adapters.sktime import TinyTSMForecaster

        y = pd.Series(np.sin(np.arange(50) / 3), pd.period_range("2020-01", periods=50, freq="M"))
        forecaster = TinyTSMForecaster(device="cpu").fit(y, fh=[1, 4])
        point = forecaster.predict()
        band = forecaster.predict_interval(coverage=0.9)
        fast = TinyTSMForecaster(device="cpu", options={"effort": "fast"}).fit(y, fh=[1, 4])
        single = fast.predict()
    q, _ = model.predict_quantiles([y.to_numpy()], 4, [0.05, 0.5, 0.95])
    np.testing.assert_array_equal(point, np.asarray(q)[0, [0, 3], 1])
    q_fast, _ = model.predict_quantiles([y.to_numpy()], 4, [0.5], effort="fast")
    np.testing.assert_array_equal(single, np.asarray(q_fast)[0, [0, 3], 0])
    assert not np.array_equal(single, point)
    np.testing.assert_array_equal(band, np.asarray(q)[0, [0, 3]][:, [0, 2]])
    assert list(point.index.astype(str)) == ["2024-03", "2024-06"]


@pytest.mark.parametrize("library", ["fev", "gluonts", "sktime"])
def test_a_missing_library_is_one_line_that_helps(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinytsm import adapters

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = rf"this adapter needs {library}; run: pip install 'tinytsm\[{library}\]'"
    with pytest.raises(ImportError, match=message):
        adapters.require(library)
    source = (ROOT / "tinytsm" / "adapters" / f"{library}.py").read_text()
    assert source.index(f'require("{library}")') < source.index(
        f"from {library}" if library != "fev" else "import fev\n"
    )
