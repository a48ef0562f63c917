"""Compiles every kernel ahead of its first use."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from fastattn.cli.compare import _MINILM, _OPS, _cases
from fastattn.encoder.encoder import Encoder

__all__ = ["warm_up"]


def warm_up() -> Iterator[tuple[str, float]]:
    """Compile every kernel for this CPU, or load it from the cache.

    Yields
    ------
    name : str
        What is compiled now.
    seconds : float
        How long that took.
    """
    encoder = Encoder(_MINILM)
    ids = np.zeros(256, np.int32)
    for name, offsets in (("encoder, many texts", [0, 64, 128, 192, 256]), ("encoder, one text", [0, 256])):
        start = time.perf_counter()
        encoder.forward_packed(ids, np.array(offsets))
        yield name, time.perf_counter() - start
    for op in _OPS:
        start = time.perf_counter()
        for case in _cases():
            if case.op == op:
                for dtype in (np.float32, np.float64):
                    case.bound(_OPS[op], dtype)()
        yield op, time.perf_counter() - start
