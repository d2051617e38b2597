"""The contract, against generated inputs: any history gives finite quantiles in order, to the bit the same alone.

    python -m tests.fuzz --inputs 100000 --seed 0

Every input is drawn from its own stream of (seed, number): a length, a shape of curve, a scale, gaps, a dtype, variates.
Calls mix hundreds of them; now and then one is forecast again alone and compared bit by bit, and CSV files are made of
some and read back. A miniature network with random weights keeps it fast: the contract is about everything around it.
tests/test_fuzz.py runs a little of it; docs/forecasting.md records the long run.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from tinytsm import TinyTSM, frames, tables
from tinytsm.config import ModelConfig
from tinytsm.errors import InputError
from tinytsm.model import Model
from tinytsm.options import EFFORTS, ForecastOptions

LARGEST = np.finfo(np.float64).max
LENGTHS = (1, 2, 3, 7, 31, 32, 33, 64, 127, 200, 400)
HORIZONS = (1, 2, 5, 8, 16, 17, 40, 100, 300)
SCALES = (5e-324, 1e-300, 1e-30, 1e-3, 1.0, 1e3, 1e9, 1e30, 1e300, LARGEST / 8, LARGEST)
DTYPES = (np.float64, np.float64, np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_)


def network(seed: int = 0, block_dtype: torch.dtype = torch.float32) -> TinyTSM:
    """A forecaster with random weights, a patch of 8 steps and a horizon of 16."""
    config = ModelConfig(
        d_model=16,
        n_heads=2,
        d_ff=32,
        n_layers=3,
        head_rank=8,
        patch=8,
        context_patches=16,
        horizon_patches=2,
        half_life_loc=8.0,
    )
    generator = torch.Generator().manual_seed(seed)
    model = Model(config, generator)
    model.block_dtype = block_dtype
    torch.nn.init.normal_(model.head, std=1.0, generator=generator)
    return TinyTSM(model.requires_grad_(False).eval())


def curve(rng: np.random.Generator, steps: int) -> np.ndarray:
    """(steps,) of some shape, of the order of 1."""
    t = np.arange(steps)
    kind = rng.integers(10)
    if kind == 0:
        return np.full(steps, rng.normal())
    if kind == 1:
        return rng.normal(size=steps)
    if kind == 2:
        return rng.normal(size=steps).cumsum() / np.sqrt(steps)
    if kind == 3:
        return np.sin(2 * np.pi * t / rng.integers(2, 60)) + 0.1 * rng.normal(size=steps)
    if kind == 4:
        return (rng.random(steps) < 0.1) * rng.pareto(1.0, size=steps)
    if kind == 5:
        return np.where(t < rng.integers(steps + 1), 0.0, 1.0)
    if kind == 6:
        return rng.integers(-2, 3, size=steps).astype(float)
    if kind == 7:
        return (-1.0) ** t
    if kind == 8:
        return rng.normal() * 1e9 + rng.normal(size=steps)
    return t / steps


def series(rng: np.random.Generator) -> np.ndarray:
    """One input, (T,) or (V, T), of any dtype, scale and gaps."""
    steps = int(rng.choice(LENGTHS))
    variates = int(rng.choice((0, 0, 0, 0, 0, 1, 2, 3, 5)))
    values = np.stack([curve(rng, steps) for _ in range(max(1, variates))])
    dtype = rng.choice(DTYPES)  # type: ignore[arg-type]
    if np.issubdtype(dtype, np.floating):
        most = float(np.finfo(dtype).max)
        with np.errstate(over="ignore", under="ignore"):
            values = np.clip(values * rng.choice(SCALES), -most, most).astype(dtype)
        gaps = rng.integers(6)
        if gaps == 0:
            values[rng.random(values.shape) < rng.random()] = np.nan
        elif gaps == 1:
            start, stop = np.sort(rng.integers(steps + 1, size=2))
            values[:, start:stop] = np.nan
        elif gaps == 2:
            values[:, int(rng.integers(steps + 1)) :] = np.nan
        elif gaps == 3:
            values[int(rng.integers(len(values)))] = np.nan
        if np.isnan(values).all():
            values[0, int(rng.integers(steps))] = 0.5
    else:
        span = 1 if dtype == np.bool_ else 100
        values = np.clip(np.nan_to_num(values) * span, 0, 127).astype(dtype)
    return values if variates else values[0]


def options(rng: np.random.Generator) -> ForecastOptions:
    strides: Any = (None, None, "auto", (2,), (1, 3), (5,))[rng.integers(6)]
    return ForecastOptions(
        effort=str(rng.choice(list(EFFORTS))),  # type: ignore[arg-type]
        strides=strides,
        symmetry=(None, True, False)[rng.integers(3)],
        adjust=(None, True, False)[rng.integers(3)],
        augment=(None, True, False)[rng.integers(3)],
        nonnegative=(None, True, False)[rng.integers(3)],
        integer=bool(rng.integers(4) == 0),
    )


class Asked(NamedTuple):
    """What a call asks for beside its inputs."""

    horizon: int
    levels: Sequence[float]
    options: ForecastOptions


def check_numbers(quantiles: torch.Tensor, mean: torch.Tensor, asked: Asked) -> None:
    """Finite, in order, and as the options have them. quantiles: (..., L). Raises AssertionError."""
    assert bool(quantiles.isfinite().all() and mean.isfinite().all()), "not finite"
    rising = quantiles[..., torch.from_numpy(np.argsort(asked.levels, kind="stable"))]
    assert bool((rising[..., 1:] >= rising[..., :-1]).all()), "quantiles cross"
    if asked.options.nonnegative:
        assert bool((quantiles >= 0).all() and (mean >= 0).all()), "below zero"
    if asked.options.integer:
        assert bool((quantiles == quantiles.round()).all()), "not whole"


def check_call(
    forecaster: TinyTSM, inputs: Sequence[np.ndarray], rng: np.random.Generator, asked: Asked
) -> None:
    """Forecast all inputs in one call and hold the result to the contract. Raises AssertionError."""
    horizon, levels, chosen = asked
    changes: Any = asdict(chosen)
    results = list(forecaster.predict_stream(inputs, horizon, levels, **changes))
    assert len(results) == len(inputs)
    for value, (quantiles, mean) in zip(inputs, results, strict=True):
        assert mean.shape == (*value.shape[:-1], horizon)
        assert quantiles.shape == (*mean.shape, len(levels))
        check_numbers(quantiles, mean, asked)
        whole = np.asarray(value, float)
        if chosen.nonnegative is None and not (whole < 0).any() and (whole == 0).sum(-1).min() >= 3:
            newest = whole[..., -forecaster.context_length :]
            if (newest == 0).sum(-1).min() >= 3:
                assert bool((quantiles >= 0).all() and (mean >= 0).all()), "below its floor"
                share = (newest == 0).sum(-1).min() / whole.shape[-1]
                if (whole > 0).any() and share >= 1 / 3:
                    low = np.nanmin(whole[whole > 0]) / 2
                    assert not bool(((quantiles > 0) & (quantiles < low)).any()), "nearly zero"
        if whole.ndim == 1 and not np.isnan(whole).all():
            shown = whole[~np.isnan(whole)]
            if (shown == shown[0]).all() and not (chosen.nonnegative or chosen.integer):
                assert bool((quantiles == shown[0]).all()), "a constant is not its own forecast"
    again = int(rng.integers(len(inputs)))
    ((quantiles, mean),) = forecaster.predict_stream([inputs[again]], horizon, levels, **changes)
    assert torch.equal(quantiles, results[again][0]), f"input {again} depends on its call"
    assert torch.equal(mean, results[again][1]), f"the mean of input {again} depends on its call"


def check_covariates(
    forecaster: TinyTSM, inputs: Sequence[np.ndarray], rng: np.random.Generator, asked: Asked
) -> None:
    """The same contract where covariates of any kind are known. Raises AssertionError."""
    horizon, levels, chosen = asked
    changes: Any = asdict(chosen)
    single = [x for x in inputs if x.ndim == 1 and not np.isnan(np.asarray(x, float)).all()][:5]
    known = []
    for value in single:
        rows = [curve(rng, len(value) + horizon) for _ in range(int(rng.integers(1, 4)))]
        with np.errstate(over="ignore", under="ignore"):
            own = np.clip(np.stack(rows, 1) * rng.choice(SCALES), -LARGEST, LARGEST)
        known.append(
            np.where(rng.random(own.shape) < rng.choice((0.0, 0.0, 0.3, 1.0)), np.nan, own)
        )
    if not single:
        return
    results = forecaster.predict_with_covariates(single, known, horizon, levels, **changes)
    quantiles, mean, weight = results
    check_numbers(quantiles, mean, asked)
    assert bool(((weight >= 0) & (weight <= 1)).all()), "no weight"
    again = int(rng.integers(len(single)))
    alone = forecaster.predict_with_covariates(
        [single[again]], [known[again]], horizon, levels, **changes
    )
    for together, one in zip(results, alone, strict=True):
        assert torch.equal(together[again], one[0]), "it depends on its call"


def check_file(forecaster: TinyTSM, path: Path) -> None:
    """A CSV file is either refused with one line or forecast. Raises AssertionError or worse."""
    try:
        frame = tables.read_table(path)
        layout, _ = frames.infer_layout(frame)
        found, _ = frames.split_frame(frame, layout)
    except InputError as error:
        assert str(error).strip(), "an error without words"
        return
    forecasts = frames.forecast_series(forecaster, found, prediction_length=3)
    for forecast in forecasts:
        assert np.isfinite(forecast.quantiles).all()
        assert (np.diff(forecast.quantiles) >= 0).all()


def csv_text(rng: np.random.Generator) -> bytes:
    """A table that is nearly right: wide or long, with fields that may be missing, text, dates or strange."""
    columns, rows = int(rng.integers(1, 5)), int(rng.integers(0, 30))
    names = rng.choice(
        ["date", "timestamp", "ds", "item_id", "y", "target", "value", "", "a b", "ü", "0"], columns
    )
    mark = str(rng.choice([",", ",", ",", ";", "\t", "|"]))
    noise = rng.choice([0.0, 0.0, 0.02, 0.3])
    start = np.datetime64("2024-01-01") + int(rng.integers(-20000, 20000))
    lines = [mark.join(names)]
    for row in range(rows):
        fields = []
        for name in names:
            if rng.random() < noise:
                fields.append(
                    str(
                        rng.choice(["", "NA", "nan", "inf", "1e400", "x", '"', "1,5", "\x00", "−3"])
                    )
                )
            elif name in ("date", "timestamp", "ds"):
                fields.append(str(start + row * int(rng.choice([1, 1, 1, 7]))))
            elif name == "item_id":
                fields.append(f"s{row % int(rng.integers(1, 4))}")
            else:
                fields.append(repr(float(rng.normal() * 10.0 ** rng.integers(-3, 9))))
        lines.append(mark.join(fields))
    end = str(rng.choice(["\n", "\r\n", "\n\n"]))
    return (end.join(lines) + end * int(rng.integers(2))).encode()


def run(*, inputs: int, seed: int, at_once: int = 256, progress: bool = False) -> int:
    """Check so many inputs, a call at a time; returns how many calls. Raises at the first failure, naming the call."""
    forecasters = (network(0), network(1, torch.bfloat16))
    with tempfile.TemporaryDirectory() as folder:
        return _run(forecasters, Path(folder), inputs, seed, at_once, progress)


def _run(forecasters, folder, inputs, seed, at_once, progress):
    calls = -(-inputs // at_once)
    for call in tqdm(range(calls), disable=not progress, unit="call", file=sys.stderr):
        rng = np.random.default_rng((seed, call))
        batch = [series(rng) for _ in range(min(at_once, inputs - call * at_once))]
        levels = np.unique(rng.random(int(rng.integers(1, 7))).clip(1e-6, 1 - 1e-6)).tolist()
        rng.shuffle(levels)
        asked = Asked(int(rng.choice(HORIZONS)), levels, options(rng))
        try:
            check_call(forecasters[call % 2], batch, rng, asked)
            for _ in range(4):
                table = folder / "table.csv"
                table.write_bytes(csv_text(rng))
                check_file(forecasters[0], table)
            check_covariates(forecasters[call % 2], batch, rng, asked)
        except Exception as error:
            raise AssertionError(f"call {call} of seed {seed}: {error}") from error
    return calls


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    calls = run(inputs=args.inputs, seed=args.seed, progress=True)
    print(f"{args.inputs:,} inputs in {calls:,} calls, seed {args.seed}: no failure")
    return 0


if __name__ == "__main__":
    sys.exit(main())
