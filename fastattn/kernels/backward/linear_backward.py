"""Backward of the affine map: the gradients of the rows, the weight and the bias."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.backward._products import bias_gradient, pack_backward, product, weight_gradient
from fastattn.kernels.ops._arrays import F, finish, float_array, same_dtype, working
from fastattn.kernels.vector.target import TILE_BYTES
from fastattn.runtime.memory import check_large


def linear_backward(
    grad: NDArray[F], x: NDArray[F], weight: NDArray[F], bias: NDArray[F] | None = None
) -> tuple[NDArray[F], NDArray[F], NDArray[F] | None]:
    """Gradients of out = x weight^T + bias: grad_x = grad weight, grad_weight = grad^T x, grad_bias = the column sums of grad.

    Parameters
    ----------
    grad : float32, float64 or float16, (..., C_out), any strides
        Gradient of `out`.
    x : array of the dtype of `grad`, (..., C_in)
    weight : array of the dtype of `grad`, (C_out, C_in)
    bias : array of the dtype of `grad`, (C_out,), optional
        Only tells whether its gradient is wanted.

    Returns
    -------
    grad_x : array of the dtype of `grad`, (..., C_in)
    grad_weight : array of the dtype of `grad`, (C_out, C_in)
    grad_bias : array of the dtype of `grad`, (C_out,), or None without a bias

    Raises
    ------
    TypeError
        `grad` is not a float array, or another array has another dtype.
    ValueError
        The shapes disagree.
    MemoryError
        The gradients, with temporary arrays, are larger than the memory that is free.

    Notes
    -----
    Each element is a sum of chains of at most 256 multiply-adds, added in order: the same bits for any number of threads.
    Work 4 * M * C_in * C_out flop, M the rows of `x`.

    References
    ----------
    torch.nn.functional.linear, whose gradients autograd computes.  Definition: fastattn.reference.linear_backward.
    """
    grad, x, weight = float_array("grad", grad), float_array("x", x), float_array("weight", weight)
    bias = None if bias is None else float_array("bias", bias)
    same_dtype("grad", grad, x=x, weight=weight, bias=bias)
    if weight.ndim != 2:
        raise ValueError(f"weight must have two axes (C_out, C_in), got shape {weight.shape}")
    n, k = weight.shape
    if x.ndim == 0 or x.shape[-1] != k:
        raise ValueError(f"x must have C_in = {k} as its last axis for a weight of shape {weight.shape}, got shape {x.shape}")
    if grad.shape != (*x.shape[:-1], n):
        raise ValueError(f"grad must have the shape of x weight^T, {(*x.shape[:-1], n)}, got {grad.shape}")
    if bias is not None and bias.shape != (n,):
        raise ValueError(f"bias must have shape ({n},) for a weight of shape {weight.shape}, got {bias.shape}")
    grad_rows, rows, matrix = (working(each) for each in (grad, x, weight))
    panel = -(-k * rows.itemsize // TILE_BYTES) * TILE_BYTES
    check_large(panel * n + rows.nbytes + matrix.nbytes, "gradients for x of shape {}, with the packed weight,", x.shape)
    m = math.prod(x.shape[:-1])
    grad_rows, rows = grad_rows.reshape(m, n), rows.reshape(m, k)
    grad_x = product(grad_rows, pack_backward(matrix), None, np.empty_like(rows)).reshape(x.shape)
    grad_weight = weight_gradient(grad_rows, rows, np.empty_like(matrix), accumulate=False)
    grad_bias = None if bias is None else bias_gradient(grad_rows, np.empty(n, rows.dtype), accumulate=False)
    return (
        finish(grad_x, None, grad.dtype),
        finish(grad_weight, None, grad.dtype),
        None if grad_bias is None else finish(grad_bias, None, grad.dtype),
    )


__all__ = ["linear_backward"]
