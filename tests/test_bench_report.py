import json

import pytest

from bench import record, report, tables

MACHINE = {"device": "AMD EPYC", "kind": "cpu", "cores": 2, "threads": 2}
HEAD = {
    "machine": MACHINE,
    "versions": {"torch": "2.13.0", "python": "3.11"},
    "commit": "abc",
    "date": "2026-01-01",
    "command": "pytest bench",
    "tiny": False,
}


def forecast_document():
    warm = {
        "name": "a", "group": "forecast nano", "preset": "nano", "batch": 64, "context": 512,
        "horizon": 96, "latency_ms": 120.4, "series/s": 531.6,
    }  # fmt: skip
    cold = {"name": "b", "group": "cold start", "preset": "nano", "latency_ms": 2345.0}
    return HEAD | {"section": "forecast", "rows": [warm, cold]}


def test_committed_texts_follow_from_the_committed_results():
    for path, text in report.outputs(record.RESULTS).items():
        assert path.read_text() == text, f"{path.name}: run python -m bench.report"


def test_a_marked_table_is_replaced_and_all_else_left(tmp_path):
    record.write(forecast_document(), tmp_path)
    text = "before\n<!-- bench:forecasting -->\nold\n<!-- /bench:forecasting -->\nafter\n"
    made = report.marked(text, tmp_path)
    assert made.startswith("before\n<!-- bench:forecasting -->\n\n| preset | batch |")
    assert made.endswith("\n\n<!-- /bench:forecasting -->\nafter\n")
    assert "| nano | 64 | 512 | 96 | 120 | 532 |" in made and "old" not in made
    assert "From a new process to the first forecast: nano 2.3 s." in made
    assert "AMD EPYC, 2 cores, 2 threads; torch 2.13.0; commit abc, 2026-01-01" in made
    # a second pass changes nothing
    assert report.marked(made, tmp_path) == made


def test_a_table_without_results_says_how_to_measure_it(tmp_path):
    text = "<!-- bench:peers -->\n<!-- /bench:peers -->\n"
    assert "Not measured yet: `python -m bench.peers`." in report.marked(text, tmp_path)


def test_a_marker_must_name_a_table(tmp_path):
    text = "<!-- bench:nonsense -->\n<!-- /bench:nonsense -->\n"
    with pytest.raises(ValueError, match="marks a table 'nonsense'; there are training"):
        report.marked(text, tmp_path)


def test_check_finds_a_page_that_does_not_follow(tmp_path, capsys):
    path = record.write(forecast_document(), tmp_path)
    arguments = ["--results", str(tmp_path), "--no-plots"]
    assert report.main(["--check", *arguments]) == 1
    assert report.main(arguments) == 0
    assert report.main(["--check", *arguments]) == 0
    page = path.with_name("report.md")
    page.write_text(page.read_text().replace("532", "999"))
    capsys.readouterr()
    assert report.main(["--check", *arguments]) == 1
    out = capsys.readouterr().out
    assert "-| nano | 64 | 512 | 96 | 120 | 999 |" in out
    # checking writes nothing
    assert "999" in page.read_text()


def accepted(tmp_path, section, results):
    source = tmp_path / "results.json"
    source.write_text(json.dumps(results))
    flags = ["--name", "one", "--preset", "nano", "--label", "nano, an hour", "--trained", "series"]
    assert report.main(["--accept", str(source), *flags, "--results", str(tmp_path)]) == 0
    return json.loads((tmp_path / section / "one.json").read_text())


def test_an_accepted_evaluation_leaves_its_machine_behind(tmp_path):
    scores = {"mase": 0.8437, "crps": 0.6496}
    group = {"tasks": 66, "scores": {"model": scores, "Theta": {"mase": 0.934, "crps": 1.122}}}
    results = {
        "settings": {"manifest": "m", "model_path": "/home/me/runs", "pack": "/data"},
        "summary": {
            "gift": {"all": group, "published": group | {"tasks": 21}},
            "published": {"scores": {"TempoPFN": {"mase": 0.722, "crps": 0.594}}},
        },
    }
    document = accepted(tmp_path, "accuracy", results)
    assert document["settings"] == {"manifest": "m"}
    assert 1.7e6 < document["parameters"] < 1.8e6
    made = report.marked("<!-- bench:accuracy -->\n<!-- /bench:accuracy -->", tmp_path)
    assert "| **nano, an hour** | 1.76 M | series | .844, .650 | .844, .650 |" in made
    assert "| Theta |  | each series | .934, 1.122 | .934, 1.122 |" in made
    assert "| TempoPFN, published | 38 M | synthetic |  | .722, .594 |" in made


def test_long_term_means_stand_beside_published_ones(tmp_path):
    def means(mse):
        return {"horizons": [96], "scores": {"model": {"mse": mse, "mae": 0.4}} | naive}

    naive = {"seasonal_naive": {"mse": 0.6, "mae": 0.5}}
    results = {
        "settings": {"ltsf_stride": 4},
        "summary": {"ltsf": {}, "averages": {"etth1": means(0.41), "vic_elec": means(0.3)}},
    }
    accepted(tmp_path, "ltsf", results)
    made = report.marked("<!-- bench:ltsf -->\n<!-- /bench:ltsf -->", tmp_path)
    assert "| model | parameters | ETTH1: MSE, MAE | VIC_ELEC: MSE, MAE |" in made
    assert "| **nano, an hour** | 1.76 M | .410, .400 | .300, .400 |" in made
    assert "| seasonal naive |  | .600, .500 | .600, .500 |" in made
    assert "| Timer-XL, published | 84 M | .404, .417 |  |" in made
    assert "Ours: one window in 4." in made
    # a sample of another kind beside it: each says its own
    other = json.loads((tmp_path / "ltsf" / "one.json").read_text())
    other |= {"label": "tiny", "settings": {"ltsf_stride": 1, "max_windows": 1400}}
    (tmp_path / "ltsf" / "two.json").write_text(json.dumps(other))
    made = report.marked("<!-- bench:ltsf -->\n<!-- /bench:ltsf -->", tmp_path)
    assert "nano, an hour: one window in 4; tiny: at most 1,400 windows of a task." in made


def test_a_sample_is_no_evaluation_of_every_window(tmp_path):
    scores = {"tasks": 66, "scores": {"model": {"mase": 0.8, "crps": 0.6}}}
    results = {"settings": {"max_windows": 20}, "summary": {"gift": {"all": scores}}}
    accepted(tmp_path, "accuracy", results)
    made = report.marked("<!-- bench:accuracy -->\n<!-- /bench:accuracy -->", tmp_path)
    assert "Ours: at most 20 windows of a task." in made


def test_a_study_is_kept_without_its_tasks(tmp_path):
    group = {"tasks": 66, "mase": 0.8, "crps": 0.6}
    record = {
        "strategy": "one pass", "effort": "fast", "windows": 9, "all_windows": 9, "groups": {"all": group},
        "covered": 0.79, "error": 0.04, "per_second": 99.6, "cpu_seconds": 1.0, "cost": 1.0,
    }  # fmt: skip
    results = {"settings": {}, "tasks": {"one pass": {}}, "records": [record]}
    assert "tasks" not in accepted(tmp_path, "strategies", results)
    made = report.marked("<!-- bench:strategies -->\n<!-- /bench:strategies -->", tmp_path)
    assert "nano, an hour, series:" in made
    assert "| one pass | `fast` | .800, .600 | 79.0 % | .040 | 100 | 1.00 |" in made


def test_accept_wants_all_that_the_table_says(tmp_path, capsys):
    with pytest.raises(SystemExit):
        report.main(["--accept", "x.json", "--name", "one"])
    assert "--accept needs --preset, --label, --trained as well" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0, "0"), (0.0012, "0.0012"), (0.5, "0.500"), (1.234, "1.23"), (69.53, "69.5")]
    + [(798.4, "798"), (12345.6, "12,346")],
)
def test_figures_have_three_digits(value, wanted):
    assert tables.figure(value) == wanted


def test_a_column_that_no_row_fills_is_left_out():
    columns = [("a", "a", str), ("b", "b", str)]
    assert tables.markdown([{"a": 1}, {"a": 2}], columns) == "| a |\n| --- |\n| 1 |\n| 2 |"
    assert "| 1 |  |" in tables.markdown([{"a": 1}, {"a": 2, "b": 3}], columns)


def test_plots_are_drawn_from_what_is_there(tmp_path):
    plots = pytest.importorskip("bench.plots")
    peaks = {"copy_GB/s": 20.0, "matmul_TFLOP/s": {"float32": 0.1}}
    point = {
        "op": "grid_loss", "rival": "eager", "dtype": "float32", "GB/s": 5.0, "TFLOP/s": 0.05,
    }  # fmt: skip
    kernels = HEAD | {"section": "kernels", "peaks": peaks, "rows": [point]}
    record.write(kernels, tmp_path)
    assert [path.name for path in plots.draw(tmp_path)] == ["roofline.png"]
    part = {"preset": "nano", "path": "shipped", "part": "matmul", "ms": 1.0, "share": 1.0}
    record.write(HEAD | {"section": "breakdown", "rows": [part]}, tmp_path)
    line = {"rival": "sdpa", "length": 32, "width": 32, "direction": "forward", "GB/s": 5.0}
    lines = [line, line | {"length": 64}]
    record.write(HEAD | {"section": "attention", "rows": lines[:1]}, tmp_path)
    assert "attention.png" not in {path.name for path in plots.draw(tmp_path)}
    record.write(HEAD | {"section": "attention", "rows": lines}, tmp_path)
    drawn = plots.draw(tmp_path)
    assert {path.name for path in drawn} == {"roofline.png", "breakdown.png", "attention.png"}
    scores = {"mase": 0.8, "crps": 0.6}
    summary = {
        "gift": {"published": {"scores": {"model": scores}}},
        "published": {"scores": {"Toto-2.0-4m": scores}},
    }
    model = {"label": "nano", "parameters": 1_764_864, "summary": summary}
    record.write_json(model, tmp_path / "accuracy" / "nano.json")
    drawn = plots.draw(tmp_path)
    assert drawn[-1].name == "parameters.png"
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in drawn)
