"""CUDA graphs: refused where they cannot be, and the same steps as without them where they can."""

import pytest
import torch

from tinytsm.config import ModelConfig, TrainConfig
from tinytsm.graphs import Recorder
from tinytsm.trainer import Trainer, _blank_batch

MODEL = ModelConfig(d_model=64, n_layers=3, n_heads=2, d_ff=48, head_rank=16, context_patches=32)


@pytest.mark.parametrize(("device", "processes"), [("cpu", 1), ("cuda", 2)])
def test_graphs_need_one_process_on_a_gpu(device, processes):
    with pytest.raises(ValueError, match=rf"cuda_graphs needs one process.*got {processes} on"):
        Recorder(torch.device(device), processes)


def test_the_trainer_refuses_graphs_on_cpu(tmp_path):
    config = TrainConfig(batch_tokens=512, cuda_graphs=True)
    with pytest.raises(ValueError, match="use --no-cuda-graphs"):
        Trainer(MODEL, config, tmp_path, device=torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_replayed_steps_equal_launched_ones(tmp_path, compiled):
    losses = []
    for graphs in (False, True):
        config = TrainConfig(batch_tokens=1024, cuda_graphs=graphs, warmup_steps=1)
        trainer = Trainer(MODEL, config, tmp_path / str(graphs), device=torch.device("cuda"))
        if compiled:
            trainer.compile()
        losses.append([])
        for number in range(3):
            for bucket in trainer.plan.buckets:
                batch = _blank_batch(bucket, trainer.plan, trainer.device)
                batch = batch._replace(x=batch.x * (1 + number), number=number)
                losses[-1].append(trainer.step(batch)[0].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    # other batches and moved weights, not one recording again and again
    assert len(set(losses[1])) == len(losses[1])


@pytest.mark.gpu
def test_a_step_waits_for_nothing(tmp_path):
    config = TrainConfig(batch_tokens=1024)
    trainer = Trainer(MODEL, config, tmp_path, device=torch.device("cuda"))
    batch = _blank_batch(trainer.plan.buckets[0], trainer.plan, trainer.device)
    trainer.step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
