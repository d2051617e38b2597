"""What the tests of the generator's families share."""

from collections.abc import Callable

import numpy as np

from tinytsm.synth import philox

Draw = Callable[[Callable[..., None], int, int], np.ndarray]


def drawing(seed: int) -> tuple[Callable[[int], np.ndarray], Draw]:
    """`stream(index)` of a seed, and `draw(family, index, length)` of what a family makes of it."""

    def stream(index: int) -> np.ndarray:
        return philox.stream(seed, index, 0)

    def draw(family: Callable[..., None], index: int, length: int) -> np.ndarray:
        out = np.full(length, np.nan)
        family(stream(index), out)
        return out

    return stream, draw


def correlation(x: np.ndarray, lag: int) -> float:
    z = x - x.mean()
    return float((z[lag:] * z[:-lag]).mean() / (z * z).mean())
