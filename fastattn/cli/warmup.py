"""Compiles every kernel ahead of its first use."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from fastattn.cli.cases import MINILM, cases, ops
from fastattn.encoder.encoder import Encoder
from fastattn.encoder.pooling import normalize, pool

__all__ = ["warm_up"]


def warm_up() -> Iterator[tuple[str, float]]:
    """Compile every kernel for this CPU, or load it from the cache; yield each kernel's name and seconds."""
    encoder = Encoder(MINILM)
    ids = np.zeros(256, np.int32)
    for name, offsets in (("encoder, many texts", [0, 64, 128, 192, 256]), ("encoder, one text", [0, 256])):
        start = time.perf_counter()
        encoder.forward_packed(ids, np.array(offsets))
        yield name, time.perf_counter() - start
    start = time.perf_counter()
    hidden = np.zeros((256, MINILM.hidden_dim), np.float32)
    normalize(pool(hidden, np.array([0, 256]), "mean"))
    yield "pooling", time.perf_counter() - start
    prepared = cases()
    for name, op in ops().items():
        start = time.perf_counter()
        for case in prepared:
            if case.op == name:
                for dtype in (np.float32, np.float64):
                    case.bound(op, dtype)()
        yield name, time.perf_counter() - start
