"""Forecast any series: arrays and frames in, quantiles out.

An item is computed in one of a few fixed shapes, chosen by its own length, variates and horizon alone, beside filler
rows where the batch is not full: on CPU its forecast is the same bits whatever shares its batch.
"""

import math
import operator
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from tinytsm import checkpoint
from tinytsm.config import QUANTILES, TOKEN_MULTIPLE, ModelConfig
from tinytsm.model import Model
from tinytsm.ops import DEGENERATE_ULPS

if TYPE_CHECKING:
    import pandas as pd

    from tinytsm.backtest import Backtest
    from tinytsm.embed import Embedding
    from tinytsm.finetune import FitReport
    from tinytsm.result import Prediction

_MEDIAN = len(QUANTILES) // 2
# Tokens computed at once: enough to keep a CPU's cores busy, small enough for any memory.
_TOKENS_AT_ONCE = 2048
_TOKENS_AT_ONCE_CUDA = 131072


class Item(NamedTuple):
    """One input: `values` (V, T), NaN where missing, in float64; `eps` of the dtype that it came in."""

    values: np.ndarray
    eps: float


class Shape(NamedTuple):
    """A fixed compute shape: rows x tokens, `variates` rows to an item, `extra` missing tokens after the context."""

    tokens: int
    variates: int
    extra: int


def _as_item(value: Any, position: int) -> Item:
    """Check one input. Raises ValueError that names it by its position."""
    name = f"inputs[{position}]"
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold numbers, got dtype {array.dtype}")
    eps = (
        float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else float(np.finfo(float).eps)
    )
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} must have shape (T,) or (V, T), got {array.shape}")
    if array.size == 0:
        raise ValueError(
            f"{name} is empty, shape {array.shape}: a forecast needs at least one step"
        )
    values = np.atleast_2d(array).astype(np.float64, copy=False)
    if np.isinf(values).any():
        row, step = (int(i[0]) for i in np.nonzero(np.isinf(values)))
        raise ValueError(
            f"{name} is infinite at variate {row}, step {step}; write NaN for missing values"
        )
    return Item(values, eps)


def _check_length(prediction_length: Any) -> int:
    try:
        length = operator.index(prediction_length)
    except TypeError:
        raise ValueError(
            f"prediction_length must be an integer, got {prediction_length!r}"
        ) from None
    if length < 1:
        raise ValueError(f"prediction_length must be at least 1, got {length}")
    return length


def _check_levels(quantile_levels: Sequence[float]) -> list[float]:
    levels = [float(level) for level in quantile_levels]
    if not levels:
        raise ValueError("quantile_levels is empty: wanted at least one level")
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"quantile levels must lie strictly between 0 and 1, got {level}")
    return levels


class Centred(NamedTuple):
    """Rows as the model wants them, and what maps its forecasts back: value = origin + x / unit, (S,) each."""

    x: np.ndarray
    origin: np.ndarray
    unit: np.ndarray
    resolution: np.ndarray


def centre(values: np.ndarray, eps: float, length: int) -> Centred:
    """Right-align the newest `length` steps, subtract the first shown value, scale by a power of two.

    values: (V, T) float64. Done in float64, so that a level of 1e9 costs no digits; a power of two keeps the data's
    bits, and keeps squares of 1e30 from overflowing. resolution: what rounding to `eps` had already lost.
    """
    recent = values[:, -length:]
    x = np.full((len(values), length), np.nan, np.float32)
    origin, unit, resolution = (np.zeros(len(values)) for _ in range(3))
    unit[:] = 1.0
    for v, row in enumerate(recent):
        shown = ~np.isnan(row)
        if not shown.any():
            continue
        origin[v] = row[shown][0]
        # halves, because the difference of two large numbers may overflow
        half = row / 2 - origin[v] / 2
        largest = np.nanmax(np.abs(half))
        if largest > 0:
            # 2^1020 at most: the smallest numbers have no representable inverse
            unit[v] = math.ldexp(1.0, min(1020, -int(np.frexp(largest)[1])))
        x[v, length - len(row) :] = half * unit[v]
        unit[v] /= 2
        resolution[v] = min(1e30, DEGENERATE_ULPS * eps * abs(origin[v]) * unit[v])
    return Centred(x, origin, unit, resolution)


def interpolate_levels(quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """Quantiles at any levels from those the model is trained on.

    quantiles: (..., Q) at QUANTILES. Linear in the normal score of the level, so that the tails go on as a normal's
    would; rising in the level wherever the input is. Returns (..., len(levels)).
    """
    score = NormalDist().inv_cdf
    knots = [score(q) for q in QUANTILES]
    columns = []
    for level in levels:
        if level in QUANTILES:
            columns.append(quantiles[..., QUANTILES.index(level)])
            continue
        z = score(level)
        i = min(max(1, int(np.searchsorted(knots, z))), len(knots) - 1)
        low, high = quantiles[..., i - 1], quantiles[..., i]
        columns.append(low + (high - low) * ((z - knots[i - 1]) / (knots[i] - knots[i - 1])))
    return torch.stack(columns, -1)


class TinyTSM:
    """A trained model that forecasts. The method names follow Chronos.

    `predict_quantiles` takes arrays, `predict_df` a long data frame.
    """

    def __init__(self, model: Model, *, device: torch.device | str = "cpu"):
        """model: as `checkpoint.load_model` returns it."""
        self.device = torch.device(device)
        self.model = model.to(self.device)

    @classmethod
    def from_pretrained(
        cls, path: str | Path = "nano", *, device: str = "auto", device_map: str | None = None
    ) -> Self:
        """A shipped model by its name, the model of a checkpoint folder, or of the newest checkpoint of a run.

        device: `auto` (the GPU if there is one), `cpu`, `cuda`, `cuda:1`. device_map: Chronos' word for it; wins where
        given. Raises CheckpointError, a ValueError, where there is no usable checkpoint.
        """
        device = device if device_map is None else device_map
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(checkpoint.load_model(path), device=device)

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def context_length(self) -> int:
        """Steps of history that a forecast looks at, at most."""
        return self.config.context_length

    def predict_quantiles(
        self,
        inputs: Any,
        prediction_length: int,
        quantile_levels: Sequence[float] = QUANTILES,
    ) -> tuple[Tensor | list[Tensor], Tensor | list[Tensor]]:
        """Quantiles and mean of the next `prediction_length` steps of each input.

        inputs: an array or tensor (T,), (n, T) or (n, V, T), or a list of arrays (T,) or (V, T) of any lengths; NaN
        where missing, oldest value first; the variates of an item are forecast together. quantile_levels: any levels
        in (0, 1), in any order.
        Returns quantiles (n, H, L) and mean (n, H), float64, or lists of (V, H, L) and (V, H) if an input has variates.
        An input without any observed value is forecast as 0, a constant one as its constant.
        Raises ValueError for empty, infinite or non-numeric inputs and for lengths and levels out of range.
        """
        length, levels = _check_length(prediction_length), _check_levels(quantile_levels)
        if isinstance(inputs, (np.ndarray, Tensor)):
            inputs = list(inputs) if inputs.ndim > 1 else [inputs]
        items = [_as_item(value, i) for i, value in enumerate(inputs)]
        if not items:
            raise ValueError("inputs is empty: wanted at least one series")
        multivariate = any(np.ndim(value) == 2 for value in inputs)
        quantiles = [torch.empty(0)] * len(items)
        mean = [torch.empty(0)] * len(items)
        for shape, members in self._by_shape(items, length).items():
            rows = max(self._rows(shape), shape.variates)
            at_once = rows // shape.variates
            for start in range(0, len(members), at_once):
                chunk = members[start : start + at_once]
                for i, q, m in self._forecast([(i, items[i]) for i in chunk], shape, rows, length):
                    quantiles[i], mean[i] = interpolate_levels(q, levels), m
        if multivariate:
            return quantiles, mean
        return torch.cat(quantiles), torch.cat(mean)

    def predict_df(self, df: "pd.DataFrame", **options: Any) -> "pd.DataFrame":
        """Forecast every series of a long frame; see `tinytsm.frames.predict_frame` for columns and options."""
        from tinytsm.frames import predict_frame

        return predict_frame(self, df, **options)

    # -- shapes

    def _rows(self, shape: Shape) -> int:
        at_once = _TOKENS_AT_ONCE if self.device.type == "cpu" else _TOKENS_AT_ONCE_CUDA
        return max(1, at_once // shape.tokens // shape.variates) * shape.variates

    def _extra(self, length: int) -> int:
        """Missing tokens to append, so that the last of them reaches a horizon beyond one token's."""
        beyond = math.ceil(length / self.config.patch) - self.config.horizon_patches
        return max(0, min(beyond, self.config.horizon_patches, self.config.context_patches // 2))

    def _by_shape(self, items: list[Item], length: int) -> dict[Shape, list[int]]:
        config, extra = self.config, self._extra(length)
        groups: dict[Shape, list[int]] = {}
        for i, item in enumerate(items):
            patches = math.ceil(item.values.shape[1] / config.patch) + extra
            tokens = TOKEN_MULTIPLE if patches <= TOKEN_MULTIPLE else config.context_patches
            variates = 1 << (len(item.values) - 1).bit_length()
            groups.setdefault(
                Shape(min(tokens, config.context_patches), variates, extra), []
            ).append(i)
        return groups

    # -- computing

    def _forecast(
        self, chunk: list[tuple[int, Item]], shape: Shape, rows: int, length: int
    ) -> list[tuple[int, Tensor, Tensor]]:
        """(position, quantiles (V, H, Q), mean (V, H)) of the items of one chunk, in the units of the series."""
        histories = [item.values for _, item in chunk]
        eps = [item.eps for _, item in chunk]
        stage_length = (self.config.horizon_patches + shape.extra) * self.config.patch
        done, quantiles, means = 0, [], []
        while done < length:
            steps = min(stage_length, length - done)
            stage = self._stage(histories, eps, shape, rows, steps)
            quantiles.append([q for q, _ in stage])
            means.append([m for _, m in stage])
            done += steps
            if done < length:
                histories = [
                    np.concatenate((history, q[..., _MEDIAN].numpy()), 1)
                    for history, (q, _) in zip(histories, stage, strict=True)
                ]
        return [
            (
                position,
                _accumulate(
                    torch.cat([q[j] for q in quantiles], 1),
                    patch=self.config.patch,
                    roll=self.config.horizon_length,
                    stage=stage_length,
                ),
                torch.cat([m[j] for m in means], 1),
            )
            for j, (position, _) in enumerate(chunk)
        ]

    @torch.no_grad()
    def _stage(
        self, histories: list[np.ndarray], eps: list[float], shape: Shape, rows: int, length: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Forecasts of up to the horizon of the last missing token, in one pass."""
        config = self.config
        context = (shape.tokens - shape.extra) * config.patch
        x = np.full((rows, shape.tokens * config.patch), np.nan, np.float32)
        resolution = np.zeros(rows, np.float32)
        present = np.zeros(rows, bool)
        centred = [centre(v, e, context) for v, e in zip(histories, eps, strict=True)]
        for j, one in enumerate(centred):
            at = slice(j * shape.variates, j * shape.variates + len(one.x))
            x[at, :context], resolution[at], present[at] = one.x, one.resolution, True
        tokens = self.model(
            torch.from_numpy(x).to(self.device),
            torch.from_numpy(resolution).to(self.device),
            shape.variates,
            torch.from_numpy(present).to(self.device) if shape.variates > 1 else None,
        )
        mean, quantiles = self._read(tokens, shape, math.ceil(length / config.patch))
        mean, quantiles = mean[:, :length].cpu().double(), quantiles[:, :length].cpu().double()
        result = []
        for j, one in enumerate(centred):
            at = slice(j * shape.variates, j * shape.variates + len(one.x))
            origin, unit = torch.from_numpy(one.origin), torch.from_numpy(one.unit)
            most = torch.finfo(torch.float64).max
            q = origin[:, None, None] + quantiles[at] / unit[:, None, None]
            m = origin[:, None] + mean[at] / unit[:, None]
            result.append((q.clamp(-most, most), m.clamp(-most, most)))
        return result

    def _read(self, tokens: Any, shape: Shape, patches: int) -> tuple[Tensor, Tensor]:
        """Mean and quantiles of the next patches: the newest token's, then those of the last missing one."""
        newest = shape.tokens - shape.extra - 1
        near = min(patches, self.config.horizon_patches)
        mean, quantiles = self.model.forecast(tokens, newest, near)
        if patches == near:
            return mean, quantiles
        # the last missing token says nothing of the patches that it stands on
        far_mean, far = self.model.forecast(tokens, shape.tokens - 1, patches - shape.extra)
        start = (near - shape.extra) * self.config.patch
        return (
            torch.cat((mean, far_mean[:, start:]), 1),
            torch.cat((quantiles, far[:, start:]), 1),
        )

    # -- what else the forecasts are good for

    # what `fit` saw, on a model that it returned
    fit_report: "FitReport | None" = None

    def forecast(
        self, x: Any, horizon: int, quantile_levels: Sequence[float] = QUANTILES
    ) -> "Prediction":
        """Forecast one series, or many: numbers in, NumPy arrays out; see `tinytsm.result.forecast`."""
        from tinytsm.result import forecast

        return forecast(self, x, horizon, quantile_levels)

    def embed(self, inputs: Any) -> "list[Embedding]":
        """What the network makes of each input, token by token; see `tinytsm.embed.embed`."""
        from tinytsm.embed import embed

        return embed(self, inputs)

    def anomaly_scores(self, data: Any, **options: Any) -> "pd.DataFrame":
        """How unlikely each value was in the light of its own past; see `tinytsm.anomalies.anomaly_scores`."""
        from tinytsm.anomalies import anomaly_scores

        return anomaly_scores(self, data, **options)

    def impute(self, data: Any, **options: Any) -> "pd.DataFrame":
        """Fill missing values from both sides; see `tinytsm.impute.impute`."""
        from tinytsm.impute import impute

        return impute(self, data, **options)

    def backtest(self, data: Any, horizon: int, **options: Any) -> "Backtest":
        """Forecast the past from rolling origins and score it; see `tinytsm.backtest.backtest`."""
        from tinytsm.backtest import backtest

        return backtest(self, data, horizon, **options)

    def fit(self, inputs: Any, prediction_length: int, **options: Any) -> "TinyTSM":
        """A model fine-tuned on the inputs, or this one where that does not help; see `tinytsm.finetune.fit`."""
        from tinytsm.finetune import fit

        model, report = fit(self, inputs, prediction_length, **options)
        tuned = TinyTSM(model, device=self.device)
        tuned.fit_report = report
        return tuned

    def save_pretrained(self, path: str | Path) -> Path:
        """Write the weights as a checkpoint folder that `from_pretrained` reads; an older one there is replaced.

        Raises ValueError where the folder holds something else.
        """
        self.check_folder(path)
        return checkpoint.save(Path(path), self.config, self.model.state_dict())

    @staticmethod
    def check_folder(path: str | Path) -> None:
        """Raise ValueError unless `save_pretrained` may write there: asked before long work."""
        path = Path(path)
        replaceable = path.is_dir() and (
            (path / "config.json").is_file() or not any(path.iterdir())
        )
        if path.exists() and not replaceable:
            raise ValueError(f"{path} is there and is no checkpoint; name a new folder")

    def centred(self, inputs: Any, length: int) -> list[Centred]:
        """The newest `length` steps of each input as the network reads them, right-aligned; checked as elsewhere."""
        return [centre(*_as_item(value, i), length) for i, value in enumerate(inputs)]


def _accumulate(quantiles: Tensor, *, patch: int, roll: int, stage: int) -> Tensor:
    """Make the spread around the median reflect how far ahead each step is.

    quantiles: (V, H, Q). From `stage` to `stage` the forecast took its own medians for observations, so the spread of
    the stage before is added: independent errors, in quadrature. And after each `roll` steps, where another token
    takes over, the spread is at least the mean of the last patch before. Returns (V, H, Q).
    """
    length = quantiles.shape[1]
    if length <= roll:
        return quantiles
    # in quarters, so that differences of the largest numbers stay finite
    middle = quantiles[..., _MEDIAN, None] / 4
    spread = quantiles / 4 - middle
    for start in range(roll, length, roll):
        before = spread[:, start - patch : start].mean(1, keepdim=True)
        block = spread[:, start : start + roll]
        if start % stage == 0:
            spread[:, start : start + stage] = torch.sign(before) * torch.hypot(
                spread[:, start : start + stage], before
            )
        wider = torch.where(before > 0, torch.maximum(block, before), torch.minimum(block, before))
        spread[:, start : start + roll] = wider
    most = torch.finfo(quantiles.dtype).max / 4
    return (middle + spread).clamp(-most, most) * 4
