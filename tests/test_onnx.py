"""The ONNX file forecasts what the library does, through a runtime that knows nothing of PyTorch."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinytsm import TinyTSM, export, onnx
from tinytsm.config import QUANTILES


@pytest.fixture(scope="module")
def session(miniature: TinyTSM, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a user has: the file that the command wrote, and a runtime."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("onnx")
    source, target = miniature.save_pretrained(folder / "model"), folder / "model.onnx"
    assert export.main([str(source), str(target)]) == 0
    assert sorted(folder.iterdir()) == [source, target]
    return runtime.InferenceSession(target)


def rows(rng: np.random.Generator, steps: int) -> dict[str, np.ndarray]:
    """Series (steps,) float32 that are easy to get wrong, NaN in front of the shorter ones."""
    walk = rng.normal(size=steps).cumsum()
    late = np.full(steps, np.nan)
    late[-9:] = walk[:9]
    one, two = np.full((2, steps), np.nan)
    one[-1], two[-2:] = 3.0, (3.0, 4.0)
    found = {
        "walk": walk,
        "season": np.sin(np.arange(steps) / 4) + 10.0,
        "constant": np.full(steps, 7.25),
        "zeros": np.zeros(steps),
        "one value": one,
        "two values": two,
        "nine values": late,
        "gaps": np.where(rng.random(steps) < 0.4, np.nan, walk),
        "ends early": np.where(np.arange(steps) < steps // 2, walk, np.nan),
        "huge": walk * 1e36,
        "minute": walk * 1e-36,
        "high level": walk + 1e6,
        "rounding alone": 1e6 + np.spacing(np.float32(1e6)) * rng.integers(0, 20, steps),
        "jump": np.where(np.arange(steps) < steps // 2, walk, 1000 * walk),
        "outlier": np.where(np.arange(steps) == 20, 1e20, walk),
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def test_forecasts_are_the_library_s(
    miniature: TinyTSM, session: Any, rng: np.random.Generator
) -> None:
    forecaster, horizon = miniature.with_options(effort="fast"), miniature.config.horizon_length
    series = rows(rng, miniature.context_length)
    quantiles, mean = session.run(None, {"history": np.stack(list(series.values()))})
    assert quantiles.shape == (len(series), horizon, len(QUANTILES))
    assert mean.shape == (len(series), horizon)
    for i, (name, values) in enumerate(series.items()):
        wanted, wanted_mean = forecaster.predict_quantiles(
            [values], horizon, quantile_levels=QUANTILES, nonnegative=False
        )
        # of the series' own scale, and of what float32 can tell at its level
        allowed = 1e-4 * np.nanstd(values.astype(np.float64)) + 4 * np.spacing(
            np.nanmax(abs(values))
        )
        assert np.abs(quantiles[i] - wanted[0].numpy()).max() <= allowed, name
        assert np.abs(mean[i] - wanted_mean[0].numpy()).max() <= allowed, name
    assert (np.diff(quantiles, axis=-1) >= 0).all()


def test_any_number_of_rows_and_patches_will_do(
    miniature: TinyTSM, session: Any, rng: np.random.Generator
) -> None:
    model, config = miniature.model, miniature.config
    for count, patches in ((1, 2), (3, 5), (2, config.context_patches)):
        history = rng.normal(size=(count, patches * config.patch)).cumsum(1).astype(np.float32)
        (quantiles,) = session.run(["quantiles"], {"history": history})
        tokens = model(torch.from_numpy(history), torch.zeros(count), read=[-1])
        _, wanted = model.forecast(tokens, 0, config.horizon_patches)
        np.testing.assert_allclose(quantiles, wanted.numpy(), rtol=1e-4, atol=1e-4)


def test_the_running_maximum_is_torch_s(rng: np.random.Generator) -> None:
    x = torch.from_numpy(np.abs(rng.normal(size=(3, 17))))
    assert torch.equal(onnx._running_maximum(x, 1)[0], x.cummax(1).values)


def test_a_row_without_values_is_zero(session: Any) -> None:
    quantiles, mean = session.run(None, {"history": np.full((1, 16), np.nan, np.float32)})
    assert not quantiles.any() and not mean.any()


def test_the_file_says_what_it_is(miniature: TinyTSM, session: Any) -> None:
    said, config = session.get_modelmeta().custom_metadata_map, miniature.config
    assert tuple(map(float, said["levels"].split())) == QUANTILES
    assert int(said["context_length"]) == config.context_length
    assert int(said["horizon_length"]) == config.horizon_length
    (history,), (quantiles, mean) = session.get_inputs(), session.get_outputs()
    assert (history.name, history.shape) == ("history", ["rows", "steps"])
    assert (quantiles.name, quantiles.shape[0]) == ("quantiles", "rows")
    assert (mean.name, mean.shape) == ("mean", ["rows", config.horizon_length])


def test_what_cannot_be_written_is_refused_before_the_work(
    miniature: TinyTSM,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = str(miniature.save_pretrained(tmp_path / "model")), tmp_path / "model.onnx"
    assert export.main([source, str(target), "--dtype", "bfloat16"]) == 2
    assert "an ONNX file holds float32, got --dtype bfloat16" in capsys.readouterr().err
    assert export.main([source, str(tmp_path / "nowhere" / "model.onnx")]) == 2
    assert "create it first" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert export.main([source, str(target)]) == 2
    assert "pip install 'tinytsm[onnx]'" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_the_example_for_browsers_asks_for_what_it_needs(tmp_path: Path) -> None:
    # where modules' addresses are written otherwise than paths
    place = tmp_path / "a b"
    place.mkdir()
    example = Path(__file__).parents[1] / "docs" / "examples" / "forecast.mjs"
    shutil.copy(example, place)
    command = ["node", str(place / "forecast.mjs")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: node forecast.mjs")
