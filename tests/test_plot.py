"""Pictures: what is drawn where, and that the caller's matplotlib stays as it was."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tinytsm import plot
from tinytsm.errors import InputError
from tinytsm.plot import MAX_PANELS, Panel, bands, fan_chart, loss_curve, smooth

pytest.importorskip("matplotlib")

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def panel(past: pd.Index, values: np.ndarray, steps: int = 5, title: str = "a") -> Panel:
    step = past[-1] - past[-2] if len(past) > 1 else 1
    future = pd.Index([past[-1] + (i + 1) * step for i in range(steps)])
    median = np.zeros(steps)
    quantiles = median[:, None] + np.asarray(LEVELS) - 0.5
    return Panel(
        title=title,
        past=past,
        values=values,
        future=future,
        median=median,
        quantiles=quantiles,
        levels=LEVELS,
    )


def size(path: Path) -> tuple[int, int]:
    """Width and height in the PNG's header."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def drawn(monkeypatch: pytest.MonkeyPatch) -> list:
    """The figures that are saved, instead of files."""
    figures: list = []
    monkeypatch.setattr(plot, "save", lambda figure, path: figures.append(figure))
    return figures


@pytest.mark.parametrize(
    "past",
    [
        pd.date_range("2024", periods=40, freq="h", tz="Europe/Berlin"),
        pd.date_range("2024", periods=40, freq="D"),
        pd.RangeIndex(40),
        pd.Index([3]),
    ],
)
def test_dates_and_numbers_draw(tmp_path: Path, past: pd.Index) -> None:
    path = tmp_path / "p.png"
    values = np.arange(float(len(past)))
    assert fan_chart(path, [panel(past, values)], last=20) == 1
    assert size(path) == (1440, 690)


def test_missing_values_and_single_steps_draw(tmp_path: Path) -> None:
    values = np.array([np.nan, 1, np.nan, 2, 3, np.nan])
    assert fan_chart(tmp_path / "p.svg", [panel(pd.RangeIndex(6), values, steps=1)]) == 1
    assert b"<svg" in (tmp_path / "p.svg").read_bytes()
    assert fan_chart(tmp_path / "q.png", [panel(pd.RangeIndex(6), np.full(6, np.nan))]) == 1


def test_what_the_lines_say(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    fan_chart("p.png", [panel(pd.RangeIndex(100), np.arange(100.0), title="load")], last=30)
    (axes,) = figures[0].axes
    history, _, median, start = axes.lines
    assert history.get_xdata().tolist() == list(range(70, 100))
    # the forecast is drawn from the newest value on, so that no gap opens
    assert median.get_xdata().tolist() == list(range(99, 105))
    assert median.get_ydata().tolist() == [99, 0, 0, 0, 0, 0]
    assert start.get_xdata() == [99, 99]
    assert len(axes.collections) == 4
    assert axes.get_title(loc="left") == "load"
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["history", "median", "80 %", "60 %", "40 %", "20 %"]


def test_each_of_several_forecasts_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    median = np.arange(6.0)
    one = dataclasses.replace(
        panel(pd.RangeIndex(20), np.arange(20.0)),
        future=pd.RangeIndex(14, 20),
        median=median,
        quantiles=median[:, None] + np.asarray(LEVELS) - 0.5,
        starts=median % 3 == 0,
    )
    fan_chart("p.png", [one, dataclasses.replace(one, starts=np.ones(6, bool))])
    first, second, _, _, line = figures[0].axes[0].lines
    assert (first.get_xdata(), second.get_xdata()) == ([14, 14], [17, 17])
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, 0, 1, 2, np.nan, 3, 4, 5])
    # of one step each they are one line
    *_, line = figures[0].axes[1].lines
    assert line.get_ydata().tolist() == median.tolist()


def test_a_name_with_dollars_is_no_formula(tmp_path: Path) -> None:
    path = tmp_path / "p.svg"
    names = ("US$ to AU$", "$x^{$")
    fan_chart(path, [panel(pd.RangeIndex(9), np.arange(9.0), title=name) for name in names])
    # each glyph of a text once, dollars among them, which formulas have none of
    assert "DejaVuSans-24" in path.read_text()


def test_many_series_are_capped_and_the_picture_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    panels = [panel(pd.RangeIndex(9), np.arange(9.0), title=f"s{i}") for i in range(MAX_PANELS + 3)]
    assert fan_chart("p.png", panels) == MAX_PANELS
    assert sum(axes.get_visible() for axes in figures[0].axes) == MAX_PANELS
    assert figures[0].get_suptitle() == f"the first {MAX_PANELS} of {MAX_PANELS + 3} series"
    assert fan_chart("p.png", panels[:3]) == 3
    assert [axes.get_visible() for axes in figures[1].axes] == [True, True, True, False]


def test_bands() -> None:
    assert bands(LEVELS) == [(0, 8, "80 %"), (1, 7, "60 %"), (2, 6, "40 %"), (3, 5, "20 %")]
    assert bands((0.5, 0.975, 0.025)) == [(2, 1, "95 %")]
    assert bands((0.2, 0.5, 0.9)) == [(0, 2, "0.2 to 0.9")]
    assert bands((0.5,)) == []
    fine = [i / 20 for i in range(1, 20)]
    assert [name for _, _, name in bands(fine)] == ["90 %", "60 %", "40 %", "10 %"]


def test_nothing_global_changes(tmp_path: Path) -> None:
    import matplotlib as mpl

    before, pyplot = dict(mpl.rcParams), sys.modules.get("matplotlib.pyplot")
    fan_chart(tmp_path / "p.png", [panel(pd.RangeIndex(9), np.arange(9.0))])
    assert dict(mpl.rcParams) == before
    assert sys.modules.get("matplotlib.pyplot") is pyplot


def test_missing_matplotlib_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        InputError, match=r"drawing needs matplotlib; run: pip install 'tinytsm\[plot\]'"
    ):
        fan_chart("p.png", [panel(pd.RangeIndex(9), np.arange(9.0))])
    monkeypatch.undo()
    with pytest.raises(InputError, match="nothing to draw"):
        fan_chart("p.png", [])


def write_log(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_loss_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{i},{i * 100},{1 / i},{1e-3},0.1\n" for i in range(1, 201))
    # a step that was not finite, one that a resumed run repeats, and a line cut short by a crash
    log = write_log(
        tmp_path / "log.csv",
        f"step,tokens,loss,lr,wait\n{rows}201,20100,nan,1e-3,0\n200,20000,0.5,1e-3,0\n202,20",
    )
    loss_curve(log, tmp_path / "loss.png")
    assert size(tmp_path / "loss.png") == (1200, 720)
    figures = drawn(monkeypatch)
    loss_curve(log, "loss.png", title="nano")
    loss, rate = figures[0].axes
    assert loss.get_xscale() == "log"
    assert loss.lines[0].get_xdata().tolist() == list(range(1, 201))
    assert loss.lines[0].get_ydata()[-1] == 0.5
    assert loss.get_title(loc="left").startswith("nano: 0.03")
    assert loss.get_title(loc="left").endswith("after 200 steps, 20 k tokens")
    assert rate.get_ylabel() == "lr"


def test_loss_curve_of_one_line_without_rates(tmp_path: Path) -> None:
    loss_curve(write_log(tmp_path / "log.csv", "step,loss\n1,0.7\n"), tmp_path / "loss.png")
    assert size(tmp_path / "loss.png") == (1200, 600)


def test_smoothing_is_a_mean_of_what_came_before() -> None:
    losses = np.random.default_rng(0).normal(size=2000)
    got = smooth(losses)
    assert got[0] == losses[0]
    assert got[49] == pytest.approx(losses[45:50].mean())
    assert got[1999] == pytest.approx(losses[1900:2000].mean())


def test_logs_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read .*; check the path"):
        loss_curve(tmp_path / "none.csv", "x.png")
    with pytest.raises(InputError, match="needs the columns step and loss, got a, b"):
        loss_curve(write_log(tmp_path / "a.csv", "a,b\n1,2\n"), "x.png")
    for text in ("", "step,loss\n", "step,loss\n1,nan\n"):
        with pytest.raises(InputError, match="holds no step from 1 on with a finite loss"):
            loss_curve(write_log(tmp_path / "b.csv", text), "x.png")
