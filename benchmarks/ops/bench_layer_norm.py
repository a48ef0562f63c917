"""Layer norm of hidden states, and of their sum with a residual."""

from typing import Any

import pytest

from benchmarks.ops.timed import providers, time_op
from benchmarks.suite.shapes import ELEMENTS, STREAMS, normal, rows_of


@providers
@pytest.mark.parametrize("name", ["layer_norm", "layer_norm, residual"])
@pytest.mark.parametrize("elements", ELEMENTS[:-1])
def bench_layer_norm(benchmark: Any, elements: int, name: str, provider: str) -> None:
    rows, length = rows_of(name, elements)
    benchmark.group = f"{name} {rows} x {length}"
    arrays = (normal(rows, length), 1 + normal(length, seed=1) / 8, normal(length, seed=2) / 8)
    options = {"residual": normal(rows, length, seed=3)} if "residual" in name else {}
    time_op(benchmark, provider, "layer_norm", *arrays, traffic=4 * STREAMS[name] * rows * length, **options)
