"""Embeddings of packed tokens: sums of table rows, their layer norm, and a projection where the tables have another width."""

from __future__ import annotations

import numpy as np

from fastattn.kernels.compile.jit import by_dtype, kernel
from fastattn.kernels.encoder.heads import sequence_of
from fastattn.kernels.encoder.layer import FF_ROWS
from fastattn.kernels.encoder.norms import norm_rows
from fastattn.kernels.products.product import prepare_all, products
from fastattn.kernels.records import matrix, norm_of, shifted, weight_of
from fastattn.kernels.vector.narrow import load_narrow, widened, words
from fastattn.kernels.vector.rows import add_row, copy_row
from fastattn.kernels.vector.simd import lanes, store, tile_width


@kernel
def _float32_token(e, i, tokens, x, ix):  # type: ignore[no-untyped-def]
    copy_row(e, tokens, i * e, x, ix)


@kernel
def _bfloat16_token(e, i, tokens, x, ix):  # type: ignore[no-untyped-def]
    width, first = lanes(x), i * e
    whole = e - e % width
    for j in range(0, whole, width):
        store(x, ix + j, load_narrow(x, tokens, first + j))
    for j in range(whole, e):
        x[ix + j] = widened(tokens[first + j])


@kernel
def _int8_token(e, i, tokens, x, ix):  # type: ignore[no-untyped-def]
    stride = (e + 3) // 4 + 1
    scale = words(tokens)[(i + 1) * stride - 1]
    width, first = lanes(x), 4 * i * stride
    whole = e - e % width
    for j in range(0, whole, width):
        store(x, ix + j, load_narrow(x, tokens, first + j) * scale)
    for j in range(whole, e):
        x[ix + j] = scale * np.float32(tokens[first + j])


@by_dtype({np.float32: _float32_token, np.uint16: _bfloat16_token, np.int8: _int8_token}, "tokens")
def token_row(e, i, tokens, x, ix):  # type: ignore[no-untyped-def]
    """x[:e] = row `i` of the token embeddings; a row of int8 ends with a word that is its scale."""


@kernel
def sum_tables(start, stop, e, batch, model, x):  # type: ignore[no-untyped-def]
    """x = the sums of the tables' rows of size e for packed tokens start .. stop - 1.

    Rows of `input_embeds` take the place of token embeddings where there are no ids.  An empty table is not added; without types
    all tokens have type 0.
    """
    offsets, types = batch.offsets, batch.types
    s = sequence_of(offsets, start)
    for row in range(start, stop):
        while row >= offsets[s + 1]:
            s += 1
        to = x.at + (row - start) * e
        if batch.ids.size:
            token_row(e, np.int64(batch.ids[row]), model.tokens, x.data, to)
        else:
            copy_row(e, batch.input_embeds, row * e, x.data, to)
        if batch.positions.size:
            add_row(e, x.data, to, batch.positions, (row - offsets[s]) * e)
        if model.token_types.size:
            add_row(e, x.data, to, model.token_types, (types[row] if types.size else 0) * e)


@kernel
def embed_rows(start, stop, batch, sizes, model, scratch, iw, x):  # type: ignore[no-untyped-def]
    """Embed packed tokens start .. stop - 1 into rows of x.

    scratch: where a projection follows, room for FF_ROWS rows, then for the same rows prepared.
    """
    c, e = sizes.hidden, sizes.embed
    width = tile_width(x.data)
    projected = sizes.project >= 0
    rows = FF_ROWS if projected else max(1, stop - start)
    target = matrix(scratch, iw, e) if projected else x
    for row in range(start, stop, rows):
        m = min(rows, stop - row)
        sum_tables(row, row + m, e, batch, model, target)
        if sizes.embed_norm >= 0:
            norm_rows(m, e, sizes, target, norm_of(model, sizes.embed_norm, sizes.embed_norm_bias), model.eps, target)
        if projected:
            weight = weight_of(model, sizes.project, sizes.project_bias, e, c, sizes.project_precision)
            prepared = prepare_all(m, target, weight, matrix(scratch, iw + FF_ROWS * e, 0))
            products(m, (0, (c + width - 1) // width), prepared, weight, shifted(x, row - start, 0), 0)
