"""Settings: validated where they are made, and every one of them a flag."""

import argparse
import dataclasses

import pytest

from tinytsm.config import PRESETS, ModelConfig, TrainConfig, add_flags, from_dict, given


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (ModelConfig, {"d_model": 100, "n_heads": 6}, "multiple of 2 n_heads, got 100 and 6"),
        (ModelConfig, {"context_patches": 20}, "multiple of 16, got 20"),
        (ModelConfig, {"norm": "batch"}, "norm must be one of dart, .* got 'batch'"),
        (ModelConfig, {"half_life_loc": 0.0}, "half_life_loc must be positive, got 0.0"),
        (TrainConfig, {"lr": -1.0}, "lr must be positive, got -1.0"),
        (TrainConfig, {"mask_share": 1.5}, r"mask_share must lie in \[0, 1\], got 1.5"),
        (TrainConfig, {"short_share": 0.9}, "must not exceed 1 together, got 0.15 and 0.9"),
        (TrainConfig, {"optimizer": "sgd"}, "optimizer must be one of muon, adamw, got 'sgd'"),
    ],
)
def test_bad_settings_are_named(config: type, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize("config", [ModelConfig, TrainConfig])
def test_every_field_is_a_flag_with_help(config: type) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, config, title="settings")
    text = parser.format_help()
    for field in dataclasses.fields(config):
        assert "--" + field.name.replace("_", "-") in text
        assert field.metadata["help"]
    assert given(parser.parse_args([]), config) == {}


def test_flags_become_settings() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, TrainConfig, title="training")
    args = parser.parse_args(["--lr", "0.01", "--compile", "--steps", "7"])
    assert given(args, TrainConfig) == {"lr": 0.01, "compile": True, "steps": 7}


@pytest.mark.parametrize("name", PRESETS)
def test_stored_settings_come_back(name: str) -> None:
    assert from_dict(ModelConfig, dataclasses.asdict(PRESETS[name])) == PRESETS[name]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "ModelConfig must be a JSON object, got list"),
        ({"width": 3}, "ModelConfig has no setting 'width'"),
        ({"d_model": "128"}, "ModelConfig.d_model must be int, got '128'"),
        ({"d_model": True}, "ModelConfig.d_model must be int, got True"),
    ],
)
def test_foreign_settings_are_refused(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(ModelConfig, values)
