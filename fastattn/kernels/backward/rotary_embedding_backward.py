"""Gradient of rotary positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.ops._arrays import F, float_array
from fastattn.kernels.ops.rotary_embedding import rotated


def rotary_embedding_backward(grad: NDArray[F], cos: NDArray[F], sin: NDArray[F]) -> NDArray[F]:
    """Gradient of rotary positions, a turn by the negative angles: grad_x = grad cos - rotate_half(grad) sin.

    rotate_half((a, b)) = (-b, a) for the halves of a row.

    Parameters
    ----------
    grad : float32, float64 or float16, (..., T, D), any strides
        Gradient of the result; D is even.
    cos, sin : arrays of the dtype of `grad`, (T, D / 2)
        The tables that `rotary_embedding` was given.

    Returns
    -------
    array of the shape and dtype of `grad`
        Gradient of the queries or keys.

    Raises
    ------
    TypeError
        `grad` is not a float array, or another array has another dtype.
    ValueError
        `grad` has less than two axes or an odd D, or another array has the wrong shape.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    Traffic 2 * size elements, and the tables once for every T rows.  Work 3 * size flop.

    References
    ----------
    Su et al. 2021, arXiv:2104.09864, section 3.4.2: the matrix of a turn is orthogonal, so its transpose turns back.
    Definition: fastattn.reference.rotary_embedding_backward.
    """
    return rotated("grad", grad, cos, np.negative(float_array("sin", sin)))


__all__ = ["rotary_embedding_backward"]
