"""Products in bfloat16 and int8 by the package's own tile, on numbers in the first-level cache: the limit of each precision.

Apart from ``limits``, since only a run with these precisions compiles them.
"""

from __future__ import annotations

import numpy as np

from benchmarks.suite.library import Array, Run
from fastattn.kernels.compile.jit import ParallelKernel, prange
from fastattn.kernels.products.kinds import BFLOAT16, INT8, Kind
from fastattn.kernels.products.tile import WIDTH, bfloat16_tile, int8_tile
from fastattn.kernels.vector.target import TILE_ROWS

# Bytes of both factors: three quarters of a first-level cache of 32 KiB.
_BYTES = 24 << 10
_TIMES = 20_000
_LINE = 16


def columns(kind: Kind) -> int:
    """Return how many columns of k the factors have: whole cache lines of each row."""
    return _BYTES // (TILE_ROWS * kind.input_bytes + WIDTH * kind.weight_bytes) // 64 * 64


KINDS = {"bfloat16": BFLOAT16, "int8": INT8}
# Multiplications and additions of a thread in a call.
FLOP = {precision: 2 * _TIMES * TILE_ROWS * WIDTH * columns(kind) for precision, kind in KINDS.items()}


@ParallelKernel
def bfloat16_kernel(times, steps, a, lda, b, out, workers):  # type: ignore[no-untyped-def]
    """Multiply a tile so many times on every core."""
    for worker in prange(workers):
        for _ in range(times):
            at = np.int64(worker) * TILE_ROWS
            bfloat16_tile(TILE_ROWS, steps, a, at * lda, lda, b, np.int64(worker) * (b.size // workers), 0, out, at * WIDTH, WIDTH)


@ParallelKernel
def int8_kernel(times, steps, a, lda, b, out, workers):  # type: ignore[no-untyped-def]
    """Multiply a tile so many times on every core."""
    for worker in prange(workers):
        for _ in range(times):
            at = np.int64(worker) * TILE_ROWS
            int8_tile(TILE_ROWS, steps, a, at * lda, lda, b, np.int64(worker) * (b.size // workers), 0, out, at * WIDTH, WIDTH)


def products(precision: str, workers: int) -> Run:
    """Prepare a call that makes `FLOP` operations on each thread, of zeros."""
    kind = KINDS[precision]
    count = columns(kind)
    # A line more than the row: rows a power of two apart would share few sets of the cache.
    lda = count * kind.input_bytes // 4 + _LINE
    a = np.zeros(workers * TILE_ROWS * lda, np.float32)
    b = np.zeros(workers * count * WIDTH * kind.weight_bytes // 4, np.float32)
    out = np.zeros(workers * TILE_ROWS * WIDTH, np.float32)
    run = bfloat16_kernel if precision == "bfloat16" else int8_kernel

    def call() -> Array:
        run(_TIMES, count // kind.group, a, lda, b, out, workers)
        return out

    return call
