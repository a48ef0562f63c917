"""Dropout of hidden states; its gradient is the same kernel."""

from typing import Any

import pytest

from benchmarks.ops.timed import providers, time_gradients
from benchmarks.suite.shapes import ELEMENTS, normal, rows_of


@providers
@pytest.mark.parametrize("elements", ELEMENTS[:-1])
def bench_dropout(benchmark: Any, elements: int, provider: str) -> None:
    rows, length = rows_of("dropout", elements)
    benchmark.group = f"dropout {rows} x {length}"
    time_gradients(benchmark, provider, "dropout", normal(rows, length), 0.1, 1, traffic=8 * rows * length)
