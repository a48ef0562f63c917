"""The steps of one encoder layer on a block of packed rows, from packed weights: both schedules are made of them."""

from __future__ import annotations

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.encoder.experts import mix_experts
from fastattn.kernels.encoder.norms import add_sublayer, norm_rows
from fastattn.kernels.products.pack import block_columns, room_words
from fastattn.kernels.products.product import chain_columns, chain_products, chains_of, prepare, prepare_all, products
from fastattn.kernels.records import matrix, norm_of, shifted, weight_of
from fastattn.kernels.vector.rows import multiply_rows
from fastattn.kernels.vector.simd import tile_width
from fastattn.kernels.vector.target import TILE_BYTES

# Rows that go through the feed-forward network together: their expansion stays in the second-level cache.
FF_ROWS = 128
# Columns of a panel: the last one reaches beyond F, and rows a power of two apart would share few sets of the first-level cache.
EDGES = TILE_BYTES // 4


def ff_stride(f: int) -> int:
    """Row distance of the feed-forward expansion: rows a multiple of 4 KiB apart would share one set of the first-level cache."""
    return f + 16 if f % 512 == 0 else f


def tail_scratch(c: int, wide: int, f: int, precision: str) -> int:
    """Elements of scratch that `layer_tail` needs."""
    block = min(f, block_columns(precision))
    return (
        FF_ROWS * (2 * c + block + EDGES + TILE_BYTES // 4)
        + room_words(FF_ROWS, wide, precision)
        + room_words(FF_ROWS, block, precision)
    )


def experts_scratch(c: int, experts: int) -> int:
    """Elements of scratch that `layer_tail` needs besides, before its own, in a model with experts."""
    return FF_ROWS * 2 * (c + experts) if experts else 0


@kernel
def project_qkv(m, sizes, model, at, x, normed, room, qkv):  # type: ignore[no-untyped-def]
    """qkv = the queries, keys and values of m rows of x.

    normed (m, C) takes the normed rows where the norm comes first; room: for FF_ROWS prepared rows.
    """
    c = sizes.hidden
    width = tile_width(x.data)
    count = (sizes.qkv + width - 1) // width
    source = x
    if sizes.norm_first and at.norm1 >= 0:
        norm_rows(m, c, sizes, x, norm_of(model, at.norm1, at.norm1_bias), model.eps, normed)
        source = normed
    weight = weight_of(model, at.qkv, at.qkv_bias, c, sizes.qkv, at.qkv_precision)
    # In blocks of rows, which stay in the second-level cache while the panels pass.
    blocks = (m + FF_ROWS - 1) // FF_ROWS
    for block in range(blocks):
        row = m * block // blocks
        rows = m * (block + 1) // blocks - row
        prepared = prepare_all(rows, shifted(source, row, 0), weight, room)
        products(rows, (0, count), prepared, weight, shifted(qkv, row, 0), 0)


@kernel
def expand(m, panels, sizes, model, at, x, spare, out):  # type: ignore[no-untyped-def]
    """out = activation(up(x)), or activation(gate(x)) * up(x), for panels[0] .. panels[1] - 1 of F columns of m prepared rows.

    With a gate, `spare` has room for a panel of m rows: the gate goes to its place in `out`, the other product through `spare`.
    """
    c, f = sizes.hidden, sizes.ff
    width = tile_width(x.data)
    gated = at.gate >= 0
    first, last = panels
    parts, step = (2, 1) if gated else (1, last - first)
    for p in range(first, last, max(1, step)):
        for part in range(parts):
            w, b, kind, target = at.up, at.up_bias, sizes.activation, out
            if gated and part == 0:
                w, b = at.gate, at.gate_bias
            elif gated:
                target, kind = shifted(spare, 0, -p * width), 0
            products(m, (p, p + step), x, weight_of(model, w, b, c, f, at.up_precision), target, kind)
        if gated:
            columns = min(width, f - p * width)
            multiply_rows(m, columns, spare.data, spare.at, spare.ld, out.data, out.at + p * width, out.ld)


@kernel
def layer_tail(m, sizes, model, at, ctx, scratch, iw, x):  # type: ignore[no-untyped-def]
    """The rest of a layer after the attention, for m rows: output product, residual, norm, feed-forward network, residual, norm."""
    c, f = sizes.hidden, sizes.ff
    width = tile_width(x.data)
    c_panels = (c + width - 1) // width
    out = weight_of(model, at.out, at.out_bias, sizes.query, c, at.out_precision)
    up = weight_of(model, at.up, at.up_bias, c, f, at.up_precision)
    down = weight_of(model, at.down, at.down_bias, f, c, at.down_precision)
    # The scratch: what experts take; y, normed rows, the expansion of a chain, a gate's panel, then prepared rows of C and of the
    # expansion.
    own = matrix(scratch, iw, c)
    if sizes.experts > 0:
        iw += FF_ROWS * 2 * (c + sizes.experts)
    y, normed = matrix(scratch, iw, c), matrix(scratch, iw + FF_ROWS * c, c)
    h, ldh = iw + 2 * FF_ROWS * c, min(f, sizes.block) + EDGES
    spare = matrix(scratch, h + FF_ROWS * ldh, width)
    room = matrix(scratch, spare.at + FF_ROWS * width, 0)
    chain_room = shifted(room, 0, sizes.room)
    columns, chains = chain_columns(down), chains_of(down)
    blocks = (m + FF_ROWS - 1) // FF_ROWS
    for block in range(blocks):
        row = m * block // blocks
        rows = m * (block + 1) // blocks - row
        here = shifted(x, row, 0)
        products(rows, (0, c_panels), prepare_all(rows, shifted(ctx, row, 0), out, room), out, y, 0)
        add_sublayer(rows, sizes, model, y, at.out_norm, at.out_norm_bias, at.norm1, at.norm1_bias, here)
        source = here
        if sizes.norm_first and at.norm2 >= 0:
            norm_rows(rows, c, sizes, here, norm_of(model, at.norm2, at.norm2_bias), model.eps, normed)
            source = normed
        if at.experts > 0:
            mix_experts(rows, sizes, model, at, source, own, matrix(scratch, h, ldh), room, chain_room, y)
        else:
            source = prepare_all(rows, source, up, room)
            # The expansion of one chain of the second product at a time: it stays in the cache.
            for chain in range(chains):
                first = chain * columns // width
                last = (min(f, (chain + 1) * columns) + width - 1) // width
                expand(rows, (first, last), sizes, model, at, source, spare, matrix(scratch, h - first * width, ldh))
                part = prepare(rows, (chain, chain + 1), matrix(scratch, h, ldh), down, chain_room)
                chain_products(rows, (chain, chain + 1), (0, c_panels), part, down, y, 0)
        add_sublayer(rows, sizes, model, y, at.ff_norm, at.ff_norm_bias, at.norm2, at.norm2_bias, here)
