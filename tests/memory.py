"""What kernels may touch in memory, checked in Triton's interpreter, which by itself reads and writes anything.

A GPU notices an access past a tensor only where no other memory lies, and a race never. Here, in every launch, each
lane that is not masked off stays within the tensor that its pointer was made from, no element is stored twice with
different values, and none is both loaded and stored: programs run in any order, and the threads of one do not wait for
one another's stores. The kernels use no atomics, which are not watched.
"""

import dataclasses
import inspect
from types import ModuleType
from typing import Any

import numpy as np
import pytest

# An address has 48 bits. Above them a pointer carries which argument it was made from: one more than its place.
_BITS = np.uint64(48)
_ADDRESS = np.uint64((1 << 48) - 1)


def _bytes(tensor: Any) -> int:
    """From a tensor's first element to the end of its last."""
    if tensor.numel() == 0:
        return 0
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


class _Argument:
    """A tensor of a launch: where it lies, and which of its elements the launch has loaded and stored.

    What overlaps in part counts as two.
    """

    def __init__(self, name: str, tensor: Any):
        self.name, self.first, self.bytes = name, tensor.data_ptr(), _bytes(tensor)
        self.loaded, self.stored = np.zeros((2, self.bytes // tensor.element_size()), bool)


class _Launch:
    """One launch of a kernel, and the tensors that it was given, in order."""

    def __init__(self, kernel: str, names: list[str]):
        self.kernel, self.names = kernel, names
        self.arguments: list[_Argument] = []

    def add(self, tensor: Any) -> np.uint64:
        """Take the next argument; returns what to add to its pointer."""
        argument = _Argument(self.names[len(self.arguments)], tensor)
        for other in self.arguments:
            if (other.first, other.bytes) == (argument.first, argument.bytes):
                argument.loaded, argument.stored = other.loaded, other.stored
        self.arguments.append(argument)
        return np.uint64(len(self.arguments)) << _BITS

    def elements(self, pointers: np.ndarray, size: int, *, does: str) -> tuple[_Argument, Any]:
        """The argument that some pointers to `size` bytes were made from, and their places in it.

        Raises AssertionError where one leaves the argument.
        """
        number = int(pointers[0] >> _BITS)
        assert 1 <= number <= len(self.arguments), f"{self.kernel} {does} by no argument's pointer"
        argument = self.arguments[number - 1]
        start = (np.uint64(number) << _BITS) + np.uint64(argument.first)
        # signed, so that what lies before the tensor is negative
        offsets = (pointers - start).view(np.int64)
        before, after = -int(offsets.min()), int(offsets.max()) + size - argument.bytes
        assert before <= 0, f"{self.kernel} {does} {before} bytes before {argument.name}"
        assert after <= 0, f"{self.kernel} {does} {after} bytes past the end of {argument.name}"
        assert not (offsets % size).any(), f"{self.kernel} {does} between two of {argument.name}"
        return argument, offsets // size

    def load(self, pointers: np.ndarray, size: int) -> None:
        argument, places = self.elements(pointers, size, does="loads")
        argument.loaded[places] = True
        assert not argument.stored[places].any(), f"{self.kernel} loads its own {argument.name}"

    def store(self, pointers: np.ndarray, size: int) -> np.ndarray:
        """Returns which of the elements have been stored before."""
        argument, places = self.elements(pointers, size, does="stores")
        assert not argument.loaded[places].any(), (
            f"{self.kernel} stores what it loads: {argument.name}"
        )
        before = argument.stored[places]
        argument.stored[places] = True
        return before

    def name(self, pointers: np.ndarray) -> str:
        return self.arguments[int(pointers[0] >> _BITS) - 1].name


def watch(interpreter: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check every launch of `triton.runtime.interpreter`, by an AssertionError that names kernel and argument."""
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    convert, call = interpreter._implicit_cvt, executor.__call__
    load, store = builder.create_masked_load, builder.create_masked_store
    running: list[_Launch] = []

    def launched(self: Any, *args: Any, **kwargs: Any) -> None:
        given = {k: v for k, v in kwargs.items() if k in self.arg_names}
        arguments = inspect.getcallargs(self.fn, *args, **given)
        names = [name for name, value in arguments.items() if hasattr(value, "data_ptr")]
        running.append(_Launch(self.fn.__name__, names))
        try:
            call(self, *args, **kwargs)
        finally:
            running.pop()

    def converted(value: Any) -> Any:
        result = convert(value)
        if hasattr(value, "data_ptr"):
            result.handle.data = result.handle.data + running[-1].add(value)
        return result

    def used(pointers: Any, mask: Any) -> tuple[np.ndarray, Any, int]:
        """Pointers in use with their marks, all of them without, and the bytes that each points to."""
        plain = dataclasses.replace(pointers, data=pointers.data & _ADDRESS)
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        return pointers.data[np.broadcast_to(mask.data, pointers.data.shape)], plain, size

    def loaded(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        marked, plain, size = used(pointers, mask)
        if marked.size:
            running[-1].load(marked, size)
        return load(self, plain, mask, *rest)

    def stored(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> None:
        marked, plain, size = used(pointers, mask)
        if not marked.size:
            return
        launch = running[-1]
        lanes = np.broadcast_to(mask.data, pointers.data.shape)
        before = launch.store(marked, size)
        was = _read(self, plain, mask, value) if before.any() else None
        store(self, plain, value, mask, *rest)
        # in one store too, two lanes may meet
        now, meant = (
            _read(self, plain, mask, value),
            _bits(np.broadcast_to(value.data, lanes.shape)),
        )
        same = now[lanes] == meant[lanes]
        if was is not None:
            same &= ~before | (was[lanes] == meant[lanes])
        assert same.all(), (
            f"{launch.kernel} stores two values in one element of {launch.name(marked)}"
        )

    def _read(self: Any, plain: Any, mask: Any, value: Any) -> np.ndarray:
        other = dataclasses.replace(value, data=np.zeros(plain.data.shape, value.data.dtype))
        rest = (None,) * (len(inspect.signature(load).parameters) - 5)
        return _bits(load(self, plain, mask, other, *rest, False).data)

    monkeypatch.setattr(executor, "__call__", launched)
    monkeypatch.setattr(interpreter, "_implicit_cvt", converted)
    monkeypatch.setattr(builder, "create_masked_load", loaded)
    monkeypatch.setattr(builder, "create_masked_store", stored)


def _bits(x: np.ndarray) -> np.ndarray:
    """As integers, so that a NaN equals itself."""
    return np.ascontiguousarray(x).view(f"u{x.itemsize}")
