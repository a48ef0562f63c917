"""Gradients of RMS normalisation, with an optional residual."""

from __future__ import annotations

from numpy.typing import NDArray

from fastattn.kernels.backward._arrays import with_grad
from fastattn.kernels.backward._norms import norm_backward
from fastattn.kernels.ops._arrays import F
from fastattn.kernels.ops.rms_norm import checked


def rms_norm_backward(
    grad: NDArray[F],
    x: NDArray[F],
    weight: NDArray[F] | None = None,
    *,
    residual: NDArray[F] | None = None,
    eps: float | None = None,
) -> tuple[NDArray[F], NDArray[F] | None]:
    """Gradients of RMS normalisation over the trailing axes that `weight` has (the last one without a weight).

    z = x + residual;  r = 1 / sqrt(mean(z^2) + eps);  y = z r;  g = grad weight;
    grad_x = r (g - y mean(g y));  grad_weight = sum(grad y) over the rows.

    Parameters
    ----------
    grad : float32, float64 or float16, (..., C), any strides
        Gradient of the result.
    x : array of the shape and dtype of `grad`
        The rows that were normalised.
    weight : array of the dtype of `x`, its shape the trailing axes of `x`, optional
        Factor; 1 without it.
    residual : array of the shape and dtype of `x`, optional
        What was added to `x`.
    eps : float, optional
        Added to the mean of the squares, so in the unit of x squared; without it the eps of the dtype that is computed in.

    Returns
    -------
    grad_x : array of the shape and dtype of `x`
        Gradient of `x`.  That of `residual` is equal: take the same array.
    grad_weight : array of the shape of `weight`, or None
        None where there is no weight.

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
    The mean of the squares is computed again from `x`.  The sums over the rows are taken in blocks of 64 rows, which are added in
    order: the same bits for any number of threads.  Traffic (3, with a residual 4) * size elements.

    References
    ----------
    Zhang & Sennrich 2019, arXiv:1910.07467, equation 4, differentiated.  Definition: fastattn.reference.rms_norm_backward.
    """
    x, weight, residual, eps, axes = checked(x, weight, residual, eps)
    grad, x = with_grad(grad, "x", x)
    of_x, of_weight, _ = norm_backward(grad, x, weight, residual, axes, eps, True)
    return of_x, None if weight is None else of_weight


__all__ = ["rms_norm_backward"]
