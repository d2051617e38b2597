"""The peers, built from their published configurations with random weights, each behind one call.

Sources: Chronos-Bolt, the model cards of amazon/chronos-bolt-{tiny,mini,small} (9M, 21M and 48M parameters on
T5-efficient's shapes) and chronos-forecasting's ChronosBoltConfig; TTM, arXiv:2401.03955 and IBM's notebooks, whose
printed parameter counts the configurations here give exactly: 805,280 for 512-96 and 3,081,120 for 1536-96. Building
one raises ValueError if its parameters do not number what its makers say. AutoETS and Theta are statsforecast's.

Third-party packages are imported when a peer is built, so that a missing one costs its own rows alone.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tinytsm import TinyTSM, ops
from tinytsm.config import PRESETS, QUANTILES
from tinytsm.model import Model
from tinytsm.options import Effort

# What every peer takes and gives: series (B, T) in, forecasts (B, H) or (B, H, Q) on the host out.
Predict = Callable[[np.ndarray], Any]
# The season that the classical models are told: hourly data.
_SEASON = 24


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One model to time.

    package: what must be installed. build: (context, horizon, device) to the call. longest: its longest context, None
    for any. gives: point forecasts or quantiles. sample: of how many series it is timed, None for all.
    """

    name: str
    package: str
    build: Callable[..., Predict]
    gives: str
    parameters: int | None
    longest: int | None = None
    sample: int | None = None


def _count(model: torch.nn.Module, name: str, wanted: int) -> None:
    found = sum(p.numel() for p in model.parameters())
    if found != wanted:
        raise ValueError(f"{name} must have {wanted:,} parameters, got {found:,}")


def _tinytsm(preset: str, *, effort: Effort) -> Peer:
    config = PRESETS[preset]
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Model(config).parameters())

    def build(context: int, horizon: int, device: torch.device) -> Predict:
        network = Model(config, torch.Generator().manual_seed(0)).eval().requires_grad_(False)
        # as `from_pretrained` has it
        network.block_dtype = ops.pick_precision(device)
        model = TinyTSM(network, device=device)
        return lambda series: model.predict_quantiles(series, horizon, effort=effort)[0]

    return Peer(
        name=f"tinytsm {preset}, {effort}",
        package="torch",
        build=build,
        gives=f"{len(QUANTILES)} quantiles, mean",
        parameters=parameters,
        longest=config.context_length,
    )


def _bolt(size: str, *, width: int, layers: int, heads: int, parameters: int) -> Peer:
    def build(context: int, horizon: int, device: torch.device) -> Predict:
        from chronos.chronos_bolt import ChronosBoltModelForForecasting, ChronosBoltPipeline
        from transformers import T5Config

        config = T5Config(
            d_model=width, d_ff=4 * width, d_kv=64, num_layers=layers, num_decoder_layers=layers,
            num_heads=heads, vocab_size=2, pad_token_id=0, eos_token_id=1,
            decoder_start_token_id=0, feed_forward_proj="relu",
        )  # fmt: skip
        config.chronos_config = {
            "context_length": 2048,
            "prediction_length": 64,
            "input_patch_size": 16,
            "input_patch_stride": 16,
            "quantiles": list(QUANTILES),
            "use_reg_token": True,
        }
        model = ChronosBoltModelForForecasting(config).eval().to(device)
        _count(model, f"Chronos-Bolt {size}", parameters)
        pipeline = ChronosBoltPipeline(model)

        def predict(series: np.ndarray) -> Any:
            with warnings.catch_warnings():
                # it recommends at most 64 steps; beyond, it feeds its quantiles back, as users do
                warnings.simplefilter("ignore", UserWarning)
                inputs = torch.from_numpy(series.astype(np.float32))
                return pipeline.predict_quantiles(inputs, prediction_length=horizon)[0].cpu()

        return predict

    return Peer(
        name=f"Chronos-Bolt {size}",
        package="chronos",
        build=build,
        gives="9 quantiles, mean",
        parameters=parameters,
        longest=2048,
    )


def _ttm(context_length: int, *, width: int, decoder: int, patch: int, parameters: int) -> Peer:
    name = f"TTM {context_length}-96"

    def build(context: int, horizon: int, device: torch.device) -> Predict:
        from tsfm_public.models.tinytimemixer import TinyTimeMixerConfig, TinyTimeMixerForPrediction

        if horizon != 96:
            raise ValueError(f"{name} forecasts 96 steps, got horizon {horizon}")
        config = TinyTimeMixerConfig(
            context_length=context_length, prediction_length=96, num_input_channels=1,
            patch_length=patch, patch_stride=patch, d_model=width, num_layers=2,
            expansion_factor=2, adaptive_patching_levels=3, gated_attn=True, scaling="std",
            mode="common_channel", use_decoder=True, decoder_num_layers=2,
            decoder_d_model=decoder, decoder_mode="common_channel",
            decoder_adaptive_patching_levels=0, decoder_raw_residual=False,
        )  # fmt: skip
        model = TinyTimeMixerForPrediction(config).eval().to(device)
        _count(model, name, parameters)

        @torch.no_grad()
        def predict(series: np.ndarray) -> Any:
            x = torch.from_numpy(series[:, -context_length:, None].astype(np.float32))
            return model(past_values=x.to(device)).prediction_outputs[..., 0].cpu()

        return predict

    return Peer(
        name=name,
        package="tsfm_public",
        build=build,
        gives="points",
        parameters=parameters,
        longest=context_length,
    )


def _classical(name: str, *, sample: int) -> Peer:
    def build(context: int, horizon: int, device: torch.device) -> Predict:
        from statsforecast import models

        model = getattr(models, name)(season_length=_SEASON)

        def predict(series: np.ndarray) -> Any:
            return np.stack([model.forecast(y=y, h=horizon, level=[80])["mean"] for y in series])

        return predict

    return Peer(
        name=name,
        package="statsforecast",
        build=build,
        gives="points, interval",
        parameters=None,
        sample=sample,
    )


PEERS = (
    # one pass, as the others; and what users get who choose nothing
    *(_tinytsm(preset, effort="fast") for preset in PRESETS),
    _tinytsm("nano", effort="standard"),
    _bolt("tiny", width=256, layers=4, heads=4, parameters=8_652_672),
    _bolt("mini", width=384, layers=4, heads=8, parameters=21_236_096),
    _bolt("small", width=512, layers=6, heads=8, parameters=47_718_016),
    _ttm(512, width=192, decoder=128, patch=64, parameters=805_280),
    _ttm(1536, width=384, decoder=256, patch=128, parameters=3_081_120),
    _classical("AutoETS", sample=4),
    _classical("Theta", sample=16),
)
