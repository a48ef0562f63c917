"""Errors of softmax and layer norm on random rows: ours and the peers'."""

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
OPS = ("softmax", "softmax of x - max x", "layer_norm")
SMALLEST = 2.0**-126


class Rows(NamedTuple):
    """Worst errors on random rows of one length."""

    op: str
    length: int
    tried: int
    unit: str
    ulp: dict[str, float]


def batches(length: int, rows: int) -> Iterator[NDArray[np.float32]]:
    """Yield normal rows with a standard deviation of 0.1 to 30 and a mean of up to 30 standard deviations."""
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
    """Return the worst error of each contender, in ulp of the element, or for layer norm of the row's largest element.

    Op "softmax of x - max x" computes its truth from the differences as rounded to float32. That rounding is nearly the whole error
    of every contender's softmax.
    """
    torch, stem = torch_if_there(), op.partition(" ")[0]
    contenders: dict[str, Any] = {"fastattn": getattr(fastattn, stem), "NumPy": getattr(reference, stem)}
    if torch is not None:
        theirs = {
            "softmax": lambda x: torch.softmax(x, -1),
            "layer_norm": lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]),
        }[stem]
        contenders["torch"] = lambda x: theirs(torch.from_numpy(x)).numpy()
    worst = dict.fromkeys(contenders, 0.0)
    for x in batches(length, rows):
        if stem == "softmax":
            rounded = x if op == stem else x - x.max(-1, keepdims=True)
            truth = _softmax_truth(rounded.astype(np.float64))
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
    unit = "ulp" if stem == "softmax" else "ulp of the row's greatest"
    return Rows(op, length, rows, unit, worst)
