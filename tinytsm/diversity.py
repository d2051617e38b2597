"""How much of real data SynthTS reaches: coverage in a space of features.

    tinytsm diversity --pack DIR
    tinytsm diversity --pack DIR --items 60000 --rivals 6000 --pictures docs/images

Every series is described by some thirty numbers (tinytsm/features.py), the same for any level and scale. Each is
centred on the real series' median, divided by their interquartile range and squashed by asinh; distance is Euclidean.

    tau       the median, over real series, of the distance to the nearest real series of another data set
    coverage  the share of real series that have a made-up one nearer than tau

So an unseen data set that is as near as data sets are to one another covers half; a better generator covers more. The
strict coverage is that of Naeem et al. 2020 (arXiv 2002.09797): a made-up series lies nearer than the fifth nearest
real one, any data set's. Both grow with the number of series made up, so generators are compared at equal numbers: all,
a tenth of them, a hundredth. Made-up series have the lengths of the real ones, drawn anew. For comparison, one half of
the real windows, drawn at random, is measured by the other: what as many series of the very same data sets score.

Real series are windows of at most 1024 steps, a capped number from each data set. The pack is looked at, never
trained on. The last line printed is one JSON document.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinytsm import features, gallery, rivals
from tinytsm.errors import InputError
from tinytsm.pack import PackError, load_tasks, read_series
from tinytsm.synth import generator, mixture

LONGEST = 1024
# fewer series than this are not compared
_FEWEST = 100
# points of a generator on the map, and distances held at once
_ON_MAP, _AT_ONCE = 600, 1 << 22
# the neighbour that bounds a real series' ball, by the source of the strict coverage
_NEIGHBOUR = 5
Sampler = Callable[[int, int, int], np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Described:
    """Series and what they are like. values: n arrays (T,); features: (n, F); source: (n,) names."""

    values: list[np.ndarray]
    features: np.ndarray
    source: np.ndarray


def real_series(pack: Path, *, per_dataset: int, seed: int) -> tuple[Described, dict[str, str]]:
    """At most `per_dataset` windows of each data set of a pack, and each data set's frequency.

    Windows are drawn evenly over a data set's series, from random starts; those without two values are left out.
    """
    values: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    source: list[str] = []
    frequency: dict[str, str] = {}
    tasks = {task.dataset: task for task in reversed(load_tasks(pack))}
    for number, name in enumerate(tqdm(sorted(tasks), unit="data set", disable=None, leave=False)):
        rng = np.random.default_rng((seed, number))
        series = read_series(tasks[name])
        frequency[name] = tasks[name].freq
        # as many windows of a series as fit beside one another, so that none is counted twice
        fit = np.concatenate([np.full(max(1, len(x) // LONGEST), i) for i, x in enumerate(series)])
        for i in rng.permutation(fit)[:per_dataset]:
            start = rng.integers(max(1, len(series[i]) - LONGEST + 1))
            window = features.filled(series[i][start : start + LONGEST])
            row = features.describe(window)
            if row is not None:
                values.append(window)
                rows.append(row)
                source.append(name)
    if len(set(source)) < 2:
        raise PackError(
            f"{pack} needs two data sets with series that vary, got {len(set(source))}; add data sets"
        )
    return Described(values=values, features=np.array(rows), source=np.array(source)), frequency


@dataclass(frozen=True, kw_only=True, eq=False)
class Cloud:
    """What the draws of a sampler are like. features: (m, F); index: (m,), which draw each row is, ascending."""

    features: np.ndarray
    index: np.ndarray

    def first(self, count: int) -> np.ndarray:
        """Features of those among the first `count` draws that could be described: (at most count, F)."""
        return self.features[: np.searchsorted(self.index, count)]


def made_up(sampler: Sampler, lengths: np.ndarray, *, seed: int, name: str) -> Cloud:
    """Draws 0, 1, ... of a sampler at these lengths (n,); those that cannot be described are left out."""
    rows, index = [], []
    for i, length in enumerate(tqdm(lengths, desc=name, disable=None, leave=False)):
        row = features.describe(sampler(seed, i, int(length)))
        if row is not None:
            rows.append(row)
            index.append(i)
    return Cloud(features=np.array(rows).reshape(len(rows), -1), index=np.array(index))


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """The feature space of a set of real series: scaled real points (n, F), and what near means there.

    centre, spread: (F,). tau: see the module. ball: (n,), distance of each point to its fifth neighbour.
    """

    centre: np.ndarray
    spread: np.ndarray
    points: np.ndarray
    tau: float
    ball: np.ndarray

    def scale(self, rows: np.ndarray) -> np.ndarray:
        """Features (n, F) in the units of the space."""
        return np.arcsinh((rows - self.centre) / self.spread)


def make_space(rows: np.ndarray, source: np.ndarray) -> Space:
    """The space of real series with features (n, F) from data sets `source` (n,), at least two."""
    low, centre, high = np.percentile(rows, [25, 50, 75], axis=0)
    # half of a rare feature's values are one value: its standard deviation is all that tells its scale
    spread = np.where(high - low > 1e-9, (high - low) / 1.349, rows.std(axis=0))
    spread = np.where(spread > 1e-9, spread, 1.0)
    points = np.arcsinh((rows - centre) / spread)
    apart = distances(points, points)
    np.fill_diagonal(apart, np.inf)
    other = np.where(source[:, None] == source[None, :], np.inf, apart)
    rank = min(_NEIGHBOUR, len(rows) - 1) - 1
    return Space(
        centre=centre,
        spread=spread,
        points=points,
        tau=float(np.median(other.min(axis=1))),
        ball=np.partition(apart, rank, axis=1)[:, rank],
    )


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances of points (n, F) and (m, F): (n, m)."""
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * (a @ b.T)
    return np.sqrt(np.maximum(squares, 0.0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Coverage:
    """share, strict: see the module. nearest: (n,) index of each real series' nearest made-up one; miss: (n,) its
    distance in units of tau, below 1 where covered."""

    share: float
    strict: float
    nearest: np.ndarray
    miss: np.ndarray


def cover(space: Space, rows: np.ndarray) -> Coverage:
    """How well made-up series with features (m, F), m >= 1, cover the real ones of a space."""
    real = np.arange(len(space.points))
    best, nearest = np.full(len(real), np.inf), np.zeros(len(real), np.int64)
    step = max(1, _AT_ONCE // len(real))
    for start in range(0, len(rows), step):
        apart = distances(space.points, space.scale(rows[start : start + step]))
        found = apart.argmin(axis=1)
        closer = apart[real, found] < best
        nearest[closer] = start + found[closer]
        best[closer] = apart[real, found][closer]
    return Coverage(
        share=float((best < space.tau).mean()),
        strict=float((best < space.ball).mean()),
        nearest=nearest,
        miss=best / space.tau,
    )


def halves(space: Space, *, seed: int) -> float:
    """The share of one random half of the real series that the other half covers, the mean of both ways."""
    order = np.random.default_rng(seed).permutation(len(space.points))
    one, other = np.array_split(order, 2)
    apart = distances(space.points[one], space.points[other])
    shares = [(apart.min(axis=axis) < space.tau).mean() for axis in (0, 1)]
    return float(np.mean(shares))


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one family alone adds. covered: share of real series that its draws cover; nearest: share whose nearest
    draw of any family is one of its; only: share that it covers and no other family does."""

    covered: float
    nearest: float
    only: float


def contributions(space: Space, rows: dict[str, np.ndarray]) -> dict[str, Contribution]:
    """Contribution of each family, given features (m, F) of as many draws of each."""
    best = np.array([distances(space.points, space.scale(r)).min(axis=1) for r in rows.values()])
    covered = best < space.tau
    alone = covered & (covered.sum(axis=0) == 1)
    first = best.argmin(axis=0)
    return {
        name: Contribution(
            covered=float(covered[i].mean()),
            nearest=float((first == i).mean()),
            only=float(alone[i].mean()),
        )
        for i, name in enumerate(rows)
    }


def synth_ts(seed: int, index: int, length: int) -> np.ndarray:
    """An item of SynthTS as training sees it, one variate: (T,)."""
    return generator.sample(seed, index, length)[0]


def build_parser() -> argparse.ArgumentParser:
    """The flags of `tinytsm diversity`."""
    parser = argparse.ArgumentParser(
        prog="tinytsm diversity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pack", type=Path, required=True, help="folder with manifest.json")
    parser.add_argument("--items", type=int, default=3000, help="series made up (default: 3000)")
    parser.add_argument(
        "--per-dataset", type=int, default=20, help="real windows of a data set (default: 20)"
    )
    parser.add_argument(
        "--per-family", type=int, default=40, help="draws of each family alone; 0 skips them"
    )
    parser.add_argument(
        "--rivals", type=int, default=0, help="series of each rival generator (default: none)"
    )
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write the map and the misses")
    parser.add_argument("--seed", type=int, default=0, help="of items and windows (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print coverage, by frequency, and by family; exit status 2 with one line where the input is at fault."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if min(args.items, args.per_dataset) < 1 or min(args.per_family, args.rivals, args.seed) < 0:
        parser.error("--items and --per-dataset must be at least 1, the others at least 0")
    try:
        features.names()
        if args.pictures is not None:
            gallery.require()
            _make(args.pictures)
        report(args)
    except (PackError, InputError, features.MissingPackageError) as error:
        print(f"tinytsm: error: {error}", file=sys.stderr)
        return 2
    return 0


def _make(folder: Path) -> None:
    """Make a folder before the work, not after. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made ({error.strerror or error}); give another folder"
        ) from None


def report(args: argparse.Namespace) -> None:
    """Measure and print what the flags ask for."""
    real, frequency = real_series(args.pack, per_dataset=args.per_dataset, seed=args.seed)
    space = make_space(real.features, real.source)
    print(
        f"{len(real.values):,} real windows of {len(frequency)} data sets, "
        f"{real.features.shape[1]} features; tau {space.tau:.3f}"
    )
    rng = np.random.default_rng((args.seed, len(frequency)))
    most = max(args.items, args.rivals, args.per_family)
    lengths = rng.choice([len(x) for x in real.values], size=most)
    print(f"\n{'generator':24}{'series':>8}{'coverage':>10}{'strict':>8}")
    half = halves(space, seed=args.seed)
    print(f"{'real, the other half':24}{len(real.values) // 2:8,}{half:10.3f}", flush=True)
    sizes = sorted({len(real.values) // 2, *_sizes(args.items), *_sizes(args.rivals)})
    clouds: dict[str, Cloud] = {}
    generators: dict[str, list[dict[str, float]]] = {}
    for name, sampler, count in (
        ("SynthTS", synth_ts, args.items),
        ("TempoPFN-like mixture", rivals.tempo_like, args.rivals),
        ("KernelSynth", rivals.kernel_synth, args.rivals),
    ):
        if not count:
            continue
        clouds[name] = made_up(sampler, lengths[:count], seed=args.seed, name=name)
        generators[name] = []
        for size in sizes:
            if size <= count:
                one = cover(space, clouds[name].first(size))
                print(f"{name:24}{size:8,}{one.share:10.3f}{one.strict:8.3f}", flush=True)
                generators[name].append(
                    {"series": size, "coverage": one.share, "strict": one.strict}
                )
    found = cover(space, clouds["SynthTS"].features)
    document = {
        "mixture": mixture.MIXTURE_VERSION,
        "tau": space.tau,
        "real_half": half,
        "generators": generators,
        "by_frequency": _grouped(
            "frequency", np.array([frequency[name] for name in real.source]), found.miss
        ),
        "by_data_set": _grouped("data set", real.source, found.miss),
    }
    if args.per_family:
        document["families"] = _families(space, lengths, args)
    if args.pictures is not None:
        _draw(args.pictures, real, space, clouds, lengths, found, seed=args.seed)
    print(json.dumps(document))


def _sizes(count: int) -> list[int]:
    """How many series are compared: all, a tenth of them, a hundredth, but not too few."""
    fewer = [n for n in (count // 100, count // 10) if n >= _FEWEST]
    return [*fewer, count] if count else []


def _grouped(title: str, group: np.ndarray, miss: np.ndarray) -> dict[str, float]:
    """Print how far real series are missed, by group (n,); the groups' coverage, the least covered first."""
    print(f"\n{title:32}{'real':>6}{'coverage':>10}{'median miss / tau':>19}{'furthest':>10}")
    shares = {name: float((miss[group == name] < 1).mean()) for name in sorted(set(group))}
    for name in sorted(shares, key=lambda name: shares[name]):
        own = miss[group == name]
        print(f"{name:32}{len(own):6}{shares[name]:10.3f}{np.median(own):19.2f}{own.max():10.2f}")
    return shares


def _families(
    space: Space, lengths: np.ndarray, args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    rows = {}
    for name in generator.families():
        sampler = functools.partial(generator.sample_family, name)
        rows[name] = made_up(
            sampler, lengths[: args.per_family], seed=args.seed, name=name
        ).features
    found = contributions(space, rows)
    print(
        f"\n{'family, ' + str(args.per_family) + ' draws':32}{'covered':>8}{'nearest':>9}{'only':>7}"
    )
    for name in sorted(found, key=lambda name: -found[name].nearest):
        one = found[name]
        print(f"{name:32}{one.covered:8.3f}{one.nearest:9.3f}{one.only:7.3f}")
    return {name: vars(one) for name, one in found.items()}


def _draw(
    folder: Path,
    real: Described,
    space: Space,
    clouds: dict[str, Cloud],
    lengths: np.ndarray,
    found: Coverage,
    *,
    seed: int,
) -> None:
    """Write the map of the first points of each generator, and the furthest miss of each data set."""
    points = {name: space.scale(cloud.first(_ON_MAP)) for name, cloud in clouds.items()}
    gallery.feature_map(folder / "synth_map.png", space.points, points, near=space.tau)
    furthest = np.argsort(-found.miss)
    _, first = np.unique(real.source[furthest], return_index=True)
    pairs: list[gallery.Pair] = []
    for i in furthest[np.sort(first)]:
        # drawn again, since tens of thousands were not kept
        index = int(clouds["SynthTS"].index[found.nearest[i]])
        made = features.filled(synth_ts(seed, index, int(lengths[index])))
        pairs.append((f"{real.source[i]}: {found.miss[i]:.2f} tau", real.values[i], made))
    gallery.misses(folder / "synth_misses.png", pairs, title="furthest misses")


if __name__ == "__main__":
    sys.exit(main())
