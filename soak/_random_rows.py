"""Errors of softmax and layer norm on random rows, ours beside the peers'."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastattn
from fastattn import reference
from soak._sweep import torch_if_there

LENGTHS = (17, 128, 384)
SMALLEST = 2.0**-126


class Rows(NamedTuple):
    """Worst errors on random rows of one length."""

    op: str
    length: int
    tried: int
    unit: str
    ulp: dict[str, float]


def batches(length: int, rows: int) -> Iterator[NDArray[np.float32]]:
    """Normal rows whose spread is 0.1 to 30, and whose mean is up to 30 such spreads away from 0."""
    rng = np.random.default_rng(length)
    for start in range(0, rows, 8192):
        count = min(8192, rows - start)
        spread = np.exp(rng.uniform(np.log(0.1), np.log(30), (count, 1)))
        mean = spread * rng.uniform(-30, 30, (count, 1)) * (rng.random((count, 1)) < 0.5)
        yield (mean + spread * rng.standard_normal((count, length))).astype(np.float32)


def _softmax_truth(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def _layer_norm_truth(x: NDArray[np.float64]) -> NDArray[np.float64]:
    y = x - x.mean(-1, keepdims=True)
    return np.asarray(y / np.sqrt((y * y).mean(-1, keepdims=True) + 1e-5))


def _units(size: NDArray[np.float64]) -> Any:
    return np.ldexp(1.0, np.maximum(np.frexp(size)[1] - 1, -126) - 23)


def errors(op: str, length: int, rows: int) -> Rows:
    """Return the worst error of each contender: of an element, or for layer norm in units of the row's greatest."""
    torch = torch_if_there()
    contenders: dict[str, Any] = {"fastattn": getattr(fastattn, op), "NumPy": getattr(reference, op)}
    if torch is not None:
        theirs = {
            "softmax": lambda x: torch.softmax(x, -1),
            "layer_norm": lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]),
        }[op]
        contenders["torch"] = lambda x: theirs(torch.from_numpy(x)).numpy()
    worst = dict.fromkeys(contenders, 0.0)
    for x in batches(length, rows):
        if op == "softmax":
            truth = _softmax_truth(x.astype(np.float64))
            units = _units(truth)
            counts = truth >= SMALLEST
        else:
            truth = _layer_norm_truth(x.astype(np.float64))
            units = _units(np.abs(truth).max(-1, keepdims=True))
            counts = np.ones(truth.shape, bool)
        for name, contender in contenders.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = contender(x)
            worst[name] = max(worst[name], float((np.abs(found - truth) / units)[counts].max()))
    unit = "ulp" if op == "softmax" else "ulp of the row's greatest"
    return Rows(op, length, rows, unit, worst)
