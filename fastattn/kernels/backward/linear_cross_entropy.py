"""Cross-entropy of a product with the vocabulary, and its gradients: the scores of a few rows are held at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.backward import _products_bfloat16 as low
from fastattn.kernels.backward._cross_entropy import Targets, cross_entropy_backward_kernel, cross_entropy_kernel
from fastattn.kernels.backward._products import bias_gradient, pack_backward, pack_forward, product, weight_gradient
from fastattn.kernels.backward._targets import (
    checked_weight,
    class_ids,
    divisor_of,
    reduced,
    row_scale,
    smoothing_of,
    targets_of,
)
from fastattn.kernels.ops._arrays import Array, F, finish, float_array, same_dtype, workers_for, working
from fastattn.kernels.products.float32 import SUM_BLOCK
from fastattn.runtime.memory import aligned_empty, check_large

# Elements of the scores that are held, 32 MB in float32.
_ROOM = 2**23


class Problem(NamedTuple):
    """What was given, checked, as kernels take it.

    x (N, C) are the rows that count, at `places` of all; `bias` is None where there is none.  `precision` of the three products,
    "float32" for those in the dtype of the arrays.
    """

    x: Array
    places: Array
    weight: Array
    bias: Array | None
    targets: Targets
    # Of the arrays as they came.
    batch: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    divisor: float
    precision: str = "float32"


def block_rows(classes: int) -> int:
    """Return the rows whose scores are held at once: whole chains of the sums over rows, so that blocks change no bit of them."""
    return max(1, _ROOM // (classes * SUM_BLOCK)) * SUM_BLOCK


def _problem(
    input: Any, linear_weight: Any, target: Any, linear_bias: Any, weight: Any, ignore_index: int, reduction: str, smoothing: float
) -> Problem:
    x, matrix = float_array("input", input), float_array("linear_weight", linear_weight)
    bias = None if linear_bias is None else float_array("linear_bias", linear_bias)
    same_dtype("input", x, linear_weight=matrix, linear_bias=bias)
    if matrix.ndim != 2 or matrix.shape[0] == 0:
        raise ValueError(f"linear_weight must have shape (V, C) with a class at least, got {matrix.shape}")
    classes, width = matrix.shape
    if x.ndim == 0 or x.shape[-1] != width:
        raise ValueError(f"input must have C = {width} as its last axis for a linear_weight of shape {matrix.shape}, got {x.shape}")
    if bias is not None and bias.shape != (classes,):
        raise ValueError(f"linear_bias must have shape ({classes},), got {bias.shape}")
    batch = x.shape[:-1]
    ids = class_ids(np.asarray(target), batch, classes, ignore_index)
    places = np.flatnonzero(ids >= 0)
    rows = working(x).reshape(len(ids), width)
    if len(places) < len(ids):
        rows, ids = rows[places], ids[places]
    targets = targets_of(ids, (len(ids), classes), checked_weight(weight, classes, x), x, -1, smoothing)
    divisor = divisor_of(targets, len(ids), reduction)
    return Problem(
        rows, places, working(matrix), None if bias is None else working(bias), targets, batch, x.shape, x.dtype, divisor
    )


def _check_room(given: Problem, passes: int) -> None:
    """Raise a MemoryError where so many arrays of the weight's size, and the scores of a block, are more than what is free."""
    scores = min(len(given.x), block_rows(len(given.weight))) * len(given.weight) * given.x.itemsize
    size = passes * given.weight.nbytes + scores
    check_large(size, "scores and temporary arrays for a linear_weight of shape {}", given.weight.shape)


def _blocks(given: Problem) -> Iterator[tuple[slice, Array, Targets]]:
    """Yield the scores of each block of rows, in the same memory, and the targets of the block."""
    rows, classes = len(given.x), len(given.weight)
    step = min(rows, block_rows(classes))
    if not rows:
        return
    packed = (low.pack_rows if given.precision == "bfloat16" else pack_forward)(given.weight)
    room = aligned_empty(step * classes, given.x.dtype)
    for start in range(0, rows, step):
        block = slice(start, min(rows, start + step))
        count = block.stop - start
        scores = room[: count * classes].reshape(count, classes)
        product(given.x[block], packed, given.bias, scores, precision=given.precision)
        yield block, scores, given.targets._replace(ids=given.targets.ids[block])


def _of_all(losses: Array, given: Problem) -> Array:
    """Return the losses of all rows, 0 for those that do not count."""
    out = np.zeros(int(np.prod(given.batch, dtype=np.int64)), losses.dtype)
    out[given.places] = losses
    return out


def _forward(given: Problem, reduction: str) -> Array:
    _check_room(given, 1)
    losses = np.empty(len(given.x), given.x.dtype)
    for block, scores, targets in _blocks(given):
        cross_entropy_kernel(scores, *targets, losses[block], workers_for(scores.nbytes / 4e3, len(scores)))
    return reduced(_of_all(losses, given), given.batch, given.divisor, reduction, given.dtype.newbyteorder("="))


def _backward(given: Problem, scale: Array) -> tuple[Array, tuple[Array, Array, Array | None]]:
    """Return the losses of the rows that count, and the gradients for `scale` (N,), which multiplies those of these losses."""
    # The weight twice in panels, and its gradient.
    _check_room(given, 3)
    losses = np.empty(len(given.x), given.x.dtype)
    grad_x, grad_weight = np.empty_like(given.x), np.empty_like(given.weight)
    grad_bias = None if given.bias is None else np.empty_like(given.bias)
    is_low = given.precision == "bfloat16"
    packed = (low.pack_columns if is_low else pack_backward)(given.weight) if len(given.x) else given.weight
    for block, scores, targets in _blocks(given):
        workers = workers_for(scores.nbytes / 3e3, len(scores))
        cross_entropy_backward_kernel(scores, *targets, scale[block], losses[block], scores, workers)
        product(scores, packed, None, grad_x[block], precision=given.precision)
        if is_low:
            low.weight_gradient(scores, low.pack_columns(given.x[block]), grad_weight, block.start > 0)
        else:
            weight_gradient(scores, given.x[block], grad_weight, block.start > 0)
        if grad_bias is not None:
            bias_gradient(scores, grad_bias, block.start > 0)
    if not len(given.x):
        for each in (grad_weight, *([] if grad_bias is None else [grad_bias])):
            each[...] = 0
    if len(given.x) * given.shape[-1] == np.prod(given.shape, dtype=np.int64):
        grad_input = grad_x.reshape(given.shape)
    else:
        grad_input = np.zeros((int(np.prod(given.batch, dtype=np.int64)), given.shape[-1]), grad_x.dtype)
        grad_input[given.places] = grad_x
        grad_input = grad_input.reshape(given.shape)
    return losses, (
        finish(grad_input, None, given.dtype),
        finish(grad_weight, None, given.dtype),
        None if grad_bias is None else finish(grad_bias, None, given.dtype),
    )


def loss_and_gradients(
    input: Array,
    linear_weight: Array,
    target: Array,
    *,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    precision: str = "float32",
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    """Return `linear_cross_entropy` and its gradients for grad 1, of three products: the scores are computed once."""
    smoothing = smoothing_of(label_smoothing, reduction)
    given = _problem(input, linear_weight, target, linear_bias, weight, ignore_index, reduction, smoothing)
    given = given._replace(precision=precision)
    one = np.ones(given.batch if reduction == "none" else (), given.dtype)
    scale = row_scale(one, given.batch, given.divisor, reduction, np.asarray(input), given.x)[given.places]
    losses, gradients = _backward(given, scale)
    return reduced(_of_all(losses, given), given.batch, given.divisor, reduction, given.dtype.newbyteorder("=")), gradients


def linear_cross_entropy(
    input: NDArray[F],
    linear_weight: NDArray[F],
    target: NDArray[Any],
    *,
    linear_bias: NDArray[F] | None = None,
    weight: NDArray[F] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> NDArray[F]:
    """Cross-entropy of a product: cross_entropy(input linear_weight^T + linear_bias, target), the scores a few rows at a time.

    Parameters
    ----------
    input : float32, float64 or float16, (..., C), any strides
        Hidden states.
    linear_weight : array of the dtype of `input`, (V, C)
        One row a class, such as the embeddings of a vocabulary.
    target : integers, (...)
        Classes.
    linear_bias : array of the dtype of `input`, (V,), optional
        Added to the scores.
    weight : array of the dtype of `input`, (V,), optional
        Weights of the classes.
    ignore_index : int
        Class of the rows that have no loss and cost no work.
    reduction : {"none", "mean", "sum"}
        As of `cross_entropy`.
    label_smoothing : float
        As of `cross_entropy`.

    Returns
    -------
    array of the dtype of `input`, (...), or () for a mean or a sum

    Raises
    ------
    TypeError
        `input` is not a float array, another array has another dtype, or `target` has no integers.
    ValueError
        The shapes disagree, or a class or an option is out of range.
    MemoryError
        The scores of a block, with temporary arrays, are larger than the memory that is free.

    Notes
    -----
    Memory beside the arguments: the packed weight, and the scores of some hundred rows, about 32 MB in float32.  Work 2 * N * V * C
    flop for the N rows that are not ignored.  The same bits for any number of threads.

    References
    ----------
    torch.nn.functional.linear_cross_entropy, its documentation; Hsu et al. 2024, arXiv:2410.10989, section 3.3, for scores in
    blocks of rows.  Definition: fastattn.reference.linear_cross_entropy.
    """
    smoothing = smoothing_of(label_smoothing, reduction)
    return _forward(_problem(input, linear_weight, target, linear_bias, weight, ignore_index, reduction, smoothing), reduction)


def linear_cross_entropy_backward(
    grad: NDArray[F],
    input: NDArray[F],
    linear_weight: NDArray[F],
    target: NDArray[Any],
    *,
    linear_bias: NDArray[F] | None = None,
    weight: NDArray[F] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[NDArray[F], NDArray[F], NDArray[F] | None]:
    """Gradients of `linear_cross_entropy`: with s that of the scores, s linear_weight, s^T input and the column sums of s.

    Parameters
    ----------
    grad : array of the dtype of `input`, the shape of the loss
        Gradient of the loss.
    input : float32, float64 or float16, (..., C), any strides
        Hidden states.
    linear_weight : array of the dtype of `input`, (V, C)
        One row a class.
    target : integers, (...)
        Classes.
    linear_bias : array of the dtype of `input`, (V,), optional
        Added to the scores.
    weight : array of the dtype of `input`, (V,), optional
        Weights of the classes.
    ignore_index : int
        Class of the rows whose gradient is 0 and costs no work.
    reduction : {"none", "mean", "sum"}
        As of the loss.
    label_smoothing : float
        As of the loss.

    Returns
    -------
    grad_input : array of the dtype of `input`, (..., C)
    grad_linear_weight : array of the dtype of `input`, (V, C)
    grad_linear_bias : array of the dtype of `input`, (V,), or None without a bias

    Raises
    ------
    TypeError
        `input` is not a float array, another array has another dtype, or `target` has no integers.
    ValueError
        The shapes disagree, or a class or an option is out of range.
    MemoryError
        The gradients, with temporary arrays, are larger than the memory that is free.

    Notes
    -----
    Nothing of the loss need be kept: the scores are computed again, in blocks of rows.  Memory beside the arguments and the
    gradients: the weight packed twice, and the scores of a block, about 32 MB in float32.  Work 6 * N * V * C flop.  The same bits
    for any number of threads.

    References
    ----------
    torch.nn.functional.linear_cross_entropy, whose gradients autograd computes; Hsu et al. 2024, arXiv:2410.10989, section 3.3.
    Definition: fastattn.reference.linear_cross_entropy_backward.
    """
    smoothing = smoothing_of(label_smoothing, reduction)
    given = _problem(input, linear_weight, target, linear_bias, weight, ignore_index, reduction, smoothing)
    scale = row_scale(grad, given.batch, given.divisor, reduction, np.asarray(input), given.x)[given.places]
    return _backward(given, scale)[1]


__all__ = ["linear_cross_entropy", "linear_cross_entropy_backward"]
