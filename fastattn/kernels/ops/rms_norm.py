"""RMS normalisation, with an optional residual."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.compile.jit import ParallelKernel, inline, kernel, prange
from fastattn.kernels.ops._arrays import (
    Array,
    F,
    absent,
    check_out,
    check_room,
    finish,
    float_array,
    kernel_out,
    number,
    same_dtype,
    workers_for,
    working,
)
from fastattn.kernels.records import matrix
from fastattn.kernels.vector.simd import fill, fma, lanes, load, load_part, reduce_add, square_root, store, store_part


@inline
def row_rms_factor(n, x, ix, residual, ir, out, io, eps):  # type: ignore[no-untyped-def]
    """1 / sqrt(mean y^2 + eps) in every lane; y = x + residual goes to `out`, or is x where `residual` has size 0."""
    width = lanes(x)
    whole = n - n % width
    squares, other = fill(x, 0.0), fill(x, 0.0)
    if residual.size:
        for j in range(0, whole, width):
            v = load(x, ix + j) + load(residual, ir + j)
            store(out, io + j, v)
            squares, other = other, fma(v, v, squares)
        if whole < n:
            rest = n - whole
            v = load_part(x, ix + whole, rest, 0.0) + load_part(residual, ir + whole, rest, 0.0)
            store_part(out, io + whole, rest, v)
            squares = fma(v, v, squares)
    else:
        for j in range(0, whole, width):
            v = load(x, ix + j)
            squares, other = other, fma(v, v, squares)
        if whole < n:
            v = load_part(x, ix + whole, n - whole, 0.0)
            squares = fma(v, v, squares)
    return 1.0 / square_root(fill(x, reduce_add(squares + other)) / float(n) + eps)


@inline
def row_gain(n, x, ix, factor, weight, iw, out, io):  # type: ignore[no-untyped-def]
    """out = x factor weight for n elements."""
    width = lanes(x)
    whole = n - n % width
    for j in range(0, whole, width):
        store(out, io + j, load(x, ix + j) * factor * load(weight, iw + j))
    if whole < n:
        rest = n - whole
        v = load_part(x, ix + whole, rest, 0.0) * factor * load_part(weight, iw + whole, rest, 0.0)
        store_part(out, io + whole, rest, v)


@kernel
def rms_norm_rows(m, n, x, residual, weight, iw, out, eps):  # type: ignore[no-untyped-def]
    """out = rms_norm(x + residual) for m rows of n, all a Matrix; `residual` of size 0 is none, and may be `out` itself."""
    source = out if residual.data.size else x
    for i in range(0, m - 1, 2):
        # Two rows a step: a row's sum takes longer than its arithmetic, those of two overlap.
        a, b = source.at + i * source.ld, source.at + (i + 1) * source.ld
        to, other_to = out.at + i * out.ld, out.at + (i + 1) * out.ld
        from_, other_from = residual.at + i * residual.ld, residual.at + (i + 1) * residual.ld
        first = row_rms_factor(n, x.data, x.at + i * x.ld, residual.data, from_, out.data, to, eps)
        second = row_rms_factor(n, x.data, x.at + (i + 1) * x.ld, residual.data, other_from, out.data, other_to, eps)
        row_gain(n, source.data, a, first, weight, iw, out.data, to)
        row_gain(n, source.data, b, second, weight, iw, out.data, other_to)
    if m % 2:
        i = m - 1
        to = out.at + i * out.ld
        factor = row_rms_factor(n, x.data, x.at + i * x.ld, residual.data, residual.at + i * residual.ld, out.data, to, eps)
        row_gain(n, source.data, source.at + i * source.ld, factor, weight, iw, out.data, to)


@kernel
def rms_norm_share(start, stop, n, x, residual, weight, out, eps):  # type: ignore[no-untyped-def]
    """Rows start .. stop - 1 of `rms_norm_kernel`."""
    at = start * n
    rms_norm_rows(
        stop - start, n, matrix(x, at, n), matrix(residual, at, n), weight, np.int64(0), matrix(out, at, n), eps
    )  # fmt: skip


@ParallelKernel
def rms_norm_kernel(x, residual, weight, out, eps, workers):  # type: ignore[no-untyped-def]
    """out[i] = rms_norm(x[i] + residual[i]) for x (M, N), flat weight (N,), flat residual (M * N,) or empty."""
    m, n = x.shape
    rows, to = x.reshape(-1), out.reshape(-1)
    if workers == 1:
        rms_norm_share(0, m, n, rows, residual, weight, to, eps)
    else:
        for part in prange(workers):
            w = np.int64(part)
            start, stop = m * w // workers, m * (w + 1) // workers
            rms_norm_share(start, stop, n, rows, residual, weight, to, eps)


def checked(
    x: Any, weight: Any, residual: Any, eps: Any
) -> tuple[Array, Array | None, Array | None, float | None, tuple[int, ...]]:
    """Return the arguments of `rms_norm` as arrays and a number, and the shape that is normalised over."""
    x = float_array("x", x)
    weight = None if weight is None else float_array("weight", weight)
    residual = None if residual is None else float_array("residual", residual)
    same_dtype("x", x, weight=weight, residual=residual)
    if x.ndim == 0:
        raise ValueError("x must have at least one axis, got shape ()")
    shape = x.shape
    axes = shape[-1:] if weight is None else weight.shape
    if not axes or shape[-len(axes) :] != axes:
        raise ValueError(f"weight must have the shape of the last axes of x, {shape}, got {axes}")
    if residual is not None and residual.shape != shape:
        raise ValueError(f"residual must have the shape of x, {shape}, got {residual.shape}")
    if eps is not None:
        eps = number("eps", eps)
        if not eps >= 0:
            raise ValueError(f"eps must be at least 0, got {eps}")
    return x, weight, residual, eps, axes


def rms_norm(
    x: NDArray[F],
    weight: NDArray[F] | None = None,
    *,
    residual: NDArray[F] | None = None,
    eps: float | None = None,
    out: NDArray[F] | None = None,
) -> NDArray[F]:
    """RMS normalisation over the trailing axes that `weight` has (the last one without a weight).

    y = x + residual;  out = y / sqrt(mean(y^2) + eps) * weight.

    Parameters
    ----------
    x : float32, float64 or float16, any shape of at least one axis, any strides
    weight : array of the dtype of `x`, its shape the trailing axes of `x`, optional
        Factor; 1 without it.
    residual : array of the shape and dtype of `x`, optional
        Added to `x` first.
    eps : float, optional
        Added to the mean of the squares, so in the unit of x squared; without it the eps of the dtype that is computed in: 2^-52
        for float64, else 2^-23.
    out : array of the shape and dtype of `x`, optional
        Written and returned.

    Returns
    -------
    array of the shape and dtype of `x`

    Raises
    ------
    TypeError
        `x` is not a float array, another array has another dtype, or `eps` is not a number.
    ValueError
        `x` has no axis, the shapes disagree, or `eps` is negative.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    Squares are summed in the dtype of `x` (float16 in float32): where they overflow, the row is 0, as in torch.  A NaN makes its
    row NaN; infinity becomes NaN, and the rest of its row 0.
    Traffic (2, with a residual 3) * size elements.

    References
    ----------
    Zhang & Sennrich 2019, arXiv:1910.07467, equation 4.  Definition: fastattn.reference.rms_norm.
    """
    x, weight, residual, eps, axes = checked(x, weight, residual, eps)
    shape = x.shape
    if out is not None:
        check_out(out, shape, x.dtype)
    if residual is not None:
        check_room(shape, out, x, residual)
    work = working(x)
    if eps is None:
        eps = float(np.finfo(work.dtype).eps)
    n = math.prod(axes)
    extra = absent(work.dtype) if residual is None else working(residual).reshape(-1)
    gain = np.ones(n, work.dtype) if weight is None else working(weight).reshape(-1)
    result = kernel_out(out, shape, work, work, extra, gain)
    if work.size:
        rows = work.reshape(-1, n)
        workers = workers_for(work.nbytes / 1e4, len(rows))
        rms_norm_kernel(rows, extra, gain, result.reshape(rows.shape), eps, workers)
    return finish(result, out, x.dtype)


__all__ = ["rms_norm"]
