"""Pooling of a sequence's hidden states into one vector, and its normalisation."""

from __future__ import annotations

import math

import numpy as np

from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.ops.softmax import scale_row
from fastattn.kernels.records import matrix
from fastattn.kernels.vector.rows import add_row, copy_row
from fastattn.kernels.vector.simd import fill, fma, lanes, load, load_part, reduce_add, store_part, where_less

# The number by which kernels know a pooling; 0 is none.
POOLINGS = {None: 0, "mean": 1, "cls": 2, "max": 3, "mean_sqrt_len_tokens": 4, "weightedmean": 5, "lasttoken": 6}
CLS, MAX, MEAN_SQRT, WEIGHTED, LAST = (POOLINGS[x] for x in ("cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"))


@kernel
def larger_row(n, x, ix, other, io):  # type: ignore[no-untyped-def]
    """x[:n] = max(x[:n], other[:n]); a NaN on either side stays."""
    width = lanes(x)
    for j in range(0, n, width):
        count = min(width, n - j)
        a, b = load_part(x, ix + j, count, 0.0), load_part(other, io + j, count, 0.0)
        v = where_less(a, b, b, a)
        store_part(x, ix + j, count, where_less(b, math.inf, v, v + b))


@kernel
def add_scaled_row(n, x, ix, table, it, factor):  # type: ignore[no-untyped-def]
    """x[:n] += factor * table[:n]."""
    width = lanes(x)
    for j in range(0, n, width):
        count = min(width, n - j)
        v = fma(load_part(table, it + j, count, 0.0), factor, load_part(x, ix + j, count, 0.0))
        store_part(x, ix + j, count, v)


@kernel
def normalize_row(n, x, ix):  # type: ignore[no-untyped-def]
    """x[:n] /= max(its L2 norm, 1e-12)."""
    width = lanes(x)
    whole = n - n % width
    total = fill(x, 0.0)
    for j in range(0, whole, width):
        v = load(x, ix + j)
        total = fma(v, v, total)
    if whole < n:
        v = load_part(x, ix + whole, n - whole, 0.0)
        total = fma(v, v, total)
    norm = math.sqrt(float(reduce_add(total)))
    scale_row(n, x, ix, x, ix, 1.0 / (1e-12 if norm < 1e-12 else norm))


@kernel
def pool_rows(tokens, skip, c, x, mode, normalize, out, io):  # type: ignore[no-untyped-def]
    """out (c,) = one vector for a sequence of `tokens` rows of x without the first `skip`; zeros for none."""
    if tokens <= skip:
        for j in range(c):
            out[io + j] = 0.0
    elif mode == LAST:
        copy_row(c, x.data, x.at + (tokens - 1) * x.ld, out, io)
    else:
        copy_row(c, x.data, x.at + skip * x.ld, out, io)
        if mode == MAX:
            for t in range(skip + 1, tokens):
                larger_row(c, out, io, x.data, x.at + t * x.ld)
        elif mode == WEIGHTED:
            # Row t, from 0, weighs t + 1, also behind skipped rows.
            scale_row(c, out, io, out, io, skip + 1.0)
            for t in range(skip + 1, tokens):
                add_scaled_row(c, out, io, x.data, x.at + t * x.ld, float(t + 1))
            scale_row(c, out, io, out, io, 2.0 / (tokens * (tokens + 1.0) - skip * (skip + 1.0)))
        elif mode != CLS:
            count = float(tokens - skip)
            for t in range(skip + 1, tokens):
                add_row(c, out, io, x.data, x.at + t * x.ld)
            scale_row(c, out, io, out, io, 1.0 / (math.sqrt(count) if mode == MEAN_SQRT else count))
    if normalize:
        normalize_row(c, out, io)


@kernel
def pool_share(first, last, c, x, offsets, skip, mode, out):  # type: ignore[no-untyped-def]
    """Sequences first .. last - 1 of `pool_kernel`."""
    for s in range(first, last):
        pool_rows(offsets[s + 1] - offsets[s], skip, c, matrix(x, offsets[s] * c, c), mode, False, out, s * c)


@ParallelKernel
def pool_kernel(x, offsets, skip, mode, out, workers):  # type: ignore[no-untyped-def]
    """out (B, C) = a vector for each of the packed sequences x (N, C), `mode` a number of POOLINGS."""
    sequences, c = offsets.size - 1, x.shape[1]
    rows, to = x.reshape(-1), out.reshape(-1)
    if workers == 1:
        pool_share(0, sequences, c, rows, offsets, skip, mode, to)
    else:
        for part in prange(workers):
            w = np.int64(part)
            pool_share(sequences * w // workers, sequences * (w + 1) // workers, c, rows, offsets, skip, mode, to)


@kernel
def normalize_share(first, last, c, x):  # type: ignore[no-untyped-def]
    """Rows first .. last - 1 of `normalize_kernel`."""
    for i in range(first, last):
        normalize_row(c, x, i * c)


@ParallelKernel
def normalize_kernel(x, workers):  # type: ignore[no-untyped-def]
    """Divide each row of x (B, C) by its length, in place."""
    m, c = x.shape
    rows = x.reshape(-1)
    if workers == 1:
        normalize_share(0, m, c, rows)
    else:
        for part in prange(workers):
            w = np.int64(part)
            normalize_share(m * w // workers, m * (w + 1) // workers, c, rows)
