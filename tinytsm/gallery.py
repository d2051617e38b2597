"""Pictures of SynthTS: grids of samples, the map of the feature space, what it misses.

matplotlib is an extra and is imported when the first picture is asked for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinytsm import plot
from tinytsm.synth import generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# a title, a real series and its nearest made-up one
Pair = tuple[str, np.ndarray, np.ndarray]

_INK, _REAL, _MADE, _MISSED = "#30343b", "#1f6fb4", "#b9bec7", "#c8452f"
_DPI = 100
_COLUMNS = 4
# draws of each family where several are drawn, families to a row, steps, dots per inch: a small file
_DRAWS, _ABREAST, _LENGTH, _SMALL_DPI = 2, 3, 160, 60
# the mixture's grid shows what training sees: mostly long windows, some short records
_LENGTHS = (512, 512, 120, 2048, 512, 40, 1024, 256)
_MIXTURE_ROWS, _FAMILY_ROWS = 9, 5
_MOST_PAIRS = 12


def require() -> None:
    """Raise InputError, with the command that helps, where matplotlib is not installed."""
    plot.require_matplotlib()


def draw(path: Path, *, seed: int = 0, families: Sequence[str] = ()) -> None:
    """Draw a grid of samples: of the mixture, of one family, or two of each of several; .png, .svg or .pdf.

    Raises ValueError for a family that is not there.
    """
    require()
    several = len(families) > 1
    series: list[tuple[str, np.ndarray]] = []
    if several:
        for name in families:
            for index in range(_DRAWS):
                series.append((name, generator.sample_family(name, seed, index, _LENGTH)))
    elif families:
        for index in range(_FAMILY_ROWS * _COLUMNS):
            length = _LENGTHS[index % len(_LENGTHS)]
            x = generator.sample_family(families[0], seed, index, length)
            series.append((f"{families[0]}, {length} steps", x))
    else:
        for index in range(_MIXTURE_ROWS * _COLUMNS):
            length = _LENGTHS[index % len(_LENGTHS)]
            series.append(
                (f"item {index}, {length} steps", generator.sample(seed, index, length)[0])
            )
    if several:
        figure, panels = _grid(len(series), _ABREAST * _DRAWS, width=1.7, height=0.66)
    else:
        figure, panels = _grid(len(series), _COLUMNS)
    for axes, (title, x) in zip(panels, series, strict=False):
        _line(axes, x, _INK, title)
    plot.save(figure, path, dpi=_SMALL_DPI if several else _DPI)


def misses(path: Path, pairs: Sequence[Pair], *, title: str) -> None:
    """Draw the first pairs: a real series in blue, below it the made-up series nearest to it."""
    require()
    pairs = pairs[:_MOST_PAIRS]
    figure, panels = _grid(2 * _COLUMNS * -(-len(pairs) // _COLUMNS), _COLUMNS)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    for number, (name, real, made) in enumerate(pairs):
        row, column = divmod(number, _COLUMNS)
        _line(panels[2 * row * _COLUMNS + column], real, _REAL, name)
        _line(panels[(2 * row + 1) * _COLUMNS + column], made, _INK, "nearest made-up series")
    plot.save(figure, path, dpi=_DPI)


def feature_map(
    path: Path, real: np.ndarray, made: Mapping[str, np.ndarray], *, near: float
) -> None:
    """Draw real points (n, F) and each generator's (m, F) along the real points' two principal components.

    Real points without a made-up one nearer than `near`, in all F dimensions, are red.
    """
    require()
    from matplotlib.figure import Figure

    centre = real.mean(axis=0)
    _, _, axes_of = np.linalg.svd(real - centre, full_matrices=False)
    plane = axes_of[:2].T
    figure = Figure(
        figsize=(4.6 * len(made), 4.8), dpi=_DPI, layout="constrained", facecolor="white"
    )
    panels = figure.subplots(1, len(made), sharex=True, sharey=True, squeeze=False)[0]
    shown = (real - centre) @ plane
    for axes, (name, points) in zip(panels, made.items(), strict=True):
        cloud = (points - centre) @ plane
        apart = np.array([np.linalg.norm(points - one, axis=1).min() for one in real])
        missed = apart >= near
        axes.scatter(*cloud.T, s=5, color=_MADE, linewidths=0, label="made up")
        axes.scatter(*shown[~missed].T, s=8, color=_REAL, linewidths=0, label="real, covered")
        axes.scatter(*shown[missed].T, s=9, color=_MISSED, linewidths=0, label="real, missed")
        share = 1.0 - missed.mean()
        axes.set_title(f"{name}: {len(points):,} series, {share:.1%} covered", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_xlabel("first principal component of the real series", fontsize=8)
    panels[0].set_ylabel("second", fontsize=8)
    panels[0].legend(frameon=False, fontsize=8)
    low, high = shown.min(axis=0), shown.max(axis=0)
    pad = 0.25 * (high - low)
    panels[0].set_xlim(low[0] - pad[0], high[0] + pad[0])
    panels[0].set_ylim(low[1] - pad[1], high[1] + pad[1])
    plot.save(figure, path, dpi=_DPI)


def _grid(
    count: int, columns: int, *, width: float = 2.6, height: float = 1.0
) -> tuple["Figure", list["Axes"]]:
    """A figure of small panels without axes, row by row; a panel's width and height in inches."""
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.4), dpi=_DPI, facecolor="white")
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    # by hand: a constrained layout of two hundred panels takes minutes
    edge = 0.3 / (height * rows + 0.4)
    figure.subplots_adjust(0.01, edge / 3, 0.99, 1 - edge, wspace=0.06, hspace=0.35)
    for axes in panels:
        axes.set_axis_off()
    return figure, panels


def _line(axes: "Axes", x: np.ndarray, color: str, title: str) -> None:
    axes.plot(x, color=color, linewidth=0.7, marker="." if len(x) < 60 else None, markersize=2.5)
    axes.set_title(title, fontsize=6.5, loc="left", pad=2, color=color)
    axes.margins(x=0.01, y=0.08)
