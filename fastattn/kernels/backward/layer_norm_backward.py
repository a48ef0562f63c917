"""Gradients of layer normalisation, with an optional residual."""

from __future__ import annotations

from numpy.typing import NDArray

from fastattn.kernels.backward._arrays import with_grad
from fastattn.kernels.backward._norms import norm_backward
from fastattn.kernels.ops._arrays import F
from fastattn.kernels.ops.layer_norm import checked


def layer_norm_backward(
    grad: NDArray[F],
    x: NDArray[F],
    weight: NDArray[F] | None = None,
    bias: NDArray[F] | None = None,
    *,
    residual: NDArray[F] | None = None,
    eps: float = 1e-5,
) -> tuple[NDArray[F], NDArray[F] | None, NDArray[F] | None]:
    """Gradients of layer normalisation over the trailing axes that `weight` has (the last one without a weight).

    z = x + residual;  r = 1 / sqrt(var(z) + eps);  y = (z - mean(z)) r;  g = grad weight;
    grad_x = r (g - mean(g) - y mean(g y));  grad_weight = sum(grad y), grad_bias = sum(grad), over the rows.

    Parameters
    ----------
    grad : float32, float64 or float16, (..., C), any strides
        Gradient of the result.
    x : array of the shape and dtype of `grad`
        The rows that were normalised.
    weight : array of the dtype of `x`, its shape the trailing axes of `x`, optional
        Factor; 1 without it.
    bias : array of the dtype of `x`, shaped like `weight`, optional
        Summand; only its shape is read.
    residual : array of the shape and dtype of `x`, optional
        What was added to `x`.
    eps : float
        Added to the variance, so in the unit of x squared.

    Returns
    -------
    grad_x : array of the shape and dtype of `x`
        Gradient of `x`.  That of `residual` is equal: take the same array.
    grad_weight, grad_bias : array of the shape of `weight` and `bias`, or None
        None for an argument that was not given.

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
    Mean and variance are computed again from `x`.  The sums over the rows are taken in blocks of 64 rows, which are added in order:
    the same bits for any number of threads.  Traffic (3, with a residual 4) * size elements.

    References
    ----------
    Ba, Kiros & Hinton 2016, arXiv:1607.06450, equation 4, differentiated.  Definition: fastattn.reference.layer_norm_backward.
    """
    x, weight, bias, residual, eps, axes = checked(x, weight, bias, residual, eps)
    grad, x = with_grad(grad, "x", x)
    of_x, of_weight, of_bias = norm_backward(grad, x, weight, residual, axes, eps, False)
    return of_x, None if weight is None else of_weight, None if bias is None else of_bias


__all__ = ["layer_norm_backward"]
