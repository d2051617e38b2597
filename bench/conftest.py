"""What every benchmark shares: the device, the tiny mode, the one timer, and where results go.

pytest bench --benchmark-only                              full size
pytest bench --benchmark-only --compare                    and fail where a ratio fell below the last committed one
pytest bench --benchmark-only --save bench/results         and write bench/results/MACHINE/SECTION.json
pytest bench --benchmark-only --minutes 3                  and skip what is left of a file after three minutes
TINYTSM_BENCH_TINY=1 pytest bench --benchmark-disable      small and once: proves that they still run

The results file is rewritten after every benchmark, so a run that is cut short keeps what it has.
"""

import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import record, timing, verify
from bench.record import TINY

_PARTS = pytest.StashKey[dict[str, dict[str, Any]]]()
_BEGAN = pytest.StashKey[dict[Path, float]]()
_PEAKS = pytest.StashKey[timing.Peaks]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tinytsm benchmarks")
    group.addoption(
        "--compare",
        action="store_true",
        help="fail where a ratio fell below the last committed one",
    )
    group.addoption("--save", type=Path, metavar="DIR", help="write DIR/MACHINE/SECTION.json")
    group.addoption(
        "--minutes", type=float, default=0.0, help="skip what is left of a file after this"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--compare") and TINY:
        raise pytest.UsageError("--compare needs full sizes: unset TINYTSM_BENCH_TINY")
    config.stash[_PARTS] = {}
    config.stash[_BEGAN] = {}


def pytest_runtest_setup(item: pytest.Item) -> None:
    began = item.config.stash[_BEGAN].setdefault(item.path, time.monotonic())
    box = 60 * item.config.getoption("--minutes")
    if box and time.monotonic() > began + box:
        pytest.skip("the file's time box is spent")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rivals side by side: a time box then cuts the last shapes, not the last rivals of all shapes."""
    places: dict[tuple[Any, ...], int] = {}

    def place(item: pytest.Item) -> int:
        params = getattr(getattr(item, "callspec", None), "params", {})
        shape = [f"{key}={value}" for key, value in params.items() if key != "rival"]
        key = (item.path, getattr(item, "originalname", item.name), *shape)
        return places.setdefault(key, len(places))

    items.sort(key=place)


@pytest.fixture(scope="session")
def tiny() -> bool:
    """Whether sizes are cut to what continuous integration can afford."""
    return TINY


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU where there is one, else the CPU; TINYTSM_BENCH_DEVICE=cpu keeps to the CPU."""
    return record.pick_device()


@pytest.fixture(scope="session")
def peaks(device: torch.device, pytestconfig: pytest.Config) -> timing.Peaks:
    """What a plain copy and a square matmul reach in this run."""
    pytestconfig.stash[_PEAKS] = timing.measure_peaks(device, tiny=TINY)
    return pytestconfig.stash[_PEAKS]


@pytest.fixture
def timed(
    request: pytest.FixtureRequest, benchmark: BenchmarkFixture, device: torch.device
) -> Callable[..., Any]:
    """Time `fn` in batches of calls; return what its last call returned, to be compared with the definition's.

    timed(fn, bytes_moved=..., calls=20, rounds=10, flop=0, against=None, op=None). A batch has at most `calls` calls, and
    fewer where a few are long enough. Reported beside pytest-benchmark's table, which is per batch and by the wall clock: microseconds per call (on a GPU by its own events), GB/s of the
    bytes that one call must read and write, TFLOP/s, both also as a share of this run's peak, and a GPU's peak memory.
    against: a rival that takes its turn in every round; `ratio` is its time over fn's, with the spread over rounds.
    op: the ratio is withheld where its kernel's tests fail.
    """

    def run(
        fn: Callable[[], Any], *,
        bytes_moved: float, calls: int = 20, rounds: int = 10, flop: float = 0.0,
        dtype: torch.dtype = torch.float32, against: Callable[[], Any] | None = None,
        op: str | None = None,
    ) -> Any:  # fmt: skip
        rounds = 1 if TINY else rounds
        # finding out also compiles and warms up
        mine = 1 if TINY else min(calls, timing.calls_for(fn, device))
        yours = 1 if TINY or against is None else min(calls, timing.calls_for(against, device))
        ours: list[float] = []
        theirs: list[float] = []
        last: list[Any] = [None]

        def keep() -> None:
            last[0] = fn()

        def batch() -> None:
            ours.append(timing.batch_seconds(keep, mine, device))

        def rival() -> None:
            if against is not None:
                theirs.append(timing.batch_seconds(against, yours, device))

        benchmark.pedantic(batch, setup=rival, rounds=rounds)
        # None under --benchmark-disable
        if benchmark.stats:
            peaks = request.getfixturevalue("peaks")
            seconds = sorted(ours)[len(ours) // 2]
            benchmark.extra_info |= {
                "us_per_call": seconds * 1e6,
                "GB/s": bytes_moved / seconds / 1e9,
            }
            if bytes_moved:
                benchmark.extra_info["of_copy"] = bytes_moved / seconds / 1e9 / peaks.copy
            if flop:
                reached = flop / seconds / 1e12
                peak = peaks.matmul[str(dtype).removeprefix("torch.")]
                benchmark.extra_info |= {"TFLOP/s": reached, "of_matmul": reached / peak}
            if theirs:
                spread = timing.ratio(theirs, ours)
                benchmark.extra_info |= {
                    "ratio": spread.middle,
                    "ratio_low": spread.low,
                    "ratio_high": spread.high,
                }
            if op is not None and not TINY:
                verdict = verify.tests_of(op, device.type)
                if verdict != "passed":
                    _withhold(benchmark.extra_info, f"tests of {op}: {verdict}")
            taken = timing.peak_bytes(fn, device)
            if taken is not None:
                benchmark.extra_info["peak_MB"] = taken / 1e6
        return last[0]

    return run


def _withhold(row: dict[str, Any], reason: str) -> None:
    for name in ("ratio", "ratio_low", "ratio_high"):
        row.pop(name, None)
    row["withheld"] = reason


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the row of a benchmark; one whose result was wrong keeps its name and loses its ratio."""
    report = yield
    if call.when != "call" or report.skipped or not isinstance(item, pytest.Function):
        return report
    benchmark: Any = item.funcargs.get("benchmark")
    if benchmark is None or not benchmark.stats:
        return report
    row: dict[str, Any] = {"name": item.name, "group": benchmark.group}
    params = getattr(getattr(item, "callspec", None), "params", {})
    row |= {k: v if isinstance(v, int | float | str) else str(v) for k, v in params.items()}
    row |= {"median_s": benchmark.stats.stats.median, **benchmark.extra_info}
    if report.failed:
        _withhold(row, "its result is wrong")
        _withhold(benchmark.extra_info, "its result is wrong")
    section = item.path.stem.removeprefix("bench_")
    parts = item.config.stash[_PARTS]
    if section not in parts:
        device: Any = item.funcargs.get("device") or record.pick_device()
        # not this run's own flags, which name folders of this machine
        command = f"pytest bench/{item.path.name} --benchmark-only"
        parts[section] = record.header(section, device, command=command) | {"rows": []}
    peaks = item.config.stash.get(_PEAKS, None)
    if peaks is not None:
        parts[section]["peaks"] = {"copy_GB/s": peaks.copy, "matmul_TFLOP/s": peaks.matmul}
    parts[section]["rows"].append(row)
    folder = item.config.getoption("--save")
    if folder is not None:
        record.write(parts[section], folder)
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for document in config.stash[_PARTS].values():
        for row in document["rows"]:
            if "withheld" in row:
                terminalreporter.write_line(f"no ratio for {row['name']}: {row['withheld']}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --compare: print what fell below the committed results, and fail."""
    if not session.config.getoption("--compare"):
        return
    lines: list[str] = []
    compared = 0
    for document in session.config.stash[_PARTS].values():
        before = record.committed(document)
        if before is not None:
            fallen, count = record.regressions(document["rows"], before["rows"])
            lines, compared = lines + fallen, compared + count
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        if compared or lines:
            reporter.write_line(f"\n{compared} ratios compared with the committed results")
        else:
            reporter.write_line("\nno ratio of this machine is committed: nothing to compare with")
        for line in lines:
            reporter.write_line(f"fell: {line}", red=True)
    if lines:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
