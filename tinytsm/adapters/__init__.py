"""Other libraries' ways of speaking: GluonTS, fev, sktime, Nixtla's long frames, Chronos.

Each module is imported only when asked for, and says which extra installs its library where that is missing.
"""

import importlib.util


def require(library: str) -> None:
    """Raise ImportError with the command that helps, unless the library is installed."""
    if importlib.util.find_spec(library) is None:
        raise ImportError(
            f"this adapter needs {library}; run: pip install 'tinytsm[{library}]'", name=library
        )
