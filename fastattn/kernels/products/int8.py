"""Products in int8: rows quantised to unsigned bytes, each chain with a scale and a zero of its own; exact sums.

Definition: fastattn.reference.linear_int8.
"""

from __future__ import annotations

import numpy as np

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.products import bfloat16, float32
from fastattn.kernels.products.kinds import BFLOAT16, INT8
from fastattn.kernels.products.low import SUM_WORDS, Form, chain_products_of, row_words_of
from fastattn.kernels.products.tile import WIDTH, int8_tile
from fastattn.kernels.records import PRECISION_NUMBERS, Weight, matrix
from fastattn.kernels.vector.narrow import load_whole, store_bytes, store_shorts, words
from fastattn.kernels.vector.simd import (
    fill,
    fma,
    lanes,
    load,
    load_part,
    maximum,
    reduce_add,
    reduce_max,
    store,
    store_part,
    where_less,
)

# Products of a chain: a sum of so many is at most 512 * 255 * 127 < 2^24, exact as a float32 too.
INT8_BLOCK = 512
# A chain's scale and zero follow its levels.
FORM = Form.of(INT8, block=INT8_BLOCK, extra=2)
_PADDING, _IS_SHORT, _CHAIN_WORDS, _INPUT_BYTES = FORM.padding, INT8.input_bytes == 2, FORM.chain_words, INT8.input_bytes
# Kinds that multiply signed bytes take levels, and zeros, less 128: the products' differences are the same.
_OFFSET = 128.0 if INT8.is_signed else 0.0
_row_words = kernel(row_words_of(FORM))
_INT8_NUMBER = PRECISION_NUMBERS["int8"]
# What a product that int8 is too coarse for is computed in.
KEPT = "float32" if BFLOAT16.name == "widen" else "bfloat16"
_kept = bfloat16 if KEPT == "bfloat16" else float32
_kept_prepare, _kept_products, _kept_columns = _kept.prepare, _kept.chain_products, _kept.chain_columns

# Added and subtracted, it rounds numbers below 2^22 to whole ones, ties to even.
_ROUND = np.float32(1.5 * 2**23)
_STEP, _LEAST = np.float32(1 / 255), np.float32(2.0**-126)


@kernel
def chain_columns(w):  # type: ignore[no-untyped-def]
    """Products of a chain."""
    return np.int64(INT8_BLOCK) if w.precision == _INT8_NUMBER else _kept_columns(w)


@kernel
def quantize_row(n, x, ix, smooth, js, out, io):  # type: ignore[no-untyped-def]
    """Write the levels of n numbers of x times `smooth` to words io .. of out, then, behind the padding, their scale and zero."""
    width = lanes(x)
    whole = n - n % width
    low, high, bad = fill(x, 0.0), fill(x, 0.0), fill(x, 0.0)
    for j in range(0, whole, width):
        v = load(x, ix + j) * load(smooth, js + j)
        low, high, bad = where_less(v, low, v, low), maximum(v, high), fma(v, 0.0, bad)
    if whole < n:
        v = load_part(x, ix + whole, n - whole, 0.0) * load(smooth, js + whole)
        low, high, bad = where_less(v, low, v, low), maximum(v, high), fma(v, 0.0, bad)
    least, most = -reduce_max(0.0 - low), reduce_max(high)
    scale = most * _STEP - least * _STEP
    if scale < _LEAST:
        scale = _LEAST
    # NaN where a number is NaN or infinite.
    scale = scale + reduce_add(bad)
    inverse = fill(x, 1.0) / scale
    zero = (inverse * -least + _ROUND) - _ROUND
    zero = where_less(zero, 255.0, zero, 255.0)
    padded = (n + _PADDING - 1) // _PADDING * _PADDING
    for j in range(0, padded, width):
        if j < whole:
            v = load(x, ix + j) * load(smooth, js + j)
        else:
            v = load_part(x, ix + j, max(0, n - j), 0.0) * load(smooth, js + j)
        level = ((v * inverse + _ROUND) - _ROUND) + zero
        level = where_less(level, 255.0, level, 255.0) - _OFFSET
        if _IS_SHORT:
            store_shorts(out, io, 2 * j, level)
        else:
            store_bytes(out, io, j, level)
    end = io + padded * _INPUT_BYTES // 4
    out[end] = scale
    out[end + 1] = reduce_max(zero) - _OFFSET


@kernel
def quantize_rows(m, chains, a, w, room):  # type: ignore[no-untyped-def]
    """Return rows a[:m], which have the columns of chains[0] .. chains[1] - 1 of k, quantised, in `room`."""
    first = chains[0] * INT8_BLOCK
    columns = min(chains[1] * INT8_BLOCK, w.k) - first
    out = matrix(room.data, room.at + SUM_WORDS, _row_words(columns))
    smooth = smooth_at(w) + first
    for i in range(m):
        for j in range(0, columns, INT8_BLOCK):
            to = out.at + i * out.ld + j // INT8_BLOCK * _CHAIN_WORDS
            quantize_row(min(INT8_BLOCK, columns - j), a.data, a.at + i * a.ld + j, w.bias, smooth + j, out.data, to)
    return out


@kernel
def padded_outputs(w):  # type: ignore[no-untyped-def]
    """Columns of the panels of a weight."""
    return (w.n + WIDTH - 1) // WIDTH * WIDTH


@kernel
def smooth_at(w):  # type: ignore[no-untyped-def]
    """Offset of the input's smoothing factors: behind the bias, and each chain's scales and sums."""
    return w.bias_at + padded_outputs(w) * (1 + 2 * ((w.k + INT8_BLOCK - 1) // INT8_BLOCK))


@kernel
def dequantize(m, n, a, sums, w, place, add, c):  # type: ignore[no-untyped-def]
    """c[:m, :n] = add + scale of the row * scale of the column * (the tile's sum - zero of the row * sum of the column)."""
    x, table = a.data, w.bias
    chain, column, numbers = place
    width = lanes(x)
    outputs = padded_outputs(w)
    scales = w.bias_at + outputs * (1 + 2 * chain) + column
    weights = scales + outputs
    if n == WIDTH:
        # What the rows share stays in registers: a third of the loads remain.
        first, second = load(table, scales), load(table, scales + width)
        sum_first, sum_second = load(table, weights), load(table, weights + width)
        for i in range(m):
            scale, zero = x[a.at + i * a.ld + numbers], x[a.at + i * a.ld + numbers + 1]
            s, from_, to = sums + i * WIDTH, add.at + i * add.ld, c.at + i * c.ld
            d = load_whole(x, s) - sum_first * zero
            e = load_whole(x, s + width) - sum_second * zero
            store(c.data, to, fma(d * first, scale, load(add.data, from_)))
            store(c.data, to + width, fma(e * second, scale, load(add.data, from_ + width)))
        return
    whole = n - n % width
    for i in range(m):
        scale, zero = x[a.at + i * a.ld + numbers], x[a.at + i * a.ld + numbers + 1]
        s, from_, to = sums + i * WIDTH, add.at + i * add.ld, c.at + i * c.ld
        for j in range(0, whole, width):
            # Both terms and their difference are whole numbers below 2^24: exact.
            d = load_whole(x, s + j) - load(table, weights + j) * zero
            store(c.data, to + j, fma(d * load(table, scales + j), scale, load(add.data, from_ + j)))
        if whole < n:
            rest = n - whole
            d = load_whole(x, s + whole) - load(table, weights + whole) * zero
            v = fma(d * load(table, scales + whole), scale, load_part(add.data, from_ + whole, rest, 0.0))
            store_part(c.data, to + whole, rest, v)


_products = chain_products_of(INT8, FORM, int8_tile, dequantize)


@kernel
def prepare(m, chains, a, w, room):  # type: ignore[no-untyped-def]
    """Return rows a[:m], which have the columns of chains[0] .. chains[1] - 1 of k, as `chain_products` takes them."""
    if w.precision == _INT8_NUMBER:
        return quantize_rows(m, chains, a, w, room)
    return _kept_prepare(m, chains, a, w, room)


@kernel
def chain_products(m, chains, panels, a, w, c, kind):  # type: ignore[no-untyped-def]
    """`float32.chain_products` of prepared rows."""
    if w.precision == _INT8_NUMBER:
        _products(m, chains, panels, a, w, c, kind)
    else:
        _kept_products(m, chains, panels, a, Weight(words(w.panels), w.at, w.bias, w.bias_at, w.k, w.n, w.precision), c, kind)
