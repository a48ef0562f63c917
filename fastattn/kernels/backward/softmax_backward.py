"""Gradient of softmax."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.backward._arrays import with_grad
from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.ops._arrays import F, check_room, finish, kernel_out, workers_for, working
from fastattn.kernels.vector.simd import fill, fma, lanes, load, load_part, reduce_add, store, store_part


@kernel
def row_dot(n, a, ia, b, ib):  # type: ignore[no-untyped-def]
    """Sum of a[j] b[j] for n elements."""
    width = lanes(a)
    whole = n - n % width
    total, other = fill(a, 0.0), fill(a, 0.0)
    for j in range(0, whole, width):
        total, other = other, fma(load(a, ia + j), load(b, ib + j), total)
    if whole < n:
        total = fma(load_part(a, ia + whole, n - whole, 0.0), load_part(b, ib + whole, n - whole, 0.0), total)
    return reduce_add(total + other)


@kernel
def softmax_rows_backward(m, n, grad, ig, y, iy, out, io):  # type: ignore[no-untyped-def]
    """out = y (grad - sum(grad y)) for m rows of n elements that lie end to end; `out` may be `grad` or `y`."""
    width = lanes(y)
    whole = n - n % width
    for i in range(m):
        a, b, c = ig + i * n, iy + i * n, io + i * n
        total = row_dot(n, grad, a, y, b)
        for j in range(0, whole, width):
            store(out, c + j, (load(grad, a + j) - total) * load(y, b + j))
        if whole < n:
            rest = n - whole
            store_part(out, c + whole, rest, (load_part(grad, a + whole, rest, 0.0) - total) * load_part(y, b + whole, rest, 0.0))


@ParallelKernel
def softmax_backward_kernel(grad, y, out, workers):  # type: ignore[no-untyped-def]
    """out[i] = y[i] (grad[i] - sum(grad[i] y[i])) for y (M, N)."""
    m, n = y.shape
    if workers == 1:
        softmax_rows_backward(m, n, grad.reshape(-1), 0, y.reshape(-1), 0, out.reshape(-1), 0)
    else:
        for part in prange(workers):
            w = np.int64(part)
            start, stop = m * w // workers, m * (w + 1) // workers
            at = start * n
            softmax_rows_backward(stop - start, n, grad.reshape(-1), at, y.reshape(-1), at, out.reshape(-1), at)


def softmax_backward(grad: NDArray[F], out: NDArray[F], axis: int = -1) -> NDArray[F]:
    """Gradient of softmax: grad_x_i = out_i (grad_i - sum_j grad_j out_j).

    Parameters
    ----------
    grad : float32, float64 or float16, any shape and strides
        Gradient of the result.
    out : array of the shape and dtype of `grad`
        Result of `softmax`; it is read, not written.
    axis : int
        The axis that sums to 1; a negative one counts from the end.

    Returns
    -------
    array of the shape and dtype of `grad`
        Gradient of softmax's input.

    Raises
    ------
    TypeError
        `out` or `grad` is not a float array, their dtypes differ, or `axis` is not a whole number.
    ValueError
        The shapes differ, or `axis` is out of range.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    Sums in the dtype of `grad` (float16 in float32).  A NaN stays in its row.
    Traffic 3 * size elements while a row fits the cache.

    References
    ----------
    Goodfellow, Bengio & Courville 2016, Deep Learning, section 6.5.6.  Definition: fastattn.reference.softmax_backward.
    """
    grad, out = with_grad(grad, "out", out)
    if type(axis) is not int and not isinstance(axis, int | np.integer):
        raise TypeError(f"axis must be a whole number, got {type(axis).__name__}")
    ndim = max(out.ndim, 1)
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis must be in {-ndim} .. {ndim - 1} for an array of shape {out.shape}, got {axis}")
    check_room(out.shape, None, grad, out)
    last = axis in (-1, ndim - 1)
    wide, y = (working(each if last else np.moveaxis(each, axis, -1)) for each in (grad, out))
    result = kernel_out(None, y.shape, y)
    if y.size:
        rows = y.reshape(-1, y.shape[-1] if y.ndim else 1)
        softmax_backward_kernel(wide.reshape(rows.shape), rows, result.reshape(rows.shape), workers_for(y.nbytes / 7e3, len(rows)))
    return finish(result if last else np.moveaxis(result, -1, axis), None, grad.dtype)


__all__ = ["softmax_backward"]
