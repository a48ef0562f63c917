"""Attention whose scores have terms of content and distance: products with tables of distances, then a bias for `attend`."""

from __future__ import annotations

import numpy as np

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.encoder.attend import attend_rows
from fastattn.kernels.records import STOP, Mask, matrix, shifted
from fastattn.kernels.vector.simd import lanes, load, load_part, store, store_part, tile_width
from fastattn.kernels.vector.target import TILE_ROWS
from fastattn.kernels.vector.tile import panel_product
from fastattn.kernels.vector.transpose import transpose_block

# Rows whose scores by distance are held at a time: with 512 keys they stay in the second-level cache.
BIAS_ROWS = 16 * TILE_ROWS


def disentangled_scratch(tokens: int, span: int, width: int) -> int:
    """Elements of scratch that `attend_disentangled` needs beside those of `attend`."""
    if span == 0:
        return 0
    # Strides as there; rows for the widest vector, a panel, which blocks at the end fill whole.
    ld, ldb = ((columns + width - 1) // width * width + width for columns in (2 * span, tokens))
    return width + width * ld + (BIAS_ROWS + width) * ldb


@kernel
def _stride(columns, width):  # type: ignore[no-untyped-def]
    """Row distance for so many columns: whole panels and one more, since rows a power of two apart share few sets of the cache."""
    return (columns + width - 1) // width * width + width


@kernel
def attend_disentangled(h, count, sizes, scoring, tables, q, k, keys, values, iw, ctx, counter):  # type: ignore[no-untyped-def]
    """ctx = attention of head h whose scores have terms of content and distance.

    tables: (the model, place in its vectors of the packed keys of distances in reversed order, of the packed queries of distances,
    their row for query minus key = T - 1 .. 1 - T); a place below 0 is a term less.
    """
    model, relative_key, relative_query, rows_of = tables
    vectors = model.vectors
    tokens, seen = count
    scratch, d, last_row = keys.data, sizes.head, 2 * sizes.span - 1
    width = tile_width(scratch)
    middle = rows_of.size // 2
    ld, ldb = _stride(last_row + 1, width), _stride(seen, width)
    zeros = iw
    terms = matrix(scratch, zeros + width, ld)
    bias = matrix(scratch, terms.at + width * ld, ldb)
    own = bias.at + (BIAS_ROWS + width) * ldb
    for j in range(width):
        scratch[zeros + j] = 0.0
    head = h * (ld - width) * d
    # Keys up to so far behind and ahead of a query have a row of their own.
    reach = (_reach(rows_of, tokens, -1), _reach(rows_of, seen, 1))
    step = lanes(scratch)
    for row in range(0, tokens, BIAS_ROWS):
        if counter[STOP] != 0:
            return
        m = min(BIAS_ROWS, tokens - row)
        if relative_query >= 0:
            for s in range(0, seen, step):
                last = min(s + step, seen)
                low, high = np.int64(rows_of[middle - row + last - 1]), np.int64(rows_of[middle - row - m + 1 + s])
                panels = (low // width, high // width + 1)
                table_products(last - s, d, panels, shifted(k, s, 0), matrix(vectors, relative_query + head, width), zeros, terms)
                turn_terms(m, row, (s, last), sizes.span, reach, terms, rows_of, bias)
        for i in range(0, m, step):
            t, stop = row + i, min(i + step, m)
            if relative_key >= 0:
                low, high = np.int64(rows_of[middle - t + seen - 1]), np.int64(rows_of[middle - row - stop + 1])
                panels = ((last_row - high) // width, (last_row - low) // width + 1)
                table_products(stop - i, d, panels, shifted(q, t, 0), matrix(vectors, relative_key + head, width), zeros, terms)
            for a in range(i, stop):
                line, to = shifted(terms, a - i, 0), shifted(bias, a, 0)
                add_terms(row + a, seen, sizes.span, reach, (relative_key, relative_query), line, rows_of, scoring.scale, to)
        mask = Mask(scratch, bias.at - row * ldb, ldb, 1)
        place, room = (np.int64(m), np.int64(row)), matrix(scratch, own, 0)
        attend_rows(model, place, (seen, d, d), shifted(q, row, 0), keys, values, mask, scoring, room, shifted(ctx, row, 0))


@kernel
def table_products(m, d, panels, x, table, zeros, out):  # type: ignore[no-untyped-def]
    """Columns of panels[0] .. panels[1] - 1 of out = the products of m rows of x with the rows of a packed table."""
    width, none = table.ld, matrix(out.data, zeros, 0)
    for p in range(panels[0], panels[1]):
        panel_product(m, d, x, shifted(table, p * d, 0), 0, none, shifted(out, 0, p * width), width)


@kernel
def _reach(rows_of, count, step):  # type: ignore[no-untyped-def]
    """The most distances on a side, less than `count`, of which each has the row beside the one before."""
    middle, far = rows_of.size // 2, 0
    while far + 1 < count and rows_of[middle + step * (far + 1)] == rows_of[middle] - step * (far + 1):
        far += 1
    return far


@kernel
def turn_terms(m, row, keys, span, reach, terms, rows_of, bias):  # type: ignore[no-untyped-def]
    """bias[i, s] = the product of key s with the query of distance row + i - s, for m queries and no more keys than a vector has.

    Products lie by keys. A square of keys and queries of which each distance has its own row is a square of them, one column less
    in each row, transposed; at the ends it reaches beyond, where nothing is read.
    """
    data, step, middle = terms.data, lanes(terms.data), rows_of.size // 2
    behind, ahead = reach
    s, last = keys
    for i in range(0, m, step):
        t, stop = row + i, min(i + step, m)
        if row + stop - 1 - s <= behind and last - 1 - t <= ahead:
            transpose_block(data, terms.at + t - s + span, terms.ld - 1, data, bias.at + i * bias.ld + s, bias.ld)
        else:
            for a in range(i, stop):
                first, to = middle - row - a, bias.at + a * bias.ld
                for b in range(s, last):
                    data[to + b] = data[terms.at + (b - s) * terms.ld + np.int64(rows_of[first + b])]


@kernel
def add_terms(t, seen, span, reach, places, c2p, rows_of, scale, bias):  # type: ignore[no-untyped-def]
    """bias = scale (products of query t with the keys of distances + bias), of the terms whose places are not below 0."""
    data, step = bias.data, lanes(bias.data)
    relative_key, relative_query = places
    start, stop = max(0, min(seen, t - reach[0])), max(0, min(seen, t + reach[1] + 1))
    if relative_key < 0:
        start, stop = 0, seen
    first, last_row = rows_of.size // 2 - t, 2 * span - 1
    for s in range(start):
        place = c2p.at + last_row - np.int64(rows_of[first + s])
        data[bias.at + s] = _sum(data, place, bias.at + s, relative_query) * np.float32(scale)
    for s in range(start, stop, step):
        count = min(step, stop - s)
        place, to = c2p.at + span - 1 - t + s, bias.at + s
        if count < step:
            x = load_part(data, to if relative_key < 0 else place, count, 0.0)
            if relative_key >= 0 and relative_query >= 0:
                x = x + load_part(data, to, count, 0.0)
            store_part(data, to, count, x * np.float32(scale))
            continue
        x = load(data, to if relative_key < 0 else place)
        if relative_key >= 0 and relative_query >= 0:
            x = x + load(data, to)
        store(data, to, x * np.float32(scale))
    for s in range(stop, seen):
        place = c2p.at + last_row - np.int64(rows_of[first + s])
        data[bias.at + s] = _sum(data, place, bias.at + s, relative_query) * np.float32(scale)


@kernel
def _sum(data, place, to, relative_query):  # type: ignore[no-untyped-def]
    """The term of a query, and where there is one, that of a key."""
    return data[place] if relative_query < 0 else data[place] + data[to]
