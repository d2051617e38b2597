"""Embeddings: what the network knows of a series, token by token, before it forecasts."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tinytsm.config import TOKEN_MULTIPLE
from tinytsm.inputs import as_inputs, as_item
from tinytsm.rows import centre

if TYPE_CHECKING:
    from tinytsm.forecast import TinyTSM


class Embedding(NamedTuple):
    """One input. tokens: (V, N, D) float32, oldest first: N patches of P steps, the newest ending at the last step, the
    oldest showing the first value.

    loc, scale: (V, N) float64, the frame that each token reads and forecasts in, in the units of the series; scale is
    0 where everything so far was constant. Tokens do not know them, so two series that differ in level and scale
    alone have the same tokens.
    """

    tokens: Tensor
    loc: Tensor
    scale: Tensor

    @property
    def pooled(self) -> Tensor:
        """(V, D): the mean over tokens, one vector for each variate."""
        return self.tokens.mean(1)


@torch.no_grad()
def embed(forecaster: "TinyTSM", inputs: Any) -> list[Embedding]:
    """The residual stream after the last block, normalised: what the horizon head reads.

    inputs: as `TinyTSM.predict_quantiles` takes them; the newest `context_length` steps of each count. Each input is
    computed on its own, so its embedding is the same whatever stands beside it. Raises ValueError as forecasting does.
    """
    inputs = as_inputs(inputs)
    config = forecaster.config
    found = []
    for position, value in enumerate(inputs):
        item, _ = as_item(
            value,
            position,
            newest=config.context_length,
            longest_tail=config.context_length // 2,
        )
        variates, length = item.values.shape
        patches = -(-length // config.patch)
        # one of few lengths, as in forecasting: the tokens' count may change the last bits of a sum
        tokens = TOKEN_MULTIPLE if patches <= TOKEN_MULTIPLE else config.context_patches
        rows = np.full((variates, tokens * config.patch), np.nan)
        rows[:, rows.shape[1] - length :] = item.values
        one = centre(rows)
        x = torch.from_numpy(one.x).to(forecaster.device)
        resolution = torch.from_numpy(one.resolution).float().to(forecaster.device)
        # the model's own precision, whatever the caller casts to
        with torch.autocast(x.device.type, enabled=False):
            read = forecaster.model.stream(x, resolution, len(x))
        unit = torch.from_numpy(one.unit)[:, None]
        found.append(
            Embedding(
                read.h[:, -patches:].float().cpu(),
                torch.from_numpy(one.origin)[:, None] + read.loc[:, -patches:].cpu() / unit,
                read.scale[:, -patches:].cpu() / unit,
            )
        )
    if not found:
        raise ValueError("inputs is empty: wanted at least one series")
    return found
