"""A little of the long fuzz, and Hypothesis on what it draws less freely: values, levels, bytes of a table."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests import fuzz
from tinytsm import TinyTSM, frames
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


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        hnp.arrays(
            np.float64, st.integers(1, 40), elements=st.floats(allow_infinity=False, width=64)
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 60),
    st.lists(st.floats(1e-9, 1 - 1e-9), min_size=1, max_size=4),
    st.sampled_from(["fast", "standard", "best"]),
)
def test_any_values_and_levels(
    forecaster: TinyTSM, inputs: list[np.ndarray], horizon: int, levels: list[float], effort
) -> None:
    fuzz.check_call(
        forecaster,
        inputs,
        np.random.default_rng(0),
        horizon=horizon,
        levels=levels,
        chosen=ForecastOptions(effort=effort),
    )


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.text(alphabet='date,y;\t|\n\r"0123456789-.:eE+ NaninfT', max_size=120).map(str.encode),
    )
)
def test_any_bytes_are_a_table_or_an_error_with_words(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.csv"
    path.write_bytes(data)
    try:
        table = frames.read_table(path)
        layout, _ = frames.infer_layout(table)
        series, _ = frames.split_frame(table, layout)
    except frames.InputError as error:
        assert str(error).strip()
    else:
        assert all(np.isfinite(one.values).any() for one in series)
