"""Coverage holds its definition, features say what they are named for, rivals are what they claim to be."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tinytsm import diversity, features, rivals


def own(x: np.ndarray) -> dict[str, float]:
    x = (x - x.mean()) / x.std()
    return dict(zip(features.OWN_NAMES, features.own_features(x), strict=True))


# Features


def test_features_of_a_cycle_and_of_noise(rng: np.random.Generator) -> None:
    t = np.arange(480)
    noise = rng.normal(size=480)
    cycle = own(np.sin(2 * np.pi * t / 24) + 0.1 * noise)
    white = own(noise)
    assert cycle["log_period"] == pytest.approx(np.log2(24))
    assert cycle["season_strength"] > 0.95 and cycle["acf_period"] > 0.85
    assert cycle["spectral_entropy"] < 0.3 and white["spectral_entropy"] > 0.85
    assert abs(white["acf_1"]) < 0.1 and white["trend_strength"] < 0.5
    assert cycle["log_length"] == pytest.approx(np.log2(480))


def test_features_of_trend_walk_and_demand(rng: np.random.Generator) -> None:
    line = own(np.arange(200) + rng.normal(size=200))
    assert line["trend_strength"] > 0.95 and line["acf_1"] > 0.95
    demand = np.where(rng.uniform(size=400) < 0.2, rng.integers(1, 9, size=400), 0).astype(float)
    assert own(demand)["intermittency"] == pytest.approx(np.mean(demand == 0), abs=0.01)
    assert own(rng.normal(size=400))["intermittency"] == 0.0
    jumps = np.cumsum(np.where(rng.uniform(size=400) < 0.02, 10.0, 0.1) * rng.normal(size=400))
    gaussian = np.cumsum(rng.normal(size=400))
    # log 3 for normal steps
    assert own(gaussian)["difference_kurtosis"] == pytest.approx(np.log(3), abs=0.4)
    assert own(jumps)["difference_kurtosis"] > 2


def test_gaps_are_bridged_by_lines() -> None:
    x = np.array([np.nan, 1.0, np.nan, np.nan, 4.0, np.nan])
    np.testing.assert_array_equal(features.filled(x), [1, 1, 2, 3, 4, 4])
    assert len(features.filled(np.full(5, np.nan))) == 0


def test_description_ignores_level_and_scale_and_refuses_constants(
    rng: np.random.Generator,
) -> None:
    pytest.importorskip("pycatch22")
    x = np.cumsum(rng.normal(size=300))
    row = features.describe(x)
    other = features.describe(4096.0 * x + 1e5)
    assert row is not None and other is not None
    assert row.shape == (len(features.names()),) and np.isfinite(row).all()
    np.testing.assert_allclose(row, other, atol=1e-5)
    assert features.describe(np.full(300, 2.0)) is None
    assert features.describe(x[:4]) is None
    assert features.describe(np.full(300, np.nan)) is None


# Coverage


def test_tau_is_the_median_distance_to_another_data_set() -> None:
    # unit spread in the one feature, so that asinh is all that scales it
    rows = np.array([[-0.2], [-0.1], [0.1], [0.15]])
    space = diversity.make_space(rows, np.array(["a", "a", "b", "b"]))
    points = space.points.ravel()
    other = [points[2] - points[0], points[2] - points[1], points[2] - points[1]]
    other.append(points[3] - points[1])
    assert space.tau == pytest.approx(np.median(other))
    # the third neighbour is the furthest of three
    assert space.ball[0] == pytest.approx(points[3] - points[0])


def test_coverage_counts_what_is_near(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(200, 5))
    source = np.repeat(["a", "b", "c", "d"], 50)
    space = diversity.make_space(rows, source)
    same = diversity.cover(space, rows)
    assert same.share == same.strict == 1.0
    np.testing.assert_array_equal(same.nearest, np.arange(200))
    assert diversity.cover(space, rows + 1e3).share == 0.0
    half = diversity.cover(space, rows[:100])
    assert 0.5 < half.share < 1.0
    np.testing.assert_array_equal(half.miss < 1, half.miss * space.tau < space.tau)
    # the same law, as many again: nearly all of it within the fifth neighbour
    assert diversity.cover(space, rng.normal(size=(200, 5))).strict > 0.9


def test_coverage_is_the_same_in_parts(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, made = rng.normal(size=(40, 3)), rng.normal(size=(101, 3))
    space = diversity.make_space(rows, np.repeat(["a", "b"], 20))
    whole = diversity.cover(space, made)
    monkeypatch.setattr(diversity, "_AT_ONCE", 7 * 40)
    parts = diversity.cover(space, made)
    np.testing.assert_array_equal(parts.nearest, whole.nearest)
    np.testing.assert_allclose(parts.miss, whole.miss, rtol=1e-12)
    assert (parts.share, parts.strict) == (whole.share, whole.strict)


def test_half_of_the_real_series_measures_the_other_half(rng: np.random.Generator) -> None:
    alike = np.repeat(rng.normal(size=(100, 4)), 4, axis=0) + 1e-6 * rng.normal(size=(400, 4))
    source = np.tile(["a", "b", "c", "d"], 100)
    # Each series has three twins, one of which is in the other half seven times of eight
    space = dataclasses.replace(diversity.make_space(alike, source), tau=1e-3)
    assert 0.75 < diversity.halves(space, seed=0) < 0.98


def test_coverage_is_the_same_in_any_unit(rng: np.random.Generator) -> None:
    rows, made = rng.normal(size=(80, 3)), rng.normal(size=(60, 3))
    source = np.repeat(["a", "b"], 40)
    unit, shift = np.array([1e-3, 1.0, 1e4]), np.array([5.0, -1.0, 0.0])
    plain = diversity.cover(diversity.make_space(rows, source), made)
    other = diversity.cover(diversity.make_space(rows * unit + shift, source), made * unit + shift)
    np.testing.assert_allclose(plain.miss, other.miss, rtol=1e-9)


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, []), (60, [60]), (3000, [300, 3000]), (60000, [600, 6000, 60000])]
)
def test_generators_are_compared_at_tenths(count: int, sizes: list[int]) -> None:
    assert diversity._sizes(count) == sizes


def test_a_draw_without_description_takes_its_place() -> None:
    pytest.importorskip("pycatch22")

    def sampler(seed: int, index: int, length: int) -> np.ndarray:
        t = np.arange(length)
        return np.zeros(length) if index == 1 else np.sin(t * (1 + index))

    cloud = diversity.made_up(sampler, np.full(4, 50), seed=0, name="waves")
    assert cloud.index.tolist() == [0, 2, 3]
    assert [len(cloud.first(n)) for n in (1, 2, 3, 4)] == [1, 1, 2, 3]


def test_contributions_share_out_the_real_series() -> None:
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    space = diversity.make_space(rows, np.array(["a", "b", "a", "b"]))
    near = np.vstack([rows[:1]] * 3)
    found = diversity.contributions(space, {"one": near, "all": rows + 1e-6, "none": rows + 100.0})
    assert found["one"].covered >= 0.25 and found["one"].nearest == 0.25
    assert found["all"].covered == 1.0 and found["all"].nearest == 0.75
    assert found["all"].only == 1.0 - found["one"].covered
    assert vars(found["none"]) == {"covered": 0.0, "nearest": 0.0, "only": 0.0}


# Rivals


def test_kernel_synth_has_the_published_bank() -> None:
    times = np.linspace(0.0, 1.0, 1024)[:200]
    apart = np.abs(times[:, None] - times[None, :])
    bank = [rivals.kernel(number, apart, times) for number in range(33)]
    assert len({matrix.tobytes() for matrix in bank}) == 31  # period 4 stands there three times
    for matrix in bank:
        assert np.linalg.eigvalsh(matrix)[0] > -1e-8 * np.trace(matrix)
    np.testing.assert_array_equal(rivals._bank(7)[:200, :200], bank[7])
    # a day of hours: alike after 24 steps, but for the grid's 1023 intervals
    assert bank[0][0, 24] > 0.999 and bank[0][0, 12] < 0.5


def test_kernel_synth_is_pure_and_says_its_limit() -> None:
    found = [rivals.kernel_synth(3, index, 120) for index in range(20)]
    assert all(np.isfinite(x).all() and len(x) == 120 for x in found)
    np.testing.assert_array_equal(found[4], rivals.kernel_synth(3, 4, 120))
    with pytest.raises(ValueError, match="at most 1024 steps, got 1025"):
        rivals.kernel_synth(0, 0, 1025)


def test_tempo_like_mixture_is_pure_and_of_every_kind() -> None:
    found = [rivals.tempo_like(3, index, 90) for index in range(120)]
    assert all(np.isfinite(x).all() and len(x) == 90 for x in found)
    assert len({x.tobytes() for x in found}) == 120
    np.testing.assert_array_equal(found[7], rivals.tempo_like(3, 7, 90))


# The command


@pytest.fixture
def small_pack(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Two data sets of walks and waves, one of them with a constant series."""
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    tasks = [{"kind": "gift", "term": "short", "prediction_length": 8, "windows": 1}]
    entries = []
    for name, freq in (("walks", "D"), ("waves", "H")):
        series = [np.cumsum(rng.normal(size=200)) for _ in range(6)]
        if name == "waves":
            series = [np.sin(np.arange(2100) / (3 + i)) + 0.1 * rng.normal() for i in range(3)]
            series.append(np.zeros(60))
        table = pyarrow.table({"target": [x.astype(np.float32).tolist() for x in series]})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
        entries.append({"name": name, "file": f"{name}.parquet", "freq": freq, "tasks": tasks})
    (tmp_path / "manifest.json").write_text(json.dumps({"datasets": entries}))
    return tmp_path


def test_command_reports_and_draws(
    small_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycatch22")
    pictures = tmp_path / "new" / "pictures"
    arguments = ["--pack", str(small_pack), "--items", "60", "--per-family", "1", "--rivals", "4"]
    assert diversity.main([*arguments, "--pictures", str(pictures)]) == 0
    out = capsys.readouterr().out
    document = json.loads(out.splitlines()[-1])
    # two windows of each long wave, none of the constant
    assert out.startswith("12 real windows of 2 data sets")
    found = document["generators"]["SynthTS"]
    # As many as the rivals, as half of the real series, and all
    assert [one["series"] for one in found] == [4, 6, 60]
    coverage = [one["coverage"] for one in found]
    assert 0.0 <= coverage[0] <= coverage[1] <= coverage[2] <= 1.0
    ours = found[-1]
    by_frequency = document["by_frequency"]
    assert ours["coverage"] == pytest.approx((by_frequency["D"] + by_frequency["H"]) / 2)
    assert document["by_data_set"]["walks"] == by_frequency["D"]
    assert 0.0 <= document["real_half"] <= 1.0
    assert {"TempoPFN-like mixture", "KernelSynth"} < document["generators"].keys()
    assert sum(one["nearest"] for one in document["families"].values()) == pytest.approx(1.0)
    for name in ("synth_map.png", "synth_misses.png"):
        assert (pictures / name).read_bytes().startswith(b"\x89PNG")


def test_families_are_drawn_as_often_as_asked(
    small_pack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycatch22")
    made_up, drawn = diversity.made_up, {}

    def counting(sampler, lengths, *, seed: int, name: str) -> diversity.Cloud:
        drawn[name] = len(lengths)
        return made_up(sampler, lengths, seed=seed, name=name)

    monkeypatch.setattr(diversity, "made_up", counting)
    arguments = ["--pack", str(small_pack), "--items", "4", "--per-family", "6"]
    assert diversity.main(arguments) == 0
    assert drawn.pop("SynthTS") == 4
    assert set(drawn.values()) == {6} and "family, 6 draws" in capsys.readouterr().out


def test_command_answers_bad_input_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        diversity.main(["--pack", str(tmp_path), "--items", "0"])
    assert "--items" in capsys.readouterr().err

    taken = tmp_path / "taken"
    taken.touch()
    # asked before the pack is read
    assert diversity.main(["--pack", str(tmp_path), "--pictures", str(taken)]) == 2
    assert f"{taken} cannot be made (File exists)" in capsys.readouterr().err

    def absent() -> None:
        raise features.MissingPackageError("features need catch22; run: pip install 'x'")

    monkeypatch.setattr(features, "_catch22", absent)
    assert diversity.main(["--pack", str(tmp_path)]) == 2
    assert "pip install" in capsys.readouterr().err
