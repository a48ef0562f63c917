"""A step of each optimiser over MiniLM's parameters, beside a copy of as many bytes."""

from typing import Any

import numpy as np
import pytest

from benchmarks.ops.timed import time_call
from fastattn.training import optimizers
from fastattn.training.graph import Parameter
from fastattn.training.optimizer import clip_grad_norm_

# The embeddings, and six layers in matrices of the feed-forward's size.
SHAPES = [(30_522, 384), *[(1536, 384)] * 18, *[(384,)] * 48]
# Passes over a parameter: those read, and those written.
PASSES = {"SGD": 3, "RMSprop": 5, "Adagrad": 5, "Adam": 7, "AdamW": 7, "clip_grad_norm_": 3, "copy": 2}


@pytest.mark.parametrize("name", PASSES)
def bench_optimizers(benchmark: Any, name: str) -> None:
    rng = np.random.default_rng(0)
    params = [Parameter(rng.standard_normal(shape, np.float32)) for shape in SHAPES]
    for each in params:
        each.grad = rng.standard_normal(each.shape, np.float32)
    count = sum(each.data.size for each in params)
    benchmark.group = f"optimisers, {count / 1e6:.1f} M parameters"
    calls: dict[str, Any] = {
        "clip_grad_norm_": lambda: clip_grad_norm_(params, 1e-3),
        "copy": lambda: [np.copyto(each.data, each.grad) for each in params],
    }
    call = calls[name] if name in calls else getattr(optimizers, name)(params).step
    time_call(benchmark, call, traffic=4 * count * PASSES[name])
