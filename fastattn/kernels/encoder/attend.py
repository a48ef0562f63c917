"""A head's attention in the precision of the weights: in low precision both products take bfloat16, unless they would widen it.

Scores, softmax and sums stay float32.  Definition: fastattn.reference.scaled_dot_product_attention_bfloat16.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastattn.kernels.compile.jit import by_dtype, kernel
from fastattn.kernels.ops import _attend
from fastattn.kernels.ops._attend import KEY_BLOCK, attend_of
from fastattn.kernels.ops._pairs import pack_column_pairs, pack_row_pairs
from fastattn.kernels.products.bfloat16 import pair_words, pair_words_of, round_pairs
from fastattn.kernels.products.kinds import BFLOAT16
from fastattn.kernels.products.tile import WIDTH, bfloat16_tile
from fastattn.kernels.records import matrix
from fastattn.kernels.vector.target import TILE_ROWS

# Widened to float32, products in bfloat16 would gain nothing.
IS_ROUNDED = BFLOAT16.name != "widen"


def _head_words_of(words: Any) -> Any:
    def head_words(tokens, d):  # type: ignore[no-untyped-def]
        """Elements of the packed keys, and of the packed values, of a head, rounded or not: of few numbers the padding is more."""
        panels, columns = (tokens + WIDTH - 1) // WIDTH, (d + WIDTH - 1) // WIDTH
        return panels * WIDTH * max(d, words(d)), columns * WIDTH * max(tokens, words(tokens))

    return head_words


head_words = kernel(_head_words_of(pair_words))


def head_scratch(tokens: int, d: int) -> int:
    """Elements of scratch for the packed keys and values of a head of size `d`, and for `attend`."""
    keys, values = _head_words_of(pair_words_of)(tokens, d)
    # Behind attend's own come the rounded queries of a tile; before it runs, the rounded keys of a panel lie in its place.
    own = max(_attend.scratch_size(0, d, np.float32) + TILE_ROWS * pair_words_of(d), WIDTH * pair_words_of(d))
    return int(keys + values + own)


@kernel
def pack_whole(model, count, d, k, v, scratch, places):  # type: ignore[no-untyped-def]
    """Pack keys and values as they are."""
    keys, values, _ = places
    _attend.pack_keys(count, d, k.data, k.at, k.ld, scratch, keys)
    # Rows of qkv are so far apart that a head's values would share few sets of the cache.
    _attend.pack_values(count, d, v.data, v.at, v.ld, scratch[:0], 0, scratch, values)


@kernel
def whole_values(model, tokens, d, scratch, at):  # type: ignore[no-untyped-def]
    """Packed values: rows of whole panels."""
    return matrix(scratch, at, (d + WIDTH - 1) // WIDTH * WIDTH)


@kernel
def pack_rounded(model, count, d, k, v, scratch, places):  # type: ignore[no-untyped-def]
    """Pack keys and values, rounded to bfloat16, two to a word: numbers of a key beside each other, values of two keys."""
    keys, values, room = places
    size = pair_words(d)
    for first in range(0, count, WIDTH):
        rows, row = min(WIDTH, count - first), k.at + first * k.ld
        pack_row_pairs(rows, d, k.data, row, k.ld, scratch, room, size, scratch, keys + first * size)
    pack_column_pairs(0, pair_words(count), count, d, v.data, v.at, v.ld, scratch, values)


@kernel
def rounded_values(model, tokens, d, scratch, at):  # type: ignore[no-untyped-def]
    """Packed values, the distance of their panels in place of that of rows."""
    return matrix(scratch, at, pair_words(tokens) * WIDTH)


@kernel
def rounded_queries(m, d, q, scratch, iw):  # type: ignore[no-untyped-def]
    """Return rows of queries, rounded to bfloat16."""
    out = matrix(scratch, iw, pair_words(d))
    for i in range(m):
        round_pairs(d, q.data, q.at + i * q.ld, scratch, out.at + i * out.ld)
    return out


@kernel
def score_products(m, d, q, keys, seen, scratch, scores, zeros):  # type: ignore[no-untyped-def]
    """`_attend.score_products` of rounded numbers."""
    size = pair_words(d)
    block, first, last = seen
    for p in range(first, last, WIDTH):
        panel = keys.at + (block + p) * size
        bfloat16_tile(m, size, q.data, q.at, q.ld, keys.data, panel, 0, scratch, scores + p, KEY_BLOCK)


@kernel
def value_products(m, n, weights, values, key, out, zeros):  # type: ignore[no-untyped-def]
    """`_attend.value_products` of rounded numbers; `key` is even.  Rounds the weights in place.

    Zeros behind the last row's weights may lie in the sums: those of the first block, which is written afterwards.
    """
    x = out.data
    for i in range(m):
        at = weights + i * KEY_BLOCK
        round_pairs(n, x, at, x, at)
    for p in range(0, out.ld, WIDTH):
        panel = values.at + p // WIDTH * values.ld + key // 2 * WIDTH
        bfloat16_tile(m, (n + 1) // 2, x, weights, KEY_BLOCK, values.data, panel, 0, x, out.at + p, out.ld)


def _rows_of(attend: Any) -> Any:
    @kernel
    def attend_rows(model, rows, shape, q, keys, values, mask, scoring, room, out):  # type: ignore[no-untyped-def]
        none = matrix(room.data[:0], 0, 0)
        attend(rows[0], rows[1], shape, q, keys, values, mask, scoring, room.data, room.at, out, none)

    return attend_rows


_whole = (pack_whole, whole_values, _rows_of(_attend.attend))
_rounded_attend = attend_of(rounded_queries, score_products, value_products)
_rounded = (pack_rounded, rounded_values, _rows_of(_rounded_attend))
_LOW = _rounded if IS_ROUNDED else _whole


def _by_precision(index: int) -> Any:
    return by_dtype({np.float32: _whole[index], np.uint16: _LOW[index], np.int8: _LOW[index]}, "model")


@_by_precision(0)
def pack_head(model, count, d, k, v, scratch, places):  # type: ignore[no-untyped-def]
    """Pack the first `count` keys and values of a head; places: of both in scratch, and of room for the rounded keys of a panel."""


@_by_precision(1)
def packed_values(model, tokens, d, scratch, at):  # type: ignore[no-untyped-def]
    """Return the packed values as `attend_rows` takes them."""


@_by_precision(2)
def attend_rows(model, rows, shape, q, keys, values, mask, scoring, room, out):  # type: ignore[no-untyped-def]
    """`_attend.attend` of rows[0] queries, the first of which is query rows[1] of its sequence; `room` takes its scratch."""
