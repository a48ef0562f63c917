"""Cross-entropy of classes or of probabilities, and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.backward._cross_entropy import Targets, cross_entropy_backward_kernel, cross_entropy_kernel
from fastattn.kernels.backward._targets import checked_weight, divisor_of, reduced, row_scale, smoothing_of, targets_of
from fastattn.kernels.ops._arrays import Array, F, absent, finish, float_array, kernel_out, workers_for, working


def _rows(input: Any) -> tuple[Array, Array]:
    """Return the scores of the classes, checked, and with the classes last."""
    x = float_array("input", input)
    if x.ndim == 0 or x.shape[min(1, x.ndim - 1)] == 0:
        raise ValueError(f"input must have shape (V,) or (N, V, ...) with a class at least, got {x.shape}")
    return x, x if x.ndim < 3 else np.moveaxis(x, 1, -1)


def _targets(x: Array, rows: Array, target: Any, weight: Any, ignore_index: int, smoothing: float) -> Targets:
    given = np.asarray(target)
    if given.dtype.kind == "f" and given.ndim == x.ndim > 2:
        given = np.moveaxis(given, 1, -1)
    return targets_of(given, rows.shape, checked_weight(weight, rows.shape[-1], x), x, ignore_index, smoothing)


def cross_entropy(
    input: NDArray[F],
    target: NDArray[Any],
    weight: NDArray[F] | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> NDArray[F]:
    """Cross-entropy: loss = -sum_c q_c log softmax(input)_c, q_c = weight_c ((1 - e) target_c + e / V), e = label_smoothing.

    For a class y in place of probabilities, (1 - e) weight_y is the class's own part of q.

    Parameters
    ----------
    input : float32, float64 or float16, (V,), (N, V) or (N, V, ...), any strides
        Scores of the classes, whose axis is the second one of several.
    target : integers, the shape of `input` without V, or array of the dtype and shape of `input`
        Classes; or probabilities of the classes.
    weight : array of the dtype of `input`, (V,), optional
        Weights of the classes.
    ignore_index : int
        Class of the rows that have no loss and are not read.
    reduction : {"none", "mean", "sum"}
        "mean": the sum over the weights of the classes that are not ignored; over the number of rows for probabilities.
    label_smoothing : float
        What all classes get in equal parts, 0 to 1.

    Returns
    -------
    array of the dtype of `input`, the shape of `input` without V, or () for a mean or a sum

    Raises
    ------
    TypeError
        `input` is not a float array, or another array has another dtype.
    ValueError
        The shapes disagree, a class or an option is out of range, or `ignore_index` is a class with probabilities.
    MemoryError
        A copy of `input` is larger than the memory that is free.

    Notes
    -----
    The mean of no row is NaN, as in torch.  A row's sums are in the dtype of `input` (float16 in float32), those over rows in
    float64: the same bits for any number of threads.  Traffic 2 * size elements while a row fits the cache.

    References
    ----------
    torch.nn.functional.cross_entropy, its documentation; Szegedy et al. 2016, arXiv:1512.00567, section 7, for the smoothing.
    Definition: fastattn.reference.cross_entropy.
    """
    smoothing = smoothing_of(label_smoothing, reduction)
    x, rows = _rows(input)
    targets = _targets(x, rows, target, weight, ignore_index, smoothing)
    *batch, classes = rows.shape
    work = working(rows).reshape(-1, classes)
    losses = np.empty(len(work), work.dtype)
    if losses.size:
        cross_entropy_kernel(work, *targets, losses, workers_for(work.nbytes / 4e3, len(work)))
    return reduced(losses, tuple(batch), divisor_of(targets, len(work), reduction), reduction, x.dtype.newbyteorder("="))


def cross_entropy_backward(
    grad: NDArray[F],
    input: NDArray[F],
    target: NDArray[Any],
    weight: NDArray[F] | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> NDArray[F]:
    """Gradient of `cross_entropy`: grad_input_c = grad (softmax(input)_c sum_k q_k - q_c), over the mean's divisor.

    Parameters
    ----------
    grad : array of the dtype of `input`, the shape of the loss
        Gradient of the loss.
    input : float32, float64 or float16, (V,), (N, V) or (N, V, ...), any strides
        Scores of the classes, whose axis is the second one of several.
    target : integers, the shape of `input` without V, or array of the dtype and shape of `input`
        Classes; or probabilities of the classes.
    weight : array of the dtype of `input`, (V,), optional
        Weights of the classes.
    ignore_index : int
        Class of the rows whose gradient is 0.
    reduction : {"none", "mean", "sum"}
        As of the loss.
    label_smoothing : float
        What all classes get in equal parts, 0 to 1.

    Returns
    -------
    array of the shape and dtype of `input`
        The target and the weight have no gradient.

    Raises
    ------
    TypeError
        `input` is not a float array, or another array has another dtype.
    ValueError
        The shapes disagree, a class or an option is out of range, or `ignore_index` is a class with probabilities.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    The softmax is computed again, so nothing of the loss need be kept.  The same bits for any number of threads.

    References
    ----------
    torch.nn.functional.cross_entropy, whose gradients autograd computes.  Definition: fastattn.reference.cross_entropy_backward.
    """
    smoothing = smoothing_of(label_smoothing, reduction)
    x, rows = _rows(input)
    targets = _targets(x, rows, target, weight, ignore_index, smoothing)
    *batch, classes = rows.shape
    work = working(rows).reshape(-1, classes)
    scale = row_scale(grad, tuple(batch), divisor_of(targets, len(work), reduction), reduction, x, work)
    result = kernel_out(None, work.shape, work)
    if work.size:
        workers = workers_for(work.nbytes / 3e3, len(work))
        cross_entropy_backward_kernel(work, *targets, scale, absent(work.dtype), result, workers)
    shaped = result.reshape(rows.shape)
    return finish(shaped if x.ndim < 3 else np.moveaxis(shaped, -1, 1), None, x.dtype)


__all__ = ["cross_entropy", "cross_entropy_backward"]
