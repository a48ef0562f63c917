"""Affine map with a fused activation, on weights packed into panels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastattn.config import Activation
from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.ops._arrays import (
    Array,
    F,
    check_out,
    finish,
    float_array,
    kernel_out,
    panels,
    same_dtype,
    workers_for,
    working,
)
from fastattn.kernels.products.pack import pack_linear, room_words
from fastattn.kernels.products.product import prepare_all, products
from fastattn.kernels.records import PRECISION_NUMBERS, Weight, matrix
from fastattn.kernels.vector.activations import ACTIVATION_KINDS
from fastattn.kernels.vector.simd import atomic_next, tile_width
from fastattn.kernels.vector.target import TILE_BYTES
from fastattn.runtime.memory import aligned_empty, check_large

# Rows of a task: few enough that their products stay in the second-level cache, a multiple of the tile's.
ROW_BLOCK = 112


@kernel
def linear_block(row, rows, panels, k, n, a, packed, bias, c, kind, precision, room):  # type: ignore[no-untyped-def]
    """Rows row .. row + rows - 1 of `linear_kernel`, for some panels of its columns."""
    weight = Weight(packed, np.int64(0), bias, np.int64(0), k, n, precision)
    prepared = prepare_all(rows, matrix(a, row * k, k), weight, matrix(room[0], room[1], 0))
    products(rows, panels, prepared, weight, matrix(c, row * n, n), kind)


@ParallelKernel
def linear_kernel(x, packed, bias, out, kind, precision, scratch, counter, workers):  # type: ignore[no-untyped-def]
    """out = activation(x weight^T + bias) for x (M, K), packed weight, bias padded to whole panels, out (M, N).

    scratch: for each worker, room for ROW_BLOCK rows in low precision.
    """
    m, k = x.shape
    n = out.shape[1]
    width = tile_width(out)
    count = (n + width - 1) // width
    a, c = x.reshape(-1), out.reshape(-1)
    if workers == 1:
        for row in range(0, m, ROW_BLOCK):
            rows = min(ROW_BLOCK, m - row)
            linear_block(row, rows, (0, count), k, n, a, packed, bias, c, kind, precision, (scratch, 0))
    else:
        blocks = (m + ROW_BLOCK - 1) // ROW_BLOCK
        # The panels are shared out too, until there are tasks enough to keep the threads busy to the end.
        groups = min(count, max(1, (8 * workers + blocks - 1) // blocks))
        room = scratch.size // workers
        for worker in prange(workers):
            own = np.int64(worker) * room
            task = atomic_next(counter, 0)
            while task < blocks * groups:
                block, group = task // groups, task % groups
                row = m * block // blocks
                rows = m * (block + 1) // blocks - row
                panels = (count * group // groups, count * (group + 1) // groups)
                linear_block(row, rows, panels, k, n, a, packed, bias, c, kind, precision, (scratch, own))
                task = atomic_next(counter, 0)


def packed_product(x: Array, packed: Array, bias: Array, out: Array, activation: str | None, precision: str = "float32") -> None:
    """out (M, C_out) = activation(x weight^T + bias) for x (M, C_in), by as many threads as the work is worth."""
    (m, k), n = x.shape, out.shape[1]
    workers = workers_for(2e-5 * m * max(k, 1) * n, panels(n, out.dtype)[0] * -(-m // ROW_BLOCK))
    scratch = aligned_empty(workers * room_words(min(m, ROW_BLOCK), k, precision), np.float32)
    kind = ACTIVATION_KINDS[activation]
    linear_kernel(x, packed, bias, out, kind, PRECISION_NUMBERS[precision], scratch, np.zeros(8, np.int64), workers)


def linear(
    x: NDArray[F],
    weight: NDArray[F],
    bias: NDArray[F] | None = None,
    *,
    activation: Activation | None = None,
    out: NDArray[F] | None = None,
) -> NDArray[F]:
    """Affine map of the last axis: out = activation(x weight^T + bias).

    Parameters
    ----------
    x : float32, float64 or float16, (..., C_in), any strides
    weight : array of the dtype of `x`, (C_out, C_in)
    bias : array of the dtype of `x`, (C_out,), optional
    activation : str, optional
        Applied to each element while it is in cache: a name that `EncoderConfig` takes.
    out : array of the dtype of `x`, (..., C_out), optional
        Written and returned.

    Returns
    -------
    array of the dtype of `x`, (..., C_out)

    Raises
    ------
    TypeError
        `x` is not a float array, or another array has another dtype.
    ValueError
        The shapes disagree, or `activation` is not one of those above.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    Each element is a sum of chains of at most 256 multiply-adds, and the bias.  Work 2 * M * C_in * C_out flop, M the rows of `x`.
    `weight` is packed in every call, which takes longer than the product for fewer than some hundred rows; the encoder packs once.

    References
    ----------
    torch.nn.functional.linear, its documentation.  Definition: fastattn.reference.linear.
    """
    x, weight = float_array("x", x), float_array("weight", weight)
    bias = None if bias is None else float_array("bias", bias)
    same_dtype("x", x, weight=weight, bias=bias)
    if activation not in ACTIVATION_KINDS:
        known = ", ".join(repr(name) for name in ACTIVATION_KINDS)
        raise ValueError(f"activation must be one of {known}, got {activation!r}")
    if weight.ndim != 2:
        raise ValueError(f"weight must have two axes (C_out, C_in), got shape {weight.shape}")
    n, k = weight.shape
    if x.ndim == 0 or x.shape[-1] != k:
        raise ValueError(f"x must have C_in = {k} as its last axis for a weight of shape {weight.shape}, got shape {x.shape}")
    if bias is not None and bias.shape != (n,):
        raise ValueError(f"bias must have shape ({n},) for a weight of shape {weight.shape}, got {bias.shape}")
    shape = (*x.shape[:-1], n)
    check_out(out, shape, x.dtype)
    work = working(x)
    result = kernel_out(out, shape, work, work)
    if result.size:
        own = -(-n * work.itemsize // TILE_BYTES) * TILE_BYTES * k + (0 if result is out else result.nbytes)
        check_large(own, "a result of shape {}, with the packed weight,", shape)
        m = result.size // n
        packed_product(work.reshape(m, k), *pack_linear(weight, bias, work.dtype), result.reshape(m, n), activation)
    return finish(result, out, x.dtype)


__all__ = ["linear"]
