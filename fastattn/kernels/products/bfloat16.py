"""Products in bfloat16: rows and weights rounded to nearest even, sums in float32."""

from __future__ import annotations

import numpy as np

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.products.float32 import SUM_BLOCK
from fastattn.kernels.products.kinds import BFLOAT16
from fastattn.kernels.products.low import SUM_WORDS, Form, chain_products_of, row_words_of
from fastattn.kernels.products.tile import WIDTH, bfloat16_tile
from fastattn.kernels.records import matrix
from fastattn.kernels.vector.narrow import round_bfloat16, store_bfloat16
from fastattn.kernels.vector.simd import lanes, load, load_part, store, store_part

FORM = Form.of(BFLOAT16, block=SUM_BLOCK, extra=0)
_PADDING, _IS_WIDE = FORM.padding, BFLOAT16.input_bytes == 4
_row_words = kernel(row_words_of(FORM))


def pair_words_of(n):  # type: ignore[no-untyped-def]
    """Words of n numbers, two to a word, and the zeros behind them."""
    return (n + _PADDING - 1) // _PADDING * _PADDING // 2


pair_words = kernel(pair_words_of)


@kernel
def chain_columns(w):  # type: ignore[no-untyped-def]
    """Products of a chain."""
    return np.int64(SUM_BLOCK)


@kernel
def round_pairs(n, x, ix, out, io):  # type: ignore[no-untyped-def]
    """Write n numbers of x, rounded to bfloat16, two to a word from word io of out on, and zeros up to the padding.

    One vector after the other, from the first on, so out may be x and io = ix: a vector is read before its half is written.
    """
    width = lanes(x)
    whole = n - n % width
    for j in range(0, whole, width):
        store_bfloat16(out, io, 2 * j, load(x, ix + j))
    for j in range(whole, 2 * pair_words(n), width):
        store_bfloat16(out, io, 2 * j, load_part(x, ix + j, max(0, n - j), 0.0))


@kernel
def round_row(n, x, ix, out, io):  # type: ignore[no-untyped-def]
    """Write n numbers of x, rounded to bfloat16, as a tile takes them, to words io .. of out, and zeros up to the padding."""
    if not _IS_WIDE:
        round_pairs(n, x, ix, out, io)
        return
    width = lanes(x)
    for j in range(0, 2 * pair_words(n), width):
        store(out, io + j, round_bfloat16(load_part(x, ix + j, min(width, max(0, n - j)), 0.0)))


@kernel
def prepare(m, chains, a, w, room):  # type: ignore[no-untyped-def]
    """Return rows a[:m], which have the columns of chains[0] .. chains[1] - 1 of k, rounded, in `room`."""
    columns = min(chains[1] * SUM_BLOCK, w.k) - chains[0] * SUM_BLOCK
    out = matrix(room.data, room.at + SUM_WORDS, _row_words(columns))
    for i in range(m):
        round_row(columns, a.data, a.at + i * a.ld, out.data, out.at + i * out.ld)
    return out


@kernel
def add_sums(m, n, a, sums, w, place, add, c):  # type: ignore[no-untyped-def]
    """c[:m, :n] = add + the tile's sums."""
    x = a.data
    width = lanes(x)
    whole = n - n % width
    for i in range(m):
        s, from_, to = sums + i * WIDTH, add.at + i * add.ld, c.at + i * c.ld
        for j in range(0, whole, width):
            store(c.data, to + j, load(x, s + j) + load(add.data, from_ + j))
        if whole < n:
            rest = n - whole
            v = load(x, s + whole) + load_part(add.data, from_ + whole, rest, 0.0)
            store_part(c.data, to + whole, rest, v)


chain_products = chain_products_of(BFLOAT16, FORM, bfloat16_tile, add_sums)
