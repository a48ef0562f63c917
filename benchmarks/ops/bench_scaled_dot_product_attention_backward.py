"""Gradient of the attention of eight heads."""

from typing import Any

import numpy as np
import pytest

import fastattn
from benchmarks.ops.timed import providers, time_call
from benchmarks.suite.shapes import ATTENTION_HEADS, ATTENTION_SIZES, ATTENTION_TOKENS, attention_flop, normal
from fastattn import reference

OP = "scaled_dot_product_attention_backward"


@providers
@pytest.mark.parametrize("size", ATTENTION_SIZES)
@pytest.mark.parametrize("tokens", ATTENTION_TOKENS[:2])
def bench_scaled_dot_product_attention_backward(benchmark: Any, tokens: int, size: int, provider: str) -> None:
    benchmark.group = f"gradient of attention T {tokens}, D {size}"
    arrays = [normal(1, ATTENTION_HEADS, tokens, size, seed=i) for i in range(4)]
    for x, y in zip(getattr(fastattn, OP)(*arrays)[:3], getattr(reference, OP)(*arrays), strict=False):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())
    module: Any = {"fastattn": fastattn, "reference": reference}[provider]
    # Two products forward, five backward.
    flop = attention_flop(ATTENTION_HEADS, tokens, size) * 7 // 2
    time_call(benchmark, lambda: getattr(module, OP)(*arrays), flop=flop)
