"""A little of the long fuzz, and Hypothesis on what it draws less freely: values, options, objects, bytes of a table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests import fuzz
from tinytsm import TinyTSM
from tinytsm.options import ForecastOptions


@pytest.fixture(scope="module")
def forecaster() -> TinyTSM:
    return fuzz.network(1)


def test_some_of_the_long_run() -> None:
    assert fuzz.run(inputs=300, seed=1, at_once=100) == 3


def test_a_failure_names_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "series", lambda rng: np.array([np.inf]))
    with pytest.raises(AssertionError, match="call 0 of seed 5: .*infinite"):
        fuzz.run(inputs=10, seed=5)


OPTIONS = st.builds(
    ForecastOptions,
    effort=st.sampled_from(["fast", "standard", "best"]),
    strides=st.none() | st.just("auto") | st.lists(st.integers(1, 9), min_size=1, unique=True),
    symmetry=st.none() | st.booleans(),
    adjust=st.none() | st.booleans(),
    augment=st.none() | st.booleans(),
    nonnegative=st.none() | st.booleans(),
    integer=st.booleans(),
)
# any shape that may be a forecaster's input, and many that may not
NUMBERS = st.floats(width=64) | st.integers() | st.none() | st.booleans() | st.text(max_size=3)
THINGS = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@settings(max_examples=60)
@given(
    st.lists(
        hnp.arrays(
            st.sampled_from([np.float64, np.float32, np.int64]),
            st.tuples(st.integers(1, 40)) | st.tuples(st.integers(1, 4), st.integers(1, 40)),
            elements={"allow_infinity": False},
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 60),
    st.lists(st.floats(1e-9, 1 - 1e-9), min_size=1, max_size=4),
    OPTIONS,
)
def test_any_values_levels_and_options(
    forecaster: TinyTSM,
    inputs: list[np.ndarray],
    horizon: int,
    levels: list[float],
    options: ForecastOptions,
) -> None:
    assume(not any(np.isnan(values).all() for values in inputs))
    fuzz.check_call(
        forecaster,
        inputs,
        np.random.default_rng(0),
        fuzz.Asked(horizon, levels, options),
    )


@settings(max_examples=200)
@given(
    THINGS | st.lists(THINGS, max_size=3),
    st.just(4) | st.integers(-2, 9) | NUMBERS,
    st.just([0.5]) | st.lists(st.floats(), max_size=3),
)
def test_anything_is_forecast_or_an_error_with_words(
    forecaster: TinyTSM, inputs: Any, horizon: Any, levels: list[float]
) -> None:
    try:
        quantiles, mean = forecaster.predict_quantiles(inputs, horizon, levels)
    except ValueError as error:
        assert str(error).strip()
    else:
        for one in (*quantiles, *mean):
            assert bool(one.isfinite().all())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=80),
        st.text(alphabet='date,y;\t|\n\r"0123456789-.:eE+ NaninfT', max_size=120).map(str.encode),
        # rows of a table with a few fields spoilt
        st.lists(
            st.tuples(
                st.dates().map(str) | st.text(max_size=4),
                st.floats().map(repr) | st.text(max_size=4),
            ).map(",".join),
            max_size=8,
        ).map(lambda rows: "\n".join(["date,y", *rows]).encode()),
    )
)
def test_any_bytes_are_forecast_or_an_error_with_words(
    forecaster: TinyTSM, tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "any.csv"
    path.write_bytes(data)
    fuzz.check_file(forecaster, path)
