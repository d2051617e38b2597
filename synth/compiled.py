"""Drops cached machine code when any source changes.

Numba's cache looks only at the file that a function stands in, but functions here inline one another
across files: an edited prior would go on running as it was. Importing this module first compares the
sources with those that the cache was made from.
"""

import hashlib
from pathlib import Path

import numba


@numba.njit(cache=True)
def _probe():
    return 0


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
