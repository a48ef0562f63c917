"""Layer normalisation, with an optional residual."""

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
from fastattn.kernels.records import Norm, matrix
from fastattn.kernels.vector.simd import (
    fill,
    fma,
    lanes,
    load,
    load_part,
    maximum,
    reduce_add,
    reduce_max,
    square_root,
    store,
    store_part,
)


@inline
def row_mean(n, x, ix, residual, ir, out, io):  # type: ignore[no-untyped-def]
    """Mean of x[:n] + residual[:n] in every lane, the sum in `out`; of x[:n] where `residual` has size 0."""
    width = lanes(x)
    whole = n - n % width
    total, other = fill(x, 0.0), fill(x, 0.0)
    if residual.size:
        for j in range(0, whole, width):
            v = load(x, ix + j) + load(residual, ir + j)
            store(out, io + j, v)
            total, other = other, total + v
        if whole < n:
            rest = n - whole
            v = load_part(x, ix + whole, rest, 0.0) + load_part(residual, ir + whole, rest, 0.0)
            store_part(out, io + whole, rest, v)
            total = total + v
    else:
        for j in range(0, whole, width):
            total, other = other, total + load(x, ix + j)
        if whole < n:
            total = total + load_part(x, ix + whole, n - whole, 0.0)
    return fill(x, reduce_add(total + other)) / float(n)


@inline
def row_factor(n, x, ix, mean, eps):  # type: ignore[no-untyped-def]
    """factor = 1 / sqrt(var + eps) of x[:n], and the shift of a second-pass correction, in every lane.

    The mean of (x - mean) is the rounding error of `mean`, large where abs(mean) >> std; returned as `shift`, already scaled.
    """
    width = lanes(x)
    whole = n - n % width
    squares, other_squares = fill(x, 0.0), fill(x, 0.0)
    total, other = fill(x, 0.0), fill(x, 0.0)
    for j in range(0, whole, width):
        v = load(x, ix + j) - mean
        squares, other_squares = other_squares, fma(v, v, squares)
        total, other = other, total + v
    if whole < n:
        v = load_part(x, ix + whole, n - whole, reduce_max(mean)) - mean
        squares = fma(v, v, squares)
        total = total + v
    short = fill(x, reduce_add(total + other)) / float(n)
    # A NaN stays one: `maximum` gives its second argument then.
    variance = maximum(0.0, fma(short, 0.0 - short, fill(x, reduce_add(squares + other_squares)) / float(n)))
    factor = 1.0 / square_root(variance + eps)
    return factor, (0.0 - short) * factor


@inline
def row_affine(n, x, ix, mean, factor, shift, weight, iw, bias, ib, out, io):  # type: ignore[no-untyped-def]
    """out = ((x - mean) factor + shift) weight + bias for n elements."""
    width = lanes(x)
    whole = n - n % width
    for j in range(0, whole, width):
        store(out, io + j, fma(fma(load(x, ix + j) - mean, factor, shift), load(weight, iw + j), load(bias, ib + j)))
    if whole < n:
        rest = n - whole
        w, b = load_part(weight, iw + whole, rest, 0.0), load_part(bias, ib + whole, rest, 0.0)
        store_part(out, io + whole, rest, fma(fma(load_part(x, ix + whole, rest, 0.0) - mean, factor, shift), w, b))


@kernel
def layer_norm_rows(m, n, x, residual, norm, out, eps):  # type: ignore[no-untyped-def]
    """out = layer_norm(x + residual) for m rows of n, all a Matrix; `residual` of size 0 is none, and may be `out` itself."""
    source = out if residual.data.size else x
    i = 0
    while i < m:
        # Two rows a step: a row's sums take longer than its arithmetic, those of two overlap.
        j = min(i + 1, m - 1)
        a, b = source.at + i * source.ld, source.at + j * source.ld
        to, other_to = out.at + i * out.ld, out.at + j * out.ld
        first = row_mean(n, x.data, x.at + i * x.ld, residual.data, residual.at + i * residual.ld, out.data, to)
        if j > i:
            second = row_mean(n, x.data, x.at + j * x.ld, residual.data, residual.at + j * residual.ld, out.data, other_to)
        else:
            second = first
        factor, shift = row_factor(n, source.data, a, first, eps)
        other, other_shift = row_factor(n, source.data, b, second, eps)
        row_affine(n, source.data, a, first, factor, shift, norm.weight, norm.at, norm.bias, norm.bias_at, out.data, to)
        if j > i:
            row_affine(
                n, source.data, b, second, other, other_shift, norm.weight, norm.at, norm.bias, norm.bias_at, out.data, other_to
            )  # fmt: skip
        i += 2


@kernel
def layer_norm_share(start, stop, n, x, residual, weight, bias, out, eps):  # type: ignore[no-untyped-def]
    """Rows start .. stop - 1 of `layer_norm_kernel`."""
    norm = Norm(weight, np.int64(0), bias, np.int64(0))
    at = start * n
    layer_norm_rows(stop - start, n, matrix(x, at, n), matrix(residual, at, n), norm, matrix(out, at, n), eps)


@ParallelKernel
def layer_norm_kernel(x, residual, weight, bias, out, eps, workers):  # type: ignore[no-untyped-def]
    """out[i] = layer_norm(x[i] + residual[i]) for x (M, N), flat weight and bias (N,), flat residual (M * N,) or empty."""
    m, n = x.shape
    rows, to = x.reshape(-1), out.reshape(-1)
    if workers == 1:
        layer_norm_share(0, m, n, rows, residual, weight, bias, to, eps)
    else:
        for part in prange(workers):
            w = np.int64(part)
            layer_norm_share(m * w // workers, m * (w + 1) // workers, n, rows, residual, weight, bias, to, eps)


def checked(
    x: Any, weight: Any, bias: Any, residual: Any, eps: Any
) -> tuple[Array, Array | None, Array | None, Array | None, float, tuple[int, ...]]:
    """Return the arguments of `layer_norm` as arrays and a number, and the shape that is normalised over."""
    x = float_array("x", x)
    weight = None if weight is None else float_array("weight", weight)
    bias = None if bias is None else float_array("bias", bias)
    residual = None if residual is None else float_array("residual", residual)
    same_dtype("x", x, weight=weight, bias=bias, residual=residual)
    if x.ndim == 0:
        raise ValueError("x must have at least one axis, got shape ()")
    eps = number("eps", eps)
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    shape = x.shape
    first = weight if weight is not None else bias
    axes = shape[-1:] if first is None else first.shape
    if not axes or shape[-len(axes) :] != axes:
        name = "weight" if weight is not None else "bias"
        raise ValueError(f"{name} must have the shape of the last axes of x, {shape}, got {axes}")
    if bias is not None and bias.shape != axes:
        raise ValueError(f"bias must have the shape of weight, {axes}, got {bias.shape}")
    if residual is not None and residual.shape != shape:
        raise ValueError(f"residual must have the shape of x, {shape}, got {residual.shape}")
    return x, weight, bias, residual, eps, axes


def layer_norm(
    x: NDArray[F],
    weight: NDArray[F] | None = None,
    bias: NDArray[F] | None = None,
    *,
    residual: NDArray[F] | None = None,
    eps: float = 1e-5,
    out: NDArray[F] | None = None,
) -> NDArray[F]:
    """Layer normalisation over the trailing axes that `weight` has (the last one without a weight).

    y = x + residual;  out = (y - mean(y)) / sqrt(var(y) + eps) * weight + bias, var the biased variance.

    Parameters
    ----------
    x : float32, float64 or float16, any shape of at least one axis, any strides
    weight : array of the dtype of `x`, its shape the trailing axes of `x`, optional
        Factor; 1 without it.
    bias : array of the dtype of `x`, shaped like `weight`, optional
        Summand; 0 without it.  With no weight it says which axes are normalised.
    residual : array of the shape and dtype of `x`, optional
        Added to `x` first.
    eps : float
        Added to the variance, so in the unit of x squared.
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
    Two passes, mean first, and its rounding made good: a large mean costs no accuracy.
    Traffic (2, with a residual 3) * size elements.

    References
    ----------
    Ba, Kiros & Hinton 2016, arXiv:1607.06450, equation 4.  Definition: fastattn.reference.layer_norm.
    """
    x, weight, bias, residual, eps, axes = checked(x, weight, bias, residual, eps)
    shape = x.shape
    if out is not None:
        check_out(out, shape, x.dtype)
    if residual is not None:
        check_room(shape, out, x, residual)
    work = working(x)
    n = math.prod(axes)
    extra = absent(work.dtype) if residual is None else working(residual).reshape(-1)
    factor = np.ones(n, work.dtype) if weight is None else working(weight).reshape(-1)
    summand = np.zeros(n, work.dtype) if bias is None else working(bias).reshape(-1)
    result = kernel_out(out, shape, work, work, extra, factor, summand)
    if work.size:
        rows = work.reshape(-1, n)
        workers = workers_for(work.nbytes / 1e4, len(rows))
        layer_norm_kernel(rows, extra, factor, summand, result.reshape(rows.shape), eps, workers)
    return finish(result, out, x.dtype)


__all__ = ["layer_norm"]
