"""The network as one ONNX file: one forward pass, for runtimes that have no PyTorch, a browser's among them.

The graph does what `effort="fast"` does for series without variates, from raw values to quantiles in their units, in
float32. Strategies around the pass (strides, seasonal adjustment) stay in Python. Letters: R rows, T steps, P patch
length, H steps that one pass forecasts, Q quantiles.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from tinytsm import __version__
from tinytsm.config import QUANTILES
from tinytsm.errors import InputError
from tinytsm.files import check_output, write_atomic
from tinytsm.model import Model
from tinytsm.ops import DEGENERATE_ULPS

# Powers of two that float32 holds with their inverses.
_LARGEST_POWER = 126


class _Graph(nn.Module):
    """From raw rows to forecasts in their units: what `rows.centre` and `Forward` do, by operations that ONNX has."""

    def __init__(self, model: Model):
        super().__init__()
        # of its own, because whoever forecasts with a model chooses these
        self.model = copy.deepcopy(model).cpu()
        self.model.block_dtype, self.model.attention = torch.float32, "sdpa"

    def forward(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """history: (R, T) float32, NaN where missing. Returns quantiles (R, H, Q) and mean (R, H), float32."""
        shown = ~history.isnan()
        value = torch.where(shown, history, 0.0)
        origin = value.gather(1, shown.to(torch.int64).argmax(1, keepdim=True))  # (R, 1)
        half = torch.where(shown, value / 2 - origin / 2, 0.0)
        largest = half.abs().amax(1, keepdim=True).clamp_min(2.0**-_LARGEST_POWER)
        power = -1 - torch.log2(largest).floor()
        unit = torch.exp2(power.clamp(-_LARGEST_POWER, _LARGEST_POWER))
        x = torch.where(shown, half * unit, float("nan"))
        unit = unit / 2
        lost = DEGENERATE_ULPS * torch.finfo(torch.float64).eps * origin.abs() * unit
        tokens = self.model(x, lost.clamp_max(1e30)[:, 0], read=[-1])
        mean, quantiles = self.model.forecast(tokens, 0, self.model.config.horizon_patches)
        return origin[..., None] + quantiles / unit[..., None], origin + mean / unit


def export(model: Model, path: str | Path) -> dict[str, str]:
    """Write a model as an ONNX file; returns what its metadata says.

    Input `history`: (R, T) float32, NaN where missing and in front of shorter series; T any multiple of P from 2 P to the
    trained context. Outputs `quantiles`: (R, H, Q) and `mean`: (R, H). Raises InputError where the packages that write
    ONNX are missing or the file cannot be written.
    """
    path = check_output(path, (".onnx",))
    try:
        import onnx_ir
        import onnxscript  # noqa: F401 - torch's exporter asks for it late, and in other words
    except ImportError:
        raise InputError(
            f"{path}: writing ONNX needs onnxscript; run: pip install 'tinytsm[onnx]'"
        ) from None
    config = model.config
    rows = torch.export.Dim("rows", max=1 << 20)
    patches = torch.export.Dim("patches", min=2, max=config.context_patches)
    example = torch.zeros(2, config.context_length)
    with _quiet(), torch.no_grad():
        exported = torch.export.export(
            _Graph(model),
            (example,),
            dynamic_shapes={"history": {0: rows, 1: config.patch * patches}},
        )
        table = torch.export.default_decompositions()
        table[torch.ops.aten.cummax.default] = _running_maximum
        program = torch.onnx.export(
            exported.run_decompositions(table), input_names=["history"], verbose=False
        )
    assert program is not None
    graph = program.model.graph
    for value in (value for node in graph for value in node.outputs):
        # some inner ones have the outputs' names
        value.name = f"inner_{value.name}"
    shapes = {
        "quantiles": ("rows", config.horizon_length, len(QUANTILES)),
        "mean": ("rows", config.horizon_length),
    }
    for value, (name, shape) in zip(graph.outputs, shapes.items(), strict=True):
        value.name, value.shape = name, onnx_ir.Shape(shape)
    graph.inputs[0].shape = onnx_ir.Shape(("rows", "steps"))
    metadata = {
        "producer": f"tinytsm {__version__}",
        "licence": "Apache-2.0",
        "levels": " ".join(map(str, QUANTILES)),
        "patch": str(config.patch),
        "context_length": str(config.context_length),
        "horizon_length": str(config.horizon_length),
    }
    program.model.metadata_props.update(metadata)
    write_atomic(path, lambda place: program.save(place, external_data=False))
    return metadata


def _running_maximum(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`cummax` of what is not negative, (R, N) over N, which ONNX has not; the places are not told."""
    assert dim == 1
    causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
    values = torch.where(causal, x[:, None, :], 0.0).amax(-1)
    return values, torch.zeros_like(values, dtype=torch.int64)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of itself and of packages that it would know too."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
