"""Packing of a weight by several threads, as it is before each product of a step of training: into panels of columns."""

from __future__ import annotations

import numpy as np

from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.ops._arrays import Array, panels, workers_for
from fastattn.kernels.ops._attend import pack_keys
from fastattn.kernels.records import matrix
from fastattn.kernels.vector.simd import lanes, load, load_part, store, tile_width
from fastattn.runtime.memory import aligned_empty

# Bytes that a core packs in a microsecond.
_BYTES_PER_US = 4e3


@kernel
def copy_panel(m, columns, x, out, io):  # type: ignore[no-untyped-def]
    """out (m, W) = x[:m, :columns], a Matrix; zeros in the columns behind."""
    width, step = tile_width(out), lanes(out)
    if columns == width:
        for i in range(m):
            for j in range(0, width, step):
                store(out, io + i * width + j, load(x.data, x.at + i * x.ld + j))
        return
    for i in range(m):
        for j in range(0, width, step):
            count = min(step, max(0, columns - j))
            store(out, io + i * width + j, load_part(x.data, x.at + i * x.ld + min(j, columns), count, 0.0))


@kernel
def columns_part(first, last, n, k, weight, packed):  # type: ignore[no-untyped-def]
    """Panels first .. last - 1 of `pack_columns_kernel`."""
    width = tile_width(packed)
    for p in range(first, last):
        columns = min(width, k - p * width)
        copy_panel(n, columns, matrix(weight, p * width, k), packed, p * width * n)


@ParallelKernel
def pack_columns_kernel(weight, packed, workers):  # type: ignore[no-untyped-def]
    """Packed = the columns of weight (N, K) in panels (ceil(K / W), N, W), an equal part by each worker; zeros behind the last."""
    n, k = weight.shape
    width = tile_width(packed)
    count = (k + width - 1) // width
    flat = weight.reshape(-1)
    if workers == 1:
        columns_part(0, count, n, k, flat, packed)
        return
    for worker in prange(workers):
        w = np.int64(worker)
        columns_part(count * w // workers, count * (w + 1) // workers, n, k, flat, packed)


@kernel
def rows_part(first, last, n, k, weight, packed):  # type: ignore[no-untyped-def]
    """Panels first .. last - 1 of `pack_rows_kernel`."""
    width = tile_width(packed)
    at = first * width * k
    pack_keys(min(n, last * width) - first * width, k, weight, at, k, packed, at)


@ParallelKernel
def pack_rows_kernel(weight, packed, workers):  # type: ignore[no-untyped-def]
    """Packed = the rows of weight (N, K) in panels (ceil(N / W), K, W), an equal part by each worker; zeros behind the last."""
    n, k = weight.shape
    width = tile_width(packed)
    count = (n + width - 1) // width
    flat = weight.reshape(-1)
    if workers == 1:
        rows_part(0, count, n, k, flat, packed)
        return
    for worker in prange(workers):
        w = np.int64(worker)
        rows_part(count * w // workers, count * (w + 1) // workers, n, k, flat, packed)


def pack_forward(weight: Array, out: Array | None = None) -> Array:
    """Return weight (N, K) in the panels of ``x weight^T``, flat; `out`: an earlier result for a weight of the same shape."""
    n, k = weight.shape
    count, width = panels(n, weight.dtype)
    packed = aligned_empty(count * width * k, weight.dtype) if out is None else out
    if packed.size:
        pack_rows_kernel(weight, packed, workers_for(packed.nbytes / _BYTES_PER_US, count))
    return packed


def pack_backward(weight: Array, out: Array | None = None) -> Array:
    """Return weight (N, K) in the panels of ``grad weight``, flat; `out`: an earlier result for a weight of the same shape."""
    n, k = weight.shape
    count, width = panels(k, weight.dtype)
    packed = aligned_empty(count * width * n, weight.dtype) if out is None else out
    if packed.size:
        pack_columns_kernel(weight, packed, workers_for(packed.nbytes / _BYTES_PER_US, count))
    return packed
