"""Differentiable NumPy functions, for the small arrays of a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.training.graph import Operand, Tensor, apply, constant, folded

__all__ = [
    "absolute",
    "concatenate",
    "exp",
    "log",
    "log_sigmoid",
    "log_sum_exp",
    "maximum",
    "mean",
    "normalize",
    "relu",
    "sigmoid",
    "square",
    "square_root",
    "stack",
    "sum_of",
    "tanh",
    "where",
]

Array = NDArray[Any]
Axis = int | tuple[int, ...] | None

# Least length by which `normalize` divides, as in torch.nn.functional.normalize.
_LEAST_NORM = 1e-12


def sum_of(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Sum over axes."""
    out = np.asarray(x.data.sum(axis=axis, keepdims=keepdims))
    return apply(out, [x], lambda grad: [np.broadcast_to(_restored(grad, axis, keepdims), x.shape)])


def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Mean over axes."""
    out = np.asarray(x.data.mean(axis=axis, keepdims=keepdims))
    share = x.data.dtype.type(out.size / max(1, x.data.size))
    return apply(out, [x], lambda grad: [np.broadcast_to(_restored(grad * share, axis, keepdims), x.shape)])


def _restored(grad: Array, axis: Axis, keepdims: bool) -> Array:
    """Return a gradient with the axes of length 1 over which a sum was taken."""
    return grad if axis is None or keepdims else np.expand_dims(grad, axis)


def exp(x: Tensor) -> Tensor:
    """Exponential."""
    out = np.exp(x.data)
    return apply(out, [x], lambda grad: [grad * out])


def log(x: Tensor) -> Tensor:
    """Natural logarithm."""
    return apply(np.log(x.data), [x], lambda grad: [grad / x.data])


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    out = np.tanh(x.data)
    return apply(out, [x], lambda grad: [grad * (1 - out * out)])


def square(x: Tensor) -> Tensor:
    """Square."""
    return apply(x.data * x.data, [x], lambda grad: [2 * grad * x.data])


def square_root(x: Tensor) -> Tensor:
    """Square root; its gradient at 0 is 0, where torch has infinity."""
    out = np.sqrt(x.data)
    return apply(out, [x], lambda grad: [np.divide(grad, 2 * out, out=np.zeros_like(grad), where=out > 0)])


def absolute(x: Tensor) -> Tensor:
    """Absolute value."""
    return apply(np.abs(x.data), [x], lambda grad: [grad * np.sign(x.data)])


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return apply(np.maximum(x.data, 0), [x], lambda grad: [grad * (x.data > 0)])


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    out = np.exp(_log_sigmoid(x.data))
    return apply(out, [x], lambda grad: [grad * out * (1 - out)])


def log_sigmoid(x: Tensor) -> Tensor:
    """-log(1 + exp(-x)), which does not overflow."""
    out = _log_sigmoid(x.data)
    return apply(out, [x], lambda grad: [grad * (1 - np.exp(out))])


def _log_sigmoid(x: Array) -> Array:
    return np.asarray(np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))))


def maximum(x: Tensor, other: Operand) -> Tensor:
    """The greater of two elements; equal ones share the gradient, as in torch."""
    b = constant(other, x)
    out = np.maximum(x.data, b.data)

    def pull(grad: Array) -> list[Array]:
        share = (x.data > b.data) + grad.dtype.type(0.5) * (x.data == b.data)
        return [folded(grad * share, x.shape), folded(grad * (1 - share), b.shape)]

    return apply(out, [x, b], pull)


def where(condition: Array, x: Tensor, other: Operand) -> Tensor:
    """`x` where the condition holds, else `other`."""
    b = constant(other, x)

    def pull(grad: Array) -> list[Array]:
        zero = np.zeros_like(grad)
        return [folded(np.where(condition, grad, zero), x.shape), folded(np.where(condition, zero, grad), b.shape)]

    return apply(np.where(condition, x.data, b.data), [x, b], pull)


def log_sum_exp(x: Tensor, axis: int = -1) -> Tensor:
    """log(sum(exp(x))) over an axis, which does not overflow; -inf for a row of -inf, whose gradient is 0."""
    top = x.data.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    exps = np.exp(x.data - top)
    total = exps.sum(axis=axis, keepdims=True)
    with np.errstate(divide="ignore"):
        out = np.log(total) + top

    def pull(grad: Array) -> list[Array]:
        shares = np.divide(exps, total, out=np.zeros_like(exps), where=total > 0)
        return [np.expand_dims(grad, axis) * shares]

    return apply(np.squeeze(out, axis), [x], pull)


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors along an axis."""
    ends = np.cumsum([each.shape[axis] for each in tensors])[:-1]
    data = np.concatenate([each.data for each in tensors], axis)
    return apply(data, tensors, lambda grad: np.split(grad, ends, axis))


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors along a new axis."""
    data = np.stack([each.data for each in tensors], axis)
    return apply(data, tensors, lambda grad: [np.take(grad, i, axis) for i in range(len(tensors))])


def normalize(x: Tensor) -> Tensor:
    """Rows divided by their length, or by 1e-12 if that is greater: torch.nn.functional.normalize."""
    length = np.sqrt((x.data * x.data).sum(axis=-1, keepdims=True))
    divisor = np.maximum(length, x.data.dtype.type(_LEAST_NORM))
    out = x.data / divisor

    def pull(grad: Array) -> list[Array]:
        along = np.where(length >= _LEAST_NORM, (grad * out).sum(axis=-1, keepdims=True), 0)
        return [(grad - out * along) / divisor]

    return apply(out, [x], pull)
