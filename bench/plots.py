"""Pictures of a machine's results, each drawn only if its results are there.

roofline.png: what each op reaches against how much arithmetic it has per byte. breakdown.png: where a step's time goes.
attention.png: attention's speed against the length of a series. accuracy/parameters.png: error against parameters, ours
and published ones.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench import record, tables

_SIZE, _DPI = (8.0, 4.5), 120
_MARKERS = "osD^vP*X"


def roofline(figure: Figure, document: Mapping[str, Any]) -> None:
    """Points are measured; the roof is what a copy and a matmul reached in the same run."""
    axes = figure.subplots()
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


def breakdown(figure: Figure, document: Mapping[str, Any]) -> None:
    """One bar for each preset and path, its parts from the largest on."""
    axes = figure.subplots()
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


def attention(figure: Figure, document: Mapping[str, Any]) -> None:
    """One panel for each direction and width of a head, one line for each rival, over the lengths timed."""
    rows = [row for row in document["rows"] if "length" in row and "GB/s" in row]
    panels = sorted({(row.get("direction", ""), row.get("width", 0)) for row in rows})
    peak = document.get("peaks", {}).get("copy_GB/s")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (direction, width) in zip(grid, panels, strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            if (row.get("direction", ""), row.get("width", 0)) == (direction, width):
                lines.setdefault(row["rival"], []).append((int(row["length"]), row["GB/s"]))
        for rival, points in sorted(lines.items()):
            lengths, speeds = zip(*sorted(points), strict=True)
            axes.plot(lengths, speeds, marker="o", ms=3, lw=1, label=rival)
        if peak is not None:
            axes.axhline(peak, color="0.6", lw=1, ls="--", label="a copy")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(f"{direction},\nheads of {width}", fontsize=8)
        axes.set_xlabel("tokens of a series")
    grid[0].set_ylabel("GB/s that must be moved")
    grid[-1].legend(fontsize=6)


def parameters(figure: Figure, documents: Sequence[Mapping[str, Any]]) -> None:
    """Both errors on the published configurations against the size of a model; lower and further left is better."""
    published = documents[0]["summary"]["published"]["scores"]
    grid = figure.subplots(1, 2)
    for axes, (metric, name) in zip(grid, (("mase", "MASE"), ("crps", "CRPS")), strict=True):
        for key, millions in tables.PUBLISHED_MILLIONS.items():
            if key in published:
                at = (millions, published[key][metric])
                axes.scatter(*at, s=14, color="0.55")
                axes.annotate(
                    key, at, (3, 2), textcoords="offset points", fontsize=5.5, color="0.35"
                )
        for document in documents:
            scores = document["summary"]["gift"]["published"]["scores"]["model"]
            at = (document["parameters"] / 1e6, scores[metric])
            axes.scatter(*at, s=26, color="C3")
            # below, where the published labels, to the right of their points, leave room
            axes.annotate(
                document["label"].replace("`", ""),
                at,
                (0, -10),
                textcoords="offset points",
                ha="center",
                fontsize=6,
                color="C3",
            )
        axes.set(xscale="log", xlabel="parameters, millions", title=f"relative {name}")
        axes.margins(x=0.3, y=0.08)


def _drawable(section: str, document: Mapping[str, Any]) -> bool:
    rows: Sequence[Mapping[str, Any]] = document["rows"]
    if section == "kernels":
        return "peaks" in document and any("TFLOP/s" in row for row in rows)
    if section == "attention":
        # against one length there is nothing to see
        return len({row["length"] for row in rows if "length" in row and "GB/s" in row}) > 1
    return bool(rows)


_PLOTS: dict[str, tuple[str, str, Callable[[Figure, Mapping[str, Any]], None]]] = {
    "kernels": ("roofline.png", "What the ops reach", roofline),
    "breakdown": ("breakdown.png", "Where a training step's time goes", breakdown),
    "attention": ("attention.png", "Attention against length", attention),
}


def _save(
    path: Path, paint: Callable[[Figure, Any], None], content: Any, *, title: str | None = None
) -> Path:
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    paint(figure, content)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=_DPI)
    return path


def draw(results: Path) -> list[Path]:
    """Draw what the results allow, beside them; returns the pictures' paths."""
    drawn = []
    for section, (file, title, paint) in _PLOTS.items():
        for document in record.read_all(results, section):
            if _drawable(section, document):
                path = record.path_of(document, results).with_name(file)
                whole = f"{title}: {document['machine']['device']}"
                drawn.append(_save(path, paint, document, title=whole))
    scored = record.by_model(results, "accuracy")
    if scored and "published" in scored[0]["summary"]:
        path = results / "accuracy" / "parameters.png"
        drawn.append(_save(path, parameters, scored))
    return drawn
