"""Masked language modelling's loss and its gradients: hidden states of the masked tokens, and a vocabulary."""

from typing import Any

import numpy as np
import pytest

import fastattn
from benchmarks.ops.timed import providers, time_call
from benchmarks.suite.shapes import BERT_BASE, MINILM
from fastattn import reference
from tests.support.vocabulary_loss import arrays, check

VOCABULARY = 30_522


@providers
@pytest.mark.parametrize("op", ["linear_cross_entropy", "linear_cross_entropy_backward"])
@pytest.mark.parametrize("model", [MINILM, BERT_BASE], ids=lambda model: model.name)
def bench_linear_cross_entropy(benchmark: Any, model: Any, op: str, provider: str) -> None:
    rows, ignored = 4096, 0.85
    benchmark.group = f"{op} {rows} ({1 - ignored:.0%} count) x {VOCABULARY} x {model.hidden}"
    grad = {"grad": np.array(1, np.float32)} if op.endswith("backward") else {}
    # The reference holds all scores, in every order of the yardstick: checked on fewer.
    check(op, {**grad, **arrays(40, 500, model.hidden)})
    given = {**grad, **arrays(rows, VOCABULARY, model.hidden, ignored=ignored)}
    count = int(np.count_nonzero(given["target"] >= 0))
    if provider == "reference":
        # All of its rows cost work.
        kept = given["target"] >= 0
        given |= {"input": given["input"][kept], "target": given["target"][kept]}
    module: Any = {"fastattn": fastattn, "reference": reference}[provider]
    flop = (6 if grad else 2) * count * VOCABULARY * model.hidden
    time_call(benchmark, lambda: getattr(module, op)(**given), flop=flop)
