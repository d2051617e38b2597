"""The Tiny-TSM network (arXiv 2511.19272), top to bottom.

What is unusual: every token stands in its own causal frame (DART-Norm), so every token can be trained to forecast its
own future; blocks attend over time twice, then once over the variates of an item; the head turns a token into
non-crossing quantiles of the next K patches at once. Letters as in `tinytsm.kernels.reference`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinytsm import ops
from tinytsm.config import LAYER_PATTERN, QUANTILES, ModelConfig


class Tokens(NamedTuple):
    """What the network knows of each token. h: (S, N, R). loc, scale, weight: (S, N), scale 0 if degenerate."""

    h: Tensor
    loc: Tensor
    scale: Tensor
    weight: Tensor


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, with a gain; see `ops.rms_norm`."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width). Returns the same shape."""
        return ops.rms_norm(x, self.gain)


class Embedding(nn.Module):
    """Residual MLP from a patch in its causal frame to a token; hidden and skip share the first matmul."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.hidden = 2 * config.d_model
        inputs = 2 * config.patch + ops.FRAME_FEATURES
        self.into = nn.Parameter(torch.empty(inputs, self.hidden + config.d_model))
        self.out = nn.Linear(self.hidden, config.d_model, bias=False)

    def forward(
        self, x: Tensor, resolution: Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x: (S, T), resolution: (S,). Returns tokens (S, N, D), loc, scale and token weight (S, N).

        dtype: what the second matmul runs in; a series' fine detail passes through the first and the skip.
        """
        config = self.config
        h, loc, scale, weight = ops.dart_patch_embed(
            x,
            resolution,
            self.into,
            patch=config.patch,
            half_life_loc=config.half_life_loc,
            half_life_scale=config.half_life_scale,
            norm=config.norm,
            features=config.frame_features,
        )
        hidden, skip = h.split((self.hidden, config.d_model), -1)
        with _autocast(x, dtype):
            deep = self.out(F.silu(hidden))
        return deep + skip, loc, scale, weight


def _autocast(x: Tensor, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(x, ops.cast_once(layer.weight))


class Block(nn.Module):
    """Pre-norm attention and SwiGLU, over time or over variates."""

    def __init__(self, config: ModelConfig, kind: str):
        super().__init__()
        width, self.kind, self.n_heads = config.d_model, kind, config.n_heads
        self.attention_norm = RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_gain = nn.Parameter(torch.ones(width // config.n_heads))
        self.k_gain = nn.Parameter(torch.ones(width // config.n_heads))
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = RMSNorm(width)
        self.gate_up = nn.Linear(width, 2 * config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, width, bias=False)

    def attend(self, x: Tensor, variates: int, present: Tensor | None, backend: str) -> Tensor:
        """Attention without its output map. x: (S, N, D), normalised. Returns the same shape."""
        if self.kind == "feature" and variates == 1:
            # softmax over one variate is 1: only the value path remains
            return F.linear(x, ops.cast_once(self.qkv.weight)[2 * x.shape[-1] :])
        qkv = _linear(x, self.qkv).unflatten(-1, (3, self.n_heads, -1))
        if self.kind == "time":
            attended = ops.causal_attention(qkv, self.q_gain, self.k_gain, backend=backend)
        else:
            attended = ops.feature_attention(
                qkv, self.q_gain, self.k_gain, variates=variates, present=present, backend=backend
            )
        return attended.flatten(-2)

    def forward(
        self,
        x: Tensor,
        variates: int,
        present: Tensor | None,
        backend: str = "auto",
        read: Sequence[int] | None = None,
    ) -> Tensor:
        """x: (S, N, D). backend: what computes attention, as in `ops.choose_attention`.

        read: the tokens that are wanted, None for all; the others are attended to and go no further.
        """
        attended = self.attend(self.attention_norm(x), variates, present, backend)
        if read is not None:
            x, attended = x[:, read], attended[:, read]
        x = x + _linear(attended, self.attention_out)
        return x + _linear(ops.swiglu(_linear(self.mlp_norm(x), self.gate_up)), self.down)


class Model(nn.Module):
    """Series in, tokens with a forecast each out."""

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None):
        """Weights are drawn from `generator`, or from torch's global one if None."""
        super().__init__()
        self.config = config
        # what the blocks' matmuls run in; statistics, embedding and head keep the weights' dtype, because a series'
        # fine detail passes through them alone (`_outer_dtype` tells of the exception)
        self.block_dtype = torch.float32
        # what computes both attentions, as in `ops.choose_attention`
        self.attention = "auto"
        self.embedding = Embedding(config)
        kinds = [LAYER_PATTERN[i % len(LAYER_PATTERN)] for i in range(config.n_layers)]
        self.blocks = nn.ModuleList(Block(config, kind) for kind in kinds)
        # after it no token sees another
        self.last_time_block = max(i for i, kind in enumerate(kinds) if kind == "time")
        self.norm = RMSNorm(config.d_model)
        self.bottleneck = nn.Linear(config.d_model, config.head_rank, bias=False)
        outputs = config.patch * (1 + len(QUANTILES))
        self.head = nn.Parameter(torch.empty(config.horizon_patches, config.head_rank, outputs))
        self.levels: Tensor
        self.register_buffer("levels", torch.tensor(QUANTILES), persistent=False)
        # on meta there is nothing to draw, and torch would import its compiler to say so: a second
        if not self.head.is_meta:
            self.init_weights(generator)

    @classmethod
    def without_weights(cls, config: ModelConfig, device: torch.device | None = None) -> Self:
        """A model that is given its weights by `load_state_dict(..., assign=True)`; device: where they will lie.

        None are drawn: that takes longer than reading them, and would move torch's global generator.
        """
        with torch.device("meta"):
            model = cls(config)
        model.levels = torch.tensor(QUANTILES, device=device)
        return model

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None) -> None:
        """Unit-variance activations at the start; blocks add little, and the head forecasts its frame."""
        for name, p in self.named_parameters():
            if name.endswith("gain"):
                p.fill_(1.0)
                continue
            fan_in = p.shape[1] if name.endswith(".weight") else p.shape[-2]
            std = fan_in**-0.5
            if name.endswith(("attention_out.weight", "down.weight")):
                std /= (2 * self.config.n_layers) ** 0.5
            elif name == "head":
                std *= 0.1
            p.normal_(0.0, std, generator=generator)

    def _outer_dtype(self, x: Tensor) -> torch.dtype:
        """What the matmuls next to the blocks run in, all but the embedding's first: in training on a CPU as the blocks'.

        That halves their time, and gradients err by a third more than by blocks in bfloat16 alone. Forecasts are exact there.
        """
        trains = torch.is_grad_enabled() and x.device.type == "cpu"
        return self.block_dtype if trains else torch.float32

    def stream(
        self,
        x: Tensor,
        resolution: Tensor,
        variates: int = 1,
        present: Tensor | None = None,
        read: Sequence[int] | None = None,
    ) -> Tokens:
        """As `forward`, with h: (S, N, D), the residual stream after the last block, normalised."""
        h, loc, scale, weight = self.embedding(x, resolution, self._outer_dtype(x))
        if read is not None:
            loc, scale, weight = loc[:, read], scale[:, read], weight[:, read]
        with _autocast(x, self.block_dtype):
            for i, block in enumerate(self.blocks):
                last = read if i == self.last_time_block else None
                h = block(h, variates, present, self.attention, last)
        return Tokens(self.norm(h), loc, scale, weight)

    def forward(
        self,
        x: Tensor,
        resolution: Tensor,
        variates: int = 1,
        present: Tensor | None = None,
        read: Sequence[int] | None = None,
    ) -> Tokens:
        """x: (S, T) centred series, NaN where missing, T a multiple of P. resolution: (S,). present: (S,) bool.

        An item's `variates` series are adjacent. Nothing after a token's last step enters it. read: the tokens that are
        wanted, in this order, None for all: where attention over time is done, the others are dropped.
        """
        tokens = self.stream(x, resolution, variates, present, read)
        with _autocast(x, self._outer_dtype(x)):
            narrow = self.bottleneck(tokens.h)
        return tokens._replace(h=F.silu(narrow.to(tokens.h.dtype)))

    def loss(self, tokens: Tokens, target: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse-grid loss: (sum, count) of each octave. target: (S, N + K, P). offset: (S,)."""
        return ops.grid_loss(
            tokens.h,
            self.head,
            target,
            tokens.loc,
            tokens.scale,
            tokens.weight,
            offset,
            self.levels,
            dtype=self._outer_dtype(tokens.h),
        )

    def forecast(self, tokens: Tokens, token: int, patches: int) -> tuple[Tensor, Tensor]:
        """What one token says of the next `patches` horizon patches.

        Returns mean (S, patches * P) and quantiles (S, patches * P, Q), in the units of the series; both are the
        frame's location where it is degenerate.
        """
        raw = torch.einsum("sr,kro->sko", tokens.h[:, token], self.head[:patches])
        raw = raw.unflatten(-1, (self.config.patch, -1)).flatten(1, 2)  # (S, patches * P, 1 + Q)
        mean, quantiles = ops.quantile_outputs(raw)
        loc, scale = tokens.loc[:, token], tokens.scale[:, token]
        mean = loc[:, None] + scale[:, None] * mean
        return mean, loc[:, None, None] + scale[:, None, None] * quantiles

    def compile_parts(self) -> None:
        """Compile the embedding, each block and the loss on their own: blocks of a kind share their code.

        Shapes are fixed, because there are few of them and code for any shape is slower.
        """
        self.embedding.compile(dynamic=False)
        for block in self.blocks:
            block.compile(dynamic=False)
        self.loss = torch.compile(self.loss, dynamic=False)  # type: ignore[method-assign]
