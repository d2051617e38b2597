"""Fine-tune on a user's series; the result is never worse on what was held back, because it is then not used.

The newest steps of each series are held back. Training (the trainer's coarse-grid loss, on windows that end before
them) is checked against rolling forecasts of what was held back, stops when they no longer improve, and the best
weights seen are returned. Zero-shot weights are one of the candidates, so a fit that does not help changes nothing.

`lora` (Hu et al. 2021, arXiv:2106.09685) learns a low-rank addition to each matrix of the blocks and is merged into it
at the end: the same architecture, fewer ways to overfit. `full` learns every weight.
"""

import copy
import math
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tinytsm import metrics
from tinytsm.config import QUANTILES, TOKEN_MULTIPLE
from tinytsm.inputs import as_item, as_series, check_count
from tinytsm.model import Model
from tinytsm.rows import centre

if TYPE_CHECKING:
    from tinytsm.forecast import TinyTSM

MODES = ("full", "lora")
_LEARNING_RATE = {"full": 1e-4, "lora": 1e-3}
_WARMUP = 10
# Held-back windows of a series, and of all series: enough to tell gain from luck, few enough to check often.
_WINDOWS = 4
_WINDOWS_IN_ALL = 256
# A gain smaller than this on a few windows is luck, and zero-shot weights serve other series too.
_LEAST_GAIN = 0.01


class FitReport(NamedTuple):
    """What a fit did. Losses are mean pinball losses of held-back forecasts, in mean steps of their series.

    kept: `tuned` or `zero-shot`. best_step: of the best tuned weights. steps: taken in all. trainable: how many
    weights were learnt. history: (step, held-back loss) of each check, step 0 being zero-shot.
    """

    kept: str
    zero_shot_loss: float
    tuned_loss: float
    best_step: int
    steps: int
    trainable: int
    history: list[tuple[int, float]]


class LowRank(nn.Module):
    """weight + out @ into, the two factors being all that is learnt."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator):
        super().__init__()
        rows, columns = weight.shape
        into = torch.randn(rank, columns, generator=generator) / math.sqrt(columns)
        self.into = nn.Parameter(into.to(weight))
        # zero, so that the first step starts from the model as it is
        self.out = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The matrix with its addition, in its shape."""
        return weight + self.out @ self.into


def add_lora(model: Model, rank: int, generator: torch.Generator) -> None:
    """Freeze the model and give each matrix of its blocks a trainable low-rank addition, zero at the start."""
    model.requires_grad_(False)
    for module in model.blocks.modules():
        if type(module) is nn.Linear:
            addition = LowRank(module.weight, rank, generator)
            parametrize.register_parametrization(module, "weight", addition)


@torch.no_grad()
def merged(model: Model) -> Model:
    """A plain model whose matrices hold the low-rank additions: frozen, in evaluation mode, apart from the original."""
    plain = Model.without_weights(model.config, model.levels.device)
    # by attribute, not by state: a matrix with an addition is computed when it is read
    weights = {name: attrgetter(name)(model).detach().clone() for name in plain.state_dict()}
    plain.load_state_dict(weights, assign=True)
    plain.block_dtype = model.block_dtype
    return plain.requires_grad_(False).eval()


def fit(
    forecaster: "TinyTSM",
    inputs: Any,
    prediction_length: int,
    *,
    mode: str = "full",
    steps: int = 200,
    learning_rate: float | None = None,
    batch_size: int = 32,
    rank: int = 8,
    check_every: int = 20,
    patience: int = 3,
    seed: int = 0,
    progress: Callable[[int, float], object] = lambda step, loss: None,
) -> tuple[Model, FitReport]:
    """Fine-tune on series; returns the model to use and what happened.

    inputs: one series (T,), or a list of series (T,) or items (V, T), NaN where missing; variates are learnt as series
    of their own. A series takes part in the check if it is at least three horizons long. prediction_length: the horizon
    that is to become better.
    mode: `full` or `lora`; rank: of the latter. steps: at most; patience: checks without a gain before it stops.
    progress: called with (step, held-back loss) at each check. The same seed gives the same weights on CPU.
    Raises ValueError for settings out of range, for inputs that cannot be forecast, and where no series is long enough
    to hold something back.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    prediction_length = check_count(prediction_length, "prediction_length")
    steps, batch_size = check_count(steps, "steps"), check_count(batch_size, "batch_size")
    rank, check_every = check_count(rank, "rank"), check_count(check_every, "check_every")
    patience = check_count(patience, "patience")
    rate = _LEARNING_RATE[mode] if learning_rate is None else learning_rate
    if not 0 < rate < math.inf:
        raise ValueError(f"learning_rate must be a number above 0, got {learning_rate!r}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must lie between 0 and 2^63, got {seed!r}")
    rows = []
    for position, value in enumerate(as_series(inputs, "inputs")[0]):
        # all of its steps
        item, _ = as_item(value, position, newest=sys.maxsize, longest_tail=sys.maxsize)
        rows += list(item.values)
    train, checks = split(rows, prediction_length)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    model = copy.deepcopy(forecaster.model).requires_grad_(True)
    if mode == "lora":
        add_lora(model, rank, generator)
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)

    zero_shot = held_back_loss(forecaster, checks, prediction_length)
    progress(0, zero_shot)
    history, best, best_step, best_model, step = [(0, zero_shot)], math.inf, 0, None, 0
    while step < steps and step - best_step < patience * check_every:
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / _WARMUP)
        loss = training_loss(forecaster, model, windows(forecaster, train, batch_size, rng))
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % check_every and step < steps:
            continue
        candidate = merged(model)
        tuned = type(forecaster)(candidate, device=forecaster.device, options=forecaster.options)
        held_back = held_back_loss(tuned, checks, prediction_length)
        history.append((step, held_back))
        progress(step, held_back)
        # NaN, after a step too large, is no gain
        if held_back < best:
            best, best_step, best_model = held_back, step, candidate
    helped = best_model is not None and best < (1 - _LEAST_GAIN) * zero_shot
    report = FitReport(
        "tuned" if helped else "zero-shot",
        zero_shot,
        best,
        best_step,
        step,
        sum(p.numel() for p in learnt),
        history,
    )
    return (best_model if helped and best_model is not None else forecaster.model), report


class Check(NamedTuple):
    """One held-back window: the forecast of `actual` from `context`, errors counted in `unit`."""

    context: np.ndarray
    actual: np.ndarray
    unit: float


def split(rows: list[np.ndarray], horizon: int) -> tuple[list[np.ndarray], list[Check]]:
    """What to learn from, and what to check on: the newest windows of each series, at most a third of it."""
    train, checks = [], []
    for row in rows:
        count = min(_WINDOWS, len(row) // (3 * horizon))
        start = len(row) - count * horizon
        seen = ~np.isnan(row[:start])
        if seen.sum() > 1:
            train.append(row[:start])
        unit = metrics.seasonal_error(row[:start], 1)
        for origin in range(start, len(row), horizon):
            actual = row[origin : origin + horizon]
            if unit > 0 and not np.isnan(actual).all():
                checks.append(Check(row[:origin], actual, unit))
    if not checks:
        longest = max((len(row) for row in rows), default=0)
        raise ValueError(
            f"nothing to check a fit on: the longest of {len(rows)} series has {longest} steps, wanted one of at "
            f"least {3 * horizon} (three horizons) that is not constant"
        )
    # spread over all series where there are too many
    keep = np.unique(np.linspace(0, len(checks) - 1, min(len(checks), _WINDOWS_IN_ALL)).astype(int))
    return train, [checks[i] for i in keep]


def held_back_loss(forecaster: "TinyTSM", checks: list[Check], horizon: int) -> float:
    """Mean pinball loss over windows, steps and levels, each window in the unit of its series."""
    quantiles, _ = forecaster.predict_quantiles([c.context for c in checks], horizon)
    q = np.asarray(quantiles, np.float64)  # (n, H, Q)
    actual = np.stack([c.actual for c in checks])[..., None]
    error = (actual - q) / np.array([c.unit for c in checks])[:, None, None]
    levels = np.array(QUANTILES)
    return float(np.nanmean(np.maximum(levels * error, (levels - 1) * error)))


def windows(
    forecaster: "TinyTSM", train: list[np.ndarray], count: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Training windows that end at random steps: x (S, N P), target (S, N + K, P), resolution (S,)."""
    config = forecaster.config
    longest = max(len(row) for row in train)
    short = longest <= TOKEN_MULTIPLE * config.patch
    tokens = TOKEN_MULTIPLE if short else config.context_patches
    context, future = tokens * config.patch, config.horizon_length
    rows = np.full((count, context + future), np.nan)
    for window, i in zip(rows, rng.integers(len(train), size=count), strict=True):
        row = train[i]
        # the first token needs a past, the last a future where there is one
        stop = int(rng.integers(min(config.patch, len(row) // 2) + 1, len(row) + 1))
        shown = row[max(0, stop - context) : stop + future]
        start = context - min(stop, context)
        window[start : start + len(shown)] = shown
    centred = centre(rows)
    whole = torch.from_numpy(centred.x).to(forecaster.device)
    resolution = torch.from_numpy(centred.resolution).float()
    target = whole.view(count, -1, config.patch)
    return whole[:, :context].contiguous(), target, resolution.to(forecaster.device)


def training_loss(
    forecaster: "TinyTSM", model: Model, batch: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """The trainer's loss: the mean over octaves of the horizon, 0 for one that no series reaches."""
    x, target, resolution = batch
    offset = torch.arange(len(x), device=forecaster.device) % TOKEN_MULTIPLE
    total, count = model.loss(model(x, resolution), target, offset)
    return (total / count.clamp_min(1)).mean()
