"""Gradients of RMS norm of hidden states, and of their sum with a residual."""

from typing import Any

import pytest

from benchmarks.ops.timed import providers, time_gradients
from benchmarks.suite.shapes import ELEMENTS, normal, rows_of


@providers
@pytest.mark.parametrize("name", ["rms_norm_backward", "rms_norm_backward, residual"])
@pytest.mark.parametrize("elements", ELEMENTS[:-1])
def bench_rms_norm_backward(benchmark: Any, elements: int, name: str, provider: str) -> None:
    rows, length = rows_of(name, elements)
    benchmark.group = f"{name} {rows} x {length}"
    arrays = [normal(rows, length, seed=4), normal(rows, length), 1 + normal(length, seed=1) / 8]
    options = {"residual": normal(rows, length, seed=3)} if "residual" in name else {}
    traffic = 4 * (3 + len(options)) * rows * length
    time_gradients(benchmark, provider, "rms_norm_backward", *arrays, eps=1e-5, traffic=traffic, **options)
