"""How to forecast: the options that every entry point takes, their checks and their flags. Needs no torch."""

import argparse
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, NamedTuple, TypedDict

Effort = Literal["fast", "standard", "best"]
# The largest stride that the rule takes; explicit strides may be larger.
MAX_STRIDE = 8
# How many contexts of the network seasonal adjustment looks back.
_SEASONAL = 16


class Strategy(NamedTuple):
    """strides: of SIFI, averaged; None for the rule's. symmetry: whether the mirrored series is forecast too.

    adjust: whether the series without its seasons is forecast too. augment: whether a series has companions beside it.
    """

    strides: tuple[int, ...] | None
    symmetry: bool
    adjust: bool = False
    augment: bool = False


# The mirrored series costs a second pass at every horizon and gives half a percent; the rule's strides cost nothing at
# short horizons; companions give nothing that is worth their passes (docs/ablations.md).
EFFORTS: dict[str, Strategy] = {
    "fast": Strategy((1,), symmetry=False),
    "standard": Strategy(None, symmetry=False, adjust=True),
    "best": Strategy(None, symmetry=True, adjust=True),
}


class OptionChanges(TypedDict, total=False):
    """The keywords that every forecasting method takes; `ForecastOptions` says what they mean."""

    effort: Effort
    strides: Sequence[int] | Literal["auto"] | None
    symmetry: bool | None
    adjust: bool | None
    augment: bool | None
    nonnegative: bool | None
    integer: bool
    batch_size: int | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class ForecastOptions:
    """How to forecast. Raises ValueError for values that cannot be.

    effort: `fast` (one pass), `standard` or `best`; the next four override its parts where they are not None.
    strides: of SIFI, averaged; (1,) switches it off, `auto` chooses by rule. symmetry: average with the mirrored
    series' forecast. adjust: average with the forecast of the series without its seasons, which are put back
    (`tinytsm.season`), and its level drawn to that of its means over periods (`tinytsm.levels`). augment: forecast a
    series without variates beside companions made from it (`tinytsm.companions`). nonnegative: True: no quantile and no mean below 0, and nothing else; False: nothing
    is cut; None: none below 0 where the history that counts is 0 several times and never below; where a third of it is 0
    a quantile nearer to 0 than to the least value above is 0; and with `adjust`, whatever the others' sign, all quantiles
    and the mean are 0 at a place of the season where the series always was. integer: quantiles are whole numbers (the
    mean is not). batch_size: rows computed at once (a row is one variate of one phase of one series, mirrored or not);
    `auto` takes what suits the device. Either is halved where memory runs out.
    """

    effort: Effort = "standard"
    strides: Sequence[int] | Literal["auto"] | None = None
    symmetry: bool | None = None
    adjust: bool | None = None
    augment: bool | None = None
    nonnegative: bool | None = None
    integer: bool = False
    batch_size: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.effort, str) or self.effort not in EFFORTS:
            raise ValueError(f"effort must be one of {', '.join(EFFORTS)}, got {self.effort!r}")
        given: Any = self.strides
        if given is not None and not (isinstance(given, str) and given == "auto"):
            strides = list(given) if isinstance(given, Iterable) else []
            if not strides or not all(map(_counts, strides)) or len(set(strides)) < len(strides):
                raise ValueError(
                    "strides must be 'auto' or different whole numbers of at least 1, "
                    f"got {self.strides!r}"
                )
            object.__setattr__(self, "strides", tuple(strides))
        for name in ("symmetry", "adjust", "augment", "nonnegative"):
            if not _is_one_of(getattr(self, name), (None, True, False)):
                raise ValueError(f"{name} must be None, True or False, got {getattr(self, name)!r}")
        if not _is_one_of(self.integer, (True, False)):
            raise ValueError(f"integer must be True or False, got {self.integer!r}")
        if not (isinstance(self.batch_size, str) and self.batch_size == "auto"):
            if not _counts(self.batch_size):
                raise ValueError(
                    f"batch_size must be 'auto' or a whole number of at least 1, got {self.batch_size!r}"
                )
            object.__setattr__(self, "batch_size", int(self.batch_size))

    @property
    def strategy(self) -> Strategy:
        """The effort's strategy, with what overrides it."""
        chosen = EFFORTS[self.effort]
        strides = chosen.strides if self.strides is None else self.strides
        return Strategy(
            None if strides is None or strides == "auto" else tuple(map(int, strides)),
            chosen.symmetry if self.symmetry is None else self.symmetry,
            chosen.adjust if self.adjust is None else self.adjust,
            chosen.augment if self.augment is None else self.augment,
        )

    @property
    def longest_stride(self) -> int:
        """How many contexts of the network a forecast may look back; adjustment looks further than strides by rule."""
        strategy = self.strategy
        longest = max(strategy.strides or (MAX_STRIDE,))
        return max(longest, _SEASONAL) if strategy.adjust else longest


def _is_one_of(value: Any, choices: tuple[bool | None, ...]) -> bool:
    # an array is not hashable, and has no truth value
    return isinstance(value, Hashable) and value in choices


def _counts(value: Any) -> bool:
    # NumPy's integers too
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each option."""
    default = ForecastOptions()
    group = parser.add_argument_group("effort and kind of numbers")
    group.add_argument(
        "--effort",
        choices=tuple(EFFORTS),
        default=default.effort,
        help=f"accuracy against time (default: {default.effort})",
    )
    group.add_argument(
        "--strides",
        metavar="LIST",
        help="strides of SIFI, averaged, such as 1,2,4, or auto (default: the effort's)",
    )
    group.add_argument(
        "--symmetry",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="average with the mirrored series' forecast (default: the effort's)",
    )
    group.add_argument(
        "--adjust",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="average with the forecast of the series without its seasons (default: the effort's)",
    )
    group.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="forecast beside companions made from the series (default: the effort's)",
    )
    group.add_argument(
        "--nonnegative",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="no forecast below zero, and nothing else; or nothing cut (default: as the zeros of each history have it)",
    )
    group.add_argument("--integer", action="store_true", help="quantiles in whole numbers")
    group.add_argument(
        "--batch-size",
        metavar="N",
        default="auto",
        help="rows computed at once (default: auto, what suits the device)",
    )


def from_flags(args: argparse.Namespace) -> ForecastOptions:
    """The options of a command line that has these flags. Raises ValueError that names the flag."""
    strides: Sequence[int] | Literal["auto"] | None = args.strides
    if args.strides not in (None, "auto"):
        parts = args.strides.split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise ValueError(f"--strides must be auto or read like 1,2,4, got {args.strides!r}")
        strides = [int(part) for part in parts]
    batch_size = args.batch_size
    if batch_size != "auto":
        if not batch_size.isdecimal():
            raise ValueError(f"--batch-size must be auto or a whole number, got {batch_size!r}")
        batch_size = int(batch_size)
    return ForecastOptions(
        effort=args.effort,
        strides=strides,
        symmetry=args.symmetry,
        adjust=args.adjust,
        augment=args.augment,
        nonnegative=args.nonnegative,
        integer=args.integer,
        batch_size=batch_size,
    )
