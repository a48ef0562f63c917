"""Gradients of the products of a layer by the public op, which packs the weight in every call."""

from typing import Any

import pytest

import fastattn
from benchmarks.ops.timed import providers, time_call
from benchmarks.suite.shapes import BERT_BASE, MINILM
from fastattn import reference
from tests.support.linear_gradients import check_linear_backward, linear_arrays

PRODUCTS = {f"{model.name} {name}": sizes for model in (MINILM, BERT_BASE) for name, sizes in model.products().items()}


@providers
@pytest.mark.parametrize("rows", [512, 4096])
@pytest.mark.parametrize("product", PRODUCTS)
def bench_linear_backward(benchmark: Any, product: str, rows: int, provider: str) -> None:
    k, n = PRODUCTS[product]
    benchmark.group = f"linear_backward {product} {rows} x {k} x {n}"
    arrays = linear_arrays(rows, n, k)
    check_linear_backward(**arrays)
    module: Any = {"fastattn": fastattn, "reference": reference}[provider]
    time_call(benchmark, lambda: module.linear_backward(**arrays), flop=4 * rows * k * n)
