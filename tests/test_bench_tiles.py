"""Timing tiles: every choice has its turn, what does not fit is left out, and a kernel's own table is as it was."""

import pytest
import torch

pytest.importorskip("triton")

from bench import tiles


def test_each_choice_has_its_turn_and_the_table_comes_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, seen = {"tf32": 2}, []

    def run() -> torch.Tensor:
        seen.append(table["tf32"])
        if table["tf32"] == 3:
            raise RuntimeError("out of resources")
        return torch.full((2,), float(table["tf32"]))

    variants = tiles._choosing(table, "tf32", (1, 2, 3), run)
    tiles._show(
        "a kernel", variants, torch.full((1,), 1.5, dtype=torch.float64), torch.device("cpu")
    )
    assert table == {"tf32": 2} and set(seen) == {1, 2, 3}
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines[:3]] == [
        "a kernel 1 error 0.5",
        "a kernel 2 (kept) error 0.5",
        "a kernel 3 left out: RuntimeError('out of resources')",
    ]
    assert len(lines) == 5 and all(line.endswith(" us") for line in lines[3:])
