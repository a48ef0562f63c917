"""Products of a step of training in bfloat16, without checks: float32 arrays, C-contiguous, aligned and writable.

Operands are rounded, sums are float32.  ``x weight^T`` and ``grad weight`` are the product of `linear` on panels of `pack_rows` and
`pack_columns`.  So is ``grad^T x``, on panels of x: the rows of two tokens lie in the two halves of a word, and grad is transposed
a chain of tokens at a time.  Chains are added in order: no bit depends on how the result is cut into tasks.
"""

from __future__ import annotations

import numpy as np

from fastattn.kernels.backward._products import CHAIN_ROOM, gradient_tasks, transpose
from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.ops._arrays import Array, absent, panels, workers_for
from fastattn.kernels.ops._pairs import pack_column_pairs, pack_row_pairs
from fastattn.kernels.products.bfloat16 import FORM, pair_words, pair_words_of
from fastattn.kernels.products.float32 import SUM_BLOCK
from fastattn.kernels.products.product import chain_products, chains_of, prepare
from fastattn.kernels.products.tile import WIDTH
from fastattn.kernels.records import PRECISION_NUMBERS, Weight, matrix
from fastattn.kernels.vector.simd import atomic_next
from fastattn.runtime.memory import aligned_empty

__all__ = ["pack_columns", "pack_rows", "weight_gradient"]

# Rows of a task, grad's columns: a chain of them, transposed and rounded, stays in the second-level cache beside their rows of the
# result.
_ROW_BLOCK = 128
# Words between two rounded rows of a panel, beside their own.
_LINE = 16
_BYTES_PER_US = 4e3


@ParallelKernel
def pack_columns_kernel(x, packed, workers):  # type: ignore[no-untyped-def]
    """Packed = the columns of x (N, K), rounded, in panels (ceil(K / W), N / 2, W, 2) of words; zeros up to the padding."""
    n, k = x.shape
    count = pair_words(n)
    flat = x.reshape(-1)
    if workers == 1:
        pack_column_pairs(0, count, n, k, flat, 0, k, packed, 0)
        return
    for worker in prange(workers):
        w = np.int64(worker)
        pack_column_pairs(count * w // workers, count * (w + 1) // workers, n, k, flat, 0, k, packed, 0)


@kernel
def rows_part(first, last, n, k, weight, packed, room, at):  # type: ignore[no-untyped-def]
    """Panels first .. last - 1 of `pack_rows_kernel`; `room` from `at` on takes the rounded rows of a panel."""
    size = pair_words(k)
    for row in range(first * WIDTH, min(n, last * WIDTH), WIDTH):
        pack_row_pairs(min(WIDTH, n - row), k, weight, row * k, k, room, at, size + _LINE, packed, row * size)


@ParallelKernel
def pack_rows_kernel(weight, packed, room, workers):  # type: ignore[no-untyped-def]
    """Packed = the rows of weight (N, K), rounded, in panels (ceil(N / W), K / 2, W, 2) of words; zeros up to the padding."""
    n, k = weight.shape
    count = (n + WIDTH - 1) // WIDTH
    flat = weight.reshape(-1)
    if workers == 1:
        rows_part(0, count, n, k, flat, packed, room, 0)
        return
    own = room.size // workers
    for worker in prange(workers):
        w = np.int64(worker)
        rows_part(count * w // workers, count * (w + 1) // workers, n, k, flat, packed, room, w * own)


@kernel
def weight_gradient_block(row, rows, some, sizes, grad, packed, out, bias, scratch, at):  # type: ignore[no-untyped-def]
    """Rows row .. row + rows - 1 of `weight_gradient_kernel`, for the panels of `some`: (first, last, precision)."""
    m, n, k = sizes
    x = Weight(packed, np.int64(0), bias, np.int64(0), m, k, some[2])
    block = matrix(scratch, at, CHAIN_ROOM)
    room = matrix(scratch, at + rows * CHAIN_ROOM, 0)
    for chain in range(chains_of(x)):
        begin = chain * SUM_BLOCK
        transpose(min(SUM_BLOCK, m - begin), rows, matrix(grad, begin * n + row, n), block)
        here = (chain, chain + 1)
        chain_products(rows, here, (some[0], some[1]), prepare(rows, here, block, x, room), x, matrix(out, row * k, k), 0)


@ParallelKernel
def weight_gradient_kernel(grad, packed, out, bias, scratch, counter, cut, workers):  # type: ignore[no-untyped-def]
    """out (N, K) = bias + grad^T x for grad (M, N) and the packed columns of x (M, K), M > 0.

    bias: a number for each column of the panels; where it is empty, `out`.  cut: blocks of rows, groups of panels, the number of
    the precision.  scratch: an equal part for each worker.
    """
    m, n = grad.shape
    k = out.shape[1]
    sizes = (m, n, k)
    count = (k + WIDTH - 1) // WIDTH
    blocks, groups, precision = cut
    g, c = grad.reshape(-1), out.reshape(-1)
    room = scratch.size // workers
    for worker in prange(workers):
        own = np.int64(worker) * room
        task = atomic_next(counter, 0)
        while task < blocks * groups:
            block, group = task // groups, task % groups
            row = n * block // blocks
            rows = n * (block + 1) // blocks - row
            some = (count * group // groups, count * (group + 1) // groups, precision)
            weight_gradient_block(row, rows, some, sizes, g, packed, c, bias, scratch, own)
            task = atomic_next(counter, 0)


def _room(n: int, k: int, out: Array | None) -> Array:
    """Return the memory of the panels of a weight (N, K)."""
    return aligned_empty(FORM.panel_words(n, k), np.float32).view(np.uint16) if out is None else out


def pack_rows(weight: Array, out: Array | None = None) -> Array:
    """Return weight (N, K) in the panels of ``x weight^T``, flat; `out`: memory of `FORM.panel_words`, which is written."""
    n, k = weight.shape
    packed, (count, _) = _room(n, k, out), panels(n, np.dtype(np.float32))
    if packed.size:
        workers = workers_for(weight.nbytes / _BYTES_PER_US, count)
        room = aligned_empty(workers * WIDTH * (pair_words_of(k) + _LINE), np.float32)
        pack_rows_kernel(weight, packed.view(np.float32), room, workers)
    return packed


def pack_columns(x: Array, out: Array | None = None) -> Array:
    """Return x (N, K) in the panels of ``grad x`` for grad (M, N), flat; `out`: memory of `FORM.panel_words`, which is written."""
    n, k = x.shape
    packed = _room(k, n, out)
    if packed.size:
        pack_columns_kernel(x, packed.view(np.float32), workers_for(x.nbytes / _BYTES_PER_US, pair_words_of(n)))
    return packed


def weight_gradient(grad: Array, packed: Array, out: Array, accumulate: bool) -> Array:
    """Write and return out (N, K) = grad^T x, or out + grad^T x, for grad (M, N) and the packed columns of x (M, K)."""
    (m, n), k = grad.shape, out.shape[1]
    if not m and not accumulate:
        out[...] = 0
    if m and out.size:
        count, width = panels(k, out.dtype)
        workers, cut = gradient_tasks(m, n, k, _ROW_BLOCK, out.dtype)
        room = _ROW_BLOCK * CHAIN_ROOM + FORM.room(_ROW_BLOCK, SUM_BLOCK)
        scratch = aligned_empty(workers * room, np.float32)
        bias = absent(np.dtype(np.float32)) if accumulate else np.zeros(count * width, np.float32)
        cut_and_precision = (*cut, PRECISION_NUMBERS["bfloat16"])
        weight_gradient_kernel(grad, packed, out, bias, scratch, np.zeros(8, np.int64), cut_and_precision, workers)
    return out
