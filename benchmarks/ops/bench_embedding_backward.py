"""Gradient of a table of token embeddings: the whole table, and the rows that occur; ids as frequent as words."""

from typing import Any

import numpy as np
import pytest

import fastattn
from benchmarks.ops.timed import providers, time_call
from benchmarks.suite.shapes import MINILM, normal
from fastattn import reference
from tests.support.gradients import check_gradients

TABLE = 30_522


@providers
@pytest.mark.parametrize("op", ["embedding_backward", "embedding_backward_rows"])
@pytest.mark.parametrize("tokens", [128, 1024, 4096])
def bench_embedding_backward(benchmark: Any, tokens: int, op: str, provider: str) -> None:
    benchmark.group = f"{op} {tokens} x {MINILM.hidden}"
    ids = np.minimum(np.random.default_rng(0).zipf(1.2, tokens), TABLE) - 1
    traffic = 4 * MINILM.hidden * (tokens + len(np.unique(ids)))
    grad = normal(tokens, MINILM.hidden)
    # The rows are compared as parts of the table.
    check_gradients("embedding_backward", grad, ids, TABLE, orders=1)
    module: Any = {"fastattn": fastattn, "reference": reference}[provider]
    time_call(benchmark, lambda: getattr(module, op)(grad, ids, TABLE), traffic=traffic)
