"""The documentation does what it says: its Python runs, its commands run or parse, its links and pictures are there."""

import importlib.util
import re
import shlex
import shutil
import warnings
from pathlib import Path

import pytest

from tinytsm import cli, scale

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Libraries that may be missing.
OTHERS = ("fev", "gluonts", "onnxruntime", "sktime")


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(page.read_text()) if kind == language]


def commands(page: Path) -> list[list[str]]:
    """Arguments of every `tinytsm ...` line of a shell block, without what the shell would take."""
    found = []
    for code in blocks(page, "sh"):
        for line in code.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["tinytsm"]:
                stop = next((i for i, w in enumerate(words) if w in (">", "|", "2>")), len(words))
                found.append(words[1:stop])
    return found


def each(pages: list[Path]):
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the examples, where pictures may be written."""
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@each([page for page in PAGES if blocks(page, "python")])
def test_python_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what fev reads goes through a cache that is elsewhere in the home
    monkeypatch.setenv("HF_HOME", str(place))
    names: dict[str, object] = {"__name__": "__main__"}
    for code in blocks(page, "python"):
        others = [n for n in OTHERS if re.search(rf"(adapters\.|import ){n}\b", code)]
        if all(importlib.util.find_spec(name) for name in others):
            with warnings.catch_warnings():
                if others:
                    # their own imports
                    warnings.simplefilter("ignore")
                exec(compile(code, str(page), "exec"), names)  # noqa: S102 - our own pages


# what a reader can repeat as it stands: commands on the example series
RUN = [page for page in PAGES if any("docs/examples/" in " ".join(c) for c in commands(page))]


@each(RUN)
def test_commands_on_the_examples_run(
    page: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    for arguments in commands(page):
        if any(word.startswith("docs/examples/") for word in arguments):
            assert cli.main(arguments) == 0, capsys.readouterr().err
            assert capsys.readouterr().out.count("\n") > 0


@each(PAGES)
def test_commands_parse(page: Path) -> None:
    parser = cli.build_parser()
    for arguments in commands(page):
        if arguments[0] == "scale":
            scale.parse(arguments[1:])
        # the others read their flags themselves
        elif arguments[0] in ("forecast", "backtest", "finetune", "anomalies", "impute"):
            parser.parse_args(arguments)
        else:
            assert arguments[0] in cli._FORWARDED or arguments[0].startswith("-")


@each(PAGES)
def test_links_and_pictures_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name
