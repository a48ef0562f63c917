"""Attention of eight heads."""

from typing import Any

import pytest

from benchmarks.ops.timed import providers, time_op
from benchmarks.suite.shapes import ATTENTION_HEADS, ATTENTION_SIZES, ATTENTION_TOKENS, attention_flop, normal


@providers
@pytest.mark.parametrize("size", ATTENTION_SIZES)
@pytest.mark.parametrize("tokens", ATTENTION_TOKENS[:2])
def bench_attention(benchmark: Any, tokens: int, size: int, provider: str) -> None:
    benchmark.group = f"attention T {tokens}, D {size}"
    arrays = [normal(1, ATTENTION_HEADS, tokens, size, seed=i) for i in range(3)]
    flop = attention_flop(ATTENTION_HEADS, tokens, size)
    time_op(benchmark, provider, "scaled_dot_product_attention", *arrays, flop=flop)
