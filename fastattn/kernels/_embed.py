"""Embeddings of packed tokens: token + position + token type, then layer norm."""

from __future__ import annotations

from fastattn.kernels._jit import kernel
from fastattn.kernels._simd import lanes, load, load_part, store, store_part
from fastattn.kernels.layer_norm import layer_norm_rows


@kernel
def add_row(n, x, ix, table, it):  # type: ignore[no-untyped-def]
    """x[:n] += table[:n]."""
    width = lanes(x)
    whole = n - n % width
    for j in range(0, whole, width):
        store(x, ix + j, load(x, ix + j) + load(table, it + j))
    if whole < n:
        rest = n - whole
        store_part(x, ix + whole, rest, load_part(x, ix + whole, rest, 0.0) + load_part(table, it + whole, rest, 0.0))


@kernel
def copy_row(n, source, i, x, ix):  # type: ignore[no-untyped-def]
    """x[:n] = source[:n]."""
    width = lanes(x)
    whole = n - n % width
    for j in range(0, whole, width):
        store(x, ix + j, load(source, i + j))
    if whole < n:
        store_part(x, ix + whole, n - whole, load_part(source, i + whole, n - whole, 0.0))


@kernel
def embed_rows(  # type: ignore[no-untyped-def]
    start, stop, origin, c, ids, types, given, tokens, positions, token_types, weights, norm_w, norm_b, eps, x, ix
):
    """x = embeddings of packed tokens start .. stop - 1, all of the sequence whose first token is `origin`.

    Rows of `given` take the place of token embeddings where `tokens` is empty; an empty table is not added; norm_w < 0: no norm.
    """
    for row in range(start, stop):
        to = ix + (row - start) * c
        if tokens.size:
            copy_row(c, tokens, ids[row] * c, x, to)
        else:
            copy_row(c, given, row * c, x, to)
        if positions.size:
            add_row(c, x, to, positions, (row - origin) * c)
        if token_types.size:
            add_row(c, x, to, token_types, (types[row] if types.size else 0) * c)
    if norm_w >= 0:
        layer_norm_rows(stop - start, c, x, ix, c, x[:0], 0, 0, weights, norm_w, weights, norm_b, x, ix, c, eps)
