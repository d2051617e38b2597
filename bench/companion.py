"""The other processes of a step that several share: each takes its part of every step that the first one times.

bench_train.py starts `python -m bench.companion PRESET THREADS`.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

import torch

from bench.bench_train import make_trainer
from tinytsm.world import LostProcessError, joined


def main(preset: str, threads: int) -> None:
    """Compile and step along until the first process says that it is done, or is gone."""
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    with (
        tempfile.TemporaryDirectory() as out,
        contextlib.suppress(LostProcessError),
        joined(device, processes=1, command=()) as world,
    ):
        trainer = make_trainer(preset, Path(out), device, world)
        batch = trainer.plan.batch(0, device)
        trainer.compile()
        trainer.forward_backward(batch)
        while world.of_first(0.0, device):
            trainer.step(batch)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
