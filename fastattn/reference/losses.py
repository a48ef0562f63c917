"""Definitions of the losses over classes and of their gradients in NumPy."""

from typing import Any

import numpy as np

from fastattn.reference.ops import Array, linear, widened


def _log_softmax(x: Array) -> Array:
    """Return ``x - log sum(exp(x))`` along the last axis."""
    shifted = x - np.max(x, axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True)))


def _target(target: Array, x: Array, weight: Array | None, ignore_index: int, smoothing: float) -> tuple[Array, Array, Any]:
    """Return the weighted target of each class, which rows count, and the sum of their weights."""
    classes = x.shape[-1]
    w = np.ones(classes, x.dtype) if weight is None else widened(weight)
    if target.dtype.kind == "f":
        q = w * (widened(target) * x.dtype.type(1 - smoothing) + x.dtype.type(smoothing / classes))
        return q, np.ones(x.shape[:-1], bool), x.size // classes
    counts = target != ignore_index
    own = np.eye(classes, dtype=x.dtype)[np.where(counts, target, 0)]
    q = w * (own * x.dtype.type(1 - smoothing) + x.dtype.type(smoothing / classes))
    return q, counts, np.sum(w[target[counts]])


def _classes_last(x: Array) -> Array:
    return np.moveaxis(x, 1, -1) if x.ndim > 2 else x


@np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore")
def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    """Cross-entropy, ``-sum_c q_c log softmax(input)_c`` with ``q_c = weight_c ((1 - e) target_c + e / V)``.

    A class in place of probabilities is the probability 1 for it.

    Parameters
    ----------
    input : ndarray of float16, float32 or float64, (V,), (N, V) or (N, V, ...)
        Scores of the classes.
    target : ndarray
        Classes, integers of the shape of `input` without V; or probabilities of the shape of `input`.
    weight : ndarray, (V,), optional
        Weights of the classes.
    ignore_index : int
        Class of the rows without a loss.
    reduction : {"none", "mean", "sum"}
        A mean is over the weights of the rows' classes; over the number of rows for probabilities.
    label_smoothing : float
        e, what all classes get in equal parts.

    Returns
    -------
    ndarray
        Dtype of `input`; the shape of `input` without V, or () for a mean or a sum.

    References
    ----------
    torch.nn.functional.cross_entropy, its documentation; Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    x = _classes_last(widened(input))  # (..., V)
    q, counts, divisor = _target(
        _classes_last(target) if target.ndim == input.ndim else target, x, weight, ignore_index, label_smoothing
    )
    terms = np.where(q == 0, 0, q * _log_softmax(x)) if target.dtype.kind != "f" else q * _log_softmax(x)  # (..., V)
    losses = np.where(counts, -np.sum(terms, axis=-1), 0)
    if reduction == "none":
        return np.asarray(losses, input.dtype)
    total = np.sum(losses)
    return np.asarray(total / divisor if reduction == "mean" else total, input.dtype)


@np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore")
def cross_entropy_backward(
    grad: Array,
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    """Gradient of the scores, ``grad (softmax(input)_c sum(q) - q_c)`` with q of `cross_entropy`, over the divisor of a mean.

    Parameters
    ----------
    grad : ndarray
        Gradient of the loss.
    input : ndarray of float16, float32 or float64, (V,), (N, V) or (N, V, ...)
        Scores of the classes.
    target : ndarray
        Classes, integers of the shape of `input` without V; or probabilities of the shape of `input`.
    weight : ndarray, (V,), optional
        Weights of the classes.
    ignore_index : int
        Class of the rows whose gradient is 0.
    reduction : {"none", "mean", "sum"}
        As of the loss.
    label_smoothing : float
        e, what all classes get in equal parts.

    Returns
    -------
    ndarray
        Shape and dtype of `input`.
    """
    x = _classes_last(widened(input))  # (..., V)
    q, counts, divisor = _target(
        _classes_last(target) if target.ndim == input.ndim else target, x, weight, ignore_index, label_smoothing
    )
    scale = np.broadcast_to(widened(grad) / (divisor if reduction == "mean" else 1), counts.shape)  # (...)
    gradient = np.exp(_log_softmax(x)) * np.sum(q, axis=-1, keepdims=True) - q  # (..., V)
    result = np.where(counts[..., None], scale[..., None] * gradient, 0)
    return np.asarray(np.moveaxis(result, -1, 1) if input.ndim > 2 else result, input.dtype)


def linear_cross_entropy(
    input: Array,
    linear_weight: Array,
    target: Array,
    *,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    """Cross-entropy of a product, ``cross_entropy(linear(input, linear_weight, linear_bias), target, ...)``.

    Parameters
    ----------
    input : ndarray of float16, float32 or float64, (..., C)
        The rows.
    linear_weight : ndarray, (V, C)
        One row a class.
    target : ndarray of integers, (...)
        Classes.
    linear_bias : ndarray, (V,), optional
        Added to the scores.
    weight : ndarray, (V,), optional
        Weights of the classes.
    ignore_index : int
        Class of the rows without a loss.
    reduction : {"none", "mean", "sum"}
        As of `cross_entropy`.
    label_smoothing : float
        As of `cross_entropy`.

    Returns
    -------
    ndarray
        Dtype of `input`; (...), or () for a mean or a sum.
    """
    scores = _scores(input, linear_weight, linear_bias)
    w = None if weight is None else widened(weight)
    losses = cross_entropy(
        scores, target.reshape(-1), w, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )
    return np.asarray(losses.reshape(target.shape) if reduction == "none" else losses, input.dtype)


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def linear_cross_entropy_backward(
    grad: Array,
    input: Array,
    linear_weight: Array,
    target: Array,
    *,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[Array, Array, Array | None]:
    """Gradients of `linear_cross_entropy`: with s that of the scores, ``s linear_weight``, ``s^T input`` and the column sums of s.

    Parameters
    ----------
    grad : ndarray
        Gradient of the loss.
    input : ndarray of float16, float32 or float64, (..., C)
        The rows.
    linear_weight : ndarray, (V, C)
        One row a class.
    target : ndarray of integers, (...)
        Classes.
    linear_bias : ndarray, (V,), optional
        Added to the scores.
    weight : ndarray, (V,), optional
        Weights of the classes.
    ignore_index : int
        Class of the rows without a loss.
    reduction : {"none", "mean", "sum"}
        As of `cross_entropy`.
    label_smoothing : float
        As of `cross_entropy`.

    Returns
    -------
    grad_input, grad_linear_weight : ndarray
        Shapes of `input` and `linear_weight`.
    grad_linear_bias : ndarray or None
        None without a bias.
    """
    rows = widened(input).reshape(-1, input.shape[-1])  # (N, C)
    scores = _scores(input, linear_weight, linear_bias)
    w = None if weight is None else widened(weight)
    given = widened(grad).reshape(-1) if reduction == "none" else widened(grad)
    s = cross_entropy_backward(
        given, scores, target.reshape(-1), w, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )  # (N, V)
    grad_input = np.asarray((s @ widened(linear_weight)).reshape(input.shape), input.dtype)
    grad_bias = None if linear_bias is None else np.asarray(np.sum(s, axis=0), input.dtype)
    return grad_input, np.asarray(s.T @ rows, input.dtype), grad_bias


def _scores(x: Array, weight: Array, bias: Array | None) -> Array:
    """Return the scores of the classes (N, V), not rounded to float16."""
    return linear(widened(x).reshape(-1, x.shape[-1]), widened(weight), None if bias is None else widened(bias))
