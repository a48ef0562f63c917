"""`linear_backward` against its definition: each gradient is a contraction, which a yardstick computes in several orders."""

import math
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

import fastattn
from fastattn import reference
from tests.support.cases import normal
from tests.support.tolerance import check

Array = NDArray[Any]


def linear_arrays(rows: int, outputs: int, inputs: int, scale: float = 1.0, dtype: Any = np.float32) -> dict[str, Array]:
    """Return the arguments of a call."""
    return {
        "grad": normal(rows, outputs, seed=3, scale=scale, dtype=dtype),
        "x": normal(rows, inputs, scale=scale, dtype=dtype),
        "weight": normal(outputs, inputs, seed=1, dtype=dtype),
        "bias": normal(outputs, seed=2, dtype=dtype),
    }


def check_linear_backward(grad: Array, x: Array, weight: Array, bias: Array) -> tuple[Array, Array, Array]:
    """Compare each gradient with float64 truth; the op `linear` stands for contractions of the last axes of two arrays."""
    lead, (n, k) = x.shape[:-1], weight.shape
    rows = math.prod(lead)
    ones = np.ones((1, rows), grad.dtype)

    def part(module: Any, i: int) -> Any:
        """Return gradient i as a function of its two factors, with the axis that is summed last in both."""

        def of(a: Array, b: Array) -> Array:
            like = {name: each.astype(a.dtype) for name, each in (("x", x), ("weight", weight), ("bias", bias))}
            if i == 0:
                given = {**like, "grad": a, "weight": b.T}
            else:
                given = {**like, "grad": a.T.reshape(*lead, n), "x": b.T.reshape(*lead, k) if i == 1 else like["x"]}
            found: Array = module.linear_backward(**given)[i]
            return found

        return of

    by_rows = (grad.reshape(rows, n).T, x.reshape(rows, k).T)
    factors = ((grad, weight.T), by_rows, (by_rows[0], ones))
    results = [check("linear", *pair, ours=part(fastattn, i), twin=part(reference, i)) for i, pair in enumerate(factors)]
    return results[0], results[1], results[2]


def each_thread_count() -> Iterator[int]:
    """Set the number of threads to 1, 2 and all, one after the other, and back."""
    threads = numba.get_num_threads()
    try:
        for count in sorted({1, min(2, threads), threads}):
            numba.set_num_threads(count)
            yield count
    finally:
        numba.set_num_threads(threads)
