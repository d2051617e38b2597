"""Write made-up series to a Parquet file, for anyone's models.

    tinytsm synth --out series.parquet --items 100000 --length 1024
    tinytsm synth --out sensors.parquet --items 20000 --variates 8 --seed 7
    tinytsm synth --out demand.parquet --items 5000 --families 'counts.*' dynamics.ets
    tinytsm synth --out big.parquet --items 10000000 --length 512 --float32 --workers 16
    tinytsm synth --show gallery.png                       a picture of what comes out, no file
    tinytsm synth --show families.png --families '*'       two series of each family

One row per series: item_id, variate, family, and target, a list of all its values, NaN where missing. Item i of a
seed is the same bits in a larger or smaller file of the same length, variates and families. Without --families the
mixture that models are trained on is drawn; with it, these families take turns, as they come. Stopped or killed, the
same command goes on where it was: what is done lies in a folder beside the file until the last item. docs/synthts.md
tells more.
"""

import argparse
import concurrent.futures
import dataclasses
import fnmatch
import functools
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tinytsm.errors import InputError
from tinytsm.files import PARQUET_SUFFIXES, check_output, write_atomic, write_text
from tinytsm.synth import generator
from tinytsm.synth.mixture import MIXTURE_VERSION

# Values of a row group, about: large enough to be read fast, small enough that a few of them fill no memory
CHUNK_VALUES = 1 << 20
# Key of the request in the file's own metadata
_KEY = b"tinytsm.synth"
_MIXTURE = "mixture"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a file holds: all that its bytes depend on, kept in its metadata.

    families: names that take turns by item, or none for the mixture. Raises ValueError where they, or the sizes,
    cannot be had.
    """

    items: int
    length: int
    variates: int = 1
    seed: int = 0
    families: tuple[str, ...] = ()
    float32: bool = False
    mixture: str = MIXTURE_VERSION

    def __post_init__(self) -> None:
        for name, most in (("items", 2**62), ("length", 1 << 24), ("variates", 4096)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be between 1 and {most}, got {getattr(self, name)}")
        if self.length * self.variates > 1 << 30:
            raise ValueError(
                f"an item must have at most {1 << 30} values, got length {self.length} times {self.variates} variates"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2^63), got {self.seed}")
        if self.families and self.variates > 1:
            raise ValueError(
                f"a family alone is one series, got variates {self.variates}: leave out the one or the other"
            )

    @property
    def chunk_items(self) -> int:
        """Items of a row group; the last has the rest."""
        return max(1, CHUNK_VALUES // (self.length * self.variates))

    @property
    def chunks(self) -> int:
        """How many row groups there are."""
        return -(-self.items // self.chunk_items)

    def chunk(self, number: int) -> range:
        """The items of row group `number`."""
        first = number * self.chunk_items
        return range(first, min(first + self.chunk_items, self.items))

    def family(self, item: int) -> str:
        """Name of the family that item `item` is drawn from, or of the whole mixture."""
        return self.families[item % len(self.families)] if self.families else _MIXTURE

    def as_json(self) -> str:
        """What a file records and must agree with before it is added to, the row groups included."""
        return json.dumps(dataclasses.asdict(self) | {"chunk_items": self.chunk_items})


def match_families(patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the families that any of these globs matches, in the mixture's order. Raises InputError."""
    for pattern in patterns:
        if not fnmatch.filter(generator.families(), pattern):
            raise InputError(
                f"no family matches {pattern!r}; there are {', '.join(generator.families())}"
            )
    return tuple(
        name
        for name in generator.families()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    )


def values_of(request: Request, items: range) -> np.ndarray:
    """(len(items), V, T) float64: these items of the request, NaN where missing."""
    values = np.empty((len(items), request.variates, request.length))
    for row, item in enumerate(items):
        if request.families:
            values[row, 0] = generator.sample_family(
                request.family(item), request.seed, item, request.length
            )
        else:
            generator.fill_item(request.seed, item, values[row])
    return values


def _table(request: Request, items: range) -> Any:
    import pyarrow as pa

    values = values_of(request, items)
    if request.float32:
        values = values.astype(np.float32)
    rows = len(items) * request.variates
    offsets = np.arange(rows + 1, dtype=np.int32) * request.length
    names = list(request.families) or [_MIXTURE]
    codes = [item % len(names) for item in items for _ in range(request.variates)]
    columns = {
        "item_id": np.repeat(np.arange(items.start, items.stop), request.variates),
        "variate": np.tile(np.arange(request.variates, dtype=np.int16), len(items)),
        "family": pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names)),
        "target": pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel())),
    }
    return pa.table(columns).replace_schema_metadata({_KEY: request.as_json()})


def _write_table(table: Any, path: Path) -> None:
    import pyarrow.parquet as pq

    # Values hardly ever repeat: a dictionary of them is work for nothing
    pq.write_table(table, path, compression="zstd", use_dictionary=["family"])


def write(
    path: Path,
    request: Request,
    *,
    workers: int = 1,
    advance: Callable[[int], object] | None = None,
) -> None:
    """Write the request's items to a Parquet file, one row group per chunk, going on where an earlier call stopped.

    The bytes depend on the request alone. Chunks lie in a folder beside path until all are there; memory holds one
    for each worker thread. advance: called with a count of items as they are done, earlier calls' included.
    Raises InputError where path holds something else or cannot be written.
    """
    # Compiled before the threads need it
    generator.sample(0, 0, 8)
    if path.exists():
        if _request_of(path) != request.as_json():
            raise InputError(f"{path} is there already; delete it, or give another name")
        shutil.rmtree(_parts(path), ignore_errors=True)
        if advance is not None:
            advance(request.items)
        return
    folder = _open_parts(path, request)

    def make(number: int) -> int:
        items = request.chunk(number)
        part = _part(folder, number)
        if not _is_whole(part, rows=len(items) * request.variates):
            write_atomic(part, functools.partial(_write_table, _table(request, items)))
        return len(items)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for count in _each(pool, make, iter(range(request.chunks)), ahead=workers):
            if advance is not None:
                advance(count)
    joined = folder / "joined.parquet"
    write_atomic(joined, functools.partial(_join, folder, request))
    try:
        joined.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None
    shutil.rmtree(folder, ignore_errors=True)


def _each(
    pool: concurrent.futures.Executor,
    make: Callable[[int], int],
    numbers: Iterator[int],
    *,
    ahead: int,
) -> Iterator[int]:
    """Results of make(number), in whatever order, with `ahead` calls under way: a pool's own map queues all at once."""
    running = {pool.submit(make, number) for number in itertools.islice(numbers, ahead)}
    while running:
        done, running = concurrent.futures.wait(
            running, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for future in done:
            yield future.result()
        running |= {pool.submit(make, number) for number in itertools.islice(numbers, len(done))}


def _part(folder: Path, number: int) -> Path:
    return folder / f"chunk-{number:08d}.parquet"


def _parts(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _open_parts(path: Path, request: Request) -> Path:
    """The folder of the finished chunks, made or found to be this request's."""
    folder = _parts(path)
    note = folder / "request.json"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror or error})") from None
    if note.exists() and note.read_text() != request.as_json():
        raise InputError(
            f"{folder} holds the start of another request, {note.read_text()}; finish that one, or delete the folder"
        )
    write_text(note, request.as_json())
    return folder


def _request_of(path: Path) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return (pq.read_schema(path).metadata or {}).get(_KEY, b"").decode()
    except (pa.ArrowException, OSError):
        return None


def _is_whole(part: Path, *, rows: int) -> bool:
    """Whether an earlier call left this chunk; a machine that lost power may have left a shell of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not part.exists():
        return False
    try:
        return bool(pq.read_metadata(part).num_rows == rows)
    except (pa.ArrowException, OSError):
        return False


def _join(folder: Path, request: Request, out: Path) -> None:
    import pyarrow.parquet as pq

    schema = pq.read_schema(_part(folder, 0))
    options = {"compression": "zstd", "use_dictionary": ["family"]}
    with pq.ParquetWriter(out, schema, **options) as writer:
        for number in range(request.chunks):
            writer.write_table(pq.read_table(_part(folder, number)))


def _parser() -> argparse.ArgumentParser:
    manual, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="tinytsm synth",
        description=manual,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", metavar="FILE", help="Parquet file to write")
    add("--items", type=int, metavar="N", help="items to write (needed with --out)")
    add("--length", type=int, default=1024, metavar="T", help="steps of a series (default: 1024)")
    add("--variates", type=int, default=1, metavar="V", help="series of an item (default: 1)")
    add("--seed", type=int, default=0, help="seed of the generator (default: 0)")
    add("--families", nargs="+", default=[], metavar="GLOB", help="these in turn, not the mixture")
    add("--float32", action="store_true", help="half the size, for 7 of 16 digits")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="threads (all cores)")
    add("--show", type=Path, metavar="PNG", help="draw samples instead (pip install matplotlib)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command `tinytsm synth`. Returns the exit code: 2 for what cannot be made, 130 where interrupted."""
    parser = _parser()
    args = parser.parse_args(argv)
    if (args.out is None) == (args.show is None):
        parser.error("give either --out FILE or --show PNG")
    if args.out is not None and args.items is None:
        parser.error("--out needs --items N")
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}")
    try:
        families = match_families(args.families)
        return _show(args, families) if args.out is None else _write(args, families)
    except ValueError as error:
        print(f"tinytsm synth: error: {error}", file=sys.stderr)
        return 2


def _show(args: argparse.Namespace, families: tuple[str, ...]) -> int:
    # Drawing needs matplotlib, writing does not
    from tinytsm import gallery, plot

    gallery.draw(check_output(args.show, plot.SUFFIXES), seed=args.seed, families=families)
    print(f"wrote {args.show}", file=sys.stderr)
    return 0


def _write(args: argparse.Namespace, families: tuple[str, ...]) -> int:
    path = check_output(args.out, PARQUET_SUFFIXES)
    request = Request(
        items=args.items,
        length=args.length,
        variates=args.variates,
        seed=args.seed,
        families=families,
        float32=args.float32,
    )
    print(request.as_json(), file=sys.stderr)
    began = time.perf_counter()
    try:
        with tqdm(total=request.items, unit="item", unit_scale=True, file=sys.stderr) as bar:
            write(path, request, workers=args.workers, advance=bar.update)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it was", file=sys.stderr)
        return 130
    points = request.items * request.variates * request.length
    summary = {
        "path": str(path),
        "items": request.items,
        "points": points,
        "bytes": path.stat().st_size,
        "seconds": round(time.perf_counter() - began, 1),
        "mixture": request.mixture,
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
