"""A query of 32 tokens against 10,000 documents, and against few long ones."""

from typing import Any

import numpy as np
import pytest

from benchmarks.ops.timed import providers, time_op
from benchmarks.suite.shapes import normal

QUERY, CHANNELS = 32, 128


@providers
@pytest.mark.parametrize(("documents", "tokens"), [(10_000, 8), (10_000, 64), (100, 2048)])
def bench_maxsim(benchmark: Any, documents: int, tokens: int, provider: str) -> None:
    benchmark.group = f"maxsim {QUERY} x {documents} x {tokens} x {CHANNELS}"
    rows = documents * tokens
    offsets: Any = np.arange(documents + 1) * tokens
    arrays = (normal(QUERY, CHANNELS), normal(rows, CHANNELS, seed=1), offsets)
    time_op(benchmark, provider, "maxsim", *arrays, flop=2 * QUERY * rows * CHANNELS)
