"""Pictures of a machine's results, each drawn only if its results are there.

roofline.png: what each op reaches against how much arithmetic it has per byte. breakdown.png: where a step's time goes.
attention.png: attention's speed against the length of a series.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench import record

_SIZE, _DPI = (8.0, 4.5), 120
_MARKERS = "osD^vP*X"


def _save(path: Path, title: str, draw: Callable[[Axes], None]) -> Path:
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    draw(axes)
    figure.savefig(path, dpi=_DPI)
    return path


def roofline(axes: Axes, document: Mapping[str, Any]) -> None:
    """Points are measured; the roof is what a copy and a matmul reached in the same run."""
    rows = [row for row in document["rows"] if "TFLOP/s" in row]
    copy = document["peaks"]["copy_GB/s"] / 1e3
    intensities = [row["TFLOP/s"] / row["GB/s"] * 1e3 for row in rows]
    low, high = min(intensities) / 2, max(intensities) * 2
    for dtype, peak in document["peaks"]["matmul_TFLOP/s"].items():
        if any(row["dtype"] == dtype for row in rows):
            ridge = peak / copy
            x = [low, min(max(ridge, low), high), high]
            axes.plot(x, [min(peak, copy * i) for i in x], lw=1.2, label=f"limit, {dtype}")
    names = sorted({(row["op"], row["rival"]) for row in rows})
    for (op, rival), marker in zip(names, itertools.cycle(_MARKERS), strict=False):
        chosen = [i for i, row in enumerate(rows) if (row["op"], row["rival"]) == (op, rival)]
        axes.scatter(
            [intensities[i] for i in chosen],
            [rows[i]["TFLOP/s"] for i in chosen],
            marker=marker,
            s=28,
            label=f"{op}, {rival}",
        )
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="TFLOP/s")
    axes.legend(fontsize=7)


def breakdown(axes: Axes, document: Mapping[str, Any]) -> None:
    """One bar for each preset and path, its parts from the largest on."""
    bars = list(dict.fromkeys((row["preset"], row["path"]) for row in document["rows"]))
    parts = list(dict.fromkeys(row["part"] for row in document["rows"]))
    done = [0.0] * len(bars)
    for part in parts:
        widths = [
            sum(
                row["share"]
                for row in document["rows"]
                if (row["preset"], row["path"], row["part"]) == (*bar, part)
            )
            for bar in bars
        ]
        axes.barh([" ".join(bar) for bar in bars], widths, left=done, label=part)
        done = [a + b for a, b in zip(done, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="share of a step's time", xlim=(0, 1))
    axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.15))


def attention(axes: Axes, document: Mapping[str, Any]) -> None:
    """One line for each rival, over the lengths that it was timed at."""
    rows = [row for row in document["rows"] if "length" in row and "us_per_call" in row]
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        fixed = {
            k: v for k, v in row.items() if k in ("direction", "width", "dtype", "op", "head_dim")
        }
        name = ", ".join([str(row["rival"]), *map(str, fixed.values())])
        series.setdefault(name, []).append((int(row["length"]), row["us_per_call"]))
    for name, points in sorted(series.items()):
        lengths, microseconds = zip(*sorted(points), strict=True)
        axes.plot(lengths, microseconds, marker="o", ms=3, lw=1, label=name)
    axes.set(xscale="log", yscale="log", xlabel="tokens of a series", ylabel="microseconds")
    axes.set_xscale("log", base=2)
    axes.legend(fontsize=6)


def _drawable(section: str, document: Mapping[str, Any]) -> bool:
    rows: Sequence[Mapping[str, Any]] = document["rows"]
    if section == "kernels":
        return "peaks" in document and any("TFLOP/s" in row for row in rows)
    if section == "attention":
        return any("length" in row and "us_per_call" in row for row in rows)
    return bool(rows)


_PLOTS: dict[str, tuple[str, str, Callable[[Axes, Mapping[str, Any]], None]]] = {
    "kernels": ("roofline.png", "What the ops reach", roofline),
    "breakdown": ("breakdown.png", "Where a training step's time goes", breakdown),
    "attention": ("attention.png", "Attention against length", attention),
}


def draw(results: Path) -> list[Path]:
    """Draw what the results allow, beside them; returns the pictures' paths."""
    drawn = []
    for section, (file, title, paint) in _PLOTS.items():
        for document in record.read_all(results, section):
            if not _drawable(section, document):
                continue
            folder = record.path_of(document, results).parent

            def painted(
                axes: Axes, paint: Any = paint, document: Mapping[str, Any] = document
            ) -> None:
                paint(axes, document)

            name = f"{title}: {document['machine']['device']}"
            drawn.append(_save(folder / file, name, painted))
    return drawn
