"""Layer normalisation, with an optional residual."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastattn.kernels._arrays import Array, check_out, finish, float_array, kernel_out, same_dtype, workers_for, working
from fastattn.kernels._jit import ParallelKernel, kernel, prange
from fastattn.kernels._simd import fill, fma, lanes, load, load_part, reduce_add, square_root, store, store_part


@kernel
def layer_norm_rows(m, n, x, ix, ldx, residual, ir, ldr, weight, iw, bias, ib, out, io, ldo, eps):  # type: ignore[no-untyped-def]
    """out = layer_norm(x + residual) for m rows of n; `residual` of size 0 is none, and may be `out` itself."""
    width = lanes(x)
    whole = n - n % width
    rest = n - whole
    add = residual.size > 0
    for i in range(m):
        a, r, o = ix + i * ldx, ir + i * ldr, io + i * ldo
        total, other = fill(x, 0.0), fill(x, 0.0)
        for j in range(0, whole, width):
            v = load(x, a + j)
            if add:
                v = v + load(residual, r + j)
            store(out, o + j, v)
            total, other = other, total + v
        if rest:
            v = load_part(x, a + whole, rest, 0.0)
            if add:
                v = v + load_part(residual, r + whole, rest, 0.0)
            store_part(out, o + whole, rest, v)
            total = total + v
        mean = fill(x, reduce_add(total + other)) / float(n)
        total, other = fill(x, 0.0), fill(x, 0.0)
        for j in range(0, whole, width):
            v = load(out, o + j) - mean
            total, other = other, fma(v, v, total)
        if rest:
            v = load_part(out, o + whole, rest, reduce_add(mean) / width) - mean
            total = fma(v, v, total)
        scale = 1.0 / square_root(fill(x, reduce_add(total + other)) / float(n) + eps)
        for j in range(0, whole, width):
            store(out, o + j, fma((load(out, o + j) - mean) * scale, load(weight, iw + j), load(bias, ib + j)))
        if rest:
            w, b = load_part(weight, iw + whole, rest, 0.0), load_part(bias, ib + whole, rest, 0.0)
            v = (load_part(out, o + whole, rest, 0.0) - mean) * scale
            store_part(out, o + whole, rest, fma(v, w, b))


@ParallelKernel
def layer_norm_kernel(x, residual, weight, bias, out, eps, workers):  # type: ignore[no-untyped-def]
    """out[i] = layer_norm(x[i] + residual[i]) for x (M, N), flat weight and bias (N,), flat residual (M * N,) or empty."""
    m, n = x.shape
    if workers == 1:
        layer_norm_rows(m, n, x.reshape(-1), 0, n, residual, 0, n, weight, 0, bias, 0, out.reshape(-1), 0, n, eps)
    else:
        for part in prange(workers):
            w = np.int64(part)
            start, stop = m * w // workers, m * (w + 1) // workers
            at = start * n
            layer_norm_rows(stop - start, n, x.reshape(-1), at, n, residual, at, n, weight, 0, bias, 0, out.reshape(-1), at, n, eps)


def layer_norm(
    x: Any, weight: Any = None, bias: Any = None, *, residual: Any = None, eps: float = 1e-5, out: Array | None = None
) -> Array:
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
        `x` is not a float array, or another array has another dtype.
    ValueError
        `x` has no axis, the shapes disagree, or `eps` is negative.

    Notes
    -----
    Two passes, mean first: rows with a large mean keep their variance.  Traffic (2, with a residual 3) * size elements.

    References
    ----------
    Ba, Kiros & Hinton 2016, arXiv:1607.06450, equation 4.  Definition: fastattn.reference.layer_norm.
    """
    x = float_array("x", x)
    weight = None if weight is None else float_array("weight", weight)
    bias = None if bias is None else float_array("bias", bias)
    residual = None if residual is None else float_array("residual", residual)
    same_dtype("x", x, weight=weight, bias=bias, residual=residual)
    if x.ndim == 0:
        raise ValueError("x must have at least one axis, got shape ()")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    first = weight if weight is not None else bias
    axes = x.shape[-1:] if first is None else first.shape
    if not axes or x.shape[x.ndim - len(axes) :] != axes:
        name = "weight" if weight is not None else "bias"
        raise ValueError(f"{name} must have the shape of the last axes of x, {x.shape}, got {axes}")
    if bias is not None and bias.shape != axes:
        raise ValueError(f"bias must have the shape of weight, {axes}, got {bias.shape}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual must have the shape of x, {x.shape}, got {residual.shape}")
    check_out(out, x.shape, x.dtype)
    work = working(x)
    n = math.prod(axes)
    extra = np.empty(0, work.dtype) if residual is None else working(residual).reshape(-1)
    factor = np.ones(n, work.dtype) if weight is None else working(weight).reshape(-1)
    summand = np.zeros(n, work.dtype) if bias is None else working(bias).reshape(-1)
    result = kernel_out(out, x.shape, work, work, extra, factor, summand)
    if work.size:
        rows = work.reshape(-1, n)
        workers = workers_for(work.nbytes / 1e4, len(rows))
        layer_norm_kernel(rows, extra, factor, summand, result.reshape(rows.shape), float(eps), workers)
    return finish(result, out, x.dtype)


__all__ = ["layer_norm"]
