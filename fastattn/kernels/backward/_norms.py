"""Gradients of layer norm and RMS norm: rows, and the sums over rows that the weight and the bias take.

With y = (z - mean z) r, r = 1 / sqrt(var z + eps), and g = grad weight: grad_z = r (g - mean g - y mean(g y)).  An RMS norm has
no mean: r = 1 / sqrt(mean z^2 + eps), grad_z = r (g - y mean(g y)).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastattn.kernels.compile.jit import ParallelKernel, inline, kernel, prange
from fastattn.kernels.ops._arrays import Array, absent, check_room, finish, kernel_out, workers_for, working
from fastattn.kernels.ops.layer_norm import row_factor, row_mean
from fastattn.kernels.ops.rms_norm import row_rms_factor
from fastattn.kernels.vector.rows import add_row
from fastattn.kernels.vector.simd import fill, fma, lanes, load, load_part, reduce_add, reduce_max, store, store_part

# Rows whose part of the sums for weight and bias is taken alone; the blocks' parts are added in order.
BLOCK = 64


class Row(NamedTuple):
    """A row z as its norm sees it: y = (z - mean) factor + shift."""

    data: Any
    at: Any
    mean: Any
    factor: Any
    shift: Any


@inline
def row_sums(n, grad, ig, z, weight, to, it):  # type: ignore[no-untyped-def]
    """Mean of g and mean of g y, in every lane; to[:n] += grad y."""
    width = lanes(grad)
    whole = n - n % width
    total, other = fill(grad, 0.0), fill(grad, 0.0)
    dot, other_dot = fill(grad, 0.0), fill(grad, 0.0)
    for j in range(0, whole, width):
        d = load(grad, ig + j)
        y = fma(load(z.data, z.at + j) - z.mean, z.factor, z.shift)
        g = d * load(weight, j)
        store(to, it + j, fma(d, y, load(to, it + j)))
        total, other = other, total + g
        dot, other_dot = other_dot, fma(g, y, dot)
    if whole < n:
        rest = n - whole
        d = load_part(grad, ig + whole, rest, 0.0)
        # Lanes behind the row are at its mean: y is finite there where it is in the row, and g is 0.
        y = fma(load_part(z.data, z.at + whole, rest, reduce_max(z.mean)) - z.mean, z.factor, z.shift)
        g = d * load_part(weight, whole, rest, 0.0)
        store_part(to, it + whole, rest, fma(d, y, load_part(to, it + whole, rest, 0.0)))
        total = total + g
        dot = fma(g, y, dot)
    count = float(n)
    return fill(grad, reduce_add(total + other)) / count, fill(grad, reduce_add(dot + other_dot)) / count


@inline
def row_slope(n, grad, ig, z, weight, mean, dot, out, io):  # type: ignore[no-untyped-def]
    """out = factor (g - mean - y dot) for n elements; `out` may hold z."""
    width = lanes(grad)
    whole = n - n % width
    for j in range(0, whole, width):
        y = fma(load(z.data, z.at + j) - z.mean, z.factor, z.shift)
        g = load(grad, ig + j) * load(weight, j) - mean
        store(out, io + j, fma(y, 0.0 - dot, g) * z.factor)
    if whole < n:
        rest = n - whole
        y = fma(load_part(z.data, z.at + whole, rest, 0.0) - z.mean, z.factor, z.shift)
        g = load_part(grad, ig + whole, rest, 0.0) * load_part(weight, whole, rest, 0.0) - mean
        store_part(out, io + whole, rest, fma(y, 0.0 - dot, g) * z.factor)


@kernel
def norm_blocks(first, last, grad, x, residual, weight, out, sums, eps, rms):  # type: ignore[no-untyped-def]
    """Blocks first .. last - 1 of `norm_backward_kernel`: rows of `out`, and the blocks' parts of the sums."""
    m, n = x.shape
    blocks = sums.shape[1]
    flat_grad, rows, to, parts = grad.reshape(-1), x.reshape(-1), out.reshape(-1), sums.reshape(-1)
    for block in range(first, last):
        gain, shift = block * n, (blocks + block) * n
        for j in range(n):
            parts[gain + j] = 0.0
            parts[shift + j] = 0.0
        for i in range(block * BLOCK, min(m, (block + 1) * BLOCK)):
            at = i * n
            # With a residual, z is kept in `out` until its gradient takes its place.
            data = to if residual.size else rows
            nothing = fill(rows, 0.0)
            if rms:
                factor = row_rms_factor(n, rows, at, residual, at, to, at, eps)
                z = Row(data, at, nothing, factor, nothing)
            else:
                mean = row_mean(n, rows, at, residual, at, to, at)
                factor, second = row_factor(n, data, at, mean, eps)
                z = Row(data, at, mean, factor, second)
            mean, dot = row_sums(n, flat_grad, at, z, weight, parts, gain)
            if rms:
                mean = nothing
            else:
                add_row(n, parts, shift, flat_grad, at)
            row_slope(n, flat_grad, at, z, weight, mean, dot, to, at)


@ParallelKernel
def norm_backward_kernel(grad, x, residual, weight, out, sums, total, eps, rms, workers):  # type: ignore[no-untyped-def]
    """out (M, N) = gradient of z; total (2, N) = sums of grad y and of grad over the rows, for x (M, N), flat weight (N,).

    `residual` is flat, (M * N,) or empty; `sums` (2, blocks, N) has each block's part.  An RMS norm leaves the sums of grad 0.
    """
    n, blocks = x.shape[1], sums.shape[1]
    if workers == 1:
        norm_blocks(0, blocks, grad, x, residual, weight, out, sums, eps, rms)
    else:
        for part in prange(workers):
            w = np.int64(part)
            norm_blocks(blocks * w // workers, blocks * (w + 1) // workers, grad, x, residual, weight, out, sums, eps, rms)
    for which in range(2):
        for j in range(n):
            total[which, j] = 0.0
        for block in range(blocks):
            add_row(n, total.reshape(-1), which * n, sums.reshape(-1), (which * blocks + block) * n)


def norm_rows_backward(grad: Array, x: Array, weight: Array, residual: Array | None, eps: float, rms: bool) -> tuple[Array, Array]:
    """Return the gradient of x (M, N), and the sums (2, N) of grad y and of grad: contiguous arrays of one dtype, unchecked."""
    m, n = x.shape
    out, total = kernel_out(None, x.shape, x), np.zeros((2, n), x.dtype)
    if x.size:
        blocks = -(-m // BLOCK)
        sums = np.empty((2, blocks, n), x.dtype)
        extra = absent(x.dtype) if residual is None else residual.reshape(-1)
        norm_backward_kernel(grad, x, extra, weight, out, sums, total, eps, rms, workers_for(x.nbytes / 4e3, blocks))
    return out, total


def norm_backward(
    grad: Array, x: Array, weight: Array | None, residual: Array | None, axes: tuple[int, ...], eps: float | None, rms: bool
) -> tuple[Array, Array, Array]:
    """Return the gradients of checked arrays: of x, of the weight, of the bias, the latter two of shape `axes`."""
    check_room(x.shape, None, x, grad, *(() if residual is None else (residual,)))
    work = working(x)
    n = math.prod(axes)
    rows = (math.prod(x.shape[: x.ndim - len(axes)]), n)
    gain = np.ones(n, work.dtype) if weight is None else working(weight).reshape(-1)
    extra = None if residual is None else working(residual)
    least = float(np.finfo(work.dtype).eps) if eps is None else eps
    out, total = norm_rows_backward(working(grad).reshape(rows), work.reshape(rows), gain, extra, least, rms)
    of_x = finish(out.reshape(x.shape), None, x.dtype)
    of_weight, of_bias = (finish(each.reshape(axes), None, x.dtype) for each in total)
    return of_x, of_weight, of_bias
