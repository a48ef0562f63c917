"""SPLADE pooling of texts of 64 tokens by the public op, which packs the weight in every call."""

from typing import Any

import numpy as np
import pytest

from benchmarks.ops.timed import providers, time_op
from benchmarks.suite.shapes import MINILM, normal

TOKENS, WORDS = 64, 30_522


@providers
@pytest.mark.parametrize("texts", [1, 8])
@pytest.mark.parametrize("pooling_strategy", ["max", "sum"])
def bench_splade_pooling(benchmark: Any, pooling_strategy: str, texts: int, provider: str) -> None:
    rows, hidden = texts * TOKENS, MINILM.hidden
    benchmark.group = f"splade_pooling {pooling_strategy} {texts} x {TOKENS} x {hidden} x {WORDS}"
    arrays = (normal(rows, hidden), normal(WORDS, hidden, seed=1), normal(WORDS, seed=2), np.arange(texts + 1) * TOKENS)
    time_op(benchmark, provider, "splade_pooling", *arrays, flop=2 * rows * hidden * WORDS, pooling_strategy=pooling_strategy)
