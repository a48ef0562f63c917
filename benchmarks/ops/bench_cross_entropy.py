"""Cross-entropy over a vocabulary, and its gradient."""

from typing import Any

import numpy as np
import pytest

from benchmarks.ops.timed import providers, time_op
from benchmarks.suite.shapes import normal

VOCABULARY = 30_522


@providers
@pytest.mark.parametrize("op", ["cross_entropy", "cross_entropy_backward"])
@pytest.mark.parametrize(("rows", "classes"), [(32, 2), (4096, 9), (600, VOCABULARY)])
def bench_cross_entropy(benchmark: Any, rows: int, classes: int, op: str, provider: str) -> None:
    benchmark.group = f"{op} {rows} x {classes}"
    target = np.random.default_rng(0).integers(0, classes, rows)
    grad = [np.array(1, np.float32)] if op.endswith("backward") else []
    traffic = 4 * rows * classes * (2 if grad else 1)
    time_op(benchmark, provider, op, *grad, 3 * normal(rows, classes), target, traffic=traffic)
