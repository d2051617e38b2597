"""Drops cached machine code when any source changes, and finds it a place where there is none beside the sources.

Numba's cache looks only at the file that a function stands in, but functions here inline one another
across files: an edited prior would go on running as it was. Importing this module first compares the
sources with those that the cache was made from.
"""

import atexit
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numba


def _nothing():
    return 0


def _own_folder() -> None:
    """A cache of this process and of those that it starts, which goes with it: compiling takes minutes."""
    folder, owner = tempfile.mkdtemp(prefix="tinytsm-"), os.getpid()
    numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = folder  # type: ignore[attr-defined]

    def remove() -> None:
        # a fork ends here too
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)


try:
    _probe = numba.njit(cache=True)(_nothing)
except RuntimeError:
    # neither beside the sources nor at home
    _own_folder()
    _probe = numba.njit(cache=True)(_nothing)


def drop_stale() -> None:
    """Remove this folder's cache indices unless they were written for exactly these sources."""
    # Asked of a function, since the cache's place depends on the user's settings and rights
    stats = getattr(_probe, "stats", None)
    if stats is None:
        # Numba is switched off
        return
    folder = Path(stats.cache_path)
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()
    mark = folder / "sources.sha256"
    if mark.exists() and mark.read_text() == digest:
        return
    for index in folder.glob("*.nbi"):
        index.unlink(missing_ok=True)
    mark.write_text(digest)


drop_stale()
