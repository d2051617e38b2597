"""A pack of public data for `tinytsm evaluate`, made from clones of the repositories that hold it.

    for r in vincentarelbundock/Rdatasets numenta/NAB skforecast/skforecast-datasets jbrownlee/Datasets facebook/prophet
    do git clone --depth 1 https://github.com/$r clones/$(basename $r); done
    python -m bench.public clones public
    tinytsm evaluate --pack public --model nano

None of it is in this repository, and no model was trained on any of it. A task has at most 20 windows of a series and
about 100 in all: the newest, or spread over the newer half of series that are long enough. Prints one JSON line.
"""

import argparse
import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from tinytsm import files

_PER_SERIES, _PER_TASK = 20, 100
# Columns that number or date the rows.
_NO_VALUES = {"rownames", "time"}
_HORIZONS = {"A": 6, "Q": 8, "M": 12, "W": 8, "D": 14, "H": 48, "30T": 48, "5T": 48}
_LONG_HORIZON = 480
_SEASONS = {"A": 1, "Q": 4, "M": 12, "W": 52, "D": 7, "H": 24, "30T": 48, "5T": 288}


class Source(NamedTuple):
    """A data set: names of files in a clone, globs too, and the columns of its values (none: all that hold numbers). by: the
    columns that name a series, where a file holds several below one another. long: whether long horizons are asked for too.
    """

    clone: str
    name: str
    freq: str
    domain: str
    names: str
    values: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    long: bool = False


# Where the files are in each clone.
_PLACES = {
    "Rdatasets": "csv/{}.csv",
    "NAB": "data/{}.csv",
    "skforecast-datasets": "data/{}.csv",
    "Datasets": "{}.csv",
    "prophet": "examples/example_{}.csv",
}
_R, _NAB, _SK, _DATASETS, _PROPHET = (functools.partial(Source, clone) for clone in _PLACES)
_MONTHLY = (
    "fpp2/a10 fpp2/auscafe fpp2/debitcards fpp2/departures fpp2/elecequip fpp2/h02 fpp2/usmelec fpp2/insurance "
    "fpp3/canadian_gas fpp3/souvenirs forecast/gas forecast/wineind datasets/AirPassengers datasets/nottem "
    "datasets/USAccDeaths datasets/fdeaths datasets/mdeaths"
)
_QUARTERLY = (
    "fpp2/ausbeer fpp2/austourists fpp2/euretail fpp2/qauselec fpp2/qcement fpp2/qgas fpp2/uschange fpp2/visnights "
    "forecast/woolyrnq datasets/austres datasets/JohnsonJohnson datasets/presidents AER/USMacroG AER/USMacroSW"
)
_YEARLY = (
    "fpp2/ausair fpp2/austa fpp2/guinearice fpp2/livestock fpp2/marathon fpp2/maxtemp fpp2/oil fpp2/sunspotarea "
    "fpp2/wmurders datasets/LakeHuron datasets/lynx datasets/Nile datasets/nhtemp datasets/airmiles datasets/discoveries"
)
SOURCES = (
    _R("classic_monthly", "M", "Econ/Fin", _MONTHLY),
    _R("classic_quarterly", "Q", "Econ/Fin", _QUARTERLY),
    _R("classic_yearly", "A", "Econ/Fin", _YEARLY),
    _R("us_economics", "M", "Econ/Fin", "ggplot2/economics"),
    _R("offences", "M", "Other", "fpp3/nsw_offences", ("Count",), ("Type",)),
    _R("inbound_visitors", "M", "Transport", "fpp3/aus_inbound", ("Count",), ("Country", "Purpose")),
    _R("births", "M", "Healthcare", "fpp3/aus_births", ("Births",), ("State",)),
    _R("vehicle_sales", "M", "Sales", "fpp3/aus_vehicle_sales", ("Count",), ("Type",)),
    _R("house_sales", "M", "Sales", "ggplot2/txhousing", ("sales",), ("city",)),
    _R("house_inventory", "M", "Sales", "ggplot2/txhousing", ("inventory",), ("city",)),
    _R("arrivals", "Q", "Transport", "fpp3/aus_arrivals", ("Arrivals",), ("Origin",)),
    _R("tobacco", "Q", "Sales", "fpp3/aus_tobacco", ("Expenditure",), ("State",)),
    _R("hotel_takings", "Q", "Sales", "fpp3/aus_accommodation", ("Takings",), ("State",)),
    _R("hotel_occupancy", "Q", "Sales", "fpp3/aus_accommodation", ("Occupancy",), ("State",)),
    _R("prisoners", "Q", "Other", "fpp2/prison"),
    _R("deaths", "W", "Healthcare", "fpp3/aus_mortality", ("Deaths",), ("Sex", "Age")),
    _R("gasoline", "W", "Energy", "fpp2/gasoline"),
    _R("walkers", "D", "Transport", "fpp3/melb_walkers"),
    _R("page_views", "D", "Web/CloudOps", "fpp3/otexts_views"),
    _R("trains", "D", "Transport", "modeldata/Chicago", ("ridership", "Austin", "Belmont", "Oak_Park", "Clark_Lake")),
    _R("half_hourly_demand", "30T", "Energy", "forecast/taylor", long=True),
    _SK("australia_tourism", "Q", "Transport", "australia_tourism", ("Trips",), ("Region", "State", "Purpose")),
    _SK("fuel", "M", "Energy", "consumos-combustibles-mensual"),
    _SK("buildings_daily", "D", "Energy", "bdg2_daily_sample"),
    _SK("buildings_hourly", "H", "Energy", "bdg2_hourly_sample"),
    _SK("bicycle_users", "D", "Transport", "bicimad_users"),
    _SK("bicycles_hourly", "H", "Transport", "bike_sharing_dataset_clean", ("users",)),
    _SK("madrid_transport", "D", "Transport", "public-transport-madrid"),
    _SK("flights", "D", "Transport", "uk_daily_flights"),
    _SK("intermittent_hourly", "H", "Sales", "intermittent_demand"),
    _SK("bitcoin", "D", "Econ/Fin", "bitcoin", ("close", "volume")),
    _SK("power_daily", "D", "Energy", "energy_production_shutdown"),
    _SK("air_valencia", "H", "Nature", "air_quality_valencia", ("so2", "no2", "pm10", "o3"), long=True),
    _DATASETS("temperatures", "D", "Nature", "daily-min-temperatures daily-max-temperatures"),
    _DATASETS("air_beijing", "H", "Nature", "pollution", ("pm2.5",), long=True),
    _DATASETS("weather_beijing", "H", "Nature", "pollution", ("DEWP", "TEMP", "PRES")),
    _PROPHET("wikipedia", "D", "Web/CloudOps", "wp_log_peyton_manning"),
    _PROPHET("yosemite", "5T", "Nature", "yosemite_temps", long=True),
    _NAB("servers", "5T", "Web/CloudOps", "realAWSCloudwatch/*", long=True),
    _NAB("tweets", "5T", "Web/CloudOps", "realTweets/*", long=True),
    _NAB("advertisements", "H", "Web/CloudOps", "realAdExchange/*"),
    _NAB("road_traffic", "5T", "Transport", "realTraffic/*"),
    _NAB("taxis", "30T", "Transport", "realKnownCause/nyc_taxi", long=True),
)  # fmt: skip


def read(source: Source, clones: Path) -> Iterator[np.ndarray]:
    """The series of a data set, (T,) float32 each, from the first known value to the last. Raises FileNotFoundError."""
    for name in source.names.split():
        pattern = _PLACES[source.clone].format(name)
        found = sorted((clones / source.clone).glob(pattern))
        if not found:
            place = clones / source.clone / pattern
            raise FileNotFoundError(
                f"{place}: no such file; python -m bench.public --help tells how to clone them"
            )
        for path in found:
            df = pd.read_csv(path)
            columns = source.values or [
                c for c in df.select_dtypes("number") if c not in _NO_VALUES
            ]
            groups = [df] if not source.by else [g for _, g in df.groupby(list(source.by))]
            for group in groups:
                for column in columns:
                    values = pd.to_numeric(group[column], errors="coerce").to_numpy(np.float32)
                    known = np.flatnonzero(~np.isnan(values))
                    if len(known):
                        yield values[known[0] : known[-1] + 1]


def task(term: str, horizon: int, series: list[np.ndarray]) -> dict[str, object] | None:
    """A task of series that are long enough for it, None where none is: how many windows, and how far apart."""
    shortest = min(map(len, series))
    room = (shortest - max(2 * horizon, 12)) // horizon
    windows = min(_PER_SERIES, max(1, _PER_TASK // len(series)), room)
    if windows < 1:
        return None
    distance = max(horizon, shortest // 2 // windows)
    return {"kind": "gift", "term": term, "prediction_length": horizon, "windows": windows, "distance": distance}  # fmt: skip


def build(clones: Path, out: Path) -> dict[str, int]:
    """Write the pack; counts of its data sets, series and tasks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.mkdir(parents=True, exist_ok=True)
    datasets: list[dict[str, object]] = []
    total = tasks = 0
    for source in SOURCES:
        horizon = _HORIZONS[source.freq]
        least = 3 * horizon + 12
        series = [x for x in read(source, clones) if len(x) >= least and np.nanstd(x) > 0]
        wanted = [task("short", horizon, series)]
        if source.long:
            wanted.append(task("long", _LONG_HORIZON, series))
        pq.write_table(pa.table({"target": series}), out / f"{source.name}.parquet")
        datasets.append(
            {
                "name": source.name,
                "file": f"{source.name}.parquet",
                "freq": source.freq,
                "season_length": _SEASONS[source.freq],
                "domain": source.domain,
                "tasks": [one for one in wanted if one is not None],
            }
        )
        total, tasks = total + len(series), tasks + sum(one is not None for one in wanted)
    text = json.dumps({"datasets": datasets}, indent=1) + "\n"
    files.write_text(out / "manifest.json", text)
    return {"datasets": len(datasets), "series": total, "tasks": tasks}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.public",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clones", type=Path, help="folder of the clones")
    parser.add_argument("out", type=Path, help="folder of the pack, made where it is not there")
    args = parser.parse_args(argv)
    try:
        print(json.dumps(build(args.clones, args.out)))
    except OSError as error:
        print(f"bench.public: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
