"""Backward of the affine map in NumPy."""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.reference.ops import widened
from fastattn.reference.precision import round_bfloat16

Array: TypeAlias = NDArray[Any]


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def linear_backward(grad: Array, x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Array, Array | None]:
    """Gradients of ``x weight^T + bias``: ``grad weight``, ``grad^T x`` and the column sums of ``grad``.

    Parameters
    ----------
    grad : ndarray of float16, float32 or float64, (..., C_out)
        The gradient of the result.
    x : ndarray, (..., C_in)
        The rows.
    weight : ndarray, (C_out, C_in)
        One row per output channel.
    bias : ndarray, (C_out,), optional
        The gradients do not depend on its numbers.

    Returns
    -------
    grad_x : ndarray, (..., C_in)
        Dtype of `x`.
    grad_weight : ndarray, (C_out, C_in)
        Dtype of `weight`.
    grad_bias : ndarray, (C_out,), or None without a bias
        Dtype of `bias`.

    References
    ----------
    Rumelhart, Hinton and Williams 1986, Nature 323, 533-536, equations 5 to 7.
    """
    (n, k), m = weight.shape, math.prod(x.shape[:-1])
    rows = widened(grad).reshape(m, n)  # (M, C_out)
    grad_x = (widened(grad) @ widened(weight)).astype(x.dtype)  # (..., C_in)
    grad_weight = (rows.T @ widened(x).reshape(m, k)).astype(weight.dtype)  # (C_out, C_in)
    grad_bias = None if bias is None else rows.sum(axis=0).astype(bias.dtype)  # (C_out,)
    return grad_x, grad_weight, grad_bias


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def linear_bfloat16_backward(grad: Array, x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Array, Array | None]:
    """Gradients of `linear_bfloat16` as training computes them: ``linear_backward(round(grad), round(x), round(weight))``.

    ``round`` is `round_bfloat16`.  Only the operands of the two products are rounded: sums are those of `linear_backward`, in the
    dtype of `grad`, and the gradient of the bias is the sum of `grad` as it is.  The rounding has no gradient of its own: it is
    taken for the identity.

    Parameters
    ----------
    grad : ndarray of float16, float32 or float64, (..., C_out)
        The gradient of the result.
    x : ndarray, (..., C_in)
        The rows.
    weight : ndarray, (C_out, C_in)
        One row per output channel.
    bias : ndarray, (C_out,), optional
        The gradients do not depend on its numbers.

    Returns
    -------
    grad_x : ndarray, (..., C_in)
        Dtype of `x`.
    grad_weight : ndarray, (C_out, C_in)
        Dtype of `weight`.
    grad_bias : ndarray, (C_out,), or None without a bias
        Dtype of `bias`.

    References
    ----------
    Micikevicius et al. 2018, arXiv:1710.03740, section 3.1, for master weights; Kalamkar et al. 2019, arXiv:1905.12322, section 3.
    """
    dtype = widened(grad).dtype
    rounded = [round_bfloat16(each).astype(dtype) for each in (grad, x, weight)]
    grad_x, grad_weight, _ = linear_backward(*rounded)
    grad_bias = linear_backward(grad, x, weight, bias)[2]
    return grad_x.astype(x.dtype), grad_weight.astype(weight.dtype), grad_bias
