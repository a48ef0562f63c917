"""The rows of a matrix that are most similar to each query: one pass over float32, quantised levels or packed bits.

Each worker keeps the best rows that it has seen in a heap for each query, so scores are never written.  A score's bits depend on
its query and its row alone, and equal scores are in the order of the rows: the result does not depend on how rows are shared out.
"""

from __future__ import annotations

import math

import numpy as np

from fastattn.kernels.compile.jit import ParallelKernel, by_dtype, kernel, prange
from fastattn.kernels.vector.compare import Sums, differing_bits, sums_of
from fastattn.kernels.vector.narrow import load_narrow
from fastattn.kernels.vector.simd import atomic_next, fma, lanes, load, store

# The number by which kernels know a similarity.
KINDS = {"cosine": 0, "dot": 1, "euclidean": 2, "manhattan": 3}
COSINE, DOT, EUCLIDEAN, MANHATTAN = KINDS.values()

# Rows and queries whose sums are in registers at once.
ROWS, QUERIES = 4, 3
# Rows of a block at most, a multiple of ROWS.
MOST_ROWS = 64


_tile, _column, _one = (sums_of(Sums("product", *shape)) for shape in ((ROWS, QUERIES), (ROWS, 1), (1, 1)))
_squares_too, _one_square_too = (sums_of(Sums("product", rows, 1, squares=True)) for rows in (ROWS, 1))
_squared_difference, _difference = (sums_of(Sums(term, 1, 1)) for term in ("squared difference", "difference"))


@kernel
def products(m, count, n, x, ix, table, queries, out, io):  # type: ignore[no-untyped-def]
    """Write out[q, row], the products of m rows from x[ix] with `count` queries, of n channels."""
    whole = m - m % ROWS
    q = 0
    while q < count:
        together = QUERIES if q + QUERIES <= count else 1
        for i in range(0, whole, ROWS):
            if together == QUERIES:
                _tile(n, x, ix + i * n, n, table, queries, q * n, n, out, io + q * MOST_ROWS + i, MOST_ROWS)
            else:
                _column(n, x, ix + i * n, n, table, queries, q * n, n, out, io + q * MOST_ROWS + i, MOST_ROWS)
        for i in range(whole, m):
            for j in range(q, q + together):
                _one(n, x, ix + i * n, n, table, queries, j * n, n, out, io + j * MOST_ROWS + i, MOST_ROWS)
        q += together


@kernel
def distances(m, count, n, x, ix, table, queries, is_euclidean, out, io):  # type: ignore[no-untyped-def]
    """Write out[q, row], minus the distances of m rows from x[ix] to `count` queries, of n channels."""
    for q in range(count):
        for i in range(m):
            place = io + q * MOST_ROWS + i
            if is_euclidean:
                _squared_difference(n, x, ix + i * n, n, table, queries, q * n, n, out, place, MOST_ROWS)
                out[place] = -math.sqrt(out[place])
            else:
                _difference(n, x, ix + i * n, n, table, queries, q * n, n, out, place, MOST_ROWS)
                out[place] = -out[place]


@kernel
def scale_by_norms(m, count, n, x, ix, table, queries, out, io):  # type: ignore[no-untyped-def]
    """Write the products with the last query, and divide all, out[:count, :m], by the lengths of the rows."""
    norms = io + count * MOST_ROWS
    whole = m - m % ROWS
    # The squares come in the row of `out` behind the products.
    for i in range(0, whole, ROWS):
        _squares_too(n, x, ix + i * n, n, table, queries, (count - 1) * n, n, out, norms - MOST_ROWS + i, MOST_ROWS)
    for i in range(whole, m):
        _one_square_too(n, x, ix + i * n, n, table, queries, (count - 1) * n, n, out, norms - MOST_ROWS + i, MOST_ROWS)
    for i in range(norms, norms + m):
        norm = math.sqrt(out[i])
        out[i] = 1.0 / (1e-12 if norm < 1e-12 else norm)
    for q in range(count):
        place = io + q * MOST_ROWS
        for i in range(m):
            out[place + i] *= out[norms + i]


@kernel
def score_block(m, count, n, x, ix, table, queries, kind, out, io):  # type: ignore[no-untyped-def]
    """Similarities of m rows from x[ix] to `count` queries: out[q, row], MOST_ROWS apart, then room for a number a row.

    For the cosine the queries have length 1 already.
    """
    if kind == COSINE:
        # The last query's products come with the squares.
        products(m, count - 1, n, x, ix, table, queries, out, io)
        scale_by_norms(m, count, n, x, ix, table, queries, out, io)
    elif kind == DOT:
        products(m, count, n, x, ix, table, queries, out, io)
    else:
        distances(m, count, n, x, ix, table, queries, kind == EUCLIDEAN, out, io)


@kernel
def _block_of_floats(row, m, count, rows, levels, queries, kind, scratch, at):  # type: ignore[no-untyped-def]
    n = queries.shape[1]
    score_block(m, count, n, rows, row * n, levels, queries.reshape(-1), kind, scratch, at)


@kernel
def _block_of_levels(row, m, count, rows, levels, queries, kind, scratch, at):  # type: ignore[no-untyped-def]
    n = queries.shape[1]
    width = lanes(scratch)
    whole = n - n % width
    if count < QUERIES and whole == n:
        score_block(m, count, n, rows, row * n, levels, queries.reshape(-1), kind, scratch, at)
        return
    # Many queries: the levels are turned into floats once, the same ones.
    wide = at + (count + 1) * MOST_ROWS
    for i in range(m):
        of, to = (row + i) * n, wide + i * n
        for j in range(0, whole, width):
            store(scratch, to + j, fma(load_narrow(scratch, rows, of + j), load(levels, j), load(levels, n + j)))
        for j in range(whole, n):
            scratch[to + j] = np.float32(rows[of + j]) * levels[j] + levels[n + j]
    score_block(m, count, n, scratch, wide, levels, queries.reshape(-1), kind, scratch, at)


@by_dtype({np.float32: _block_of_floats, np.int8: _block_of_levels}, argument="rows")
def block_of(row, m, count, rows, levels, queries, kind, scratch, at):  # type: ignore[no-untyped-def]
    """Write the similarities of rows row .. row + m - 1 to `count` queries to scratch[at], as `score_block` does.

    levels: for rows of levels, the step of each channel, then what its level 0 stands for.
    """


@kernel
def offer(k, score, row, scores, rows, at):  # type: ignore[no-untyped-def]
    """Put a row into a heap of k, whose first is the worst, in place of that, unless it is worse still; NaN is the worst score."""
    if score != score:
        score = np.float32(-np.inf)
    if score < scores[at] or (score == scores[at] and row > rows[at]):
        return
    i, child = 0, 1
    while child < k:
        one, other = at + child, at + child + 1
        if child + 1 < k and (scores[other] < scores[one] or (scores[other] == scores[one] and rows[other] > rows[one])):
            one, child = other, child + 1
        if score < scores[one] or (score == scores[one] and row > rows[one]):
            break
        scores[at + i], rows[at + i] = scores[one], rows[one]
        i, child = child, 2 * child + 1
    scores[at + i], rows[at + i] = score, row


@kernel
def keep_best(row, m, count, k, block, io, scores, rows, at):  # type: ignore[no-untyped-def]
    """Offer the scores block[q, i] of rows row .. row + m - 1 to the heap of each query."""
    for q in range(count):
        heap, place = at + q * k, io + q * MOST_ROWS
        for i in range(m):
            # A NaN is not less than anything.
            if not block[place + i] < scores[heap]:
                offer(k, block[place + i], np.int64(row + i), scores, rows, heap)


@kernel
def search_share(start, stop, step, rows, levels, queries, kind, scratch, best, at):  # type: ignore[no-untyped-def]
    """Offer rows start .. stop - 1, `step` at a time, to the heaps of one worker; at: its places in scratch and in `best`."""
    scores, places, k = best
    count = queries.shape[0]
    for row in range(start, stop, step):
        m = min(step, stop - row)
        block_of(row, m, count, rows, levels, queries, kind, scratch, at[0])
        keep_best(row, m, count, k, scratch, at[0], scores, places, at[1])


@ParallelKernel
def search_kernel(rows, levels, queries, kind, step, share, scores, places, scratch, counter, workers):  # type: ignore[no-untyped-def]
    """Keep the k best of rows (N, C), `share` of them a task, for queries (Q, C) in the heaps scores and places (workers, Q, k)."""
    n = rows.shape[0]
    k = scores.shape[2]
    flat, values, ids = rows.reshape(-1), scores.reshape(-1), places.reshape(-1)
    if workers == 1:
        search_share(0, n, step, flat, levels, queries, kind, scratch, (values, ids, k), (0, 0))
    else:
        room, heaps = scratch.size // workers, queries.shape[0] * k
        for worker in prange(workers):
            w = np.int64(worker)
            start = atomic_next(counter, 0) * share
            while start < n:
                stop = min(n, start + share)
                search_share(start, stop, step, flat, levels, queries, kind, scratch, (values, ids, k), (w * room, w * heaps))
                start = atomic_next(counter, 0) * share


@kernel
def bits_share(start, stop, size, rows, queries, best, at):  # type: ignore[no-untyped-def]
    """Offer rows start .. stop - 1, of `size` bytes, to the heaps of one worker: minus the bits in which they differ."""
    scores, places, k = best
    whole = size - size % 8
    for row in range(start, stop):
        for q in range(queries.size // size):
            different = np.int64(0)
            x, y, heap = row * size, q * size, at + q * k
            for j in range(0, whole, 8):
                different += differing_bits(np.uint64(0), rows, x + j, queries, y + j)
            for j in range(whole, size):
                different += differing_bits(np.uint8(0), rows, x + j, queries, y + j)
            score = np.float32(-different)
            if score >= scores[heap]:
                offer(k, score, np.int64(row), scores, places, heap)


@ParallelKernel
def bits_kernel(rows, queries, share, scores, places, counter, workers):  # type: ignore[no-untyped-def]
    """`search_kernel` for rows (N, B) and queries (Q, B) of packed bits, uint8; a score is minus the bits that differ."""
    n, size = rows.shape
    k = scores.shape[2]
    flat, of, values, ids = rows.reshape(-1), queries.reshape(-1), scores.reshape(-1), places.reshape(-1)
    if workers == 1:
        bits_share(0, n, size, flat, of, (values, ids, k), 0)
    else:
        heaps = queries.shape[0] * k
        for worker in prange(workers):
            w = np.int64(worker)
            start = atomic_next(counter, 0) * share
            while start < n:
                bits_share(start, min(n, start + share), size, flat, of, (values, ids, k), w * heaps)
                start = atomic_next(counter, 0) * share
