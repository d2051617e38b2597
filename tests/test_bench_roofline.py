"""A step on paper: what fusing saves is bytes, and as many as the passes over memory that it takes away."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import bench_train, roofline, step
from tinytsm.config import PRESETS, QUANTILES
from tinytsm.kernels import reference


def test_epilogues_save_half_of_swiglu_and_no_operation() -> None:
    config = PRESETS["tiny"]
    apart, fused = (
        roofline.parts(config, batch_tokens=8192, epilogues=epilogues)
        for epilogues in (False, True)
    )
    (swiglu,) = (part.bytes for part in apart if part.name == "SwiGLU")
    saved = sum(part.bytes for part in apart) - sum(part.bytes for part in fused)
    assert saved == swiglu / 2 == config.n_layers * 2 * 4 * config.d_ff
    operations = [sum(sum(p.operations.values()) for p in parts) for parts in (apart, fused)]
    assert operations[0] == operations[1]


def test_the_products_are_those_that_a_step_makes() -> None:
    config = PRESETS["nano"]
    with step.path_taken("definitions"):
        made = step.Step(
            "nano", tokens=config.context_patches, path="definitions", device=torch.device("cpu")
        )
        with FlopCounterMode(display=False) as counter:
            made.forward_backward()
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.mm] / made.tokens
    paper = {p.name: p.operations for p in roofline.parts(config, batch_tokens=made.tokens)}
    # these are batched products, and the optimizer's
    for name in ("causal attention", "feature attention", "head and loss", "Muon's iterations"):
        del paper[name]
    # a lone variate asks for neither queries nor keys: two of six layers
    lone = 2 * 6.0 * 2 * config.d_model**2
    assert sum(sum(operations.values()) for operations in paper.values()) - lone == counted
    # the benchmark's count has causal attention at half a square in four layers, and the loss on its grid
    batched = 4 * 6.0 * config.context_patches * config.d_model
    met = sum(len(ks) / stride for ks, stride in reference.octaves(config.horizon_patches))
    batched += 6.0 * met * config.head_rank * config.patch * (1 + len(QUANTILES))
    assert bench_train.step_flop(config, 1) - batched == pytest.approx(counted)


def test_the_command_ends_in_one_json_line(capsys) -> None:
    rates = []
    for flags in ([], ["--epilogues"]):
        assert roofline.main(["--preset", "nano", *flags]) == 0
        rates.append(json.loads(capsys.readouterr().out.splitlines()[-1])["on paper, tokens/s"])
    assert rates[0] < rates[1]
