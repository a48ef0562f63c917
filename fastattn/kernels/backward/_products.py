"""Products of a step of training, without checks: float32 or float64, C-contiguous, aligned, writable arrays of one dtype.

``out = x weight^T + bias`` and ``grad_x = grad weight`` are the product of `linear` on panels of `_packs`.
``grad_weight = grad^T x`` sums over the rows, in chains of SUM_BLOCK that are added in order: no bit depends on how the result is
cut into tasks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastattn.kernels.backward._ahead import ask
from fastattn.kernels.backward._packs import copy_panel, pack_backward, pack_forward
from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.ops._arrays import Array, absent, panels, workers_for
from fastattn.kernels.ops.linear import packed_product
from fastattn.kernels.products.float32 import SUM_BLOCK
from fastattn.kernels.records import matrix, shifted
from fastattn.kernels.vector.simd import atomic_next, lanes, load, load_part, store, store_part, tile_width
from fastattn.kernels.vector.target import TILE_ROWS
from fastattn.kernels.vector.tile import panel_product
from fastattn.kernels.vector.transpose import transpose_block
from fastattn.runtime.memory import aligned_empty

__all__ = ["bias_gradient", "pack_backward", "pack_forward", "product", "weight_gradient"]

# Rows of a task, grad's columns: transposed, a chain of them stays in the second-level cache beside their rows of the result.
ROW_BLOCK = 192
# Distance of the transposed rows: not a power of two, or they would share a few sets of the cache.
CHAIN_ROOM = SUM_BLOCK + 16
# Columns of a task, and the fewest rows that it is cut to for the sake of threads: a block is transposed once for all its columns,
# a panel copied once for all its rows.
_COLUMNS, _FEW_ROWS = 512, 48
# Rows between two requests for what comes next, whole tiles.
PIECE_ROWS = 2 * TILE_ROWS
_BYTES_PER_US = 1e4


@kernel
def transpose(m, n, x, out):  # type: ignore[no-untyped-def]
    """out[:n, :m] = x[:m, :n]^T, both a Matrix."""
    step = lanes(out.data)
    whole_m, whole_n = m - m % step, n - n % step
    for i in range(0, whole_m, step):
        for j in range(0, whole_n, step):
            transpose_block(x.data, x.at + i * x.ld + j, x.ld, out.data, out.at + j * out.ld + i, out.ld)
    for i in range(m):
        for j in range(whole_n if i < whole_m else 0, n):
            out.data[out.at + j * out.ld + i] = x.data[x.at + i * x.ld + j]


@kernel
def weight_gradient_block(row, rows, panels, sizes, grad, x, out, zeros, scratch, at):  # type: ignore[no-untyped-def]
    """Rows row .. row + rows - 1 of `weight_gradient_kernel`, for some panels of its columns."""
    m, n, k = sizes
    width = tile_width(out)
    block = matrix(scratch, at, CHAIN_ROOM)
    panel = matrix(scratch, at + ROW_BLOCK * CHAIN_ROOM, width)
    pieces = (rows + PIECE_ROWS - 1) // PIECE_ROWS
    steps = pieces * (panels[1] - panels[0])
    for begin in range(0, m, SUM_BLOCK):
        count = min(SUM_BLOCK, m - begin)
        behind = begin + count
        following = min(SUM_BLOCK, m - behind)
        transpose(count, rows, matrix(grad, begin * n + row, n), block)
        next_block, block_rows = matrix(grad, behind * n + row, n), (following + steps - 1) // steps
        for p in range(panels[0], panels[1]):
            column = p * width
            columns = min(width, k - column)
            copy_panel(count, columns, matrix(x, begin * k + column, k), scratch, panel.at)
            # The next panel, of this chain or the next.
            is_last = p + 1 == panels[1]
            next_row, next_column = (behind, panels[0] * width) if is_last else (begin, column + width)
            next_panel, strip = matrix(x, next_row * k + next_column, k), following if is_last else count
            panel_rows = (strip + pieces - 1) // pieces
            to = matrix(out, row * k + column, k)
            add = to if begin or zeros.size == 0 else matrix(zeros, 0, 0)
            for t in range(pieces):
                step = (p - panels[0]) * pieces + t
                ask(next_panel, t * panel_rows, min(strip, (t + 1) * panel_rows), width)
                ask(next_block, step * block_rows, min(following, (step + 1) * block_rows), rows)
                i = t * PIECE_ROWS
                some = min(PIECE_ROWS, rows - i)
                panel_product(some, count, shifted(block, i, 0), panel, 0, shifted(add, i, 0), shifted(to, i, 0), columns)


@ParallelKernel
def weight_gradient_kernel(grad, x, out, zeros, scratch, counter, cut, workers):  # type: ignore[no-untyped-def]
    """out (N, K) = grad^T x for grad (M, N), x (M, K), M > 0, in cut[0] blocks of rows and cut[1] groups of panels.

    zeros (W,) is what the first chain is added to; where it is empty, `out`.  scratch: an equal part for each worker.
    """
    m, n = grad.shape
    k = x.shape[1]
    sizes = (m, n, k)
    width = tile_width(out)
    count = (k + width - 1) // width
    blocks, groups = cut
    g, a, c = grad.reshape(-1), x.reshape(-1), out.reshape(-1)
    room = scratch.size // workers
    for worker in prange(workers):
        own = np.int64(worker) * room
        task = atomic_next(counter, 0)
        while task < blocks * groups:
            block, group = task // groups, task % groups
            row = n * block // blocks
            rows = n * (block + 1) // blocks - row
            some = (count * group // groups, count * (group + 1) // groups)
            weight_gradient_block(row, rows, some, sizes, g, a, c, zeros, scratch, own)
            task = atomic_next(counter, 0)


@kernel
def add_row(n, x, ix, out, io):  # type: ignore[no-untyped-def]
    """out[:n] += x[:n]."""
    step = lanes(x)
    whole = n - n % step
    for j in range(0, whole, step):
        store(out, io + j, load(out, io + j) + load(x, ix + j))
    if whole < n:
        rest = n - whole
        store_part(out, io + whole, rest, load_part(out, io + whole, rest, 0.0) + load_part(x, ix + whole, rest, 0.0))


@kernel
def bias_gradient_block(block, m, n, grad, partial):  # type: ignore[no-untyped-def]
    """Row `block` of partial = the sum of the rows of one chain."""
    begin, to = block * SUM_BLOCK, block * n
    for j in range(n):
        partial[to + j] = grad[begin * n + j]
    for row in range(begin + 1, min(m, begin + SUM_BLOCK)):
        add_row(n, grad, row * n, partial, to)


@ParallelKernel
def bias_gradient_kernel(grad, out, partial, workers):  # type: ignore[no-untyped-def]
    """out (N,) += the column sums of grad (M, N), by chains of rows; partial: room for the sum of each chain."""
    m, n = grad.shape
    flat = grad.reshape(-1)
    blocks = (m + SUM_BLOCK - 1) // SUM_BLOCK
    if workers == 1:
        for block in range(blocks):
            bias_gradient_block(block, m, n, flat, partial)
    else:
        for worker in prange(workers):
            w = np.int64(worker)
            for block in range(blocks * w // workers, blocks * (w + 1) // workers):
                bias_gradient_block(block, m, n, flat, partial)
    for block in range(blocks):
        add_row(n, partial, block * n, out, 0)


def product(
    x: Array, packed: Array, bias: Array | None, out: Array, activation: str | None = None, precision: str = "float32"
) -> Array:
    """Write and return out (M, N) = activation(x W + bias) for x (M, K) and the panels of W (K, N), which are in a precision."""
    n = out.shape[1]
    count, width = panels(n, out.dtype)
    if bias is None or n < count * width:
        padded = np.zeros(count * width, out.dtype)
        if bias is not None:
            padded[:n] = bias
        bias = padded
    if out.size:
        packed_product(x, packed, bias, out, activation, precision)
    return out


def gradient_tasks(m: int, n: int, k: int, row_block: int, dtype: np.dtype[Any]) -> tuple[int, tuple[int, int]]:
    """Return the workers of grad^T x (N, K), of M rows, and its cut: blocks of at most `row_block` rows, groups of panels."""
    count, _ = panels(k, dtype)
    workers = workers_for(2e-5 * m * k * n, -(-n // _FEW_ROWS) * count)
    blocks = min(workers * -(-n // (workers * row_block)), -(-n // _FEW_ROWS))
    return workers, (blocks, min(count, max(-(-k // _COLUMNS), -(-workers // blocks))))


def weight_gradient(grad: Array, x: Array, out: Array, accumulate: bool) -> Array:
    """Write and return out (N, K) = grad^T x, or out + grad^T x, for grad (M, N) and x (M, K)."""
    (m, n), k = grad.shape, x.shape[1]
    if not m and not accumulate:
        out[...] = 0
    if m and out.size:
        width = panels(k, out.dtype)[1]
        workers, cut = gradient_tasks(m, n, k, ROW_BLOCK, out.dtype)
        scratch = aligned_empty(workers * (ROW_BLOCK * CHAIN_ROOM + SUM_BLOCK * width), out.dtype)
        zeros = absent(out.dtype) if accumulate else np.zeros(width, out.dtype)
        weight_gradient_kernel(grad, x, out, zeros, scratch, np.zeros(8, np.int64), cut, workers)
    return out


def bias_gradient(grad: Array, out: Array, accumulate: bool) -> Array:
    """Write and return out (N,) = the column sums of grad (M, N), or out + them."""
    m = len(grad)
    if not accumulate:
        out[...] = 0
    if grad.size:
        blocks = -(-m // SUM_BLOCK)
        bias_gradient_kernel(grad, out, np.empty(blocks * out.size, out.dtype), workers_for(grad.nbytes / _BYTES_PER_US, blocks))
    return out
