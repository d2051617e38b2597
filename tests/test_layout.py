"""The house keeps its shape: links point home, imports go one way, the wheel holds the package and nothing else."""

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = {
    "LICENSE",
    "Makefile",
    "README.md",
    "bench",
    "constraints.txt",
    "docs",
    "kernels",
    "pyproject.toml",
    "synth",
    "tests",
    "tinytsm",
}
LINKED = ("kernels", "synth")
# Modules that hold a command; all others are library code, which never prints.
COMMANDS = {
    "__main__", "cli", "console", "diversity", "doctor", "evaluate", "export", "gate", "scale", "study", "synthesize",
    "train",
}  # fmt: skip
# Adapters are imported only by who has their library; what that brings along, by its name.
BROUGHT_ALONG = {"datasets"}
MAX_LINES = 500

PACKAGE = sorted(
    path
    for folder in ("tinytsm", "kernels", "synth")
    for path in (ROOT / folder).rglob("*.py")
    # the linked folders are read where they lie, once
    if not any(parent.is_symlink() for parent in path.parents)
)
SOURCES = PACKAGE + sorted(
    path for name in ("tests", "bench") for path in (ROOT / name).rglob("*.py")
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] in LINKED:
        parts = ("tinytsm", *parts)
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in PACKAGE}


def each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST, *, inside_functions: bool) -> Iterator[ast.AST]:
    """The nodes that run: all but what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if type_checking(child):
            continue
        if not inside_functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield child
        yield from statements(child, inside_functions=inside_functions)


def imports(path: Path, *, inside_functions: bool = True) -> set[str]:
    """Full names of the modules that a file imports."""
    found: set[str] = set()
    for node in statements(parsed(path), inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import: say tinytsm.<module>"
            base = node.module or ""
            for alias in node.names:
                # `from tinytsm import ops` imports tinytsm.ops, `from tinytsm.ops import f` tinytsm.ops
                full = f"{base}.{alias.name}"
                found.add(
                    full
                    if full in MODULES or full in ("tinytsm.kernels", "tinytsm.synth")
                    else base
                )
    return found


def below(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def foreign(name: str) -> bool:
    return not below(name, "tinytsm") and name.split(".")[0] not in sys.stdlib_module_names


def git(*arguments: str) -> list[str]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()


@pytest.mark.parametrize("name", LINKED)
def test_links_point_home(name):
    link = ROOT / "tinytsm" / name
    assert link.is_symlink(), f"tinytsm/{name} must be a link: a copy would drift from {name}/"
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("name", LINKED)
def test_linked_folders_are_no_packages_of_their_own(name):
    # With an __init__.py, `import kernels` at the root would mean ours instead of the installed project's.
    assert (ROOT / name).is_dir()
    assert not (ROOT / name / "__init__.py").exists()


def test_top_level_is_what_the_readme_shows():
    files = git("ls-files", "--cached", "--others", "--exclude-standard")
    top = {file.split("/")[0] for file in files}
    assert {name for name in top if not name.startswith(".")} == TOP_LEVEL
    assert {name for name in top if name.startswith(".")} == {".ci", ".gitignore"}
    assert ".ci/run" in files and os.access(ROOT / ".ci/run", os.X_OK)


@each(SOURCES)
def test_file_is_short_enough_to_read(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{lines} lines probably hold two things"


@each([path for name, path in MODULES.items() if below(name, "tinytsm.synth")])
def test_synth_stands_alone(path):
    outside = {name for name in imports(path) if foreign(name) or below(name, "tinytsm")}
    assert {n for n in outside if not below(n, "numpy", "numba", "tinytsm.synth")} == set()


@each([path for name, path in MODULES.items() if below(name, "tinytsm.kernels")])
def test_kernels_stand_alone(path):
    outside = {name for name in imports(path) if foreign(name) or below(name, "tinytsm")}
    allowed = ["torch", "triton", "tinytsm.kernels"]
    if path.name in ("cpu.py", "cpu_loops.py", "cpu_training.py"):
        allowed += ["numba", "numpy"]
    assert {n for n in outside if not below(n, *allowed)} == set()


@pytest.mark.parametrize(
    ("target", "importers"),
    [
        # the gate compiles the kernels for machines that it does not run on
        ("tinytsm.kernels", {"tinytsm.kernels", "tinytsm.ops", "tinytsm.gate"}),
        # a run writes and checks the name of the mixture in its checkpoints
        (
            "tinytsm.synth",
            {"tinytsm.synth", "tinytsm.data", "tinytsm.train", "tinytsm.trainer"}
            # the generator itself is what these measure and draw
            | {"tinytsm.diversity", "tinytsm.gallery", "tinytsm.rivals", "tinytsm.synthesize"},
        ),
        ("tinytsm.train", {"tinytsm.cli", "tinytsm.__main__"}),
        ("tinytsm.cli", {"tinytsm.__main__"}),
    ],
)
def test_only_some_modules_import(target, importers):
    found = {
        name
        for name, path in MODULES.items()
        if any(below(imported, target) for imported in imports(path))
    }
    assert {name for name in found if not below(name, *importers)} == set()


def test_imports_go_one_way():
    graph = {
        name: {
            imported for imported in imports(path) if imported in MODULES and imported != "tinytsm"
        }
        for name, path in MODULES.items()
        # the package itself names TinyTSM lazily, and is imported by all
        if name != "tinytsm"
    }
    while graph:
        leaves = {name for name, wanted in graph.items() if not wanted & graph.keys()}
        assert leaves, f"these import each other in a circle: {sorted(graph)}"
        graph = {name: wanted for name, wanted in graph.items() if name not in leaves}


@each(PACKAGE)
def test_imports_are_declared(path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        found = (re.match(r"[A-Za-z0-9._-]+", text) for text in requirements)
        return {match.group().lower().replace("-", "_") for match in found if match}

    core = names(project["dependencies"])
    extras = set().union(*map(names, project["optional-dependencies"].values()))
    # kernels may take Triton at once: ops decides whether to import them
    at_import = core | {"triton"} if below(module_name(path), "tinytsm.kernels") else core
    if below(module_name(path), "tinytsm.adapters"):
        extras |= BROUGHT_ALONG
        at_import = core | extras
    top = {name.split(".")[0] for name in imports(path, inside_functions=False) if foreign(name)}
    assert top <= at_import
    lazy = {name.split(".")[0] for name in imports(path) if foreign(name)}
    assert lazy <= core | extras


# the studies, study_<name>.py, are commands behind one command
@each([path for path in PACKAGE if path.stem.split("_")[0] not in COMMANDS])
def test_library_code_never_prints(path):
    printed = [
        node.lineno
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "builtins.print")
    ]
    assert printed == []


@pytest.mark.parametrize("module", ["tinytsm", "tinytsm.config", "tinytsm.cli"])
def test_import_takes_no_torch(module):
    if module not in MODULES:
        pytest.skip("not there")
    code = f"import sys, {module}; print(sorted({{'torch', 'numba', 'triton'}} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert out.stdout.decode().strip() == "[]"


def test_version_is_said_the_same_twice():
    import tinytsm

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == tinytsm.__version__


def test_wheel_holds_the_package_alone(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "site")
    own = {path.relative_to(ROOT) for path in PACKAGE}
    own = {Path("tinytsm") / path if path.parts[0] in LINKED else path for path in own}
    weights = {path.relative_to(ROOT) for path in (ROOT / "tinytsm/weights").glob("*/*")}
    assert weights, "a release holds weights"
    data = {path.as_posix() for path in weights} | {"tinytsm/py.typed"}
    assert inside == {path.as_posix() for path in own} | data

    # elsewhere, with nothing of this tree on the path
    code = "import sys; from importlib.util import find_spec; "
    code += "print(*(find_spec(name).origin for name in sys.argv[1:]), sep='\\n')"
    found = subprocess.run(
        [sys.executable, "-c", code, *MODULES],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert {Path(file).relative_to(tmp_path / "site") for file in found} == own
