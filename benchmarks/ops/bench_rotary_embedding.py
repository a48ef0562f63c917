"""Rotary positions of the queries of several heads."""

from typing import Any

import numpy as np
import pytest

from benchmarks.ops.timed import providers, time_op
from benchmarks.suite.shapes import ATTENTION_HEADS, ATTENTION_SIZES, ATTENTION_TOKENS, normal
from fastattn import reference


@providers
@pytest.mark.parametrize("size", ATTENTION_SIZES)
@pytest.mark.parametrize("tokens", ATTENTION_TOKENS)
def bench_rotary_embedding(benchmark: Any, tokens: int, size: int, provider: str) -> None:
    benchmark.group = f"rotary_embedding {ATTENTION_HEADS} x {tokens} x {size}"
    tables = (table.astype(np.float32) for table in reference.rotary_tables(tokens, size))
    x = normal(ATTENTION_HEADS, tokens, size)
    time_op(benchmark, provider, "rotary_embedding", x, *tables, traffic=2 * x.nbytes)
