"""Tiny time-series foundation model: train on synthetic series, forecast any real one.

`import tinytsm` imports no torch: the public names are loaded when first asked for (PEP 562), so that the
generator's processes and the command line start quickly.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinytsm.forecast import TinyTSM as TinyTSM

__version__ = "0.1.0"
__all__ = ["TinyTSM", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "TinyTSM":
        from tinytsm.forecast import TinyTSM

        return TinyTSM
    raise AttributeError(f"module 'tinytsm' has no attribute {name!r}")
