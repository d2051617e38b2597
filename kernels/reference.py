"""The definition of every op, in plain PyTorch: what the kernels must equal, and the path on CPU.

Letters: S series, T steps, P patch length, N = T / P tokens, D width, H heads, E head width, K horizon patches,
R head rank, Q quantiles, V variates of an item. Each op computes in `promote_types(dtype, float32)`, so float64 stays
float64 and is the truth that tests compare with. Tiny-TSM is arXiv 2511.19272; DART-Norm, the frame features and the
coarse grid are our definitions of what it describes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# A frame is degenerate where its scale is within this many rounding errors of zero.
DEGENERATE_ULPS = 8
FRAME_FEATURES = 4
FEATURE_LIMIT = 10.0
# Tokens of the frozen frame of the `prefix` norm.
PREFIX_PATCHES = 4
NORMS = ("dart", "last", "prefix", "revin", "none")

NORM_EPS = 1e-6
ROTARY_BASE = 10000.0

# Horizon patches k of one octave, and every how many tokens it is evaluated.
MAX_STRIDE = 16
HUBER_DELTA = 3.0
MEAN_WEIGHT = 0.25
# A pair whose target lies further out than this many scales weighs less, so that one jump cannot own a batch.
FAR_TARGET = 100.0
# Softplus of an output at rest: neighbouring deciles about a third of a scale apart, as for a standard normal.
GAP_SHIFT = -1.0


def wide(x: Tensor) -> Tensor:
    """x in float32, or in float64 where it is so already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Frames(NamedTuple):
    """Where each token stands: (S, N) each, in the units of the series.

    loc, scale: the frame in which the token reads and forecasts. fast_scale, slow_loc: the other half of the
    short- and the long-memory statistics. usable: (S, N) bool, false where the frame is degenerate.
    seen: observed points up to the token's last step.
    """

    loc: Tensor
    scale: Tensor
    fast_scale: Tensor
    slow_loc: Tensor
    usable: Tensor
    seen: Tensor


def _running(
    value: Tensor, observed: Tensor, newer: Tensor, count: Tensor, half_life: float
) -> tuple[Tensor, Tensor]:
    """Decayed mean and standard deviation at each patch's end, ages counted in observed points.

    value, observed, newer: (S, N, P), the observed points after each one in its patch being `newer`.
    count: (S, N), observed points so far. Patches are merged by Chan's formula (never E[x^2] - E[x]^2), as a masked
    sum over (S, N, N): exact, parallel and short, N being small.
    """
    rate = 1.0 / half_life
    weight = observed * torch.exp2(-rate * newer)
    mass = weight.sum(-1)
    mean = (weight * value).sum(-1) / mass.clamp_min(1e-30)
    # squares of 1e30 overflow: a largest number keeps what follows finite
    most = torch.finfo(value.dtype).max
    spread = (weight * (value - mean[..., None]).square()).sum(-1).clamp_max(most)

    n_tokens = value.shape[1]
    causal = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=value.device).tril()
    age = count[:, :, None] - count[:, None, :]
    decay = torch.where(causal, torch.exp2(-rate * age.clamp_min(0)), 0.0)  # (S, N now, N then)
    share = decay * mass[:, None, :]
    total = share.sum(-1).clamp_min(1e-30)
    # where, not a product with zero: a later patch may hold numbers whose square is infinite
    loc = torch.where(causal, share * mean[:, None, :], 0.0).sum(-1) / total
    gap = mean[:, None, :] - loc[:, :, None]
    moment = decay * spread[:, None, :] + share * gap.square().clamp_max(most)
    var = torch.where(causal, moment, 0.0).sum(-1) / total
    return loc, var.clamp_max(most).sqrt()


def _newest_patch(value: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the newest patch with an observed point, (S, N) each."""
    mass = observed.sum(-1)
    mean = (observed * value).sum(-1) / mass.clamp_min(1)
    std = ((observed * (value - mean[..., None]).square()).sum(-1) / mass.clamp_min(1)).sqrt()
    index = torch.arange(value.shape[1], device=value.device)
    newest = torch.where(mass > 0, index, 0).cummax(1).values
    return mean.gather(1, newest), std.gather(1, newest)


def frames(
    x: Tensor,
    resolution: Tensor,
    *,
    patch: int,
    half_life_loc: float,
    half_life_scale: float,
    norm: str = "dart",
) -> Frames:
    """The causal frame of every token (DART-Norm), or one of its alternatives for ablation.

    x: (S, T), NaN where missing, T a multiple of `patch`. resolution: (S,), what the series lost to rounding before it
    was centred, same unit. Half-lives in observed points, infinity for a plain running statistic. norm: `dart`; `last`
    centres on the newest patch; `prefix` freezes the statistics of the first patches; `revin` sees the full window,
    future included (a negative control); `none` leaves the series as it is.
    """
    x = wide(x)
    patches = x.unflatten(1, (-1, patch))
    observed = ~patches.isnan()
    value = torch.where(observed, patches, 0.0)
    seen = observed.to(x.dtype)
    within = seen.sum(-1)
    count = within.cumsum(1)
    newer = within[..., None] - seen.cumsum(-1)

    half_life_slow = half_life_scale if norm == "dart" else float("inf")
    slow_loc, scale = _running(value, seen, newer, count, half_life_slow)
    if norm == "last":
        loc, fast_scale = _newest_patch(value, seen)
    elif norm == "dart":
        loc, fast_scale = _running(value, seen, newer, count, half_life_loc)
    else:
        n_tokens = value.shape[1]
        at = torch.arange(n_tokens, device=x.device)
        if norm == "prefix":
            at = at.clamp_max(PREFIX_PATCHES - 1)
        elif norm == "revin":
            at = torch.full_like(at, n_tokens - 1)
        elif norm == "none":
            slow_loc, scale = torch.zeros_like(scale), torch.ones_like(scale)
        else:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        slow_loc, scale = slow_loc[:, at], scale[:, at]
        loc, fast_scale = slow_loc, scale

    level = value.abs().amax(-1).cummax(1).values
    eps = torch.finfo(x.dtype).eps
    usable = scale > DEGENERATE_ULPS * eps * level + resolution.to(x.dtype)[:, None]
    return Frames(loc, scale, fast_scale, slow_loc, usable, count)


def frame_features(frame: Frames) -> Tensor:
    """How each token's frame moved: (S, N, 4), each within +-10.

    The step of the location and of the scale since the last token, and the short memory's location and scale against
    the long memory's. Without them a token's history is written in frames that it cannot tell apart.
    """
    before = torch.cat((torch.zeros_like(frame.usable[:, :1]), frame.usable[:, :-1]), 1)
    moved = before & frame.usable
    scale = torch.where(frame.usable, frame.scale, 1.0)
    last_scale = torch.where(before, torch.cat((scale[:, :1], scale[:, :-1]), 1), 1.0)
    last_loc = torch.cat((frame.loc[:, :1], frame.loc[:, :-1]), 1)
    tiny = torch.finfo(scale.dtype).tiny
    columns = (
        torch.where(moved, torch.asinh((frame.loc - last_loc) / scale), 0.0),
        torch.where(moved, torch.log(scale / last_scale), 0.0),
        torch.where(frame.usable, torch.asinh((frame.loc - frame.slow_loc) / scale), 0.0),
        torch.where(frame.usable, torch.log((frame.fast_scale / scale).clamp_min(tiny)), 0.0),
    )
    return torch.stack(columns, -1).clamp(-FEATURE_LIMIT, FEATURE_LIMIT)


def normalised_patches(x: Tensor, frame: Frames, patch: int) -> Tensor:
    """asinh((x - loc) / scale) in each token's own frame, 0 where missing or degenerate: (S, N, P)."""
    patches = wide(x).unflatten(1, (-1, patch))
    shown = ~patches.isnan() & frame.usable[..., None]
    scale = torch.where(frame.usable, frame.scale, 1.0)[..., None]
    return torch.asinh(torch.where(shown, patches - frame.loc[..., None], 0.0) / scale)


def token_frame(frame: Frames) -> tuple[Tensor, Tensor, Tensor]:
    """A token's location, scale (0 where degenerate) and weight, as `dart_patch_embed` gives them."""
    token_weight = torch.where(frame.usable, (frame.seen / 8).clamp_max(1), 0.0)
    return frame.loc, torch.where(frame.usable, frame.scale, 0.0), token_weight


def dart_patch_embed(
    x: Tensor,
    resolution: Tensor,
    weight: Tensor,
    *,
    patch: int,
    half_life_loc: float,
    half_life_scale: float,
    norm: str = "dart",
    features: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From raw series to the embedding's first linear layer, each token in its own causal frame.

    x: (S, T), NaN where missing. resolution: (S,). weight: (2P + 4, C), rows for the P normalised values, the P
    observed flags and the frame features (zeroed if not `features`). Returns h (S, N, C) in weight's dtype, and loc,
    scale, token weight (S, N) in float32 or wider; the token weight is min(1, observed points / 8), 0 where the frame
    is degenerate (where scale is given as 0 and every forecast is loc).
    """
    frame = frames(
        x,
        resolution,
        patch=patch,
        half_life_loc=half_life_loc,
        half_life_scale=half_life_scale,
        norm=norm,
    )
    z = normalised_patches(x, frame, patch)
    seen = (~x.isnan()).unflatten(1, (-1, patch)).to(z.dtype)
    moves = frame_features(frame)
    if not features:
        moves = torch.zeros_like(moves)
    h = torch.cat((z, seen, moves), -1).to(weight.dtype) @ weight
    return h, *token_frame(frame)


def rms_norm(x: Tensor, gain: Tensor, eps: float = NORM_EPS) -> Tensor:
    """Root-mean-square norm over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4).

    x: (..., D). gain: (D,). Returns (..., D) in x's dtype.
    """
    v = wide(x)
    return (v * torch.rsqrt(v.square().mean(-1, keepdim=True) + eps) * gain.to(v.dtype)).to(x.dtype)


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020, arXiv:2002.05202, eq. 6). x: (..., 2F), gate first. Returns (..., F)."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def rotary_table(n_tokens: int, half: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Cosines and sines of every token's angles (Su et al. 2021, arXiv:2104.09864, eq. 34): (2, N, E / 2)."""
    rate = ROTARY_BASE ** (-torch.arange(half, dtype=dtype, device=device) / half)
    angle = torch.arange(n_tokens, dtype=dtype, device=device)[:, None] * rate
    return torch.stack((angle.cos(), angle.sin()))


def rotary(x: Tensor) -> Tensor:
    """Rotary position embedding over token index, halves paired.

    x: (S, N, H, E), E even. Returns the same shape and dtype.
    """
    v = wide(x)
    half = x.shape[-1] // 2
    table = rotary_table(x.shape[1], half, dtype=v.dtype, device=x.device)
    cos, sin = table[:, :, None, :].unbind()  # (N, 1, E / 2)
    a, b = v.unflatten(-1, (2, -1)).unbind(-2)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -2).flatten(-2).to(x.dtype)


def causal_attention(qkv: Tensor, q_gain: Tensor, k_gain: Tensor) -> Tensor:
    """Causal softmax attention over tokens with QK-norm and rotary positions inside.

    qkv: (S, N, 3, H, E), queries, keys and values as one projection makes them, any strides. q_gain, k_gain: (E,).
    Returns (S, N, H, E) in qkv's dtype.
    """
    q, k, v = qkv.unbind(2)
    q, k = rotary(rms_norm(q, q_gain)), rotary(rms_norm(k, k_gain))
    scores = torch.einsum("snhe,smhe->shnm", wide(q), wide(k)) * q.shape[-1] ** -0.5
    hidden = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).triu(1)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("shnm,smhe->snhe", weights, wide(v)).to(v.dtype)


def feature_attention(
    qkv: Tensor,
    q_gain: Tensor,
    k_gain: Tensor,
    *,
    variates: int,
    present: Tensor | None = None,
) -> Tensor:
    """Attention over the variates of an item at one token index: not causal, without positions, with QK-norm.

    qkv: (S, N, 3, H, E), S = items x variates, an item's variates adjacent. present: (S,) bool, false where a variate
    only fills up its item. Returns (S, N, H, E) in qkv's dtype; absent variates receive what they would attend to. A
    lone variate attends to itself alone, so its value is the answer.
    """
    q, k, v = qkv.unbind(2)
    if variates == 1:
        return v
    q, k = rms_norm(q, q_gain), rms_norm(k, k_gain)
    q, k, v = (t.unflatten(0, (-1, variates)) for t in (q, k, v))
    scores = torch.einsum("bvnhe,bwnhe->bnhvw", wide(q), wide(k)) * q.shape[-1] ** -0.5
    if present is not None:
        absent = ~present.unflatten(0, (-1, variates))
        # finite, so that an item without any variate gives numbers and not NaN
        scores = scores.masked_fill(absent[:, None, None, None, :], -1e30)
    return torch.einsum("bnhvw,bwnhe->bvnhe", scores.softmax(-1), wide(v)).to(v.dtype).flatten(0, 1)


def _mean_and_quantiles(raw: Tensor) -> tuple[Tensor, list[Tensor]]:
    """`quantile_outputs` with the quantiles apart: sums over so few levels are faster written out than scanned."""
    mean, median, *gaps = wide(raw).unbind(-1)
    gaps = [F.softplus(gap + GAP_SHIFT) for gap in gaps]
    down, up = [median], [median]
    for gap in gaps[: len(gaps) // 2]:
        down.append(down[-1] - gap)
    for gap in gaps[len(gaps) // 2 :]:
        up.append(up[-1] + gap)
    return mean, [*down[:0:-1], *up]


def quantile_outputs(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and non-crossing quantiles from the head's outputs.

    raw: (..., 1 + Q), Q odd: the mean, the median, (Q - 1) / 2 gaps downwards and as many upwards, softplus making each
    gap positive. Returns mean (...), quantiles (..., Q) in rising order.
    """
    mean, quantiles = _mean_and_quantiles(raw)
    return mean, torch.stack(quantiles, -1)


def octaves(horizon_patches: int) -> list[tuple[range, int]]:
    """The coarse grid: (horizon patches of an octave, every how many tokens it is evaluated), nearest first."""
    grid, start, stride = [], 0, 1
    while start < horizon_patches:
        stop = min(max(1, 2 * start), horizon_patches)
        grid.append((range(start, stop), stride))
        start, stride = stop, min(2 * stride, MAX_STRIDE)
    return grid


def grid_rows(offset: Tensor, n_tokens: int, stride: int) -> Tensor:
    """The tokens at which an octave is evaluated, counted through all series: (S * N / stride,). offset: (S,)."""
    each = stride * torch.arange(n_tokens // stride, device=offset.device)
    before = n_tokens * torch.arange(len(offset), device=offset.device)
    return ((offset.remainder(stride) + before)[:, None] + each).flatten()


def check_grid(
    h: Tensor, weight: Tensor, target: Tensor, loc: Tensor, scale: Tensor, token_weight: Tensor,
    offset: Tensor, levels: Tensor,
) -> None:  # fmt: skip
    """Raise ValueError unless the shapes of `grid_loss` fit one another."""
    series, n_tokens, rank = h.shape
    n_horizon, outputs = weight.shape[0], target.shape[-1] * (1 + len(levels))
    if n_tokens % MAX_STRIDE:
        raise ValueError(f"h must hold a multiple of {MAX_STRIDE} tokens, got {n_tokens}")
    if weight.shape[1:] != (rank, outputs):
        raise ValueError(
            f"weight must be (K, {rank}, {outputs}), got {tuple(weight.shape)}: one output for the mean and "
            "each level, at each step of a patch"
        )
    if target.shape[:2] != (series, n_tokens + n_horizon):
        raise ValueError(
            f"target must be ({series}, {n_tokens + n_horizon}, P), one patch for each token and horizon patch, "
            f"got {tuple(target.shape)}"
        )
    frames = {"loc": loc, "scale": scale, "token_weight": token_weight}
    for name, found, wanted in (
        *((name, tuple(t.shape), (series, n_tokens)) for name, t in frames.items()),
        ("offset", tuple(offset.shape), (series,)),
    ):
        if found != wanted:
            raise ValueError(f"{name} must be {wanted}, got {found}")
    if len(levels) % 2 == 0:
        raise ValueError(f"levels must be odd in number, the median among them, got {len(levels)}")


def pair_loss(raw: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Twice the mean pinball loss of the quantiles plus the Huber loss of the mean, per point, in scales.

    raw: (..., 1 + Q). target: (...), NaN where not scored. levels: (Q,). Returns (...), 0 where not scored.
    """
    mean, quantiles = _mean_and_quantiles(raw)
    known = ~target.isnan()
    y = torch.where(known, target, 0.0)
    pinball = torch.zeros_like(y)
    for level, quantile in zip(levels.unbind(), quantiles, strict=True):
        error = y - quantile
        pinball = pinball + torch.maximum(level * error, (level - 1) * error)
    pinball = pinball * (2 / len(quantiles))
    away = (y - mean).abs()
    near = away.clamp_max(HUBER_DELTA)
    huber = near * (away - near / 2)
    reach = FAR_TARGET / y.abs().clamp_min(FAR_TARGET)
    return torch.where(known, (pinball + MEAN_WEIGHT * huber) * reach, 0.0)


def grid_loss(
    h: Tensor,
    weight: Tensor,
    target: Tensor,
    loc: Tensor,
    scale: Tensor,
    token_weight: Tensor,
    offset: Tensor,
    levels: Tensor,
) -> tuple[Tensor, Tensor]:
    """Loss on a dyadic grid over (token, horizon patch): cost per token grows with the horizon's logarithm.

    h: (S, N, R), head inputs. weight: (K, R, P * (1 + Q)). target: (S, N + K, P), the series itself, NaN where not
    scored; token i's horizon patch k is target patch i + 1 + k. loc, scale, token_weight: (S, N), scale 0 where
    degenerate. offset: (S,) integer in [0, 16), where each series starts on the grid; N is a multiple of 16.
    levels: (Q,). Returns (sum, count), (O,) each: weighted loss and number of scored points of each octave.
    """
    series, n_tokens, _ = h.shape
    patch = target.shape[-1]
    row = torch.arange(series, device=h.device)[:, None]
    # outputs before points, so that the compiler's vectors run along the points of a patch
    by_output = weight.unflatten(-1, (patch, -1)).transpose(-1, -2).flatten(-2)
    sums, counts = [], []
    for ks, stride in octaves(weight.shape[0]):
        start = offset.remainder(stride)[:, None]
        token = start + stride * torch.arange(
            n_tokens // stride, device=h.device
        )  # (S, N / stride)
        k = torch.arange(ks.start, ks.stop, device=h.device)
        raw = torch.einsum("snr,kro->snko", h[row, token], by_output[ks.start : ks.stop])
        raw = raw.unflatten(-1, (-1, patch)).transpose(-1, -2)  # (S, N / stride, k, P, 1 + Q)
        at = token[:, :, None] + 1 + k
        y = wide(target)[row[:, :, None], at]  # (S, N / stride, k, P)
        frame_loc, frame_scale = loc[row, token], scale[row, token]
        importance = token_weight[row, token]
        usable = frame_scale > 0
        unit = torch.where(usable, frame_scale, 1.0)
        z = (y - frame_loc[:, :, None, None]) / unit[:, :, None, None]
        z = torch.where(usable[:, :, None, None], z, float("nan"))
        loss = pair_loss(raw, z, levels.to(z.dtype))
        sums.append((loss.sum((-1, -2)) * importance).sum())
        counts.append(((~z.isnan()).sum((-1, -2)) * importance).sum())
    return torch.stack(sums), torch.stack(counts)
