"""Gradients of the activations of the feed-forward expansion."""

from typing import Any

import pytest

from benchmarks.ops.timed import providers, time_gradients
from benchmarks.suite.shapes import ELEMENTS, normal, rows_of


@providers
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu", "mish"])
@pytest.mark.parametrize("elements", ELEMENTS[:-1])
def bench_activation_backward(benchmark: Any, elements: int, activation: str, provider: str) -> None:
    rows, length = rows_of("gelu", elements)
    benchmark.group = f"activation_backward {activation} {rows} x {length}"
    arrays = (normal(rows, length), normal(rows, length, seed=1))
    time_gradients(benchmark, provider, "activation_backward", *arrays, activation, traffic=12 * rows * length)
