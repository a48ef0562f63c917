"""Means of the rows of a table, as a model of static embeddings takes them: 64 ids a text."""

from typing import Any

import numpy as np
import pytest

from benchmarks.ops.timed import providers, time_op
from benchmarks.suite.shapes import normal

TABLE, TOKENS = 30_522, 64


@providers
@pytest.mark.parametrize(("texts", "channels"), [(1, 256), (32, 256), (256, 256), (256, 1024)])
def bench_embedding_bag(benchmark: Any, texts: int, channels: int, provider: str) -> None:
    benchmark.group = f"embedding_bag {texts} x {TOKENS} x {channels}"
    ids = np.random.default_rng(0).integers(0, TABLE, (texts, TOKENS))
    traffic = 4 * (texts * TOKENS + texts) * channels
    time_op(benchmark, provider, "embedding_bag", ids, normal(TABLE, channels), traffic=traffic)
