"""Attention weights of eight heads."""

from typing import Any

import pytest

from benchmarks.ops.timed import providers, time_op
from benchmarks.suite.shapes import ATTENTION_HEADS, ATTENTION_SIZES, ATTENTION_TOKENS, attention_flop, normal


@providers
@pytest.mark.parametrize("size", ATTENTION_SIZES)
@pytest.mark.parametrize("tokens", ATTENTION_TOKENS[:2])
def bench_attention_weights(benchmark: Any, tokens: int, size: int, provider: str) -> None:
    benchmark.group = f"attention weights T {tokens}, D {size}"
    query, key = (normal(1, ATTENTION_HEADS, tokens, size, seed=i) for i in range(2))
    flop = attention_flop(ATTENTION_HEADS, tokens, size) // 2
    traffic = 4 * ATTENTION_HEADS * (tokens * tokens + 2 * tokens * size)
    time_op(benchmark, provider, "attention_weights", query, key, flop=flop, traffic=traffic)
