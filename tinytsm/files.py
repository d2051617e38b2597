"""Files that results go to: asked for before the work, written whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from tinytsm.errors import InputError

PARQUET_SUFFIXES = (".parquet", ".pq")


def check_output(path: str | Path, suffixes: tuple[str, ...]) -> Path:
    """The path, when a file of that kind can be written there; asked before the work, not after."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: wanted a name that ends in {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no folder {str(path.parent)!r}; create it first")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file name")
    if path.suffix.lower() in PARQUET_SUFFIXES:
        try:
            import pyarrow as pa  # noqa: F401
        except ImportError:
            raise InputError(
                f"{path}: writing Parquet needs pyarrow; run: pip install 'tinytsm[parquet]'"
            ) from None
    return path


def usual_permissions(path: Path) -> None:
    """Give a file the permissions of any new one: what makes temporary files keeps them to their owner."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path` (same extension), then put it in place in one step.

    Raises InputError where the folder refuses the file.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            usual_permissions(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 with the same line ends everywhere, as `write_atomic` does."""
    write_atomic(path, lambda place: _write(place, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
