"""A held-out synthetic set: series that no run learns from, scored while the run goes on.

Two numbers: the training objective, comparable between runs of one norm and one loss alone, and the score below, which
compares any two models that forecast the same series.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tinytsm.config import HELD_OUT_SEED, ModelConfig, TrainConfig
from tinytsm.data import Plan
from tinytsm.model import Model

# Tokens of a batch of the set, about, and how many batches.
_TOKENS, _BATCHES = 4096, 8
# A series' largest share in the score, so that one runaway does not own it.
_MOST = 5.0


class Scores(NamedTuple):
    """loss: the training objective. score: mean normalised pinball, of the newest token's whole horizon."""

    loss: float
    score: float


def normalised_pinball(
    quantiles: Tensor, future: Tensor, context: Tensor, levels: Tensor
) -> Tensor:
    """Twice the mean pinball loss of a forecast over the context's mean absolute deviation; our definition.

    quantiles: (S, T', Q). future: (S, T') and context: (S, T), NaN where missing. levels: (Q,). Returns one number of
    at most 5 for each series; NaN where nothing of the future is known or the context does not vary.
    """
    known = ~future.isnan()
    error = torch.where(known, future, 0.0)[..., None] - quantiles
    pinball = 2 * torch.maximum(levels * error, (levels - 1) * error).mean(-1)
    pinball = torch.where(known, pinball, 0.0).sum(-1) / known.sum(-1)
    deviation = (context - context.nanmean(-1, keepdim=True)).abs().nanmean(-1)
    ratio = (pinball / deviation).clamp_max(_MOST)
    return torch.where(known.any(-1) & (deviation > 0), ratio, float("nan"))


class HeldOut:
    """The set, and an uncompiled model of its own to score weights with."""

    def __init__(self, config: ModelConfig, *, device: torch.device, block_dtype: torch.dtype):
        # whole items of every number of variates
        item = 4 * config.context_patches
        tokens = item * max(1, _TOKENS // item)
        plan = Plan(config, TrainConfig(seed=HELD_OUT_SEED, mask_share=0.0, batch_tokens=tokens))
        self.batches = [plan.batch(number, device) for number in range(_BATCHES)]
        self._model = Model.without_weights(config, device).requires_grad_(False)
        self._model.block_dtype = block_dtype

    @torch.no_grad()
    def score(self, weights: dict[str, Tensor]) -> Scores:
        """Loss and score of a model with these weights."""
        model = self._model
        model.load_state_dict(weights, assign=True)
        totals, counts, ratios = [], [], []
        for batch in self.batches:
            tokens = model(batch.x, batch.resolution, batch.variates)
            total, count = model.loss(tokens, batch.target, batch.offset)
            totals.append(total)
            counts.append(count)
            newest = tokens.h.shape[1] - 1
            _, quantiles = model.forecast(tokens, newest, len(model.head))
            future = batch.target[:, newest + 1 :].flatten(1)
            ratios.append(normalised_pinball(quantiles, future, batch.x, model.levels))
        loss = (torch.stack(totals).sum(0) / torch.stack(counts).sum(0).clamp_min(1)).mean()
        return Scores(float(loss), float(torch.cat(ratios).nanmean()))
