"""Softmax of rows of attention scores."""

from typing import Any

import pytest

from benchmarks.ops.timed import providers, time_op
from benchmarks.suite.shapes import ELEMENTS, STREAMS, normal, rows_of


@providers
@pytest.mark.parametrize("elements", ELEMENTS[:-1])
def bench_softmax(benchmark: Any, elements: int, provider: str) -> None:
    rows, length = rows_of("softmax", elements)
    benchmark.group = f"softmax {rows} x {length}"
    time_op(benchmark, provider, "softmax", normal(rows, length), traffic=4 * STREAMS["softmax"] * rows * length)
