"""Gradient of the softmax of rows of attention scores."""

from typing import Any

import pytest

from benchmarks.ops.timed import providers, time_gradients
from benchmarks.suite.shapes import ELEMENTS, normal, rows_of
from fastattn import reference


@providers
@pytest.mark.parametrize("elements", ELEMENTS[:-1])
def bench_softmax_backward(benchmark: Any, elements: int, provider: str) -> None:
    rows, length = rows_of("softmax", elements)
    benchmark.group = f"softmax_backward {rows} x {length}"
    arrays = (normal(rows, length), reference.softmax(normal(rows, length, seed=1)))
    time_gradients(benchmark, provider, "softmax_backward", *arrays, traffic=12 * rows * length)
