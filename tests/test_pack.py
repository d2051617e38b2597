"""A pack's scores of others: read as they are, or refused with the place and the reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from tinytsm.pack import PackError, load_baselines

NAIVE = {"mase": 2.0, "crps": 4.0}


def written(folder: Path, **changes: Any) -> Path:
    entry = {
        "dataset": "tiny",
        "kind": "gift",
        "term": "short",
        "sample": {"SeasonalNaive": NAIVE, "Theta": {"mase": 1, "crps": None}},
    }
    (folder / "baselines.json").write_text(json.dumps({"tasks": [entry | changes]}))
    return folder


def test_baselines_are_relative_to_seasonal_naive(tmp_path: Path) -> None:
    found = load_baselines(written(tmp_path))
    assert found == {"tiny/short": {"Theta": {"mase": 0.5, "crps": None}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "m4"}, "'kind' must be one of gift, ltsf, got 'm4'"),
        ({"kind": "ltsf"}, "no 'prediction_length'"),
        ({"sample": []}, r"'sample' must be dict, got \[\]"),
        ({"sample": {"Theta": NAIVE}}, "no 'SeasonalNaive'"),
        ({"sample": {"SeasonalNaive": NAIVE, "Theta": 1.0}}, "no 'mase'"),
        ({"sample": {"SeasonalNaive": NAIVE | {"crps": "4"}, "Theta": NAIVE}}, "'crps' must be a number, got '4'"),
    ],
)  # fmt: skip
def test_bad_baselines_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PackError, match=rf"baselines\.json: {message}$"):
        load_baselines(written(tmp_path, **changes))
