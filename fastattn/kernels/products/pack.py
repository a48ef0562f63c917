"""Packing of weights: into panels, in each precision, with what stands beside them in the vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.products import bfloat16, float32, int8
from fastattn.kernels.products.float32 import SUM_BLOCK
from fastattn.kernels.products.int8 import INT8_BLOCK
from fastattn.kernels.products.kinds import BFLOAT16, INT8
from fastattn.kernels.products.tile import WIDTH
from fastattn.kernels.vector.narrow import bfloat16_halves, widened_halves
from fastattn.kernels.vector.target import TILE_BYTES
from fastattn.runtime.memory import aligned_empty

Array = NDArray[Any]

# Dtype of the arena of matrices, by which kernels are compiled.
ARENAS = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
_LEVELS = np.float32(127)
# Rows of a table that are quantised together.
_TABLE_ROWS = 4096


def quantize_weight(weight: Array, smooth: Array | None = None) -> tuple[Array, Array, Array]:
    """Return levels (N, K) int8, and for each chain of k scales and sums (chains, N) float32.

    Definition: fastattn.reference.quantize_weight.
    """
    n, k = weight.shape
    levels = np.empty((n, k), np.int8)
    starts = range(0, k, INT8_BLOCK)
    scales, sums = np.empty((len(starts), n), np.float32), np.empty((len(starts), n), np.float32)
    for chain, start in enumerate(starts):
        part: Array = np.asarray(weight[:, start : start + INT8_BLOCK], np.float32)
        if smooth is not None:
            part = part / smooth[start : start + INT8_BLOCK]
        level, scales[chain] = _symmetric(part)
        levels[:, start : start + INT8_BLOCK] = level
        sums[chain] = level.sum(axis=1, dtype=np.int64)
    return levels, scales, sums


def int8_vector(bias: Array, scales: Array, sums: Array, smooth: Array | None, k: int) -> Array:
    """Return what stands in the vectors for an int8 weight: the bias, each chain's scales and sums, and the smoothing factors."""
    n = len(bias)
    count = -(-n // WIDTH) * WIDTH
    depth = int8.FORM.padded(k)
    out = np.zeros(count * (1 + 2 * len(scales)) + depth, np.float32)
    out[:n] = bias
    for chain, (scale, total) in enumerate(zip(scales, sums, strict=True)):
        at = count * (1 + 2 * chain)
        out[at : at + n], out[at + count : at + count + n] = scale, total
    out[len(out) - depth :] = 1
    if smooth is not None:
        out[len(out) - depth : len(out) - depth + k] = smooth
    return out


def precision_of(matrices: Array) -> str:
    """Return the precision that an arena of matrices is for."""
    return next(precision for precision, dtype in ARENAS.items() if matrices.dtype == dtype)


def panel_words(n: int, k: int, precision: str) -> int:
    """Return the words of the panels of a weight (N, K)."""
    if precision == "float32":
        return -(-n // WIDTH) * WIDTH * k
    form = int8.FORM if precision == "int8" else bfloat16.FORM
    return form.panel_words(n, k)


def room_words(rows: int, k: int, precision: str) -> int:
    """Return the words of the room for so many prepared rows of K columns, with weights of a precision or kept ones among them."""
    if precision == "float32":
        return float32.room(rows, k)
    return max(form.room(rows, k) for form in ((bfloat16.FORM,) if precision == "bfloat16" else (int8.FORM, bfloat16.FORM)))


def block_columns(precision: str) -> int:
    """Return the products of the longest chain."""
    return INT8_BLOCK if precision == "int8" else SUM_BLOCK


def pack_weight(weight: Array, out: Array) -> None:
    """Write weight (C_out, C_in) to `out` in panels (ceil(C_out / W), C_in, W), W the tile's columns; zeros behind the last."""
    n, k = weight.shape
    width = TILE_BYTES // out.itemsize
    count = -(-n // width)
    grid = out[: count * k * width].reshape(count, k, width)
    full = n // width
    grid[:full] = weight[: full * width].reshape(full, width, k).transpose(0, 2, 1)
    if full < count:
        grid[full] = 0
        grid[full, :, : n - full * width] = weight[full * width :].T


class Parts(NamedTuple):
    """A weight and a bias before they are packed: the words of the panels, what writes them, and what stands in the vectors."""

    words: int
    write: Callable[[Array], None]
    vector: Array


def parts_of(weights: Sequence[Array], bias: Array, precision: str, smooth: Array | None = None) -> Parts:
    """Return the parts of weights stacked along their rows; `smooth`: factors of the input of an int8 product."""
    words = panel_words(len(bias), weights[0].shape[1], precision)

    def stacked() -> Array:
        return weights[0] if len(weights) == 1 else np.concatenate(weights)

    if precision == "int8":
        levels, scales, sums = quantize_weight(stacked(), smooth)
        vector = int8_vector(bias, scales, sums, smooth, levels.shape[1])
        return Parts(words, functools.partial(pack_levels, levels), vector)
    pack = pack_bfloat16 if precision == "bfloat16" else pack_weight
    # Stacked only as it is written: a copy of all matrices at once would take as much memory again.
    return Parts(words, lambda out: pack(stacked(), out), bias)


def write_padded(vector: Array, out: Array) -> None:
    """Write a vector, and zeros behind it."""
    out[: len(vector)], out[len(vector) :] = vector, 0


def pack_linear(weight: Array, bias: Array | None, dtype: Any, precision: str = "float32") -> tuple[Array, Array]:
    """Return a weight (C_out, C_in) in panels, and its vector: the bias, zeros up to a whole panel, and what int8 has."""
    n, k = weight.shape
    width = TILE_BYTES // np.dtype(dtype).itemsize
    if bias is None:
        bias = np.zeros(n, dtype)
    parts = parts_of([weight], bias, precision)
    # In words, but for float64.
    size = -(-n // width) * width * k if precision == "float32" else parts.words
    packed, vector = aligned_empty(size, dtype), aligned_empty(-(-len(parts.vector) // width) * width, dtype)
    parts.write(packed)
    write_padded(parts.vector, vector)
    return (packed if precision == "float32" else packed.view(ARENAS[precision])), vector


def pack_levels(levels: Array, out: Array) -> None:
    """Write levels (N, K) to panels (N / W, K / group, W, group) of words, zeros around them."""
    _pack(levels, out.view(np.int8), INT8.group, int8.FORM.padding)


def pack_bfloat16(weight: Array, out: Array) -> None:
    """Write a weight (N, K), rounded, to panels (N / W, K / 2, W, 2) of words, zeros around them."""
    _pack(bfloat16_halves(np.ascontiguousarray(weight, np.float32)), out.view(np.uint16), BFLOAT16.group, bfloat16.FORM.padding)


def _pack(weight: Array, out: Array, group: int, padding: int) -> None:
    n, k = weight.shape
    depth, count = -(-k // padding) * padding, -(-n // WIDTH)
    grid = out[: count * depth * WIDTH].reshape(count, depth // group, WIDTH, group)
    full, steps = n // WIDTH, k // group
    grid[full:], grid[:, steps:] = 0, 0
    whole = weight[: full * WIDTH, : steps * group].reshape(full, WIDTH, steps, group)
    grid[:full, :steps] = whole.transpose(0, 2, 1, 3)
    rest = weight[full * WIDTH :, : steps * group]
    if len(rest):
        grid[full, :steps, : len(rest)] = rest.reshape(len(rest), steps, group).transpose(1, 0, 2)
    # The numbers of the last step that are not a whole group.
    for j in range(steps * group, k):
        column = np.zeros(count * WIDTH, weight.dtype)
        column[:n] = weight[:, j]
        grid[:, steps, :, j - steps * group] = column.reshape(count, WIDTH)


def pack_table(table: Array, precision: str) -> Array:
    """Return a table's rows, flat, in a precision; those of int8 end with a word that is the row's scale."""
    if precision == "float32":
        return np.array(table, np.float32, order="C", copy=True).reshape(-1)
    rows, width = table.shape
    # In parts, which need little memory beside the result.
    parts = [slice(start, start + _TABLE_ROWS) for start in range(0, rows, _TABLE_ROWS)]
    if precision == "bfloat16":
        rounded = np.empty((rows, width), np.uint16)
        for part in parts:
            rounded[part] = bfloat16_halves(np.ascontiguousarray(table[part], np.float32))
        return rounded.reshape(-1)
    out = np.zeros((rows, -(-width // 4) + 1), np.float32)
    levels = out.view(np.int8)
    for part in parts:
        # A row is one chain.
        levels[part, :width], out[part, -1] = _symmetric(np.asarray(table[part], np.float32))
    return levels.reshape(-1)


def _symmetric(part: Array) -> tuple[Array, Array]:
    """Return levels and scale of each row without a zero point; a denormal scale can be too small for its row."""
    scale = np.abs(part).max(axis=1) / _LEVELS
    level = np.rint(part / np.where(scale == 0, np.float32(1), scale)[:, None])
    return np.clip(level, -_LEVELS, _LEVELS, out=level), scale


def table_rows(table: Array, ids: Array, width: int) -> Array:
    """Return rows of a packed table in float32."""
    if table.dtype == np.int8:
        rows = table.view(np.float32).reshape(-1, -(-width // 4) + 1)[ids]
        return rows[:, -1:] * rows.view(np.int8)[:, :width]
    rows = table.reshape(-1, width)[ids]
    return rows if table.dtype == np.float32 else widened_halves(rows)
