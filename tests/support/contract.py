"""Contract of every op: layouts, `out`, dtypes, threads.

Each function takes an op's name and a correct float32 call of the op, whose value the op's own tests check.
"""

import math
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

import fastattn
from tests.support.cases import JIT, LAYOUTS, blank, blank_spaced, layouts, read_only

Array = NDArray[Any]
BAD_DTYPES = ("int32", "int64", "bool", "complex64", "object", "S4")


def call(op: str, arrays: dict[str, Array], **options: Any) -> Array:
    result: Array = getattr(fastattn, op)(**arrays, **options)
    return result


def assert_same_bits(a: Any, b: Any) -> None:
    """Compare arrays, or tuples of arrays and None as the backward ops return them."""
    if isinstance(a, tuple):
        assert isinstance(b, tuple) and len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same_bits(one, other)
        return
    if a is None:
        assert b is None
        return
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_array_equal(a, b, strict=True)


def any_layout(op: str, arrays: dict[str, Array], **options: Any) -> None:
    """Strides, alignment and write protection of an input change no bit of the result."""
    expected = call(op, arrays, **options)
    for name, array in arrays.items():
        for layout in LAYOUTS:
            x = layouts(array)[layout] if array.ndim > 1 else np.repeat(array, 2)[::2]
            assert_same_bits(call(op, {**arrays, name: x}, **options), expected)


def any_out(op: str, arrays: dict[str, Array], **options: Any) -> None:
    """`out` may have any layout and may share memory with an input; inputs are left alone otherwise."""
    before = {name: array.copy() for name, array in arrays.items()}
    expected = call(op, arrays, **options)
    shape = expected.shape
    for out in (blank(*shape), blank_spaced(*shape), blank(*shape[::-1]).T):
        assert call(op, arrays, out=out, **options) is out
        assert_same_bits(out, expected)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])
        if array.dtype == expected.dtype:
            for shift in (0, 1):
                x, out = overlapping(array, shape, shift)
                assert call(op, {**arrays, name: x}, out=out, **options) is out
                assert_same_bits(out, expected)


def overlapping(x: Array, shape: tuple[int, ...], shift: int) -> tuple[Array, Array]:
    """Place `x` in a buffer, overlapping an array of `shape` that starts `shift` elements later; return both."""
    size = math.prod(shape)
    buffer = blank(max(x.size, size) + shift, dtype=x.dtype)
    inside = buffer[: x.size].reshape(x.shape)
    inside[...] = x
    return inside, buffer[shift : shift + size].reshape(shape)


def bad_out(op: str, arrays: dict[str, Array], **options: Any) -> None:
    """A wrong `out` raises, naming it, and nothing is written."""
    shape = call(op, arrays, **options).shape
    for out, error in (
        (blank(*shape[:-1], shape[-1] + 1), ValueError),
        (blank(1, *shape), ValueError),
        (blank(*shape, dtype=np.float64), TypeError),
        (np.zeros(shape, np.int32), TypeError),
        (read_only(blank(*shape)), ValueError),
        (blank(*shape).tolist(), TypeError),
    ):
        with pytest.raises(error, match=r"\bout\b"):
            call(op, arrays, out=out, **options)
        if isinstance(out, np.ndarray) and out.dtype.kind == "f":
            assert np.isnan(out).all()


def bad_dtypes(op: str, arrays: dict[str, Array], **options: Any) -> None:
    """An array of another dtype raises TypeError, which names the argument and the dtype; so do mixed dtypes."""
    for name, array in arrays.items():
        for dtype in (*BAD_DTYPES, "float64"):
            if dtype == "float64" and len(arrays) == 1:
                continue
            with pytest.raises(TypeError, match=rf"\b{name}\b") as caught:
                call(op, {**arrays, name: array.astype(dtype)}, **options)
            if dtype != "float64":
                assert str(np.dtype(dtype)) in str(caught.value)
            if dtype in ("int32", "int64", "bool"):
                assert f"np.asarray({name}, np.float32)" in str(caught.value)


def any_threads(op: str, arrays: dict[str, Array], **options: Any) -> None:
    """The thread count changes no bit of the result."""
    results = []
    threads = numba.get_num_threads()
    try:
        for count in sorted({1, min(2, threads), threads}) if JIT else [1]:
            numba.set_num_threads(count)
            results.append(call(op, arrays, **options))
    finally:
        numba.set_num_threads(threads)
    for other in results[1:]:
        assert_same_bits(other, results[0])
