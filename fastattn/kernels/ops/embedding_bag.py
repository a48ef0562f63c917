"""Sums and means of a table's rows by their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.kernels.compile.jit import ParallelKernel, by_dtype, kernel, prange
from fastattn.kernels.ops._arrays import (
    Array,
    F,
    absent,
    check_out,
    check_room,
    finish,
    float_array,
    kernel_out,
    same_dtype,
    workers_for,
    working,
)
from fastattn.kernels.ops.softmax import scale_row
from fastattn.kernels.vector.narrow import load_narrow, widened, words
from fastattn.kernels.vector.simd import fma, lanes, load, load_part, store, store_part

MODES = ("mean", "sum")


@kernel
def _add_float(n, table, i, factor, out, io):  # type: ignore[no-untyped-def]
    width, first = lanes(out), i * n
    whole = n - n % width
    for j in range(0, whole, width):
        store(out, io + j, fma(load(table, first + j), factor, load(out, io + j)))
    if whole < n:
        rest = n - whole
        row = fma(load_part(table, first + whole, rest, 0.0), factor, load_part(out, io + whole, rest, 0.0))
        store_part(out, io + whole, rest, row)


@kernel
def _add_bfloat16(n, table, i, factor, out, io):  # type: ignore[no-untyped-def]
    width, first = lanes(out), i * n
    whole = n - n % width
    for j in range(0, whole, width):
        store(out, io + j, fma(load_narrow(out, table, first + j), factor, load(out, io + j)))
    for j in range(whole, n):
        out[io + j] += np.float32(factor) * widened(table[first + j])


@kernel
def _add_int8(n, table, i, factor, out, io):  # type: ignore[no-untyped-def]
    stride = (n + 3) // 4 + 1
    scale = np.float32(factor) * words(table)[(i + 1) * stride - 1]
    width, first = lanes(out), 4 * i * stride
    whole = n - n % width
    for j in range(0, whole, width):
        store(out, io + j, fma(load_narrow(out, table, first + j), scale, load(out, io + j)))
    for j in range(whole, n):
        out[io + j] += scale * np.float32(table[first + j])


@by_dtype({np.float32: _add_float, np.float64: _add_float, np.uint16: _add_bfloat16, np.int8: _add_int8}, "table")
def add_table_row(n, table, i, factor, out, io):  # type: ignore[no-untyped-def]
    """out[:n] += factor * row `i` of a table as `pack_table` makes it: a row of int8 ends with a word that is its scale."""


@kernel
def bag_of(offsets, row):  # type: ignore[no-untyped-def]
    """Number of the first bag that begins at `row` or behind it."""
    # Binary search: np.searchsorted takes a second to compile.
    first, last = 0, offsets.size - 1
    while first < last:
        middle = (first + last) // 2
        if offsets[middle] < row:
            first = middle + 1
        else:
            last = middle
    return first


@kernel
def bag_share(first, last, n, ids, offsets, table, factors, is_mean, out):  # type: ignore[no-untyped-def]
    """Bags first .. last - 1 of `embedding_bag_kernel`; rows are added in the order of their ids."""
    for b in range(first, last):
        start, stop, io = offsets[b], offsets[b + 1], b * n
        for j in range(io, io + n):
            out[j] = 0.0
        for t in range(start, stop):
            add_table_row(n, table, ids[t], factors[t] if factors.size else 1.0, out, io)
        if is_mean and stop > start:
            scale_row(n, out, io, out, io, 1.0 / float(stop - start))


@ParallelKernel
def embedding_bag_kernel(ids, offsets, table, factors, is_mean, n, out, workers):  # type: ignore[no-untyped-def]
    """out (B, C) flat = sums or means of rows of a flat table, one for each bag of ids; `factors` of size 0 are 1.

    Every worker gets about as many ids: bags differ in length.
    """
    bags = offsets.size - 1
    if workers == 1:
        bag_share(0, bags, n, ids, offsets, table, factors, is_mean, out)
    else:
        for part in prange(workers):
            w = np.int64(part)
            first = bag_of(offsets, ids.size * w // workers)
            last = bags if w == workers - 1 else bag_of(offsets, ids.size * (w + 1) // workers)
            bag_share(first, last, n, ids, offsets, table, factors, is_mean, out)


def sum_bags(ids: Array, offsets: Array, table: Array, factors: Array, is_mean: bool, out: Array) -> None:
    """Run the kernel on checked arrays: ids and offsets of int64, a flat table of any kind that `add_table_row` reads."""
    if out.size:
        n = out.shape[1]
        # Rows come from anywhere in memory: half the bytes a microsecond of a copy.
        workers = workers_for(ids.size * n * out.itemsize / 5e3, len(out))
        embedding_bag_kernel(ids, offsets, table, factors, is_mean, n, out.reshape(-1), workers)


def embedding_bag(
    input: ArrayLike,
    weight: NDArray[F],
    offsets: ArrayLike | None = None,
    *,
    per_sample_weights: NDArray[F] | None = None,
    mode: str = "mean",
    include_last_offset: bool = False,
    out: NDArray[F] | None = None,
) -> NDArray[F]:
    """Mean or sum of rows of a table: out_b = sum_i w_i weight[input_i] over the ids of bag b, divided by their number for a mean.

    Parameters
    ----------
    input : int, (N,) with `offsets`, or (B, N)
        Ids: numbers of rows of `weight`; a row of a matrix is a bag.
    weight : float32, float64 or float16, (V, C), any strides
        The table.
    offsets : int, (B,) or (B + 1,), optional
        Where each bag begins in a flat `input`; bags may be empty.
    per_sample_weights : array of the dtype of `weight` and the shape of `input`, optional
        Factor w of each row; 1 without it.
    mode : {"mean", "sum"}
        A mean divides by the number of ids, also where there are factors.
    include_last_offset : bool
        `offsets` ends with N.
    out : array of the dtype of `weight`, (B, C), optional
        Written and returned.

    Returns
    -------
    array of the dtype of `weight`, (B, C)
        Zeros for an empty bag.

    Raises
    ------
    TypeError
        `weight` is not a float array, `input` or `offsets` are not whole numbers, or another array has another dtype.
    ValueError
        An id is not in 0 .. V - 1, offsets do not rise from 0 to N, a shape is wrong, or `mode` is unknown.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    A bag's bits depend on its own ids alone.  Sums in the dtype of `weight` (float16 in float32).  Traffic N C elements of
    `weight` and B C of the result.  torch takes `per_sample_weights` with "sum" only, and has "max".

    References
    ----------
    torch.nn.functional.embedding_bag, its documentation.  Definition: fastattn.reference.embedding_bag.
    """
    table = float_array("weight", weight)
    if table.ndim != 2:
        raise ValueError(f"weight must have shape (V, C), got {table.shape}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r:.50}")
    ids = whole_numbers("input", input)
    starts = _starts(ids, offsets, include_last_offset)
    if ids.size and not 0 <= ids.min() <= ids.max() < len(table):
        raise ValueError(f"input must be in 0 .. {len(table) - 1}, the rows of weight, got {ids.min()} .. {ids.max()}")
    shape = (len(starts) - 1, table.shape[1])
    factors = None
    if per_sample_weights is not None:
        factors = float_array("per_sample_weights", per_sample_weights)
        same_dtype("weight", table, per_sample_weights=factors)
        if factors.shape != ids.shape:
            raise ValueError(f"per_sample_weights must have the shape of input, {ids.shape}, got {factors.shape}")
    check_out(out, shape, table.dtype)
    check_room(shape, out, table)
    work = working(table)
    scales = absent(work.dtype) if factors is None else working(factors).reshape(-1)
    result = kernel_out(out, shape, work, work, scales)
    sum_bags(ids.reshape(-1), starts, work.reshape(-1), scales, mode == "mean", result)
    return finish(result, out, table.dtype)


def whole_numbers(name: str, values: Any) -> NDArray[np.int64]:
    """Return whole numbers as a contiguous array of int64."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of whole numbers, got a {type(values).__name__} that makes none") from error
    if array.dtype.kind not in "iu" and not (array.size == 0 and isinstance(values, list)):
        raise TypeError(f"{name} must be whole numbers, got {array.dtype}")
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must be in 0 .. {np.iinfo(np.int64).max}, got {array.max()}")
    numbers: NDArray[np.int64] = np.require(array, np.int64, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE"))
    return numbers


def _starts(ids: NDArray[np.int64], offsets: Any, include_last: bool) -> NDArray[np.int64]:
    """Return where each bag begins in the flat ids, and where the last one ends."""
    if ids.ndim == 2:
        if offsets is not None:
            raise ValueError("offsets must be None where input has shape (B, N), whose rows are the bags")
        return np.linspace(0, ids.size, len(ids) + 1, dtype=np.int64)
    if ids.ndim != 1:
        raise ValueError(f"input must have shape (N,) or (B, N), got {ids.shape}")
    if offsets is None:
        raise ValueError("offsets must be given where input has shape (N,): they say where each bag begins")
    starts = whole_numbers("offsets", offsets)
    if starts.ndim != 1:
        raise ValueError(f"offsets must have shape (B,), got {starts.shape}")
    if not include_last:
        starts = np.append(starts, ids.size)
    rises = starts.size > 0 and starts[0] == 0 and starts[-1] == ids.size and bool((np.diff(starts) >= 0).all())
    if not rises:
        raise ValueError(f"offsets must rise from 0 to {ids.size}, the size of input, got {_short(starts)}")
    return starts


def _short(values: NDArray[np.int64]) -> str:
    return f"{values[:8].tolist()}{' ...' if values.size > 8 else ''}"


__all__ = ["embedding_bag"]
