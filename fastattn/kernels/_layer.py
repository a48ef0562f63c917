"""The steps of one encoder layer on a block of packed rows, from packed weights: what both schedules are made of.

``dims`` holds the sizes (C, H, F, ...) and ``layout[layer]`` where each packed matrix and vector of a layer starts in ``weights``.
"""

from __future__ import annotations

from fastattn.kernels._attend import NO_BOUND, attend, pack_keys, pack_values
from fastattn.kernels._embed import add_row
from fastattn.kernels._jit import kernel
from fastattn.kernels._simd import TILE_BYTES, tile_width
from fastattn.kernels.layer_norm import layer_norm_rows
from fastattn.kernels.linear import SUM_BLOCK, chains_of, linear_chains, linear_rows

# Fields of `dims`.
C, H, F, FF_STRIDE, ACTIVATION, NORM_FIRST, CAUSAL, EMBED_NORM_W, EMBED_NORM_B, FINAL_NORM_W, FINAL_NORM_B = range(11)
# Fields of `layout`: the query, key and value matrices are one.
QKV_W, QKV_B, OUT_W, OUT_B, NORM1_W, NORM1_B, IN_W, IN_B, FF_W, FF_B, NORM2_W, NORM2_B = range(12)
FIELDS = 12

# Rows that go through the feed-forward network together: their expansion stays in the second-level cache.
FF_ROWS = 128
# Columns of the panels that reach beyond a chain's part of the expansion, at both ends.
EDGES = 2 * TILE_BYTES // 4


def ff_stride(f: int) -> int:
    """Row distance of the feed-forward expansion: rows a multiple of 4 KiB apart would share one set of the first-level cache."""
    return f + 16 if f % 512 == 0 else f


def tail_scratch(c: int, f: int) -> int:
    """Elements of scratch that `layer_tail` needs."""
    return FF_ROWS * (2 * c + min(f, SUM_BLOCK) + EDGES)


@kernel
def norm_of(m, c, x, ix, weights, norm_w, norm_b, eps, out, io):  # type: ignore[no-untyped-def]
    """out = layer_norm(x) for m rows."""
    layer_norm_rows(m, c, x, ix, c, x[:0], 0, 0, weights, norm_w, weights, norm_b, out, io, c, eps)


@kernel
def add_norm(m, dims, y, iy, weights, norm_w, norm_b, eps, x, ix):  # type: ignore[no-untyped-def]
    """x = layer_norm(y + x) after a sublayer, or x += y where the norm comes first."""
    c = dims[C]
    if dims[NORM_FIRST]:
        for i in range(m):
            add_row(c, x, ix + i * c, y, iy + i * c)
    else:
        layer_norm_rows(m, c, y, iy, c, x, ix, c, weights, norm_w, weights, norm_b, x, ix, c, eps)


@kernel
def attend_heads(first, last, tokens, dims, qkv, iqkv, scratch, iw, ctx, ictx):  # type: ignore[no-untyped-def]
    """ctx = attention of heads first .. last - 1 of one sequence of packed rows qkv (tokens, 3 C)."""
    c, d = dims[C], dims[C] // dims[H]
    width = tile_width(scratch)
    d_width = (d + width - 1) // width * width
    keys = iw
    values = keys + (tokens + width - 1) // width * width * d
    own = values + tokens * d_width
    right = 0 if dims[CAUSAL] else NO_BOUND
    factor = 1.0 / float(d) ** 0.5
    none = scratch[:0]
    for h in range(first, last):
        q, k, v = iqkv + h * d, iqkv + c + h * d, iqkv + 2 * c + h * d
        pack_keys(tokens, d, qkv, k, 3 * c, scratch, keys)
        # Rows of qkv are so far apart that a head's values would share few sets of the cache.
        pack_values(tokens, d, qkv, v, 3 * c, none, 0, scratch, values)
        attend(
            tokens, 0, tokens, d, d, qkv, q, 3 * c, scratch, keys, scratch, values, d_width, none, 0, 0, 0,
            factor, 0.0, NO_BOUND, right, scratch, own, ctx, ictx + h * d, c,
        )  # fmt: skip


@kernel
def project_qkv(m, dims, weights, layout, layer, eps, x, ix, scratch, iw, qkv, iqkv):  # type: ignore[no-untyped-def]
    """qkv (m, 3 C) = the query, key and value of m rows of x; scratch (m, C) holds the normed rows where the norm comes first."""
    c = dims[C]
    width = tile_width(x)
    count = (3 * c + width - 1) // width
    at = layout[layer]
    source, start = x, ix
    if dims[NORM_FIRST]:
        norm_of(m, c, x, ix, weights, at[NORM1_W], at[NORM1_B], eps, scratch, iw)
        source, start = scratch, iw
    linear_rows(m, c, 0, count, source, start, c, weights, at[QKV_W], weights, at[QKV_B], qkv, iqkv, 3 * c, 3 * c, 0)


@kernel
def layer_tail(m, dims, weights, layout, layer, eps, ctx, ictx, scratch, iw, x, ix):  # type: ignore[no-untyped-def]
    """What follows the attention, for m rows: output product, residual and norm, feed-forward network, residual and norm."""
    c, f = dims[C], dims[F]
    width = tile_width(x)
    c_panels, chains = (c + width - 1) // width, chains_of(f)
    at = layout[layer]
    blocks = (m + FF_ROWS - 1) // FF_ROWS
    for block in range(blocks):
        row = m * block // blocks
        rows = m * (block + 1) // blocks - row
        y, normed = iw, iw + FF_ROWS * c
        h, ldh = normed + FF_ROWS * c, (f + chains - 1) // chains + EDGES
        here = ix + row * c
        linear_rows(rows, c, 0, c_panels, ctx, ictx + row * c, c, weights, at[OUT_W], weights, at[OUT_B], scratch, y, c, c, 0)
        add_norm(rows, dims, scratch, y, weights, at[NORM1_W], at[NORM1_B], eps, x, here)
        source, start = x, here
        if dims[NORM_FIRST]:
            norm_of(rows, c, x, here, weights, at[NORM2_W], at[NORM2_B], eps, scratch, normed)
            source, start = scratch, normed
        # The expansion of one chain of the second product at a time: it stays in the second-level cache.
        for chain in range(chains):
            first, last = f * chain // chains // width, (f * (chain + 1) // chains + width - 1) // width
            linear_rows(
                rows, c, first, last, source, start, c, weights, at[IN_W], weights, at[IN_B], scratch, h - first * width,
                ldh, f, dims[ACTIVATION],
            )  # fmt: skip
            linear_chains(
                rows, f, chain, chain + 1, 0, c_panels, scratch, h - first * width, ldh, weights, at[FF_W], weights, at[FF_B],
                scratch, y, c, c, 0,
            )  # fmt: skip
        add_norm(rows, dims, scratch, y, weights, at[NORM2_W], at[NORM2_B], eps, x, here)
