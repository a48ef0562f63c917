"""Inputs shared by the op tests."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]

JIT = not numba.config.DISABLE_JIT
# Work (elements, or multiply-adds) up to which the kernels take reasonable time as plain Python.
SMALL = 12_000

EDGES = (1, 2, 7, 13, 14, 15, 16, 17, 27, 28, 29, 31, 32, 33, 63, 64, 65, 127, 511, 512, 513)  # around every tile size
SCALES = (1e-3, 1.0, 80.0, 1e4)
DTYPES = (np.float16, np.float32, np.float64)


def sizes(cases: Iterable[Any], work: Callable[..., float] | None = None) -> list[Any]:
    """Return parameters for `pytest.mark.parametrize`; large cases are marked `jit`, and so deselected without the JIT.

    A case is an int or a tuple of ints; its work is their product unless `work` says otherwise.
    """
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        much = (work(*values) if work else math.prod(values)) > SMALL
        marked.append(pytest.param(*values, marks=[pytest.mark.jit] if much else [], id="x".join(str(v) for v in values)))
    return marked


def normal(*shape: int, seed: int = 0, scale: float = 1.0, dtype: Any = np.float32) -> Array:
    """Return normal random numbers with standard deviation `scale`."""
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(dtype)


def read_only(x: Array) -> Array:
    """Copy `x` to a read-only array."""
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def layouts(x: Array) -> dict[str, Array]:
    """Return the values of `x` (two axes or more) in every kind of memory layout."""
    spaced = np.full([2 * n + 1 for n in x.shape], np.nan, x.dtype)
    spaced[tuple(slice(1, None, 2) for _ in x.shape)] = x
    reverse = (slice(None, None, -1),) * x.ndim
    byte_shifted = np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape)
    return {
        "contiguous": x,
        "fortran": np.asfortranarray(x),
        "transposed": np.ascontiguousarray(x.swapaxes(0, -1)).swapaxes(0, -1),
        "spaced": spaced[tuple(slice(1, None, 2) for _ in x.shape)],
        "negative": np.ascontiguousarray(x[reverse])[reverse],
        "unaligned": byte_shifted,
        "read-only": read_only(x),
    }


LAYOUTS = tuple(layouts(np.zeros((1, 1))))


def blank(*shape: int, dtype: Any = np.float32) -> Array:
    """Return an output full of NaN, in which an element that is not written shows."""
    return np.full(shape, np.nan, dtype)


def blank_spaced(*shape: int, dtype: Any = np.float32) -> Array:
    """Return an output like `blank` that is not contiguous."""
    return blank(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]


def f64(*shape: int, seed: int = 0) -> Array:
    """Return normal random numbers in float64."""
    return normal(*shape, seed=seed, dtype=np.float64)


def close(result: Array, expected: Any, ulps: float = 16) -> None:
    """Compare a float64 result with an independent value, to a few rounding errors of the largest value."""
    expected = np.asarray(expected, dtype=np.float64)
    assert result.dtype == np.float64 and result.shape == expected.shape
    size = max(1.0, float(np.max(np.abs(expected), initial=0)))
    np.testing.assert_allclose(result, expected, rtol=0, atol=ulps * float(np.finfo(float).eps) * size)
