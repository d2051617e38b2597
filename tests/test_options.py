"""Options: what each effort means, what overrides it, and the flags that say the same."""

import argparse

import pytest

from tinytsm import options
from tinytsm.options import ForecastOptions


def parsed(*flags: str) -> ForecastOptions:
    parser = argparse.ArgumentParser()
    options.add_flags(parser)
    return options.from_flags(parser.parse_args(flags))


def test_an_effort_is_overridden_part_by_part() -> None:
    assert ForecastOptions(effort="fast").strategy == ((1,), False, False)
    assert ForecastOptions(effort="best").strategy == (None, True, False)
    assert ForecastOptions(effort="best", strides=[2, 4]).strategy == ((2, 4), True, False)
    assert ForecastOptions(effort="fast", strides="auto").strategy == (None, False, False)
    assert ForecastOptions(effort="fast", symmetry=True).strategy == ((1,), True, False)
    assert ForecastOptions(effort="fast", augment=True).strategy == ((1,), False, True)
    assert ForecastOptions(strides=(3, 5)).longest_stride == 5
    assert ForecastOptions(strides="auto").longest_stride == options.MAX_STRIDE


def test_flags_say_the_same() -> None:
    assert parsed() == ForecastOptions()
    flags = "--effort best --strides 1,4 --no-symmetry --augment --nonnegative --integer --batch-size 32"
    assert parsed(*flags.split()) == ForecastOptions(
        effort="best",
        strides=(1, 4),
        symmetry=False,
        augment=True,
        nonnegative=True,
        integer=True,
        batch_size=32,
    )
    assert parsed("--strides", "auto").strides == "auto"
    assert parsed("--no-augment").augment is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"effort": "high"}, "effort must be one of fast, standard, best, got 'high'"),
        ({"strides": ()}, "different whole numbers of at least 1, got ()"),
        ({"strides": (2, 2)}, "different whole numbers"),
        ({"strides": (0,)}, "different whole numbers"),
        ({"strides": (1.5,)}, "different whole numbers"),
        ({"strides": "all"}, "different whole numbers"),
        ({"batch_size": 0}, "batch_size must be 'auto' or a whole number of at least 1, got 0"),
        ({"batch_size": True}, "batch_size must be"),
    ],
)
def test_what_cannot_be_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
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
