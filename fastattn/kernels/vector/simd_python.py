"""The vocabulary of `simd` as NumPy functions: what kernels run on when the JIT is switched off.

Slow, and bounds-checked: an index outside an array raises IndexError, so the run with the JIT off checks the kernels' indices.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.vector.target import TARGET, TILE_BYTES, WIDE

__all__ = [
    "absolute", "atomic_next", "below_float32", "each_lane", "exponent", "fill", "fma", "lanes", "load", "load_part", "load_wide",
    "maximum", "power_of_two", "prefetch", "reduce_add", "reduce_max", "significand", "square_root",
    "store", "store_part", "tile_width", "where_less",
]  # fmt: skip

Array = NDArray[Any]


def _window(x: Array, i: int, n: int) -> Array:
    if n and (i < 0 or i + n > x.size):
        raise IndexError(f"elements {i} to {i + n} of an array of {x.size}")
    window: Array = x.reshape(-1)[i : i + n]
    return window


def lanes(x: Array) -> int:
    return TARGET.vector_bytes // x.itemsize


def tile_width(x: Array) -> int:
    return TILE_BYTES // x.itemsize


def load(x: Array, i: int) -> Array:
    return np.array(_window(x, i, lanes(x)))


def load_wide(x: Array, i: int) -> Array:
    return np.array(_window(x, i, WIDE * lanes(x)))


def load_part(x: Array, i: int, n: int, fill: float) -> Array:
    v = np.full(lanes(x), fill, x.dtype)
    v[:n] = _window(x, i, n)
    return v


def store(x: Array, i: int, v: Array) -> None:
    _window(x, i, len(v))[:] = v


def store_part(x: Array, i: int, n: int, v: Array) -> None:
    _window(x, i, n)[:] = v[:n]


def fill(x: Array, value: float) -> Array:
    return np.full(lanes(x), value, x.dtype)


def fma(a: Any, b: Any, c: Any) -> Array:
    dtype = next(v.dtype for v in (a, b, c) if isinstance(v, np.ndarray))
    wide = np.longdouble if dtype == np.float64 else np.float64
    with np.errstate(all="ignore"):
        return np.asarray(np.asarray(a, wide) * np.asarray(b, wide) + np.asarray(c, wide)).astype(dtype)


def where_less(a: Any, b: Any, x: Any, y: Any) -> Array:
    dtype = next(v.dtype for v in (a, b, x, y) if isinstance(v, np.ndarray))
    return np.asarray(np.where(np.less(a, b), x, y), dtype)


def maximum(a: Any, b: Any) -> Array:
    dtype = next(v.dtype for v in (a, b) if isinstance(v, np.ndarray))
    return np.asarray(np.where(np.greater(a, b), a, b), dtype)


def absolute(v: Array) -> Array:
    return np.asarray(np.abs(v))


def prefetch(x: Array, i: int) -> None:
    pass


def square_root(v: Array) -> Array:
    return np.asarray(np.sqrt(v))


def power_of_two(shifted: Array) -> Array:
    out: Array = (shifted.view(np.uint32) << np.uint32(23)).view(np.float32)
    return out


def _above_root_half(v: Array) -> Array:
    above: Array = v.view(np.int32) - np.int32(0x3F3504F3)
    return above


def exponent(v: Array) -> Array:
    out: Array = (_above_root_half(v) >> np.int32(23)).astype(np.float32)
    return out


def significand(v: Array) -> Array:
    out: Array = ((_above_root_half(v) & np.int32(0x7FFFFF)) + np.int32(0x3F3504F3)).view(np.float32)
    return out


def below_float32(c: float) -> float:
    return c - float(np.float32(c))


_LIBRARY: dict[str, Any] = {
    "llvm.exp2.f64": np.exp2,
    "erfc": np.vectorize(math.erfc, otypes=[np.float64]),
    "log1p": np.log1p,
    "tanh": np.tanh,
}


def each_lane(v: Array, function: str) -> Array:
    return np.asarray(_LIBRARY[function](v))


def _tree(v: Array, combine: Any) -> Any:
    while len(v) > 1:
        half = len(v) // 2
        v = combine(v[:half], v[half:])
    return v[0]


def reduce_add(v: Array) -> Any:
    return _tree(v, np.add)


def reduce_max(v: Array) -> Any:
    return _tree(v, maximum)


def atomic_next(counter: Array, i: int) -> int:
    value = int(counter[i])
    counter[i] += 1
    return value
