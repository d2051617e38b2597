"""Forecast any series: arrays and frames in, quantiles out.

Inputs are checked and cut to what can matter (`inputs`), become views of themselves (`inference`), which run through
the network in fixed shapes (`forward`) and are put together again. On CPU an item's forecast is the same bits whatever
shares its call.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, get_args

import numpy as np
import torch
from torch import Tensor

from tinytsm import checkpoint, ops
from tinytsm.config import QUANTILES, ModelConfig
from tinytsm.device import pick_device
from tinytsm.forward import Forward
from tinytsm.inference import forecast_items
from tinytsm.inputs import Item, as_inputs, as_item, check_horizon, check_levels
from tinytsm.model import Model
from tinytsm.options import ForecastOptions, OptionChanges
from tinytsm.quantiles import as_counts, interpolate_levels, zero_below

if TYPE_CHECKING:
    import pandas as pd

    from tinytsm.backtest import Backtest
    from tinytsm.embed import Embedding
    from tinytsm.finetune import FitReport
    from tinytsm.result import Prediction

Precision = Literal["auto", "float32", "bfloat16"]
# Variates that attend to each other at most; an item with more is cut into even pieces of neighbours.
MAX_VARIATES = 64
# Numbers, read and forecast, and series that a stream holds at once.
_NUMBERS_AT_ONCE = 1 << 23
_SERIES_AT_ONCE = 1024


class TinyTSM:
    """A trained model that forecasts.

    `predict_quantiles` takes arrays, `predict_stream` any number of them one by one, `predict_df` a long data frame. Methods
    that Chronos has too are called as there, with a `prediction_length`; the others say `horizon`.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: torch.device | str = "cpu",
        options: ForecastOptions | None = None,
    ):
        """model: as `checkpoint.load_model` returns it. options: the defaults of every forecasting method."""
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.options = options or ForecastOptions()

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.model.parameters())
        return (
            f"TinyTSM({count:,} parameters, context of {self.context_length} steps, {self.device})"
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path = "nano",
        *,
        device: str | torch.device = "auto",
        device_map: str | torch.device | None = None,
        precision: Precision = "auto",
    ) -> Self:
        """A shipped model by its name, the model of a checkpoint folder, or of the newest checkpoint of a run.

        device: `auto` (the GPU if there is one), `cpu`, `cuda`, `cuda:1`. device_map: Chronos' word for it; wins where
        given. precision: what the blocks' matmuls run in; `auto` is bfloat16 where the device is fast at it. Raises
        CheckpointError, a ValueError, where there is no usable checkpoint, and ValueError for a device that is not there.
        """
        place = pick_device(device if device_map is None else device_map)
        if precision not in get_args(Precision):
            raise ValueError(
                f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}"
            )
        model = checkpoint.load_model(path)
        model.block_dtype = (
            ops.pick_precision(place) if precision == "auto" else getattr(torch, precision)
        )
        return cls(model, device=place)

    @property
    def config(self) -> ModelConfig:
        """Sizes of the network."""
        return self.model.config

    @property
    def context_length(self) -> int:
        """Steps of history that one pass sees; strides and seasons look back `options.longest_stride` times as far."""
        return self.config.context_length

    def with_options(self, **changes: Unpack[OptionChanges]) -> Self:
        """The same model with other defaults; see `ForecastOptions`. Raises ValueError for what they cannot be."""
        changed = type(self)(
            self.model, device=self.device, options=dataclasses.replace(self.options, **changes)
        )
        changed.fit_report = self.fit_report
        return changed

    def predict_quantiles(
        self,
        inputs: Any,
        prediction_length: int,
        quantile_levels: Sequence[float] = QUANTILES,
        **changes: Unpack[OptionChanges],
    ) -> tuple[Tensor | list[Tensor], Tensor | list[Tensor]]:
        """Quantiles and mean of the next `prediction_length` steps of each input.

        inputs: an array or tensor (T,), (n, T) or (n, V, T), or a list of arrays (T,) or (V, T) of any lengths; NaN
        where missing, oldest value first; the variates of an item are forecast together. quantile_levels: any levels
        in (0, 1), in any order. changes: of the options (`ForecastOptions`), for this call.
        Returns quantiles (n, H, L) and mean (n, H), float64, or lists of (V, H, L) and (V, H) if an input has variates.
        A constant input is forecast as its constant, a variate without any observed value beside others as 0.
        Raises ValueError for inputs that are empty, infinite, not numeric or without any observed value, and for lengths and
        levels out of range.
        """
        inputs = as_inputs(inputs)
        length, levels = check_horizon(prediction_length), check_levels(quantile_levels)
        options = dataclasses.replace(self.options, **changes)
        forecasts = list(self._stream(inputs, length, levels, options))
        if not forecasts:
            raise ValueError("inputs is empty: wanted at least one series")
        quantiles, mean = [q for q, _ in forecasts], [m for _, m in forecasts]
        if all(m.ndim == 1 for m in mean):
            return torch.stack(quantiles), torch.stack(mean)
        alone = [m.ndim == 1 for m in mean]
        return (
            [q[None] if one else q for q, one in zip(quantiles, alone, strict=True)],
            [m[None] if one else m for m, one in zip(mean, alone, strict=True)],
        )

    def predict_with_covariates(
        self,
        inputs: Iterable[Any],
        covariates: Iterable[Any],
        prediction_length: int,
        quantile_levels: Sequence[float] = QUANTILES,
        **changes: Unpack[OptionChanges],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Forecast series of which other columns are known, in the past and in the steps to come.

        inputs: n series (T,), as `predict_quantiles` takes them in a list. covariates: of each an array (T + H,) or (T + H,
        C) of numbers, NaN where missing, each as one moves (`tinytsm.exogenous`). changes: of the options, for this call.
        Returns quantiles (n, H, L), mean (n, H), float64, and the weight (n,) that the covariates have in each forecast: 0
        where they did not improve forecasts of the newest past, 1 where all counts. Takes the time of up to eighteen
        forecasts of each series. Raises ValueError as `predict_quantiles`, and for covariates of another length.
        """
        from tinytsm import exogenous

        length, levels = check_horizon(prediction_length), check_levels(quantile_levels)
        contexts, known = exogenous.check(inputs, covariates, length)
        return exogenous.predict(self.with_options(**changes), contexts, known, length, levels)

    def predict_stream(
        self,
        inputs: Iterable[Any],
        prediction_length: int,
        quantile_levels: Sequence[float] = QUANTILES,
        **changes: Unpack[OptionChanges],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Quantiles and mean of each input in turn, in memory that does not grow with their number.

        inputs: an iterable, read as forecasts are taken, of what `predict_quantiles` takes in a list; a few hundred
        inputs are read ahead. Yields quantiles (H, L) and mean (H,) for an input (T,), and (V, H, L) and (V, H) for
        (V, T). Arguments are checked at once; an input that cannot be used raises ValueError when its turn comes.
        """
        length, levels = check_horizon(prediction_length), check_levels(quantile_levels)
        options = dataclasses.replace(self.options, **changes)
        return self._stream(inputs, length, levels, options, in_turn=True)

    def predict_df(
        self,
        df: "pd.DataFrame",
        *,
        prediction_length: int,
        quantile_levels: Sequence[float] = QUANTILES,
        id_column: str | None = "item_id",
        timestamp_column: str | None = "timestamp",
        target: str | Sequence[str] | None = "target",
        freq: str | int | None = None,
        fill: float | None = None,
        context_length: int | None = None,
        future_df: "pd.DataFrame | None" = None,
        mean: bool = False,
        **changes: Unpack[OptionChanges],
    ) -> "pd.DataFrame":
        """Forecast every series of a long frame, or of any table where the columns are None.

        Returns the columns of Chronos-2, with `mean` that of the mean too; see `tinytsm.frames.predict_frame`. changes: of the options, for this call.
        """
        from tinytsm.frames import predict_frame

        return predict_frame(
            self.with_options(**changes),
            df,
            prediction_length=prediction_length,
            quantile_levels=quantile_levels,
            id_column=id_column,
            timestamp_column=timestamp_column,
            target=target,
            freq=freq,
            fill=fill,
            context_length=context_length,
            future_df=future_df,
            mean=mean,
        )

    # -- computing

    def _stream(
        self,
        inputs: Iterable[Any],
        length: int,
        levels: Sequence[float],
        options: ForecastOptions,
        *,
        in_turn: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """in_turn: an input that cannot be used is named when those before it are forecast, not when it is read."""
        strategy = options.strategy
        forward = Forward(
            self.model,
            device=self.device,
            batch_size=None if options.batch_size == "auto" else options.batch_size,
            symmetric=strategy.symmetry,
        )
        for chunk in self._chunks(inputs, length, options, in_turn=in_turn):
            forecasts = forecast_items(
                [piece for item, _ in chunk for piece in _pieces(item)],
                length,
                forward=forward,
                strategy=strategy,
                zeros=options.nonnegative is None,
            )
            cut = torch.from_numpy(
                np.concatenate([zero_below(item.values, options.nonnegative) for item, _ in chunk])
            )
            quantiles = as_counts(
                interpolate_levels(torch.cat([q for q, _ in forecasts]), levels),
                zero_below=cut,
                integer=options.integer,
            )
            # a mean may be anything from zero up
            mean = as_counts(
                torch.cat([m for _, m in forecasts]),
                zero_below=cut.clamp_max(0.0),
                integer=False,
            )
            # they hold whole batches, and the next ones are computed before they would be let go
            del forecasts
            # of each item its own rows, copied: who keeps one item need not keep its mates
            sizes = [len(item.values) for item, _ in chunk]
            for (_, single), q, m in zip(
                chunk, quantiles.split(sizes), mean.split(sizes), strict=True
            ):
                yield (q[0].clone(), m[0].clone()) if single else (q.clone(), m.clone())

    def _chunks(
        self, inputs: Iterable[Any], length: int, options: ForecastOptions, *, in_turn: bool
    ) -> Iterator[list[tuple[Item, bool]]]:
        """Checked inputs, and whether each is a series (T,), as many at a time as memory should hold."""
        newest = self.context_length * options.longest_stride
        chunk: list[tuple[Item, bool]] = []
        numbers = 0
        for position, value in enumerate(inputs):
            try:
                item, single = as_item(
                    value, position, newest=newest, longest_tail=self.context_length // 2
                )
            except ValueError:
                if in_turn and chunk:
                    yield chunk
                raise
            chunk.append((item, single))
            variates, steps = item.values.shape
            numbers += variates * (steps + length * (len(QUANTILES) + 1))
            if numbers >= _NUMBERS_AT_ONCE or len(chunk) == _SERIES_AT_ONCE:
                yield chunk
                chunk, numbers = [], 0
        if chunk:
            yield chunk

    # -- what else the forecasts are good for

    # what `fit` saw, on a model that it returned
    fit_report: "FitReport | None" = None

    def forecast(
        self,
        x: Any,
        horizon: int,
        quantile_levels: Sequence[float] = QUANTILES,
        **changes: Unpack[OptionChanges],
    ) -> "Prediction":
        """Forecast one series, or many: numbers in, NumPy arrays out; see `tinytsm.result.forecast`.

        changes: of the options (`ForecastOptions`), for this call.
        """
        from tinytsm.result import forecast

        return forecast(self.with_options(**changes), x, horizon, quantile_levels)

    def embed(self, inputs: Any) -> "list[Embedding]":
        """What the network makes of each input, token by token; see `tinytsm.embed.embed`."""
        from tinytsm.embed import embed

        return embed(self, inputs)

    def anomaly_scores(
        self,
        data: Any,
        *,
        step: int = 8,
        warmup: int = 64,
        threshold: float = 0.001,
        id_column: str | None = "item_id",
        timestamp_column: str | None = "timestamp",
        target: str | list[str] | None = "target",
        freq: str | int | None = None,
        **changes: Unpack[OptionChanges],
    ) -> "pd.DataFrame":
        """How unlikely each value was in the light of its own past; see `tinytsm.anomalies.anomaly_scores`.

        changes: of the options, for this call; zero is no floor unless `nonnegative` is.
        """
        from tinytsm.anomalies import anomaly_scores, unfloored

        return anomaly_scores(
            unfloored(self.with_options(**changes)),
            data,
            step=step,
            warmup=warmup,
            threshold=threshold,
            id_column=id_column,
            timestamp_column=timestamp_column,
            target=target,
            freq=freq,
        )

    def impute(
        self,
        data: Any,
        *,
        quantile_levels: Sequence[float] = (0.1, 0.9),
        id_column: str | None = "item_id",
        timestamp_column: str | None = "timestamp",
        target: str | list[str] | None = "target",
        freq: str | int | None = None,
        **changes: Unpack[OptionChanges],
    ) -> "pd.DataFrame":
        """Fill missing values from both sides; see `tinytsm.impute.impute`. changes: of the options, for this call."""
        from tinytsm.impute import impute

        return impute(
            self.with_options(**changes),
            data,
            quantile_levels=quantile_levels,
            id_column=id_column,
            timestamp_column=timestamp_column,
            target=target,
            freq=freq,
        )

    def backtest(
        self,
        data: Any,
        horizon: int,
        *,
        windows: int = 5,
        step: int | None = None,
        season: int | None = None,
        context_length: int | None = None,
        quantile_levels: Sequence[float] = QUANTILES,
        id_column: str | None = "item_id",
        timestamp_column: str | None = "timestamp",
        target: str | list[str] | None = "target",
        freq: str | int | None = None,
        fill: float | None = None,
        covariates: Sequence[str] = (),
        **changes: Unpack[OptionChanges],
    ) -> "Backtest":
        """Forecast the past from rolling origins and score it; see `tinytsm.backtest.backtest`.

        changes: of the options, for this call.
        """
        from tinytsm.backtest import backtest

        return backtest(
            self.with_options(**changes),
            data,
            horizon,
            windows=windows,
            step=step,
            season=season,
            context_length=context_length,
            quantile_levels=quantile_levels,
            id_column=id_column,
            timestamp_column=timestamp_column,
            target=target,
            freq=freq,
            fill=fill,
            covariates=covariates,
        )

    def fit(
        self,
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
    ) -> Self:
        """A model fine-tuned on the inputs, or this one where that does not help; see `tinytsm.finetune.fit`."""
        from tinytsm.finetune import fit

        model, report = fit(
            self,
            inputs,
            prediction_length,
            mode=mode,
            steps=steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            rank=rank,
            check_every=check_every,
            patience=patience,
            seed=seed,
            progress=progress,
        )
        tuned = type(self)(model, device=self.device, options=self.options)
        tuned.fit_report = report
        return tuned

    def save_pretrained(self, path: str | Path) -> Path:
        """Write the weights as a checkpoint folder that `from_pretrained` reads; an older one there is replaced.

        Raises ValueError where the folder holds anything else or cannot be made, OSError where the disk fails.
        """
        return checkpoint.save(Path(path), self.config, self.model.state_dict())

    @staticmethod
    def check_folder(path: str | Path) -> None:
        """Raise ValueError unless `save_pretrained` may write there: asked before long work."""
        checkpoint.check_target(Path(path))


def _pieces(item: Item) -> list[Item]:
    """An item's variates, in even pieces of at most MAX_VARIATES."""
    count = -(-len(item.values) // MAX_VARIATES)
    return [item._replace(values=values) for values in np.array_split(item.values, count)]
