"""Dropout and its gradient: the mask is computed from its seed wherever it is needed, and never kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.ops._arrays import Array, F, check_room, finish, float_array, kernel_out, number, workers_for, working
from fastattn.kernels.vector.philox import philox


@kernel
def drop_share(start, stop, x, out, least, scale, key, other_key, offset):  # type: ignore[no-untyped-def]
    """Elements start .. stop - 1 of `dropout_kernel`."""
    i = start
    while i < stop:
        at = offset + i
        counter, first = at >> 2, at & 3
        words = philox(counter & 0xFFFFFFFF, counter >> 32, 0, 0, key, other_key)
        if first == 0 and i + 4 <= stop:
            out[i] = x[i] * scale if words[0] >= least else 0.0
            out[i + 1] = x[i + 1] * scale if words[1] >= least else 0.0
            out[i + 2] = x[i + 2] * scale if words[2] >= least else 0.0
            out[i + 3] = x[i + 3] * scale if words[3] >= least else 0.0
            i += 4
        else:
            out[i] = x[i] * scale if words[first] >= least else 0.0
            i += 1


@ParallelKernel
def dropout_kernel(x, out, least, scale, key, other_key, offset, workers):  # type: ignore[no-untyped-def]
    """out[i] = x[i] scale where word offset + i is at least `least`, else 0; flat arrays, `out` may be `x`."""
    n = x.size
    if workers == 1:
        drop_share(0, n, x, out, least, scale, key, other_key, offset)
    else:
        # Cuts fall on cache lines, so no two threads write to the same one.
        for part in prange(workers):
            w = np.int64(part)
            start = n * w // workers // 16 * 16
            stop = n if w + 1 == workers else n * (w + 1) // workers // 16 * 16
            drop_share(start, stop, x, out, least, scale, key, other_key, offset)


def drop(x: Array, out: Array, p: float, seed: int, offset: int) -> None:
    """Run the kernel on contiguous arrays of one shape and dtype; `out` may be `x`."""
    scale = x.dtype.type(0.0 if p == 1 else 1 / (1 - p))
    # 2 nanoseconds an element: ten rounds for four words.
    workers = workers_for(x.size / 500, x.size // 64)
    key, other_key = seed & 0xFFFFFFFF, seed >> 32
    dropout_kernel(x.reshape(-1), out.reshape(-1), round(p * 2**32), scale, key, other_key, offset, workers)


def dropout(x: NDArray[F], p: float, seed: int, offset: int = 0) -> NDArray[F]:
    """Dropout: x / (1 - p) where u >= p, else 0, with u uniform in [0, 1), the same for the same seed and place.

    Parameters
    ----------
    x : float32, float64 or float16, any shape and strides
    p : float
        Probability in 0 .. 1 that an element is dropped, rounded to a multiple of 2^-32.
    seed : int
        Key of the random numbers, 0 .. 2^64 - 1.
    offset : int
        Place of the first element in the sequence of random words, 0 .. 2^62: element i takes word offset + i.

    Returns
    -------
    array of the shape and dtype of `x`

    Raises
    ------
    TypeError
        `x` is not a float array, `p` is not a number, or `seed` or `offset` are not whole numbers.
    ValueError
        `p`, `seed` or `offset` are out of range.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    Word k is word k mod 4 of Philox 4x32-10 for counter k // 4 and key `seed`.  No mask is stored: `dropout_backward` computes it
    again, the same for any number of threads.  Masks are independent where the seeds differ, or where the ranges
    offset .. offset + size - 1 do not meet.  A dropped NaN or infinity is 0.  Traffic 2 * size elements.

    References
    ----------
    Srivastava et al. 2014, JMLR 15, section 4, scaled in training instead of at test time.
    Salmon et al. 2011, doi:10.1145/2063384.2063405, section 3.3 (Philox).  Definition: fastattn.reference.dropout.
    """
    return _dropped("x", x, p, seed, offset)


def dropout_backward(grad: NDArray[F], p: float, seed: int, offset: int = 0) -> NDArray[F]:
    """Gradient of dropout, the same mask again: grad_x = grad / (1 - p) where u >= p, else 0.

    Parameters
    ----------
    grad : float32, float64 or float16, any shape and strides
        Gradient of the result.
    p : float
        Probability in 0 .. 1 that an element was dropped.
    seed : int
        Key of the random numbers, 0 .. 2^64 - 1.
    offset : int
        Place of the first element in the sequence of random words, 0 .. 2^62.

    Returns
    -------
    array of the shape and dtype of `grad`
        Gradient of dropout's input.

    Raises
    ------
    TypeError
        `grad` is not a float array, `p` is not a number, or `seed` or `offset` are not whole numbers.
    ValueError
        `p`, `seed` or `offset` are out of range.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    Traffic 2 * size elements; no mask is stored.

    References
    ----------
    Srivastava et al. 2014, JMLR 15, section 4.  Definition: fastattn.reference.dropout_backward.
    """
    return _dropped("grad", grad, p, seed, offset)


def _dropped(name: str, x: Any, p: Any, seed: Any, offset: Any) -> Array:
    x = float_array(name, x)
    p = number("p", p)
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in 0 .. 1, got {p}")
    for which, value, most in (("seed", seed, 2**64 - 1), ("offset", offset, 2**62)):
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
            raise TypeError(f"{which} must be a whole number, got {type(value).__name__}")
        if not 0 <= value <= most:
            raise ValueError(f"{which} must be in 0 .. {most}, got {value}")
    check_room(x.shape, None, x)
    work = working(x)
    result = kernel_out(None, work.shape, work)
    drop(work, result, p, int(seed), int(offset))
    return finish(result, None, x.dtype)


__all__ = ["dropout", "dropout_backward"]
