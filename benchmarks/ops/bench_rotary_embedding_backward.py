"""Gradient of the rotary positions of the queries of several heads."""

from typing import Any

import numpy as np
import pytest

from benchmarks.ops.timed import providers, time_gradients
from benchmarks.suite.shapes import ATTENTION_HEADS, ATTENTION_SIZES, ATTENTION_TOKENS, normal
from fastattn import reference


@providers
@pytest.mark.parametrize("size", ATTENTION_SIZES)
@pytest.mark.parametrize("tokens", ATTENTION_TOKENS)
def bench_rotary_embedding_backward(benchmark: Any, tokens: int, size: int, provider: str) -> None:
    benchmark.group = f"rotary_embedding_backward {ATTENTION_HEADS} x {tokens} x {size}"
    tables = (table.astype(np.float32) for table in reference.rotary_tables(tokens, size))
    grad = normal(ATTENTION_HEADS, tokens, size)
    time_gradients(benchmark, provider, "rotary_embedding_backward", grad, *tables, traffic=2 * grad.nbytes)
