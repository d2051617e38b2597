"""Where the network runs: a name that is no device, or none here, is an error that says so."""

import pytest
import torch

from tinytsm import TinyTSM
from tinytsm.device import pick_device


def test_devices_by_name() -> None:
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")
    there = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device("auto") == torch.device(there)


@pytest.mark.parametrize("name", ["gpu", "meta", "xpu:0", ""])
def test_what_is_no_device_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"device must be auto, cpu, .* got '{name}'"):
        TinyTSM.from_pretrained(device=name)


def test_a_device_that_is_not_there() -> None:
    name = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ValueError, match=f"device {name} was asked for, but torch sees"):
        TinyTSM.from_pretrained(device_map=name)
