"""Markdown from result documents: one function per table, documents in, text out.

A column that no row fills is left out, so a CPU's table has no device memory and a GPU's no empty cells.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinytsm import study_strategies

Row = Mapping[str, Any]
Document = Mapping[str, Any]
# Heading, key of the row, and how its value is written.
Column = tuple[str, str, Callable[[Any], str]]

# Which published models stand beside ours, as GIFT-Eval names them: their name, and what their makers say of the training.
_PUBLISHED = {
    "chronos_bolt_small": ("Chronos-Bolt-small", "real and synthetic"),
    "TempoPFN": ("TempoPFN", "synthetic"),
    "Toto-2.0-4m": ("Toto-2.0-4m", "real and synthetic"),
    "TiRex": ("TiRex", "real and synthetic"),
    "chronos-2-synth": ("Chronos-2, synthetic", "synthetic"),
    "FlowState-r1.1": ("FlowState-r1.1", "real and synthetic"),
}
# Millions of parameters of published models, as their makers state them.
PUBLISHED_MILLIONS = {
    "Reverso": 2.6,
    "Reverso-Small": 0.55,
    "Toto-2.0-4m": 4,
    "Toto-2.0-22m": 22,
    "FlowState-9.1M": 9.1,
    "TTM-R3-PT": 1.4,
    "YingLong_6m": 6,
    "Kairos_10m": 10,
    "Kairos_23m": 23,
    "TiRex": 35,
    "TempoPFN": 38,
    "chronos_bolt_small": 48,
    "chronos-2": 120,
    "chronos-2-synth": 120,
    "sundial_base_128m": 128,
    "TimesFM-2.5": 200,
}
# Groups of tasks beside each other, as `tinytsm evaluate` names them, and how.
_GROUPS = {
    "all": "tasks",
    "published": "published tasks",
    "energy and sensors": "energy and sensor tasks",
}
# Zero-shot long-term scores, means over horizons, as table 13 of Timer-XL (arXiv:2410.04803) prints them; VisionTS, which
# picks a context for each data set, as its own table 1 does (arXiv:2408.17253).
_PUBLISHED_LTSF: list[dict[str, Any]] = [
    {"model": f"{name}, published", "parameters": size}
    | {
        dataset: {"mse": mse, "mae": mae}
        for dataset, (mse, mae) in zip(("etth1", "etth2", "ettm1", "ettm2"), scores, strict=True)
    }
    for name, size, *scores in (
        ("VisionTS", "112 M", (0.390, 0.414), (0.333, 0.375), (0.374, 0.372), (0.282, 0.321)),
        ("Timer-XL", "84 M", (0.404, 0.417), (0.347, 0.388), (0.373, 0.392), (0.273, 0.336)),
        ("Time-MoE base", "113 M", (0.400, 0.424), (0.366, 0.404), (0.394, 0.415), (0.317, 0.365)),
        ("Moirai small", "14 M", (0.428, 0.427), (0.361, 0.384), (0.436, 0.410), (0.307, 0.347)),
        (
            "Chronos-T5 base",
            "200 M",
            (0.591, 0.468),
            (0.405, 0.410),
            (0.645, 0.500),
            (0.310, 0.350),
        ),
    )
]


def figure(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value == 0:
        return "0"
    digits = max(0, 2 - len(str(int(abs(value)))) + 1) if abs(value) >= 1 else 3
    text = f"{value:,.{digits}f}"
    return f"{value:.2g}" if abs(value) < 0.01 else text


def share(value: float) -> str:
    return f"{100 * value:.0f} %"


def times(value: float) -> str:
    return f"{value:.2f}x"


def score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".removeprefix("0")


def markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A table of the columns that at least one row fills."""
    used = [c for c in columns if any(row.get(c[1]) not in (None, "") for row in rows)]
    lines = ["| " + " | ".join(heading for heading, _, _ in used) + " |"]
    lines.append("|" + " --- |" * len(used))
    for row in rows:
        cells = (write(row[key]) if row.get(key) is not None else "" for _, key, write in used)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def origin(document: Document) -> str:
    """Where the figures of a document come from, in one line."""
    machine, versions = document["machine"], document["versions"]
    where = machine["device"]
    if machine["kind"] == "cpu":
        where += f", {machine['cores']} cores, {machine['threads']} threads"
    named = [f"{n} {v}" for n, v in versions.items() if n in ("torch", "triton", "numba")]
    return (
        f"{where}; {', '.join(named)}; commit {document['commit']}, {document['date']}: "
        f"`{document['command']}`"
    )


def _each(documents: Sequence[Document], build: Callable[[Document], str]) -> str:
    return "\n\n".join(f"{build(d)}\n\n{origin(d)}" for d in documents)


def _parameters(value: int) -> str:
    return f"{value / 1e6:.2f} M" if value < 10e6 else f"{value / 1e6:.1f} M"


def training(documents: Sequence[Document]) -> str:
    columns: list[Column] = [
        ("preset", "preset", str),
        ("path", "rival", str),
        ("tokens/s", "tokens/s", figure),
        ("ms a step", "us_per_call", lambda us: figure(us / 1e3)),
        ("against the definitions", "ratio", times),
        ("GFLOP/s", "GFLOP/s", figure),
        ("of the matmul peak", "of_matmul_peak", share),
        ("peak memory, MB", "peak_MB", figure),
    ]

    def build(document: Document) -> str:
        text = markdown([r for r in document["rows"] if "tokens/s" in r], columns)
        compiling = [r for r in document["rows"] if r["group"] == "compile"]
        if compiling:
            said = ", ".join(f"{r['preset']} {r['median_s']:.0f} s" for r in compiling)
            text += f"\n\nCompiling, once and without a cache: {said}."
        return text

    return _each(documents, build)


def generator(documents: Sequence[Document]) -> str:
    columns: list[Column] = [
        ("what", "name", lambda name: f"`{name.removeprefix('bench_')}`"),
        ("million points/s", "Mpoints/s", figure),
        ("processor seconds", "cpu_seconds", figure),
        ("holds the lock", "lock_share", share),
    ]

    def build(document: Document) -> str:
        # single families have their place in the documentation of the generator
        return markdown([r for r in document["rows"] if "famil" not in r["group"]], columns)

    return _each(documents, build)


def forecasting(documents: Sequence[Document]) -> str:
    columns: list[Column] = [
        ("preset", "preset", str),
        ("batch", "batch", str),
        ("context", "context", str),
        ("horizon", "horizon", str),
        ("latency, ms", "latency_ms", figure),
        ("series/s", "series/s", figure),
        ("peak memory, MB", "peak_MB", figure),
    ]

    def build(document: Document) -> str:
        rows = [r for r in document["rows"] if "latency_ms" in r]
        cold = [r for r in rows if r["group"] == "cold start"]
        warm = [r for r in rows if r["group"] != "cold start"]
        text = markdown(warm, columns)
        if cold:
            said = ", ".join(f"{r['preset']} {r['latency_ms'] / 1e3:.1f} s" for r in cold)
            text += f"\n\nFrom a new process to the first forecast: {said}."
        return text

    return _each(documents, build)


def peers(documents: Sequence[Document]) -> str:
    columns: list[Column] = [
        ("model", "name", str),
        ("parameters", "parameters", _parameters),
        ("gives", "gives", str),
        ("context", "context", str),
        ("of it used", "used", str),
        ("batch", "batch", str),
        ("latency, ms", "latency_ms", figure),
        ("series/s", "series/s", figure),
    ]
    return _each(documents, lambda d: markdown(d["rows"], columns))


def accuracy(documents: Sequence[Document]) -> str:
    """Ours, the classical models of the pack, and published ones, relative to seasonal naive."""
    if not documents:
        return ""
    rows: list[dict[str, Any]] = []
    for d in documents:
        gift = d["summary"]["gift"]
        rows.append(
            {
                "model": f"**{d['label']}**",
                "parameters": _parameters(d["parameters"]),
                "trained": d["trained"],
            }
            | _of_groups(gift, "model")
        )
    rows.sort(key=lambda row: row["all"]["mase"])
    summary = documents[0]["summary"]
    gift = summary["gift"]
    for name in gift["all"]["scores"]:
        if name != "model":
            rows.append({"model": name, "trained": "each series"} | _of_groups(gift, name))
    shown = summary.get("published", {"scores": {}})["scores"]
    for name, (title, trained) in _PUBLISHED.items():
        if name in shown:
            millions = PUBLISHED_MILLIONS.get(name)
            rows.append(
                {
                    "model": f"{title}, published",
                    "parameters": f"{millions} M" if millions else "under 25 M",
                    "trained": trained,
                    "published": shown[name],
                }
            )

    def pair(scores: Mapping[str, float]) -> str:
        return f"{score(scores['mase'])}, {score(scores['crps'])}"

    columns: list[Column] = [
        ("model", "model", str),
        ("parameters", "parameters", str),
        ("trained on", "trained", str),
    ]
    for group, label in _GROUPS.items():
        if group in gift:
            columns.append((f"{gift[group]['tasks']} {label}: MASE, CRPS", group, pair))
    return markdown(rows, columns) + _samples(documents, ("max_windows",))


def _of_groups(gift: Mapping[str, Any], who: str) -> dict[str, Any]:
    return {group: gift[group]["scores"].get(who) for group in _GROUPS if group in gift}


# What an evaluation left out, by the setting that says so.
_LEFT_OUT = {
    "ltsf_stride": lambda n: f"one window in {n}" if n > 1 else "",
    "max_windows": lambda n: f"at most {n:,} windows of a task" if n else "",
}


def _samples(documents: Sequence[Document], settings: Sequence[str]) -> str:
    """A paragraph on which windows ours were scored on; nothing where it was all of them."""
    told = {}
    for d in documents:
        notes = (_LEFT_OUT[key](d["settings"].get(key) or 0) for key in settings)
        told[d["label"]] = ", ".join(filter(None, notes)) or "every window"
    if set(told.values()) == {"every window"}:
        return ""
    if len(set(told.values())) == 1:
        told = {"Ours": next(iter(told.values()))}
    return "\n\n" + "; ".join(f"{who}: {note}" for who, note in told.items()) + "."


def ltsf(documents: Sequence[Document]) -> str:
    """Plain means over horizons by data set, in standardised units, of ours, seasonal naive, and published models."""
    first = documents[0]["summary"]["averages"]
    datasets = list(first)

    def pair(scores: Mapping[str, float]) -> str:
        return f"{score(scores['mse'])}, {score(scores['mae'])}"

    rows: list[dict[str, Any]] = []
    for d in documents:
        averages = d["summary"]["averages"]
        found = {name: averages[name]["scores"] for name in datasets if name in averages}
        named = {"model": f"**{d['label']}**", "parameters": _parameters(d["parameters"])}
        rows.append(named | {name: scores["model"] for name, scores in found.items()})
    naive = {name: of["scores"]["seasonal_naive"] for name, of in first.items()}
    rows.append({"model": "seasonal naive"} | naive)
    rows += _PUBLISHED_LTSF
    columns: list[Column] = [("model", "model", str), ("parameters", "parameters", str)]
    columns += [(f"{name.upper()}: MSE, MAE", name, pair) for name in datasets]
    return markdown(rows, columns) + _samples(documents, ("ltsf_stride", "max_windows"))


def strategies(documents: Sequence[Document]) -> str:
    return "\n\n".join(
        f"{d['label']}, {d['trained']}:\n\n{study_strategies.render(d['records'])}"
        for d in documents
    )


def kernels(documents: Sequence[Document]) -> str:
    """Also attention: whatever was timed against the eager definition."""
    columns: list[Column] = [
        ("op and shape", "group", str),
        ("rival", "rival", str),
        ("us", "us_per_call", figure),
        ("against eager", "ratio", times),
        ("GB/s", "GB/s", figure),
        ("of a copy", "of_copy", share),
        ("TFLOP/s", "TFLOP/s", figure),
        ("of a matmul", "of_matmul", share),
        ("peak memory, MB", "peak_MB", figure),
        ("ratio withheld", "withheld", str),
    ]

    def build(document: Document) -> str:
        rows = sorted(document["rows"], key=lambda r: r["group"])
        text = markdown(rows, columns)
        if peaks := document.get("peaks"):
            matmul = ", ".join(f"{figure(v)} in {k}" for k, v in peaks["matmul_TFLOP/s"].items())
            text += (
                f"\n\nIn the same run a copy moved {figure(peaks['copy_GB/s'])} GB/s and a matmul "
            )
            text += f"reached, in TFLOP/s, {matmul}."
        return text

    return _each(documents, build)


def breakdown(documents: Sequence[Document]) -> str:
    columns: list[Column] = [
        ("preset", "preset", str),
        ("path", "path", str),
        ("part", "part", str),
        ("ms", "ms", figure),
        ("share", "share", share),
    ]
    return _each(documents, lambda d: markdown(d["rows"], columns))


def memory(documents: Sequence[Document]) -> str:
    columns: list[Column] = [
        ("preset", "preset", str),
        ("tokens", "tokens", str),
        ("path", "path", str),
        ("peak, MB", "peak_MB", figure),
        ("failed", "failed", str),
    ]
    return _each(documents, lambda d: markdown(d["rows"], columns))


# Section of a results file to its heading and table, in the order of a machine's report.
SECTIONS: dict[str, tuple[str, Callable[[Sequence[Document]], str]]] = {
    "kernels": ("Kernels", kernels),
    "attention": ("Attention", kernels),
    "train": ("Training", training),
    "breakdown": ("Where a step's time goes", breakdown),
    "memory": ("Memory of a step", memory),
    "forecast": ("Forecasting", forecasting),
    "peers": ("Peers", peers),
    "synth": ("Generator", generator),
}
