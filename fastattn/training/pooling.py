"""Differentiable pooling of packed sequences."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.encoder.padding import places
from fastattn.encoder.pooling import pool
from fastattn.training.graph import Tensor, apply

__all__ = ["pooled"]

Array = NDArray[Any]


def pooled(hidden: Tensor, offsets: NDArray[np.int64], mode: str, skips: NDArray[np.int64] | None = None) -> Tensor:
    """Return a vector for each of the packed sequences hidden (N, C), by the kernel that inference pools with.

    skips: tokens (B,) at the start of each that are left out.
    """
    skip = np.zeros(len(offsets) - 1, np.int64) if skips is None else skips
    # The kernel takes one number: texts of one column follow each other, and have the same.
    edges = [0, *(np.flatnonzero(np.diff(skip)) + 1), len(skip)]
    parts = [
        pool(hidden.data[offsets[a] : offsets[b]], offsets[a : b + 1] - offsets[a], mode, int(skip[a]))
        for a, b in itertools.pairwise(edges)
        if a < b
    ]
    out = parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, hidden.shape[1]), np.float32), *parts])

    def pull(grad: Array) -> list[Array]:
        starts = np.minimum(offsets[:-1] + skip, offsets[1:])
        counts = offsets[1:] - starts
        found = np.zeros_like(hidden.data)
        rows = np.flatnonzero(counts)
        if mode == "cls":
            found[starts[rows]] = grad[rows]
        elif mode == "lasttoken":
            found[offsets[1:][rows] - 1] = grad[rows]
        elif mode == "max":
            for row in rows:
                part = hidden.data[starts[row] : offsets[row + 1]]
                found[starts[row] + part.argmax(axis=0), np.arange(part.shape[1])] = grad[row]
        else:
            weights = _weights(mode, offsets, skip)
            texts = np.repeat(np.arange(len(counts)), np.diff(offsets))
            np.multiply(grad[texts], weights[:, None], out=found)
        return [found]

    return apply(out, [hidden], pull)


def _weights(mode: str, offsets: Array, skip: Array) -> Array:
    """Return the share of each token (N,) in the vector of its text."""
    place = places(offsets)
    weights = np.where(place < np.repeat(skip, np.diff(offsets)), 0, place + 1.0 if mode == "weightedmean" else 1.0)
    totals = np.array([weights[a:b].sum() for a, b in itertools.pairwise(offsets)])
    divisors = np.sqrt(totals) if mode == "mean_sqrt_len_tokens" else totals
    return np.asarray(weights / np.repeat(np.maximum(divisors, 1e-9), np.diff(offsets)), np.float32)
