"""Gradient of a table whose rows were looked up: for each row, the sum of the gradients of its places."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.kernels.ops._arrays import Array, F, absent, check_room, finish, float_array, kernel_out, working
from fastattn.kernels.ops.embedding_bag import sum_bags, whole_numbers
from fastattn.runtime.memory import check_large


def sum_by_id(grad: Array, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
    """Return the ids that occur, rising, and the sum of the rows of `grad` (N, C) for each; contiguous arrays, unchecked.

    A row's places are added in their order, whatever the number of threads: they are a bag of `embedding_bag`.
    """
    order = np.argsort(ids, kind="stable")
    by_id = ids[order]
    starts = np.flatnonzero(np.concatenate([[True], by_id[1:] != by_id[:-1]])[: ids.size])
    values = kernel_out(None, (len(starts), grad.shape[1]), grad)
    sum_bags(order, np.append(starts, ids.size), grad.reshape(-1), absent(grad.dtype), False, values)
    return by_id[starts], values


def embedding_backward(grad: NDArray[F], ids: ArrayLike, num_embeddings: int) -> NDArray[F]:
    """Gradient of a table (V, C) whose rows were looked up: grad_weight_v = sum of grad_t over the places t with ids_t = v.

    Parameters
    ----------
    grad : float32, float64 or float16, (..., C), any strides
        Gradient of the rows that were looked up.
    ids : int, (...)
        Numbers of these rows.
    num_embeddings : int
        Rows V of the table.

    Returns
    -------
    array of the dtype of `grad`, (V, C)
        Zeros for a row that does not occur.

    Raises
    ------
    TypeError
        `grad` is not a float array, or `ids` or `num_embeddings` are not whole numbers.
    ValueError
        An id is not in 0 .. V - 1, a shape is wrong, or `num_embeddings` is negative.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    The places of a row are added in their order: the same bits for any number of threads.  Traffic N C elements of `grad` and 3 R C
    for the R rows that occur; all others are pages of zeros that the system has not yet handed out.  `embedding_backward_rows` has
    the R rows alone.

    References
    ----------
    torch.nn.functional.embedding, its documentation.  Definition: fastattn.reference.embedding_backward.
    """
    wide, numbers, count, dtype = _checked(grad, ids, num_embeddings)
    shape = (count, wide.shape[1])
    check_large(count * wide.shape[1] * wide.itemsize, "a gradient of shape {}", shape)
    total = np.zeros(shape, wide.dtype)
    rows, values = sum_by_id(wide, numbers)
    total[rows] = values
    return finish(total, None, dtype)


def embedding_backward_rows(
    grad: NDArray[F], ids: ArrayLike, num_embeddings: int
) -> tuple[NDArray[np.int64], NDArray[F]]:  # fmt: skip
    """Rows of `embedding_backward` that occur: grad_weight[rows] = values, 0 elsewhere.

    Parameters
    ----------
    grad : float32, float64 or float16, (..., C), any strides
        Gradient of the rows that were looked up.
    ids : int, (...)
        Numbers of these rows.
    num_embeddings : int
        Rows V of the table.

    Returns
    -------
    rows : int64, (R,)
        The ids that occur, each once, rising.
    values : array of the dtype of `grad`, (R, C)
        Their gradients.

    Raises
    ------
    TypeError
        `grad` is not a float array, or `ids` or `num_embeddings` are not whole numbers.
    ValueError
        An id is not in 0 .. V - 1, a shape is wrong, or `num_embeddings` is negative.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    The places of a row are added in their order: the same bits for any number of threads.  Traffic (N + R) C elements.

    References
    ----------
    torch.nn.functional.embedding, its documentation of `sparse`.  Definition: fastattn.reference.embedding_backward_rows.
    """
    wide, numbers, _, dtype = _checked(grad, ids, num_embeddings)
    rows, values = sum_by_id(wide, numbers)
    return rows, finish(values, None, dtype)


def _checked(grad: Any, ids: Any, num_embeddings: Any) -> tuple[Array, NDArray[np.int64], int, np.dtype[Any]]:
    """Return grad (N, C) and ids (N,) as the kernel takes them, V, and the dtype of the result."""
    grad = float_array("grad", grad)
    numbers = whole_numbers("ids", ids)
    if grad.ndim == 0 or grad.shape[:-1] != numbers.shape:
        raise ValueError(f"grad must have the shape of ids and an axis of channels, {(*numbers.shape, 'C')}, got {grad.shape}")
    if isinstance(num_embeddings, bool | np.bool_) or not isinstance(num_embeddings, int | np.integer):
        raise TypeError(f"num_embeddings must be a whole number, got {type(num_embeddings).__name__}")
    count = int(num_embeddings)
    if count < 0:
        raise ValueError(f"num_embeddings must be at least 0, got {count}")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < count:
        raise ValueError(f"ids must be in 0 .. {count - 1}, below num_embeddings, got {numbers.min()} .. {numbers.max()}")
    check_room(grad.shape, None, grad)
    return working(grad).reshape(numbers.size, grad.shape[-1]), numbers.reshape(-1), count, grad.dtype


__all__ = ["embedding_backward", "embedding_backward_rows"]
