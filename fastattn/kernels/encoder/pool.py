"""Pooling of a sequence's hidden states into one vector, and its normalisation."""

from __future__ import annotations

import math

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.ops.softmax import scale_row
from fastattn.kernels.vector.rows import add_row, copy_row
from fastattn.kernels.vector.simd import fill, fma, lanes, load, load_part, reduce_add, store_part, where_less

POOLINGS = {None: 0, "mean": 1, "cls": 2, "max": 3, "mean_sqrt_len_tokens": 4, "weightedmean": 5, "lasttoken": 6}
MEAN, CLS, MAX, MEAN_SQRT, WEIGHTED, LAST = 1, 2, 3, 4, 5, 6


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
def normalise_row(n, x, ix):  # type: ignore[no-untyped-def]
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
def pool_rows(tokens, c, x, ix, mode, normalise, out, io):  # type: ignore[no-untyped-def]
    """out (c,) = one vector for a sequence of `tokens` rows of x; zeros for none."""
    if tokens == 0:
        for j in range(c):
            out[io + j] = 0.0
    elif mode == LAST:
        copy_row(c, x, ix + (tokens - 1) * c, out, io)
    else:
        copy_row(c, x, ix, out, io)
        if mode == MAX:
            for t in range(1, tokens):
                larger_row(c, out, io, x, ix + t * c)
        elif mode == WEIGHTED:
            for t in range(1, tokens):
                add_scaled_row(c, out, io, x, ix + t * c, float(t + 1))
            scale_row(c, out, io, out, io, 2.0 / (tokens * (tokens + 1.0)))
        elif mode != CLS:
            for t in range(1, tokens):
                add_row(c, out, io, x, ix + t * c)
            scale_row(c, out, io, out, io, 1.0 / (math.sqrt(float(tokens)) if mode == MEAN_SQRT else float(tokens)))
    if normalise:
        normalise_row(c, out, io)
