"""Options: what each effort means, what overrides it, and the flags that say the same."""

import argparse
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinytsm import TinyTSM, cli, options
from tinytsm.options import ForecastOptions, OptionChanges

NAMES = {field.name for field in fields(ForecastOptions)}
VALUES = np.sin(np.arange(60) / 3)
FRAME = pd.DataFrame(
    {
        "item_id": "a",
        "timestamp": pd.date_range("2024-01-01", periods=60),
        "target": VALUES,
        "unique_id": "a",
    }
)


def parsed(*flags: str) -> ForecastOptions:
    parser = argparse.ArgumentParser()
    options.add_flags(parser)
    return options.from_flags(parser.parse_args(flags))


def test_an_effort_is_overridden_part_by_part() -> None:
    assert ForecastOptions(effort="fast").strategy == ((1,), False, False, False)
    assert ForecastOptions(effort="standard").strategy == (None, False, True, False)
    assert ForecastOptions(effort="best").strategy == (None, True, True, False)
    assert ForecastOptions(effort="best", strides=[2, 4]).strategy == ((2, 4), True, True, False)
    assert ForecastOptions(effort="fast", strides="auto").strategy == (None, False, False, False)
    assert ForecastOptions(effort="fast", symmetry=True).strategy == ((1,), True, False, False)
    assert ForecastOptions(effort="fast", adjust=True).strategy == ((1,), False, True, False)
    assert ForecastOptions(effort="best", adjust=False).strategy == (None, True, False, False)
    assert ForecastOptions(effort="fast", augment=True).strategy == ((1,), False, False, True)
    assert ForecastOptions(strides=(3, 5), adjust=False).longest_stride == 5
    assert ForecastOptions(strides=(3, 50)).longest_stride == 50
    assert ForecastOptions(effort="fast").longest_stride == 1
    # seasons are sought further back
    assert ForecastOptions(effort="fast", adjust=True).longest_stride == 16
    assert ForecastOptions(strides="auto").longest_stride == 16


def test_flags_say_the_same() -> None:
    assert parsed() == ForecastOptions()
    flags = (
        "--effort best --strides 1,4 --no-symmetry --no-adjust --augment --nonnegative --integer"
    )
    assert parsed(*flags.split(), "--batch-size", "32") == ForecastOptions(
        effort="best",
        strides=(1, 4),
        symmetry=False,
        adjust=False,
        augment=True,
        nonnegative=True,
        integer=True,
        batch_size=32,
    )
    assert parsed("--strides", "auto").strides == "auto"
    assert parsed("--no-augment").augment is False
    assert parsed("--adjust").adjust is True
    assert parsed("--no-nonnegative").nonnegative is False


def test_numpys_whole_numbers_are_whole() -> None:
    given = ForecastOptions(strides=np.array([1, 2]), batch_size=np.int64(8))  # type: ignore[arg-type]
    assert given == ForecastOptions(strides=(1, 2), batch_size=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"effort": "high"}, "effort must be one of fast, standard, best, got 'high'"),
        ({"effort": ["best"]}, "effort must be one of fast, standard, best, got ['best']"),
        ({"nonnegative": "no"}, "nonnegative must be None, True or False, got 'no'"),
        ({"symmetry": "no"}, "symmetry must be None, True or False, got 'no'"),
        ({"adjust": 2}, "adjust must be None, True or False, got 2"),
        ({"augment": "yes"}, "augment must be None, True or False, got 'yes'"),
        ({"integer": "no"}, "integer must be True or False, got 'no'"),
        ({"integer": None}, "integer must be True or False, got None"),
        ({"strides": ()}, "different whole numbers of at least 1, got ()"),
        ({"strides": (2, 2)}, "different whole numbers"),
        ({"strides": (0,)}, "different whole numbers"),
        ({"strides": (1.5,)}, "different whole numbers"),
        ({"strides": "all"}, "different whole numbers"),
        ({"strides": 2}, "different whole numbers of at least 1, got 2"),
        ({"strides": np.array([1, 1])}, "different whole numbers"),
        ({"batch_size": 0}, "batch_size must be 'auto' or a whole number of at least 1, got 0"),
        ({"batch_size": True}, "batch_size must be"),
    ],
)
def test_what_cannot_be_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ForecastOptions(**change)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--strides", "1,x"], "--strides must be auto or read like 1,2,4, got '1,x'"),
        (["--batch-size", "-3"], "--batch-size must be auto or a whole number, got '-3'"),
    ],
)
def test_bad_flags_are_named(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed(*flags)


def test_every_option_is_a_keyword_and_a_flag() -> None:
    assert set(OptionChanges.__annotations__) == NAMES
    parser = argparse.ArgumentParser()
    options.add_flags(parser)
    assert set(vars(parser.parse_args([]))) == NAMES


@pytest.mark.parametrize(
    "command", ["forecast", "backtest", "anomalies", "impute", "evaluate", "scale"]
)
def test_every_command_that_forecasts_has_the_flags(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in NAMES if f"--{name.replace('_', '-')} " not in f"{shown} "] == []


def _impute(model: TinyTSM, **changes: Any) -> Any:
    return model.impute([*VALUES[:30], None, None, *VALUES[30:]], **changes)["value"]


def _chronos(model: TinyTSM, **changes: Any) -> Any:
    from tinytsm.adapters.chronos import Chronos2Pipeline

    pipeline = Chronos2Pipeline(model.model, options=model.options)
    return pipeline.predict_df(FRAME, prediction_length=5, **changes)["predictions"]


def _nixtla(model: TinyTSM, **changes: Any) -> Any:
    from tinytsm.adapters.nixtla import NixtlaForecaster

    frame = FRAME.rename(columns={"timestamp": "ds", "target": "y"})
    return NixtlaForecaster(model, **changes).forecast(frame, h=5)["TinyTSM"]


# the adapters of libraries that may be missing: tests/test_adapters.py; the workers on Ray: tests/test_scale.py
ENTRIES: dict[str, Callable[..., Any]] = {
    "predict_quantiles": lambda model, **o: model.predict_quantiles(VALUES, 5, **o)[0],
    "predict_stream": lambda model, **o: next(model.predict_stream([VALUES], 5, **o))[0],
    "predict_df": lambda model, **o: model.predict_df(FRAME, prediction_length=5, **o)["0.1"],
    "forecast": lambda model, **o: model.forecast(VALUES, 5, **o).quantiles,
    "backtest": lambda model, **o: model.backtest(VALUES, 5, **o).forecasts["0.1"],
    "anomaly_scores": lambda model, **o: model.anomaly_scores(VALUES, **o)["predictions"],
    "impute": _impute,
    "chronos": _chronos,
    "nixtla": _nixtla,
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_method_takes_the_options(miniature: TinyTSM, entry: str) -> None:
    call = ENTRIES[entry]
    fast = np.asarray(call(miniature, effort="fast"))
    np.testing.assert_array_equal(fast, call(miniature.with_options(effort="fast")))
    assert not np.array_equal(fast, call(miniature, effort="best"), equal_nan=True)
    with pytest.raises(ValueError, match="effort must be one of fast, standard, best, got 'high'"):
        call(miniature, effort="high")


def test_other_options_keep_the_class(miniature: TinyTSM) -> None:
    from tinytsm.adapters.chronos import Chronos2Pipeline

    changed = Chronos2Pipeline(miniature.model).with_options(effort="best")
    assert isinstance(changed, Chronos2Pipeline) and changed.options.effort == "best"
