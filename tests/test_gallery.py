"""Pictures of the generator are written, whole, and name what cannot be drawn."""

from pathlib import Path

import numpy as np
import pytest

from tinytsm import gallery
from tinytsm.synth import generator

pytest.importorskip("matplotlib")


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_one_family_is_drawn_the_same_twice(tmp_path: Path) -> None:
    first, again, other = (tmp_path / f"{n}.png" for n in ("first", "again", "other"))
    gallery.draw(first, seed=1, families=["records.growth"])
    gallery.draw(again, seed=1, families=["records.growth"])
    gallery.draw(other, seed=2, families=["records.growth"])
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    width, height = size(first)
    assert 800 < width < 1400 and 300 < height < 900


def test_several_families_are_drawn_side_by_side(tmp_path: Path) -> None:
    three, nine = tmp_path / "three.png", tmp_path / "nine.png"
    gallery.draw(three, families=generator.families()[:3])
    gallery.draw(nine, families=generator.families()[:9])
    # Three to a row
    assert size(three)[0] == size(nine)[0] and 1.5 < size(nine)[1] / size(three)[1] < 3.0


@pytest.mark.parametrize("others", [[], ["records.growth"]])
def test_unknown_family_is_named(others: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"records\.growth.*got 'nothing'"):
        gallery.draw(tmp_path / "x.png", families=[*others, "nothing"])
    assert not list(tmp_path.iterdir())


def test_map_shows_every_generator(tmp_path: Path, rng: np.random.Generator) -> None:
    real = rng.normal(size=(60, 4))
    path = tmp_path / "map.png"
    gallery.feature_map(path, real, {"one": real + 0.1, "two": real + 9.0}, near=0.5)
    width, height = size(path)
    assert width == 920 and height == 480


def test_misses_stop_at_what_can_be_read(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=50)
    few, many = tmp_path / "few.png", tmp_path / "many.png"
    gallery.misses(few, [("a", x, x)] * 3, title="some")
    gallery.misses(many, [("a", x, x)] * 40, title="some")
    assert 2 * size(few)[1] < size(many)[1] < 1200
