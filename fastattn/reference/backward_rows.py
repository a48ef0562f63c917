"""Backward of the ops on rows, and of a table's look-up: the gradient of each input, given that of the result."""

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.reference.ops import rotary_embedding, widened

Array: TypeAlias = NDArray[Any]


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def softmax_backward(grad: Array, out: Array, axis: int = -1) -> Array:
    """Gradient of softmax, ``out (grad - sum(grad out))``.

    Parameters
    ----------
    grad : ndarray of float16, float32 or float64, any shape
        Gradient of the result.
    out : ndarray, shape of `grad`
        Result of softmax.
    axis : int
        The axis that sums to 1.

    Returns
    -------
    ndarray
        Gradient of softmax's input: shape and dtype of `grad`.

    References
    ----------
    Goodfellow, Bengio and Courville 2016, Deep Learning, section 6.5.6 (products with the Jacobian); softmax's Jacobian is
    ``diag(out) - out out^T``.
    """
    g, y = widened(grad), widened(out)
    return np.asarray(y * (g - np.sum(g * y, axis=axis, keepdims=True)), dtype=grad.dtype)


@np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore")
def layer_norm_backward(
    grad: Array,
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    residual: Array | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Array | None, Array | None]:
    """Gradients of layer norm, ``(g - mean g - y mean(g y)) / sqrt(var z + eps)`` with ``g = grad weight``.

    ``z = x + residual``, and ``y = (z - mean z) / sqrt(var z + eps)`` is the result without weight and bias.

    Parameters
    ----------
    grad : ndarray of float16, float32 or float64, (..., C)
        Gradient of the result.
    x : ndarray, shape of `grad`
        The rows that were normalised.
    weight : ndarray, (C,) or several trailing axes of `x`, optional
        The gain.
    bias : ndarray, shape of `weight`, optional
        The shift: only whether it is there counts.
    residual : ndarray, shape of `x`, optional
        What was added to `x` first.
    eps : float
        Added to the variance.

    Returns
    -------
    grad_x : ndarray
        Shape and dtype of `x`; that of the residual is the same array.
    grad_weight : ndarray or None
        ``sum(grad y)`` over the rows, shape of `weight`.
    grad_bias : ndarray or None
        ``sum(grad)`` over the rows, shape of `bias`.

    References
    ----------
    Ba, Kiros and Hinton 2016, arXiv:1607.06450, section 3, equation 3, differentiated.
    """
    z = widened(x) if residual is None else widened(x) + widened(residual)  # (..., C)
    scaled_by = weight if weight is not None else bias
    axes = tuple(range(-1 if scaled_by is None else -scaled_by.ndim, 0))
    centred = z - _mean(z, axes)  # (..., C)
    factor = 1 / np.sqrt(_mean(centred * centred, axes) + eps)  # (..., 1)
    y = centred * factor
    g = widened(grad) if weight is None else widened(grad) * widened(weight)
    grad_x = (g - _mean(g, axes) - y * _mean(g * y, axes)) * factor
    rows = tuple(range(x.ndim - len(axes)))
    return (
        grad_x.astype(x.dtype),
        None if weight is None else np.sum(widened(grad) * y, axis=rows).astype(x.dtype),
        None if bias is None else np.sum(widened(grad), axis=rows).astype(x.dtype),
    )


@np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore")
def rms_norm_backward(
    grad: Array, x: Array, weight: Array | None = None, *, residual: Array | None = None, eps: float | None = None
) -> tuple[Array, Array | None]:
    """Gradients of RMS norm, ``(g - y mean(g y)) / sqrt(mean z^2 + eps)`` with ``g = grad weight``.

    ``z = x + residual``, and ``y = z / sqrt(mean z^2 + eps)`` is the result without the weight.

    Parameters
    ----------
    grad : ndarray of float16, float32 or float64, (..., C)
        Gradient of the result.
    x : ndarray, shape of `grad`
        The rows that were normalised.
    weight : ndarray, (C,) or several trailing axes of `x`, optional
        The gain.
    residual : ndarray, shape of `x`, optional
        What was added to `x` first.
    eps : float, optional
        Added to the mean of the squares; without it that of the dtype that is computed in.

    Returns
    -------
    grad_x : ndarray
        Shape and dtype of `x`; that of the residual is the same array.
    grad_weight : ndarray or None
        ``sum(grad y)`` over the rows, shape of `weight`.

    References
    ----------
    Zhang and Sennrich 2019, arXiv:1910.07467, section 3, equation 4, differentiated.
    """
    z = widened(x) if residual is None else widened(x) + widened(residual)  # (..., C)
    axes = tuple(range(-1 if weight is None else -weight.ndim, 0))
    factor = 1 / np.sqrt(_mean(z * z, axes) + (float(np.finfo(z.dtype).eps) if eps is None else eps))  # (..., 1)
    y = z * factor
    g = widened(grad) if weight is None else widened(grad) * widened(weight)
    grad_x = (g - y * _mean(g * y, axes)) * factor
    rows = tuple(range(x.ndim - len(axes)))
    return grad_x.astype(x.dtype), None if weight is None else np.sum(widened(grad) * y, axis=rows).astype(x.dtype)


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def rotary_embedding_backward(grad: Array, cos: Array, sin: Array) -> Array:
    """Gradient of rotary positions: each pair of channels is turned back.

    Parameters
    ----------
    grad : ndarray of float16, float32 or float64, (..., T, D)
        Gradient of the result; D is even.
    cos, sin : ndarray, (T, D / 2)
        Tables of the angles, as `rotary_embedding` has them.

    Returns
    -------
    ndarray, (..., T, D)
        Gradient of the queries or keys, dtype of `grad`.

    References
    ----------
    Su et al. 2021, arXiv:2104.09864, section 3.4.2: the matrix of a turn is orthogonal, so its transpose turns back.
    """
    return rotary_embedding(grad, cos, -sin)


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def embedding_backward(grad: Array, ids: Any, num_embeddings: int) -> Array:
    """Gradient of a table whose rows were looked up, ``sum of grad_t over the places t with ids_t = v`` for row v.

    Parameters
    ----------
    grad : ndarray of float16, float32 or float64, (..., C)
        Gradient of the rows that were looked up.
    ids : ndarray of int, (...)
        Numbers of these rows.
    num_embeddings : int
        Rows V of the table.

    Returns
    -------
    ndarray, (V, C)
        Dtype of `grad`; zeros for a row that does not occur.

    References
    ----------
    torch.nn.functional.embedding, its documentation.
    """
    places = np.asarray(ids, np.int64).reshape(-1)
    wide = widened(grad).reshape(len(places), grad.shape[-1])
    total = np.zeros((num_embeddings, grad.shape[-1]), wide.dtype)
    np.add.at(total, places, wide)
    return total.astype(grad.dtype)


def embedding_backward_rows(grad: Array, ids: Any, num_embeddings: int) -> tuple[Array, Array]:
    """Rows of `embedding_backward` that occur.

    Parameters
    ----------
    grad : ndarray of float16, float32 or float64, (..., C)
        Gradient of the rows that were looked up.
    ids : ndarray of int, (...)
        Numbers of these rows.
    num_embeddings : int
        Rows V of the table.

    Returns
    -------
    rows : ndarray of int64, (R,)
        The ids that occur, each once, rising.
    values : ndarray, (R, C)
        Their gradients, dtype of `grad`; that of all other rows is 0.

    References
    ----------
    torch.nn.functional.embedding, its documentation of `sparse`.
    """
    rows = np.unique(np.asarray(ids, np.int64))
    return rows, embedding_backward(grad, ids, num_embeddings)[rows]


def _mean(x: Array, axes: tuple[int, ...]) -> Array:
    count = max(1, math.prod(x.shape[axis] for axis in axes))
    return np.asarray(np.sum(x, axis=axes, keepdims=True) / count)
