"""Products of a layer by the public op, which packs the weight in every call."""

from typing import Any

import pytest

from benchmarks.ops.timed import providers, time_op
from benchmarks.suite.shapes import BERT_BASE, MINILM, normal

PRODUCTS = {f"{model.name} {name}": sizes for model in (MINILM, BERT_BASE) for name, sizes in model.products().items()}


@providers
@pytest.mark.parametrize("rows", [128, 512])
@pytest.mark.parametrize("product", PRODUCTS)
def bench_linear(benchmark: Any, product: str, rows: int, provider: str) -> None:
    k, n = PRODUCTS[product]
    benchmark.group = f"linear {product} {rows} x {k} x {n}"
    arrays = (normal(rows, k), normal(n, k, seed=1), normal(n, seed=2))
    time_op(benchmark, provider, "linear", *arrays, flop=2 * rows * k * n)
