"""Forecast a Parquet data set that is larger than memory, on one machine or a cluster, with Ray Data.

    tinytsm scale sales/ --output forecasts/ --horizon 28 --workers 8
    tinytsm scale s3://bucket/load/ --output s3://bucket/next/ --horizon 48 --address auto --id-column meter --target kwh

The data set is a folder of Parquet files (or one file) with a long table: id, time stamp, target. Its rows are dealt to
blocks by a hash of the id, so that a series lies whole in one block; blocks beyond the object store's memory spill to
disk. Each worker loads the model once and forecasts block after block. A block whose worker dies is forecast again by
another one. A series that cannot be forecast stops nothing: it gets one row that says why in the column "error", which
is empty elsewhere. The result is a folder of Parquet files; the last line printed is one JSON document.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from tinytsm.commands import console
from tinytsm.config import QUANTILES
from tinytsm.errors import InputError
from tinytsm.options import ForecastOptions, OptionChanges, add_flags, from_flags

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = "__block"
# A worker's memory holds a block a few times over: some hundred megabytes.
ROWS_PER_BLOCK = 2_000_000
_RETRIES = 3


class BlockForecaster:
    """What a worker runs: the model, loaded once, and a call for each block."""

    def __init__(self, model: str, device: str, options: dict[str, Any]):
        """options: arguments of `TinyTSM.predict_df`."""
        import torch

        from tinytsm.forecast import TinyTSM

        # one worker per core: more threads would fight for it
        if device == "cpu":
            torch.set_num_threads(1)
        self.model = TinyTSM.from_pretrained(model, device=device)
        self.options = options

    def __call__(self, block: "pd.DataFrame") -> "pd.DataFrame":
        """The forecasts of a block's series, in the columns of `predict_df`, and `error`."""
        table = block.drop(columns=_BLOCK, errors="ignore")
        return self._forecast(table).reindex(columns=self.columns())

    def _forecast(self, table: "pd.DataFrame") -> "pd.DataFrame":
        import pandas as pd

        id_column = self.options["id_column"]
        try:
            return self.model.predict_df(table, **self.options).assign(error="")
        except InputError as error:
            message = str(error)
        groups = table.groupby(id_column, sort=False, dropna=False, observed=True)
        series = [rows for _, rows in groups]
        if len(series) < 2:
            return table[[id_column]].head(1).assign(error=message)
        # one bad series must not cost the others
        good = self._good(series)
        alone = [rows for rows, fine in zip(series, good, strict=True) if not fine]
        kept = [rows for rows, fine in zip(series, good, strict=True) if fine]
        if not alone:
            # each can be read, but not all as one column, as where each writes dates in its own way
            alone, kept = kept, []
        together = [pd.concat(kept)] if kept else []
        return pd.concat(map(self._forecast, together + alone), ignore_index=True)

    def _good(self, series: "list[pd.DataFrame]") -> list[bool]:
        """Which series can be forecast, a short one beside others whose step it can take."""
        import pandas as pd

        # two steps are as many as it takes to disagree
        beside: dict[str, pd.DataFrame] = {}
        good = []
        for rows in series:
            step = self._step(rows)
            good.append(step is not None)
            if step is not None and len(beside) < 2:
                beside.setdefault(step, rows)
        return [
            fine or self._step(pd.concat([rows, *beside.values()])) is not None
            for rows, fine in zip(series, good, strict=True)
        ]

    def _step(self, table: "pd.DataFrame") -> str | None:
        """The first series' step, None where one of the table's cannot be forecast."""
        from tinytsm.panel import split

        named = {
            name: self.options[name] for name in ("id_column", "timestamp_column", "target", "freq")
        }
        try:
            series, _ = split(table, **named)
            for one in series:
                one.timeline.future(self.options["prediction_length"])
        except InputError:
            return None
        return series[0].timeline.freq

    def columns(self) -> list[str]:
        """Names of the result's columns."""
        names = [self.options["id_column"], self.options["timestamp_column"]]
        levels = [str(level) for level in self.options["quantile_levels"]]
        return [*names, "target_name", "predictions", *levels, "error"]


def deal(table: "pd.DataFrame", *, id_column: str, blocks: int) -> "pd.DataFrame":
    """The table with the number of each row's block, from a hash that is the same in every process."""
    import numpy as np
    import pandas as pd

    # of the text, so that 7 in one file and "7" in another are one series
    hashed = pd.util.hash_array(table[id_column].astype(str).to_numpy(object), categorize=True)
    return table.assign(**{_BLOCK: (hashed % np.uint64(blocks)).astype(np.int64)})


def check_places(source: str | Sequence[str], output: str) -> None:
    """Raise InputError unless local sources are there and a local output is a new or empty folder outside of them."""
    folder = None if "://" in output else Path(output)
    for one in _several(source):
        if "://" in one:
            continue
        if not Path(one).exists():
            raise InputError(f"source {one}: no such file or folder; check the path")
        if folder is not None and folder.resolve().is_relative_to(Path(one).resolve()):
            raise InputError(f"output {output} lies in the source {one}; name another folder")
    if folder is None or not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"output {output} is a file; name a new folder")
    if any(folder.iterdir()):
        raise InputError(
            f"output {output} is not empty, and forecasts of two runs would mix; empty it or name a new folder"
        )


def _several(source: str | Sequence[str]) -> list[str]:
    return [source] if isinstance(source, str) else list(source)


def _read(ray: Any, source: str | Sequence[str], columns: list[str]) -> tuple[Any, int]:
    """Those columns as Ray's data set, and the number of rows. Raises InputError where there are none."""
    data = ray.data.read_parquet(source, columns=columns)
    rows = data.count()
    if not rows:
        # Ray passes over files of other names
        raise InputError(
            f"source {', '.join(_several(source))} has no rows; give a folder of Parquet files named *.parquet"
        )
    # Ray passes over columns that are not there, too
    if missing := [name for name in columns if name not in data.schema().names]:
        known = ", ".join(ray.data.read_parquet(source).schema().names[:20])
        raise InputError(
            f"column {missing[0]!r} is missing; the data set has: {known}; choose with --id-column, "
            "--timestamp-column and --target (id_column=, timestamp_column=, target=)"
        )
    return data, rows


def forecast_dataset(
    source: str | Sequence[str],
    output: str,
    *,
    horizon: int,
    workers: int,
    model: str = "nano",
    device: str = "cpu",
    id_column: str = "item_id",
    timestamp_column: str = "timestamp",
    target: str = "target",
    quantile_levels: Sequence[float | str] = QUANTILES,
    freq: str | int | None = None,
    rows_per_block: int = ROWS_PER_BLOCK,
    **changes: Unpack[OptionChanges],
) -> dict[str, int]:
    """Forecast a Parquet data set into a folder of Parquet files, on the Ray that is running, or one started here.

    source, output: paths or addresses that Ray Data reads and writes; an output folder on this machine must be new or empty.
    workers: model copies, one core each (one GPU each where device is `cuda`). rows_per_block: the largest part that is
    in one worker's memory at a time, about; one series is never split. changes: of the options (`ForecastOptions`).
    Returns counts: rows, blocks. Raises ValueError for bad settings, a source without these columns or rows, and an
    unusable model.
    """
    ray = require_ray()
    check_places(source, output)
    from tinytsm import checkpoint
    from tinytsm.frames import check_quantiles
    from tinytsm.inputs import check_horizon

    if model not in checkpoint.shipped():
        # found here, not by every worker; and workers may stand in another folder
        model = str(checkpoint.resolve(model).resolve())

    for name, value in (("workers", workers), ("rows_per_block", rows_per_block)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    options = {
        "prediction_length": check_horizon(horizon),
        "quantile_levels": check_quantiles(quantile_levels),
        "id_column": id_column,
        "timestamp_column": timestamp_column,
        "target": target,
        "freq": freq,
    } | asdict(ForecastOptions(**changes))
    # Ray Data starts no task whose output might not fit: blocks must be small beside the store
    context, store = (
        ray.data.DataContext.get_current(),
        ray.cluster_resources()["object_store_memory"],
    )
    context.target_max_block_size = max(2**20, min(context.target_max_block_size, int(store) // 16))
    # the newer reader starts 32 processes to look at the footers, on any machine and for any number of files
    context.use_datasource_v2 = False
    data, rows = _read(ray, source, [id_column, timestamp_column, target])
    blocks = max(workers, math.ceil(rows / rows_per_block))
    dealt = data.map_batches(
        deal, fn_kwargs={"id_column": id_column, "blocks": blocks}, batch_format="pandas"
    )
    forecasts = dealt.groupby(_BLOCK, num_partitions=blocks).map_groups(
        BlockForecaster,
        fn_constructor_args=(model, device, options),
        batch_format="pandas",
        concurrency=workers,
        num_cpus=1,
        num_gpus=1 if device.startswith("cuda") else None,
        max_restarts=-1,
        max_task_retries=_RETRIES,
    )
    forecasts.write_parquet(output)
    return {"rows": rows, "blocks": blocks}


def require_ray() -> Any:
    """Ray, with its data library. Raises InputError with the command that helps."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("scaling out needs ray; run: pip install 'tinytsm[scale]'") from None
    return ray


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of `tinytsm scale`."""
    parser = argparse.ArgumentParser(
        prog="tinytsm scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", nargs="+", help="Parquet folder, files or addresses")
    add("--output", required=True, metavar="DIR", help="folder or address for the forecasts")
    add("--horizon", required=True, type=int, metavar="H", help="steps to forecast")
    add("--workers", type=int, default=1, metavar="N", help="model copies at work (default: 1)")
    add("--model", default="nano", metavar="PATH", help="as for forecast (default: nano)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--id-column", default="item_id", metavar="NAME", help="(default: item_id)")
    add("--timestamp-column", default="timestamp", metavar="NAME", help="(default: timestamp)")
    add("--target", default="target", metavar="NAME", help="(default: target)")
    add("--quantiles", default=",".join(map(str, QUANTILES)), metavar="LIST", help="levels")
    add("--freq", metavar="STEP", help="of all series (default: inferred for each)")
    add(
        "--rows-per-block", type=int, default=ROWS_PER_BLOCK, metavar="N",
        help=f"rows in a worker's memory at a time (default: {ROWS_PER_BLOCK})",
    )  # fmt: skip
    add(
        "--address", metavar="ADDRESS", help="auto: this machine's Ray cluster (default: start one)"
    )
    add(
        "--object-store-mb", type=int, metavar="MB",
        help="shared memory of a cluster started here; what exceeds it spills to disk",
    )  # fmt: skip
    add_flags(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `tinytsm scale`; returns the exit status."""
    args = parse(argv)
    try:
        chosen = from_flags(args)
        console.check_device(args.device)
        ray = require_ray()
        # before a cluster starts
        check_places(args.source, args.output)
        start: dict[str, Any] = {"address": args.address}
        if args.address is None:
            # more cores than workers, for reading, dealing and writing
            start |= {"num_cpus": args.workers + 3, "include_dashboard": False}
            if args.object_store_mb is not None:
                start["object_store_memory"] = args.object_store_mb * 2**20
        ray.init(log_to_driver=False, **start)
        counts = forecast_dataset(
            args.source, args.output, horizon=args.horizon, workers=args.workers, model=args.model,
            device=args.device, id_column=args.id_column, timestamp_column=args.timestamp_column,
            target=args.target, quantile_levels=args.quantiles.split(","),
            freq=args.freq, rows_per_block=args.rows_per_block, **asdict(chosen),
        )  # fmt: skip
    except (ValueError, OSError, console.UsageError) as error:
        # Ray's own message for what happened in another process is that one's traceback
        message = str(getattr(error, "cause", error))
        print(f"tinytsm scale: error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    print(json.dumps({"output": args.output, "horizon": args.horizon} | counts))
    return 0
