"""Requests for memory before it is worked on: rows of a head lie far apart, so that no prefetcher of the CPU follows them."""

from __future__ import annotations

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.vector.simd import prefetch

LINE_BYTES = 64
# Rows that are asked for together, a multiple of every tile's width: 128 rows of 32 channels are 16 KiB of an array.
ROWS = 128


@kernel
def ask(x, first, last, columns):  # type: ignore[no-untyped-def]
    """Ask for the cache lines of so many columns of rows first .. last - 1 of a Matrix; lines behind the array do no harm."""
    line = LINE_BYTES // x.data.itemsize
    for i in range(first, last):
        row = x.at + i * x.ld
        for j in range(0, columns, line):
            prefetch(x.data, row + j)
        # The line of the last column: a row may begin inside of one.
        prefetch(x.data, row + columns - 1)
