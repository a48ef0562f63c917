"""Embeddings of packed tokens: sums of table rows, their layer norm, and a projection where the tables have another width."""

from __future__ import annotations

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.encoder.layer import EMBED_NORM_B, EMBED_NORM_W, FF_ROWS, PROJECT_B, PROJECT_W, C, E
from fastattn.kernels.ops.layer_norm import layer_norm_rows
from fastattn.kernels.ops.linear import linear_rows
from fastattn.kernels.vector.rows import add_row, copy_row
from fastattn.kernels.vector.simd import tile_width


@kernel
def sum_tables(start, stop, offsets, e, inputs, x, ix):  # type: ignore[no-untyped-def]
    """x = the sums of the tables' rows of size e for packed tokens start .. stop - 1.

    inputs: ids, types, given, and the tables of tokens, positions and types.  Rows of `given` take the place of token
    embeddings where `tokens` is empty; an empty table is not added; without `types` they are zeros.
    """
    ids, types, given, tokens, positions, token_types = inputs
    # The sequence of the first token: np.searchsorted takes a second to compile.
    s, end = 0, offsets.size - 1
    while end - s > 1:
        middle = (s + end) // 2
        if offsets[middle] <= start:
            s = middle
        else:
            end = middle
    for row in range(start, stop):
        while row >= offsets[s + 1]:
            s += 1
        to = ix + (row - start) * e
        if tokens.size:
            copy_row(e, tokens, ids[row] * e, x, to)
        else:
            copy_row(e, given, row * e, x, to)
        if positions.size:
            add_row(e, x, to, positions, (row - offsets[s]) * e)
        if token_types.size:
            add_row(e, x, to, token_types, (types[row] if types.size else 0) * e)


@kernel
def embed_rows(start, stop, offsets, dims, inputs, weights, eps, scratch, iw, x, ix):  # type: ignore[no-untyped-def]
    """Embed packed tokens start .. stop - 1 into rows of x; scratch: room for FF_ROWS rows where a projection follows."""
    c, e, norm_w = dims[C], dims[E], dims[EMBED_NORM_W]
    if dims[PROJECT_W] < 0:
        rows, target, to = max(1, stop - start), x, ix
    else:
        rows, target, to = FF_ROWS, scratch, iw
    for row in range(start, stop, rows):
        m = min(rows, stop - row)
        sum_tables(row, row + m, offsets, e, inputs, target, to)
        if norm_w >= 0:
            norm_b = dims[EMBED_NORM_B]
            layer_norm_rows(m, e, target, to, e, x[:0], 0, 0, weights, norm_w, weights, norm_b, target, to, e, eps)
        if dims[PROJECT_W] >= 0:
            width = tile_width(x)
            count = (c + width - 1) // width
            w, b = dims[PROJECT_W], dims[PROJECT_B]
            linear_rows(m, e, 0, count, target, to, e, weights, w, weights, b, x, ix + (row - start) * c, c, c, 0)
