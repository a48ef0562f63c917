"""Checks and conversions at the boundary of the ops: any float array in, C-contiguous arrays to the kernel."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.vector.target import TILE_BYTES
from fastattn.runtime.memory import LARGE, check_fits, check_large
from fastattn.runtime.rounding import rounding
from fastattn.runtime.threads import thread_count

Array = NDArray[Any]
# Dtype of an op's arrays: float16, float32 or float64.
F = TypeVar("F", bound=np.floating[Any])

_FLOATS = (np.float16, np.float32, np.float64)
_F32, _F64, _INT64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
_NO_F32, _NO_F64 = np.empty(0, np.float32), np.empty(0, np.float64)


def float_array(name: str, x: Any) -> Array:
    """Return `x` as an array, a TypeError unless its dtype is float16, float32 or float64."""
    if type(x) is np.ndarray:
        array: Array = x
    else:
        try:
            array = np.asarray(x)
        except ValueError as error:
            raise ValueError(f"{name} must be an array, got a {type(x).__name__} that makes none: {error}") from error
    if array.dtype.type not in _FLOATS:
        advice = f": np.asarray({name}, np.float32) converts it" if array.dtype.kind in "biu" else ""
        raise TypeError(f"{name} must be float32, float64 or float16, got {array.dtype}{advice}")
    return array


def same_dtype(first: str, x: Array, /, **others: Array | None) -> None:
    """Raise a TypeError unless every array given has the dtype of `x`."""
    for name, array in others.items():
        if array is not None and array.dtype is not x.dtype and array.dtype.type is not x.dtype.type:
            raise TypeError(f"{name} must have the dtype of {first}, {x.dtype}, got {array.dtype}")


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise unless `out` is None or a writable array of this shape and dtype."""
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an array, got {type(out).__name__}")
    if out.dtype.type is not dtype.type:
        raise TypeError(f"out must be {dtype.newbyteorder('=')}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")
    if not out.flags.forc and _overlaps_itself(out):
        raise ValueError(f"out must not have elements that share memory, got strides {out.strides} for shape {out.shape}")


def _overlaps_itself(x: Array) -> bool:
    """Tell whether elements share memory: whether an axis steps by less than what the axes inside it span."""
    span = x.itemsize
    for step, count in sorted((abs(step), count) for step, count in zip(x.strides, x.shape, strict=True) if count != 1):
        if step < span:
            return x.size > 0
        span += step * (count - 1)
    return False


def check_room(shape: tuple[int, ...], out: Array | None, *arrays: Array) -> None:
    """Raise a MemoryError where the result and the copies of `arrays` that `working` makes do not fit in what is free."""
    if 8 * (sum(x.size for x in arrays) + math.prod(shape)) < LARGE:
        return
    copies = sum(0 if x.dtype in (_F32, _F64) and x.flags.carray else x.size for x in arrays)
    itemsize = 8 if arrays[0].dtype.type is np.float64 else 4
    check_fits(itemsize * (copies + (math.prod(shape) if out is None else 0)), f"a result of shape {shape}, with temporary arrays,")


def number(name: str, value: Any) -> float:
    """Return a number as a float, a TypeError or ValueError where it is none."""
    if type(value) is float:
        return value
    try:
        return float(value)
    except TypeError:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}") from None
    except (OverflowError, ValueError):
        raise ValueError(f"{name} must be a number that a float can hold, got {value!r:.50}") from None


def working(x: Array) -> Array:
    """Return `x` C-contiguous, aligned, writable, in native byte order, float16 as float32: what a kernel takes.

    A read-only array is copied: Numba would compile every kernel anew for its type.
    """
    # The usual case comes first, by identity: on a small array these checks take longer than the kernel.
    dtype = x.dtype
    if (dtype is _F32 or dtype is _F64) and x.flags.carray:
        return x
    # Bytes of the copy; of float16 also the float32 result, and the float16 copy of that.
    check_large(x.size * (10 if dtype.type is np.float16 else dtype.itemsize), "a copy of an array of shape {}", x.shape)
    return np.require(x, _F64 if dtype.type is np.float64 else _F32, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE"))


def kernel_out(out: Array | None, shape: tuple[int, ...], like: Array, *inputs: Array | None) -> Array:
    """Return `out` itself where a kernel may write to it, else a new array, which `finish` copies over."""
    if out is None:
        return _empty(shape, like.dtype)
    usable = (
        out.flags.c_contiguous
        and out.flags.aligned
        and out.dtype == like.dtype
        and not any(x is not None and np.may_share_memory(out, x) for x in inputs)
    )
    return out if usable else _empty(shape, like.dtype)


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    # The system hands out no page before its first write: an allocation that succeeds proves nothing.
    try:
        out = np.empty(shape, dtype)
    except ValueError as error:
        raise MemoryError(f"a result of shape {shape} is larger than any memory") from error
    if out.nbytes >= LARGE:
        check_fits(out.nbytes, f"a result of shape {shape}")
    return out


def finish(result: Array, out: Array | None, dtype: np.dtype[Any]) -> Array:
    """Return `result` in `dtype`, in `out` where that was given."""
    if out is None:
        if result.dtype is dtype:
            return result
        with rounding():
            return result.astype(dtype.newbyteorder("="), copy=False)
    if result is not out:
        with rounding():
            out[...] = result
    return out


def checked_offsets(offsets: NDArray[Any], rows: int) -> NDArray[np.int64]:
    """Return where sequences of `rows` packed tokens begin, and the end of the last; ValueError for other offsets."""
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets):
        raise ValueError(f"offsets must be whole numbers of shape (B + 1,), got {offsets.dtype} of shape {offsets.shape}")
    if offsets.dtype is not _INT64 or not offsets.flags.carray:
        offsets = np.require(offsets, np.int64, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE"))
    if offsets[0] != 0 or offsets[-1] != rows or np.any(offsets[1:] < offsets[:-1]):
        raise ValueError(f"offsets must rise from 0 to N = {rows}, got {offsets[0]} .. {offsets[-1]}")
    return offsets


def writable(x: Array) -> Array:
    """Return the array, or a copy where it is read-only: Numba would compile every kernel anew for that type."""
    return x if x.flags.writeable else x.copy()


def absent(dtype: np.dtype[Any]) -> Array:
    """Return the empty array that stands for an absent argument."""
    return _NO_F64 if dtype is _F64 else _NO_F32


def panels(n: int, dtype: Any) -> tuple[int, int]:
    """Return how many panels of columns `n` columns make, and a panel's width."""
    width = TILE_BYTES // np.dtype(dtype).itemsize
    return -(-n // width), width


# Below this many microseconds of work a second thread costs more than it saves.
_US_PER_THREAD = 15.0


def workers_for(microseconds: float, tasks: int) -> int:
    """Threads for a call with that much work on one core, cut into `tasks` pieces."""
    if microseconds < 2 * _US_PER_THREAD:
        return 1
    wanted = min(tasks, int(microseconds / _US_PER_THREAD))
    return 1 if wanted <= 1 else min(wanted, thread_count())
