"""Calls families, augmentations and couplers from jitted code by number, through addresses.

A branch per function would do, but Numba links a callee's whole code into every caller, so that the
generator and all that calls it took minutes to compile. Through a table, each function is compiled
once, on its own, and its callers know none of them.
"""

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import cgutils, codegen, types
from numba.extending import intrinsic

from tinytsm.synth import mixture, philox

# Absent from Numba's own annotations
_JITTED = not getattr(numba.config, "DISABLE_JIT")  # noqa: B009
_lock = threading.Lock()
# More processes than this would each compile little more than what all share
_MOST_PROCESSES = 16


class _Table:
    """Functions of one signature, and their addresses under a symbol that compiled code reads."""

    def __init__(self, symbol: str, arguments: tuple[Any, ...], names: tuple[str, ...]):
        self.symbol, self.arguments, self.names = symbol, arguments, names
        # Read by compiled code at this very address, so it is never replaced
        self.addresses = np.zeros(len(names), np.uint64)
        codegen.ll.add_symbol(symbol, self.addresses.ctypes.data)

    def function(self, row: int) -> Any:
        module, name = self.names[row].split(".")
        return getattr(importlib.import_module(f"tinytsm.synth.{module}"), name)

    def interpreted(self, row: int, *arguments: Any) -> None:
        """The call where Numba is switched off."""
        self.function(row)(*arguments)

    def fill(self) -> None:
        for row in range(len(self.names)):
            dispatcher = self.function(row)
            dispatcher.compile(self.arguments)
            compiled = dispatcher.overloads[self.arguments]
            name = compiled.fndesc.llvm_func_name
            self.addresses[row] = compiled.library.get_pointer_to_function(name)

    def lowered(self, *given: Any) -> tuple[Any, Callable[..., Any]]:
        """Signature and code of a call with these types, the row first."""
        if given[1:] != self.arguments:
            raise numba.TypingError(f"wanted arguments {self.arguments}, got {given[1:]}")

        def generate(context, builder, signature, arguments):
            table = builder.module.globals.get(self.symbol)
            if table is None:
                table = cgutils.add_global_variable(builder.module, cgutils.intp_t, self.symbol)
            address = builder.load(builder.gep(table, [arguments[0]]))
            kind = context.call_conv.get_function_type(types.none, self.arguments)
            function = builder.inttoptr(address, kind.as_pointer())
            status, _ = context.call_conv.call_function(
                builder, function, types.none, self.arguments, arguments[1:]
            )
            with cgutils.if_unlikely(builder, status.is_error):
                context.call_conv.return_status_propagate(builder, status)
            return context.get_dummy_value()

        return types.void(types.int64, *self.arguments), generate


_STREAM, _SERIES, _VARIATES = types.uint64[::1], types.float64[::1], types.float64[:, ::1]
_TRACE = types.int64[::1]
_families = _Table(
    "tinytsm_synth_families",
    (_STREAM, _SERIES),
    tuple(row.name for row in mixture.FAMILIES),
)
_changes = _Table(
    "tinytsm_synth_changes",
    (_STREAM, _SERIES),
    tuple(f"augment.{row.name}" for row in mixture.AUGMENTATIONS + mixture.GAPS),
)
_couplers = _Table(
    "tinytsm_synth_couplers",
    (_STREAM, _VARIATES),
    tuple(f"multivariate.{row.name}" for row in mixture.COUPLERS),
)
_items = _Table(
    "tinytsm_synth_items", (types.int64, types.int64, _VARIATES, _TRACE), ("generator.make_item",)
)
# What a trace's second number counts through
_PARTS = _families.names + _changes.names + _couplers.names
_FIRST_CHANGE, _FIRST_COUPLER = len(_families.names), len(_families.names + _changes.names)


_TABLES = (_items, _families, _changes, _couplers)


def usable_cores() -> int:
    """Cores that this process may run on, where the system tells; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare() -> None:
    """Compile every function (or load it from the cache) and enter its address; does so once."""
    with _lock:
        if _JITTED and not all(table.addresses.all() for table in _TABLES):
            _fill_cache()
            for table in _TABLES:
                table.fill()


def compile_share(first: int, step: int) -> None:
    """Compile every `step`-th function from `first` on into Numba's cache, or find it there."""
    rows = [(table, row) for table in _TABLES for row in range(len(table.names))]
    for table, row in rows[first::step]:
        table.function(row).compile(table.arguments)


def _fill_cache() -> None:
    """Share out the compiling of an empty cache: a process compiles one function at a time.

    Whatever a helper does not get done is left to the caller, so nothing depends on one.
    """
    one = _families.function(0)
    one.compile(_families.arguments)
    processes = min(usable_cores(), _MOST_PROCESSES)
    if not one.stats.cache_misses or processes < 2 or getattr(sys, "frozen", False):
        return
    code = "import sys; from tinytsm.synth import dispatch; dispatch.compile_share(*map(int, sys.argv[1:]))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    helpers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(first), str(processes)],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for first in range(1, processes)
    ]
    try:
        compile_share(0, processes)
    finally:
        for helper in helpers:
            helper.wait()


@intrinsic
def _jitted_family(typing_context, row, rng, out):
    return _families.lowered(row, rng, out)


@intrinsic
def _jitted_change(typing_context, row, rng, out):
    return _changes.lowered(row, rng, out)


@intrinsic
def _jitted_coupler(typing_context, row, rng, out):
    return _couplers.lowered(row, rng, out)


@intrinsic
def _jitted_item(typing_context, row, seed, index, out, trace):
    return _items.lowered(row, seed, index, out, trace)


_call_family = _jitted_family if _JITTED else _families.interpreted
_call_change = _jitted_change if _JITTED else _changes.interpreted
_call_coupler = _jitted_coupler if _JITTED else _couplers.interpreted
_call_item = _jitted_item if _JITTED else _items.interpreted

# A trace, (2,) int64, is written while an item is made, so that whoever catches an error can say where: the item's
# index, and a number for the function called last


def new_trace() -> np.ndarray:
    """A trace of nothing yet."""
    return np.full(2, -1, np.int64)


def describe_trace(trace: np.ndarray) -> str:
    """The item of a trace and what was being done to it, such as "item 12, in dynamics.ets"."""
    where = f"in {_PARTS[trace[1]]}" if trace[1] >= 0 else "before its first family"
    return f"item {trace[0]}, {where}"


# All four need `prepare` to have been called


@philox.leaf
def fill_family(code, rng, out, trace):
    """Fill out (T,) by the family of this row of mixture.FAMILIES."""
    trace[1] = code
    _call_family(code, rng, out)


@philox.leaf
def change(code, rng, out, trace):
    """Change out (T,) by this row of mixture.AUGMENTATIONS, or of GAPS, which follow them."""
    trace[1] = _FIRST_CHANGE + code
    _call_change(code, rng, out)


@philox.leaf
def couple(code, rng, out, trace):
    """Relate the variates of out (V, T) by this row of mixture.COUPLERS."""
    trace[1] = _FIRST_COUPLER + code
    _call_coupler(code, rng, out)


@philox.leaf
def fill_item(seed, index, out, trace):
    """Fill out (V, T) with an item: generator.fill_item, for jitted callers."""
    _call_item(np.int64(0), seed, index, out, trace)
