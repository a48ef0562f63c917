"""Rotary positions: the two halves of each row turned by the angles of its place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.ops._arrays import Array, F, check_out, finish, float_array, kernel_out, same_dtype, workers_for, working
from fastattn.kernels.records import matrix
from fastattn.kernels.vector.simd import lanes, load_part, store_part


@kernel
def rotate_rows(m, d, x, cos, sin, out):  # type: ignore[no-untyped-def]
    """out = (a cos - b sin, b cos + a sin) for m rows (a, b) of size d, all a Matrix; row i takes row i of the tables.

    `out` may be `x`.
    """
    width = lanes(x.data)
    half = d // 2
    for i in range(m):
        a, c, s, o = x.at + i * x.ld, cos.at + i * cos.ld, sin.at + i * sin.ld, out.at + i * out.ld
        for j in range(0, half, width):
            n = min(width, half - j)
            u, v = load_part(x.data, a + j, n, 0.0), load_part(x.data, a + half + j, n, 0.0)
            cosine, sine = load_part(cos.data, c + j, n, 0.0), load_part(sin.data, s + j, n, 0.0)
            store_part(out.data, o + j, n, u * cosine - v * sine)
            store_part(out.data, o + half + j, n, v * cosine + u * sine)


@kernel
def rotate_share(row, stop, t_all, d, x, cos, sin, out):  # type: ignore[no-untyped-def]
    """Rows row .. stop - 1 of `rotary_embedding_kernel`."""
    half = d // 2
    while row < stop:
        t = row % t_all
        rows = min(stop - row, t_all - t)
        cosines, sines = matrix(cos, t * half, half), matrix(sin, t * half, half)
        rotate_rows(rows, d, matrix(x, row * d, d), cosines, sines, matrix(out, row * d, d))
        row += rows


@ParallelKernel
def rotary_embedding_kernel(x, cos, sin, t_all, d, out, workers):  # type: ignore[no-untyped-def]
    """out = rotated rows of x (M, D) for tables (T, D / 2), all flat; row i of x stands at place i mod T."""
    m = x.size // d
    if workers == 1:
        rotate_share(0, m, t_all, d, x, cos, sin, out)
    else:
        for part in prange(workers):
            w = np.int64(part)
            rotate_share(m * w // workers, m * (w + 1) // workers, t_all, d, x, cos, sin, out)


def rotated(name: str, x: Any, cos: Any, sin: Any, out: Array | None = None) -> Array:
    """`rotary_embedding` of an argument with that name."""
    x, cos, sin = float_array(name, x), float_array("cos", cos), float_array("sin", sin)
    same_dtype(name, x, cos=cos, sin=sin)
    if x.ndim < 2 or x.shape[-1] % 2:
        raise ValueError(f"{name} must have shape (..., T, D) with D even, got {x.shape}")
    t_all, d = x.shape[-2:]
    expected = (t_all, d // 2)
    for which, table in (("cos", cos), ("sin", sin)):
        if table.shape != expected:
            raise ValueError(f"{which} must have shape (T, D / 2) = {expected} for {name} of shape {x.shape}, got {table.shape}")
    check_out(out, x.shape, x.dtype)
    work, wide_cos, wide_sin = working(x), working(cos), working(sin)
    result = kernel_out(out, x.shape, work, work, wide_cos, wide_sin)
    if result.size:
        workers = workers_for(work.nbytes / 1e4, work.size // d)
        flat = (work.reshape(-1), wide_cos.reshape(-1), wide_sin.reshape(-1))
        rotary_embedding_kernel(*flat, t_all, d, result.reshape(-1), workers)
    return finish(result, out, x.dtype)


def rotary_embedding(x: NDArray[F], cos: NDArray[F], sin: NDArray[F], *, out: NDArray[F] | None = None) -> NDArray[F]:
    """Rotary positions: out = x cos + rotate_half(x) sin, rotate_half((a, b)) = (-b, a) for the halves of a row.

    Parameters
    ----------
    x : float32, float64 or float16, (..., T, D), any strides
        Queries or keys; D is even.
    cos, sin : arrays of the dtype of `x`, (T, D / 2)
        Channels i and i + D / 2 of the row at place t turn by the angle of cos[t, i] and sin[t, i].
    out : array of the shape and dtype of `x`, optional
        Written and returned.

    Returns
    -------
    array of the shape and dtype of `x`

    Raises
    ------
    TypeError
        `x` is not a float array, or another array has another dtype.
    ValueError
        `x` has less than two axes or an odd D, or another array has the wrong shape.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    Traffic 2 * size elements, and the tables once for every T rows.  Work 3 * size flop.

    References
    ----------
    Su et al. 2021, arXiv:2104.09864, section 3.4.2, equation 34, with channel i + D / 2 in place of the neighbour of i.
    Definition: fastattn.reference.rotary_embedding; the angles: fastattn.reference.rotary_tables.
    """
    return rotated("x", x, cos, sin, out)


__all__ = ["rotary_embedding"]
