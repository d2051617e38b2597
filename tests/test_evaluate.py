"""Tasks, windows, tables and the command, on a pack made here; and the real pack's own figures where it lies.

The real pack is not part of the repository. Its tests look in the folder that TINYTSM_PACK names, else in
`shared/data` beside the repository, and are skipped where no manifest.json is there.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tinytsm import evaluate, pack, scoreboard
from tinytsm.evaluate import SeasonalNaive, main, score
from tinytsm.metrics import INTERVAL, LEVELS, season_length
from tinytsm.pack import PackError, load_tasks, read_series, starts, windows

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PACK = Path(
    os.environ.get("TINYTSM_PACK") or Path(__file__).resolve().parents[2] / "shared" / "data"
)
needs_pack = pytest.mark.skipif(
    not (PACK / "manifest.json").exists(), reason="no evaluation pack: set TINYTSM_PACK"
)

ITEMS = [[0, 1, 2, 4, 8, 9], [5, 5, 7, None, 9, 3, 1]]
LONG = [[0, 2] * 30, list(range(60))]


def write_series(path: Path, series) -> None:
    rows = [[np.nan if value is None else value for value in x] for x in series]
    table = pa.table(
        {
            "item_id": [str(i) for i in range(len(rows))],
            "target": pa.array(rows, pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, path)


@pytest.fixture
def folder(tmp_path):
    """A pack of three tasks: tiny/short (2 windows of 2 steps), long/ltsf/4 and long/ltsf/8."""
    write_series(tmp_path / "tiny.parquet", ITEMS)
    write_series(tmp_path / "long.parquet", LONG)
    manifest = {
        "datasets": [
            {
                "name": "tiny",
                "file": "tiny.parquet",
                "freq": "D",
                "season_length": 1,
                "domain": "Energy",
                "tasks": [{"kind": "gift", "term": "short", "prediction_length": 2, "windows": 2}],
            },
            {
                "name": "long",
                "file": "long.parquet",
                "freq": "12h",
                "domain": "Nature",
                "tasks": [
                    {
                        "kind": "ltsf",
                        "horizons": [4, 8],
                        "train_end": 20,
                        "val_end": 30,
                        "test_end": 50,
                    }
                ],
            },
        ]
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    scores = {"mase": 2.0, "crps": 4.0}
    halves = {"mase": 1.0, "crps": 3.0}
    sample = {"SeasonalNaive": scores, "Theta": halves}
    entry = {"dataset": "tiny", "kind": "gift", "term": "short", "prediction_length": 2}
    (tmp_path / "baselines.json").write_text(json.dumps({"tasks": [entry | {"sample": sample}]}))
    models = {"seasonal_naive": {"tiny/short": [2.0, 4.0]}, "best": {"tiny/short": [0.5, 3.0]}}
    (tmp_path / "published.json").write_text(json.dumps({"models": models}))
    return tmp_path


class Constant:
    """Forecasts one value, and remembers what it was asked."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.asked: list[tuple[int, int, int, list[float]]] = []

    def predict_quantiles(self, inputs, prediction_length, quantile_levels):
        shape = (len(inputs), prediction_length)
        longest = max(map(len, inputs))
        self.asked.append((len(inputs), longest, prediction_length, quantile_levels))
        return np.full((*shape, len(quantile_levels)), self.value), np.full(shape, self.value + 1)


def task_of(folder: Path, name: str) -> pack.Task:
    (task,) = load_tasks(folder, patterns=[name])
    return task


def test_windows_follow_the_manifest(folder):
    task = task_of(folder, "tiny/short")
    pairs = [(x.tolist(), y.tolist()) for x, y in windows(task, read_series(task))]
    assert pairs[0] == ([0, 1], [2, 4])
    assert pairs[1] == ([0, 1, 2, 4], [8, 9])
    np.testing.assert_equal(pairs[2], ([5, 5, 7], [np.nan, 9]))
    np.testing.assert_equal(pairs[3], ([5, 5, 7, np.nan, 9], [3, 1]))


def test_windows_are_views(folder):
    task = task_of(folder, "long/ltsf/4")
    series = read_series(task)
    assert all(np.shares_memory(x, series[0]) for x, _ in windows(task, series[:1]))


def test_long_term_windows_cover_the_test_rows_and_no_more(folder):
    task = task_of(folder, "long/ltsf/4")
    assert task.season_length == season_length("12h") == 2
    found = starts(task, 60)
    assert (found[0], found[-1], len(found)) == (30, 46, 17)
    assert starts(task, 60, stride=5).tolist() == [30, 35, 40, 45]
    assert pack.count_windows(task) == 2 * 17
    assert pack.count_windows(task, stride=5) == 2 * 4
    # 2, 0, 2, ... has training mean 1 and deviation 1; 0 .. 19 has mean 9.5 and variance (20^2 - 1) / 12
    wave, line = read_series(task)
    assert wave[:2].tolist() == [-1, 1]
    assert line[59] == pytest.approx((59 - 9.5) / np.sqrt(399 / 12))


@pytest.mark.parametrize(
    ("hours", "horizon", "count"),
    [(1, 96, 2785), (1, 192, 2689), (1, 336, 2545), (1, 720, 2161), (4, 96, 11425)],
)
def test_the_windows_of_ett_are_those_of_the_literature(folder, hours, horizon, count):
    """12, 4 and 4 months of 30 days, rows beyond unused, every window whose labels lie in the last four."""
    train, val, test = (hours * 24 * 30 * months for months in (12, 16, 20))
    rule = {"train_end": train, "val_end": val, "test_end": test, "horizons": [horizon]}
    edit(folder, lambda d: d.update(tasks=[{"kind": "ltsf"} | rule]))
    task = task_of(folder, f"tiny/ltsf/{horizon}")
    found = starts(task, hours * 17420)
    assert len(found) == task.windows == count
    assert (found[0], found[-1] + horizon) == (val, test)
    assert (np.diff(found) == 1).all()


@pytest.mark.parametrize(
    ("name", "most", "lengths"),
    [
        # 34 windows, two series of 17 from step 30 on: the 1st, 12th, 23rd (6th of the second) and last
        ("long/ltsf/4", 4, [30, 41, 35, 46]),
        ("tiny/short", 2, [2, 5]),
        ("tiny/short", 3, [2, 3, 5]),
        ("tiny/short", 9, [2, 4, 3, 5]),
    ],
)
def test_a_sample_is_spread_over_all_windows_of_all_series(folder, name, most, lengths):
    task = task_of(folder, name)
    found = [len(x) for x, _ in windows(task, read_series(task), max_windows=most)]
    assert len(found) == pack.count_windows(task, max_windows=most)
    assert found == lengths


def test_seasonal_naive_scores_by_hand(folder):
    scores = score(task_of(folder, "tiny/short"), SeasonalNaive(season_length=1))
    # contexts end at 1, 4, 7 and 9, with seasonal errors 1, 4/3, 1 and 1 (the gap breaks two pairs)
    assert scores["mase"] == pytest.approx(((1 + 3) + (4 + 5) / (4 / 3) + 2 + (6 + 8)) / 7)
    assert (scores["points"], scores["forecasts"]) == (7, 4)
    # the square wave repeats exactly; the line is missed by 1 + 0 + ... in steps of its season of 2
    wave = score(task_of(folder, "long/ltsf/4"), SeasonalNaive(season_length=2))
    unit = 1 / np.sqrt(399 / 12)
    assert wave["mae"] == pytest.approx((0 + unit * (2 + 2 + 4 + 4) / 4) / 2)
    assert wave["mse"] == pytest.approx((0 + unit**2 * (4 + 4 + 16 + 16) / 4) / 2)
    assert "mase" not in wave


def test_chunks_change_nothing_but_what_is_asked(folder):
    task = task_of(folder, "tiny/short")
    whole, pieces, steps = Constant(3), Constant(3), []
    a = score(task, whole)
    b = score(task, pieces, chunk=3, advance=steps.append)
    times = {"seconds", "cpu_seconds"}
    assert {k: a[k] for k in a.keys() - times} == {k: b[k] for k in b.keys() - times}
    assert whole.asked == [(4, 5, 2, [*LEVELS, *INTERVAL])]
    assert [asked[0] for asked in pieces.asked] == steps == [3, 1]


def test_long_term_scores_take_the_mean_for_mse_and_the_median_for_mae(folder):
    constant = Constant(0.0)
    scores = score(task_of(folder, "long/ltsf/8"), constant, stride=20)
    labels = [x[30:38] for x in read_series(task_of(folder, "long/ltsf/8"))]
    assert scores["mae"] == pytest.approx(np.mean(np.abs(labels)))
    assert scores["mse"] == pytest.approx(np.mean(np.square(np.subtract(labels, 1.0))))
    # only what is scored is asked for
    assert constant.asked == [(2, 30, 8, [0.5])]


def test_a_failing_forecaster_is_named_with_its_task(folder):
    with pytest.raises(ValueError, match="tiny/short: forecasts must be finite"):
        score(task_of(folder, "tiny/short"), Constant(float("nan")))


def run(folder: Path, *flags: str, capsys) -> tuple[int, str, str]:
    code = main(["--pack", str(folder), *flags])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def model(monkeypatch, folder):
    """`--model MODEL` scores a `Constant` of 3."""
    constant = Constant(3.0)
    weights = folder / "model.safetensors"
    weights.write_bytes(b"one")
    monkeypatch.setattr(evaluate, "load_model", lambda path, device, options: (constant, [weights]))
    return constant


def test_the_command_writes_results_and_tables(folder, model, capsys):
    output = folder / "results.json"
    code, out, err = run(folder, "--model", "runs/three", "--output", str(output), capsys=capsys)
    assert code == 0
    document = json.loads(output.read_text())
    entry = document["tasks"]["tiny/short"]
    assert entry["relative"]["mase"] == entry["model"]["mase"] / entry["seasonal_naive"]["mase"]
    assert entry["baselines"] == {"Theta": {"mase": 0.5, "crps": 0.75}}
    assert entry["windows"] == entry["all_windows"] == 4
    summary = document["summary"]
    everything = summary["gift"]["all"]["scores"]
    assert everything == {"model": entry["relative"], "Theta": {"mase": 0.5, "crps": 0.75}}
    assert summary["gift"]["energy and sensors"]["tasks"] == 1
    assert summary["published"]["scores"]["best"] == {"mase": 0.25, "crps": 0.75}
    assert summary["published"]["scores"]["model"] == entry["relative"]
    ltsf = [document["tasks"][f"long/ltsf/{h}"]["model"]["mse"] for h in (4, 8)]
    assert summary["averages"]["long"]["scores"]["model"]["mse"] == pytest.approx(np.mean(ltsf))
    lines = out.splitlines()
    assert json.loads(lines[-1]) == summary["headline"]
    assert next(line for line in lines if line.startswith("tiny/short")).split()[1:3] == ["2", "4"]
    assert any(line.split()[:2] == [">", "three"] for line in lines)
    assert "tiny/short" in err
    assert not list(folder.glob(".*"))


def test_resume_scores_only_what_is_missing(folder, model, capsys):
    output = str(folder / "results.json")
    flags = ("--model", "runs/three", "--output", output)
    assert run(folder, *flags, "--tasks", "tiny/*", capsys=capsys)[0] == 0
    first = json.loads(Path(output).read_text())["tasks"]
    assert list(first) == ["tiny/short"]
    model.asked.clear()
    assert run(folder, *flags, "--resume", capsys=capsys)[0] == 0
    assert {horizon for _, _, horizon, _ in model.asked} == {4, 8}
    tasks = json.loads(Path(output).read_text())["tasks"]
    assert list(tasks) == ["tiny/short", "long/ltsf/4", "long/ltsf/8"]
    assert tasks["tiny/short"] == first["tiny/short"]


def test_resume_refuses_other_settings_and_other_weights(folder, model, capsys):
    output = folder / "results.json"
    flags = ("--model", "runs/three", "--output", str(output), "--tasks", "tiny/*", "--resume")
    assert run(folder, *flags, capsys=capsys)[0] == 0
    before = output.read_text()
    code, _, err = run(folder, *flags, "--max-windows", "2", capsys=capsys)
    assert code == 2
    assert "made with max_windows None, not 2" in err
    (folder / "model.safetensors").write_bytes(b"two")
    code, _, err = run(folder, *flags, capsys=capsys)
    assert code == 2
    assert "made with model 'three " in err
    assert output.read_text() == before


def test_resume_refuses_what_another_version_scored(folder, model, capsys, monkeypatch):
    output = folder / "results.json"
    flags = ("--model", "runs/three", "--output", str(output), "--resume")
    assert run(folder, *flags, "--tasks", "tiny/*", capsys=capsys)[0] == 0
    before = output.read_text()
    own = evaluate.versions()
    monkeypatch.setattr(evaluate, "versions", lambda: own | {"torch": "9.9"})
    code, _, err = run(folder, *flags, capsys=capsys)
    assert code == 2
    assert f"'torch': '{own['torch']}'" in err and "'torch': '9.9'" in err
    assert output.read_text() == before


def test_an_interrupted_run_keeps_what_is_done(folder, model, capsys, monkeypatch):
    answer = model.predict_quantiles

    def interrupt(inputs, prediction_length, quantile_levels):
        if prediction_length == 8:
            raise KeyboardInterrupt
        return answer(inputs, prediction_length, quantile_levels)

    monkeypatch.setattr(model, "predict_quantiles", interrupt)
    output = folder / "results.json"
    code, _, err = run(folder, "--model", "m", "--output", str(output), capsys=capsys)
    assert code == 130
    assert "keeps 2 tasks, --resume goes on" in err
    assert list(json.loads(output.read_text())["tasks"]) == ["tiny/short", "long/ltsf/4"]


def test_a_subset_of_windows_is_told(folder, capsys):
    code, out, _ = run(folder, "--baselines-only", "--max-windows", "3", capsys=capsys)
    assert code == 0
    assert "3/4" in out and "A SAMPLE: 3 of 4 windows" in out
    # 17 windows of 4 steps and 13 of 8, of each of the two series
    assert "3/34" in out and "A SAMPLE: 6 of 60 windows" in out
    headline = json.loads(out.splitlines()[-1])
    assert headline["gift"] == {
        "tasks": 1,
        "windows": 3,
        "all_windows": 4,
        "mase": None,
        "crps": None,
    }
    code, out, _ = run(folder, "--baselines-only", capsys=capsys)
    assert code == 0
    assert "SAMPLE" not in out


@pytest.mark.parametrize(
    ("patterns", "kinds", "names"),
    [
        ((), ("gift", "ltsf"), ["tiny/short", "long/ltsf/4", "long/ltsf/8"]),
        (("*/4", "tiny/*"), ("gift", "ltsf"), ["tiny/short", "long/ltsf/4"]),
        ((), ("ltsf",), ["long/ltsf/4", "long/ltsf/8"]),
    ],
)
def test_tasks_are_chosen_by_glob_and_kind(folder, patterns, kinds, names):
    assert [task.name for task in load_tasks(folder, patterns=patterns, kinds=kinds)] == names


def edit(folder: Path, change, *, number: int = 0) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest["datasets"][number])
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "cannot read .*manifest.json: No such file"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json is not JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json: no 'datasets'"),
        (lambda f: (f / "tiny.parquet").unlink(), "cannot read .*tiny.parquet"),
        (lambda f: (f / "tiny.parquet").write_text("no table"), "cannot read .*tiny.parquet"),
        (lambda f: write_series(f / "tiny.parquet", []), "series must be at least 1"),
        (lambda f: write_series(f / "tiny.parquet", [[1, np.inf] * 9]), "infinite values"),
        (lambda f: write_series(f / "tiny.parquet", [[1, 2, 3, 4]]), "2 windows of 2 .* of 4"),
        (lambda f: write_series(f / "long.parquet", [[1] * 49]), "17 windows of 4 .* of 49"),
        (
            lambda f: pq.write_table(pa.table({"target": ["text"]}), f / "tiny.parquet"),
            "no readable column 'target'",
        ),
        (
            lambda f: pq.write_table(pa.table({"value": [1.0]}), f / "tiny.parquet"),
            "no readable column 'target'",
        ),
        (lambda f: edit(f, lambda d: d.pop("freq")), r"manifest.json \(tiny\): no 'freq'"),
        (lambda f: edit(f, lambda d: d["tasks"][0].update(windows="2")), "'windows' must be int"),
        (lambda f: edit(f, lambda d: d["tasks"][0].update(kind="m4")), "one of gift, ltsf, got"),
        (lambda f: edit(f, lambda d: d.update(freq="?", season_length=None)), "freq must read"),
        (lambda f: edit(f, lambda d: d.update(season_length=-1)), "must be at least 1, got .*-1"),
        (lambda f: edit(f, lambda d: d.update(season_length="7")), "'season_length' must be int"),
        (lambda f: edit(f, lambda d: d["tasks"].append(d["tasks"][0])), "got 'tiny/short' twice"),
        (
            lambda f: edit(f, lambda d: d["tasks"][0].update(horizons=[4, "8"]), number=1),
            "'horizons' must be int each, got .4, '8'",
        ),
        (
            lambda f: edit(f, lambda d: d["tasks"][0].update(train_end=-1), number=1),
            "wanted 0 < train_end <= val_end < test_end, got .-1, 30, 50",
        ),
        (lambda f: (f / "baselines.json").write_text("{}"), "baselines.json: no 'tasks'"),
        (lambda f: (f / "published.json").write_text("{}"), "published.json: no 'models'"),
    ],
)
def test_a_bad_pack_is_one_line_and_exit_code_2(folder, spoil, message, capsys):
    spoil(folder)
    code, out, err = run(folder, "--baselines-only", capsys=capsys)
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("tinytsm evaluate: error: ")
    with pytest.raises(PackError, match=message):
        raise PackError(last)


def test_bad_wishes_are_exit_code_2(folder, capsys):
    for flags, message in (
        (["--baselines-only", "--tasks", "nothing*"], "no task fits 'nothing*'"),
        (["--baselines-only", "--tasks", "tiny/*", "--kinds", "ltsf"], "no task of"),
        (["--baselines-only", "--output", "no/such/folder.json"], "no folder"),
        (["--baselines-only", "--kinds", "ltsf", "--calibration", "a.png"], "draws gift tasks"),
        (["--model", str(folder / "nowhere")], "nowhere"),
        (["--model", "nano", "--device", "gpu"], "cannot load nano: device must be auto, "),
        (["--model", "nano", "--device", "cuda:99"], "cannot load nano: device cuda:99 "),
    ):
        code, _, err = run(folder, *flags, capsys=capsys)
        assert code == 2
        assert message in err
    for flags in ([], ["--baselines-only", "--resume"], ["--baselines-only", "--kinds", "m4"]):
        with pytest.raises(SystemExit) as stop:
            main(["--pack", str(folder), *flags])
        assert stop.value.code == 2


def test_calibration_is_averaged_over_tasks(folder, model, capsys):
    output = folder / "results.json"
    picture = folder / "calibration.png"
    flags = ("--model", "m", "--output", str(output), "--calibration", str(picture))
    code, out, _ = run(folder, *flags, "--tasks", "tiny/*", capsys=capsys)
    assert code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    document = json.loads(output.read_text())
    calibration = document["summary"]["calibration"]
    assert set(calibration) == set(document["summary"]["gift"])
    # every quantile is 3: of 2, 4, 8, 9 and 9, 3, 1 two lie below, one ties, four lie above
    scores = calibration["all"]["scores"]["model"]
    below = {level: (2 + level) / 7 for level in (*LEVELS, 0.975)}
    assert [scores["coverage"][str(level)] for level in below] == pytest.approx([*below.values()])
    tie = 1 / 7 / 10
    assert scores["pit"] == pytest.approx([2 / 7 + tie] + 8 * [tie] + [4 / 7 + tie])
    assert scores["error"] == pytest.approx(np.mean([abs(below[q] - q) for q in LEVELS]))
    row = next(
        line for line in out.splitlines() if line.startswith("energy and sensors  ") and "%" in line
    )
    # .95 of the tie
    assert row.split()[4:6] == ["13.6", "%"]


@needs_pack
def test_the_pack_has_the_seasons_and_windows_of_its_rules():
    manifest = json.loads((PACK / "manifest.json").read_text())
    for entry in manifest["datasets"]:
        assert season_length(entry["freq"]) == entry["season_length"], entry["name"]
        assert season_length(entry["pandas_freq"]) == entry["season_length"], entry["name"]
        counted = {
            f"{entry['name']}/ltsf/{h}": n
            for rule in entry["tasks"]
            if rule["kind"] == "ltsf"
            for h, n in rule["windows"].items()
        }
        for name, count in counted.items():
            assert task_of(PACK, name).windows == count


@needs_pack
@pytest.mark.parametrize(
    "name",
    ["ettm1/medium", "ett1_d/short", "bizitobs_l2c_h/long", "hierarchical_sales_d/short"],
)
def test_seasonal_naive_is_the_published_one(name):
    task = task_of(PACK, name)
    got = score(task, SeasonalNaive(season_length=task.season_length))
    mase, crps = pack.load_published(PACK)["models"]["seasonal_naive"][name]
    assert (got["mase"], got["crps"]) == pytest.approx((mase, crps), abs=5e-4)


@needs_pack
@pytest.mark.parametrize(
    "name", ["m1_yearly/short", "pedestrian_4/medium", "exchange_rate/ltsf/96"]
)
def test_seasonal_naive_is_that_of_the_baselines(name):
    """Gaps in the context, contexts of a few points, and the long-term protocol."""
    entries = json.loads((PACK / "baselines.json").read_text())["tasks"]
    task = task_of(PACK, name)
    got = score(task, SeasonalNaive(season_length=task.season_length))
    (wanted,) = (
        e["seasonal_naive_all"]
        for e in entries
        if e["dataset"] == task.dataset
        and e["kind"] == task.kind
        and e["prediction_length"] == task.horizon
    )
    for key in pack.SCORES[task.kind]:
        assert got[key] == pytest.approx(wanted[key], rel=1e-9)


@needs_pack
def test_group_means_of_the_baselines_are_those_of_the_pack():
    document = json.loads((PACK / "baselines.json").read_text())
    wanted = document["geometric_means_over_seasonal_naive"]
    baselines = pack.load_baselines(PACK)
    naive = {"mase": 1.0, "crps": 1.0, "mse": 1.0, "mae": 1.0, "forecasts": 1}
    results = {
        task.name: evaluate.record(task, naive=naive, baselines=baselines[task.name])
        for task in load_tasks(PACK)
    }
    summary = scoreboard.summarise(results)
    for kind in pack.SCORES:
        for group in set(wanted[kind]) & set(summary[kind]):
            for column, scores in summary[kind][group]["scores"].items():
                for key, value in scores.items():
                    assert value == pytest.approx(wanted[kind][group][column][key]["value"])
    assert {"all", "term long", "freq H", "domain Energy"} <= set(summary["gift"])
