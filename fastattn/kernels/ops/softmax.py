"""Softmax over an axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.ops._arrays import F, check_out, finish, float_array, kernel_out, workers_for, working
from fastattn.kernels.vector.elementary import LOG2_E, exp2
from fastattn.kernels.vector.simd import fill, lanes, load, load_part, maximum, reduce_add, reduce_max, store, store_part


@kernel
def row_max(n, x, ix):  # type: ignore[no-untyped-def]
    """Greatest of x[ix : ix + n], -inf for n = 0; NaN where nothing but NaN and -inf is there."""
    width = lanes(x)
    whole = n - n % width
    top = fill(x, -np.inf)
    for j in range(0, whole, width):
        top = maximum(top, load(x, ix + j))
    if whole < n:
        top = maximum(top, load_part(x, ix + whole, n - whole, -np.inf))
    greatest = reduce_max(top)
    if greatest == -np.inf:
        # A one-instruction maximum can lose a NaN; here it would be taken for a masked row.
        for j in range(ix, ix + n):
            if x[j] != x[j]:
                greatest = x[j]
    return greatest


@kernel
def row_exp(n, x, ix, out, io, top, c):  # type: ignore[no-untyped-def]
    """out[j] = 2**((x[j] - top) c) for n elements; returns their sum."""
    width = lanes(x)
    whole = n - n % width
    total, other = fill(x, 0.0), fill(x, 0.0)
    for j in range(0, whole - width, 2 * width):
        e = exp2(load(x, ix + j) - top, c)
        f = exp2(load(x, ix + j + width) - top, c)
        store(out, io + j, e)
        store(out, io + j + width, f)
        total, other = total + e, other + f
    if whole % (2 * width):
        e = exp2(load(x, ix + whole - width) - top, c)
        store(out, io + whole - width, e)
        total = total + e
    if whole < n:
        e = exp2(load_part(x, ix + whole, n - whole, -np.inf) - top, c)
        store_part(out, io + whole, n - whole, e)
        total = total + e
    return reduce_add(total + other)


@kernel
def scale_row(n, x, ix, out, io, factor):  # type: ignore[no-untyped-def]
    """out[j] = x[j] * factor for n elements."""
    width = lanes(x)
    whole = n - n % width
    for j in range(0, whole, width):
        store(out, io + j, load(x, ix + j) * factor)
    if whole < n:
        store_part(out, io + whole, n - whole, load_part(x, ix + whole, n - whole, 0.0) * factor)


@kernel
def softmax_rows(m, n, x, ix, out, io):  # type: ignore[no-untyped-def]
    """Softmax of m rows of n elements that lie end to end."""
    # Four rows a step, step by step: a short row's sums take longer than its arithmetic, those of four overlap.
    a, b = ix, io
    for _ in range(m // 4):
        a1, a2, a3 = a + n, a + 2 * n, a + 3 * n
        b1, b2, b3 = b + n, b + 2 * n, b + 3 * n
        top0, top1, top2, top3 = row_max(n, x, a), row_max(n, x, a1), row_max(n, x, a2), row_max(n, x, a3)
        # All -inf: top is -inf, the differences are NaN, and so is the row, as in torch.
        sum0, sum1 = row_exp(n, x, a, out, b, top0, LOG2_E), row_exp(n, x, a1, out, b1, top1, LOG2_E)
        sum2, sum3 = row_exp(n, x, a2, out, b2, top2, LOG2_E), row_exp(n, x, a3, out, b3, top3, LOG2_E)
        scale_row(n, out, b, out, b, 1.0 / sum0)
        scale_row(n, out, b1, out, b1, 1.0 / sum1)
        scale_row(n, out, b2, out, b2, 1.0 / sum2)
        scale_row(n, out, b3, out, b3, 1.0 / sum3)
        a, b = a3 + n, b3 + n
    for _ in range(m % 4):
        total = row_exp(n, x, a, out, b, row_max(n, x, a), LOG2_E)
        scale_row(n, out, b, out, b, 1.0 / total)
        a, b = a + n, b + n


@ParallelKernel
def softmax_kernel(x, out, workers):  # type: ignore[no-untyped-def]
    """out[i] = softmax(x[i]) for x (M, N)."""
    m, n = x.shape
    if workers == 1:
        softmax_rows(m, n, x.reshape(-1), 0, out.reshape(-1), 0)
    else:
        for part in prange(workers):
            w = np.int64(part)
            start, stop = m * w // workers, m * (w + 1) // workers
            softmax_rows(stop - start, n, x.reshape(-1), start * n, out.reshape(-1), start * n)


def softmax(x: NDArray[F], axis: int = -1, *, out: NDArray[F] | None = None) -> NDArray[F]:
    """Softmax along an axis: out_i = exp(x_i - max x) / sum_j exp(x_j - max x).

    Parameters
    ----------
    x : float32, float64 or float16, any shape and strides
    axis : int
        The axis to sum over; a negative one counts from the end.
    out : array of the shape and dtype of `x`, optional
        Written and returned.

    Returns
    -------
    array of the shape and dtype of `x`

    Raises
    ------
    TypeError
        `x` is not a float array, `axis` is not a whole number, or `out` has another dtype.
    ValueError
        `axis` is out of range, or `out` has another shape.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    A row of nothing but -inf, or with a NaN or +inf in it, gives NaN, as in torch.  Sums in the dtype of `x` (float16 in float32).
    Traffic 2 * size elements while a row fits the cache.

    References
    ----------
    Milakov & Gimelshein 2018, arXiv:1805.02867, algorithm 2.  Definition: fastattn.reference.softmax.
    """
    x = float_array("x", x)
    if type(axis) is not int and not isinstance(axis, int | np.integer):
        raise TypeError(f"axis must be a whole number, got {type(axis).__name__}")
    if x.ndim == 0:
        x = x.reshape(1) if axis in (0, -1) and out is None else x
        if x.ndim:
            return softmax(x, 0).reshape(())
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be in {-x.ndim} .. {x.ndim - 1} for an array of shape {x.shape}, got {axis}")
    check_out(out, x.shape, x.dtype)
    last = axis in (-1, x.ndim - 1)
    work = working(x if last else np.moveaxis(x, axis, -1))
    result = kernel_out(out if last else None, work.shape, work, work)
    if work.size:
        rows = work.reshape(-1, work.shape[-1])
        softmax_kernel(rows, result.reshape(rows.shape), workers_for(work.nbytes / 5e3, len(rows)))
    return finish(result if last else np.moveaxis(result, -1, axis), out, x.dtype)


__all__ = ["softmax"]
