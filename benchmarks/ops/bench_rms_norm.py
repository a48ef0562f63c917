"""RMS norm of hidden states, and of their sum with a residual."""

from typing import Any

import pytest

from benchmarks.ops.timed import providers, time_op
from benchmarks.suite.shapes import ELEMENTS, normal, rows_of


@providers
@pytest.mark.parametrize("name", ["rms_norm", "rms_norm, residual"])
@pytest.mark.parametrize("elements", ELEMENTS[:-1])
def bench_rms_norm(benchmark: Any, elements: int, name: str, provider: str) -> None:
    rows, length = rows_of("rms_norm", elements)
    benchmark.group = f"{name} {rows} x {length}"
    arrays = [normal(rows, length), 1 + normal(length, seed=1) / 8]
    options = {"residual": normal(rows, length, seed=3)} if "residual" in name else {}
    traffic = 4 * (3 if options else 2) * rows * length
    time_op(benchmark, provider, "rms_norm", *arrays, traffic=traffic, eps=1e-6, **options)
