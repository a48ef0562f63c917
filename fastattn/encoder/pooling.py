"""Pooling and unit length of rows that are at hand, by the kernels of the encoder's forward: the same bits as in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.encoder.pool import POOLINGS, normalize_kernel, pool_kernel
from fastattn.kernels.ops._arrays import workers_for
from fastattn.runtime.rounding import rounding

__all__ = ["normalize", "pool"]

# Bytes that a thread reads in a microsecond, about.
_BYTES_PER_US = 1e4


@rounding()
def pool(hidden: NDArray[np.float32], offsets: NDArray[np.int64], mode: str, skip: int = 0) -> NDArray[np.float32]:
    """Return a vector for each of the packed sequences hidden (N, C); the first `skip` tokens of each are left out.

    Behind them the weight of token t, from 1, is still t in "weightedmean".
    """
    rows = np.require(hidden, np.float32, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE"))
    out = np.empty((len(offsets) - 1, rows.shape[1]), np.float32)
    if out.size:
        workers = workers_for(rows.nbytes / _BYTES_PER_US, len(out))
        pool_kernel(rows, np.ascontiguousarray(offsets, np.int64), skip, POOLINGS[mode], out, workers)
    return out


@rounding()
def normalize(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows (B, C) divided by their lengths, ``x / max(||x||, 1e-12)``."""
    out = np.array(rows, np.float32, order="C")
    if out.size:
        normalize_kernel(out, workers_for(out.nbytes / _BYTES_PER_US, len(out)))
    return out
