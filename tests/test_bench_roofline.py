"""A step on paper: what fusing saves is bytes, and as many as the passes over memory that it takes away."""

import json

from bench import roofline
from tinytsm.config import PRESETS


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


def test_the_command_ends_in_one_json_line(capsys) -> None:
    rates = []
    for flags in ([], ["--epilogues"]):
        assert roofline.main(["--preset", "nano", *flags]) == 0
        rates.append(json.loads(capsys.readouterr().out.splitlines()[-1])["on paper, tokens/s"])
    assert rates[0] < rates[1]
