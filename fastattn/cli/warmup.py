"""Compiles every kernel ahead of its first use."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import numpy as np

from fastattn.cli.cases import MINILM, cases, ops
from fastattn.config import Precision
from fastattn.encoder.encoder import Encoder
from fastattn.encoder.pooling import normalize, pool

__all__ = ["warm_up"]

# Kernels are compiled for the dtypes of a model, whatever its sizes.
_SMALL = dataclasses.replace(MINILM, num_layers=1)


def warm_up(precision: Precision = "float32") -> Iterator[tuple[str, float]]:
    """Compile every kernel for this CPU, or load it from the cache; yield each kernel's name and seconds.

    The encoder's kernels are those of float32 and of `precision`.
    """
    ids = np.zeros(256, np.int32)
    for arithmetic in dict.fromkeys(("float32", precision)):
        encoder = Encoder(_SMALL, precision=arithmetic)
        about = "encoder" if arithmetic == "float32" else f"encoder in {arithmetic}"
        for texts, offsets in (("many texts", [0, 64, 128, 192, 256]), ("one text", [0, 256])):
            start = time.perf_counter()
            encoder.forward_packed(ids, np.array(offsets))
            yield f"{about}, {texts}", time.perf_counter() - start
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
