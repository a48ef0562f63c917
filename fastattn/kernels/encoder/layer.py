"""The steps of one encoder layer on a block of packed rows, from packed weights: both schedules are made of them."""

from __future__ import annotations

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.ops._attend import attend, pack_keys, pack_values
from fastattn.kernels.ops.layer_norm import layer_norm_rows
from fastattn.kernels.ops.rotary_embedding import rotate_rows
from fastattn.kernels.products.pack import block_columns, room_words
from fastattn.kernels.products.product import chain_columns, chain_products, chains_of, prepare, prepare_all, products
from fastattn.kernels.records import Mask, Scoring, matrix, norm_of, shifted, weight_of
from fastattn.kernels.vector.rows import add_row, multiply_rows
from fastattn.kernels.vector.simd import tile_width
from fastattn.kernels.vector.target import TILE_BYTES

# Rows that go through the feed-forward network together: their expansion stays in the second-level cache.
FF_ROWS = 128
# Rows of a long sequence that are attended to between two looks at the stop flag.
_HEAD_ROWS = 8 * FF_ROWS
# Place of the stop flag in the counter of work: set, the call ends early.
STOP = 8
# Columns of a panel: the last one reaches beyond F, and rows a power of two apart would share few sets of the first-level cache.
EDGES = TILE_BYTES // 4


def ff_stride(f: int) -> int:
    """Row distance of the feed-forward expansion: rows a multiple of 4 KiB apart would share one set of the first-level cache."""
    return f + 16 if f % 512 == 0 else f


def tail_scratch(c: int, f: int, precision: str) -> int:
    """Elements of scratch that `layer_tail` needs."""
    block = min(f, block_columns(precision))
    return (
        FF_ROWS * (2 * c + block + EDGES + TILE_BYTES // 4)
        + room_words(FF_ROWS, c, precision)
        + room_words(FF_ROWS, block, precision)
    )


@kernel
def norm_rows(m, n, x, norm, eps, out):  # type: ignore[no-untyped-def]
    """out = layer_norm(x) for m rows of n."""
    layer_norm_rows(m, n, x, matrix(x.data[:0], 0, 0), norm, out, eps)


@kernel
def add_norm(m, sizes, y, norm, eps, x):  # type: ignore[no-untyped-def]
    """x = layer_norm(y + x) after a sublayer, or x += y where the norm comes first."""
    if sizes.norm_first:
        for i in range(m):
            add_row(sizes.hidden, x.data, x.at + i * x.ld, y.data, y.at + i * y.ld)
    else:
        layer_norm_rows(m, sizes.hidden, y, x, norm, x, eps)


@kernel
def attend_heads(first, last, count, sizes, at, batch, qkv, scratch, iw, ctx, counter):  # type: ignore[no-untyped-def]
    """ctx = attention of heads first .. last - 1 of one sequence of packed rows qkv (tokens, 3 C).

    count: (tokens, S), where the first S tokens are seen, and the others only see.
    With rotary positions, queries and keys of a head are turned in place, so each head is attended to once.
    It ends early where counter[STOP] is set.
    """
    tokens, seen = count
    c, d = sizes.hidden, sizes.head
    rotary, relative = batch.rotary, batch.relative
    width = tile_width(scratch)
    d_width = (d + width - 1) // width * width
    keys = iw
    values = keys + (tokens + width - 1) // width * width * d
    own = values + tokens * d_width
    scoring = Scoring(1.0 / float(d) ** 0.5, 0.0, at.left, at.right)
    none = scratch[:0]
    distances = relative.size // sizes.heads
    for h in range(first, last):
        q, k, v = shifted(qkv, 0, h * d), shifted(qkv, 0, c + h * d), shifted(qkv, 0, 2 * c + h * d)
        if rotary.size:
            turn = rotary.size // sizes.rotary_tables * at.rotary
            cos, sin = matrix(rotary, turn, d), matrix(rotary, turn + d // 2, d)
            rotate_rows(tokens, d, q, cos, sin, q)
            rotate_rows(tokens, d, k, cos, sin, k)
        pack_keys(seen, d, k.data, k.at, k.ld, scratch, keys)
        # Rows of qkv are so far apart that a head's values would share few sets of the cache.
        pack_values(seen, d, v.data, v.at, v.ld, none, 0, scratch, values)
        # The bias of key s for query t lies at the middle of the head's distances + s - t.
        bias = Mask(relative, h * distances + distances // 2, -1, 1)
        for row in range(0, tokens, _HEAD_ROWS):
            if counter[STOP] != 0:
                return
            attend(
                min(_HEAD_ROWS, tokens - row), row, (seen, d, d), shifted(q, row, 0), matrix(scratch, keys, width),
                matrix(scratch, values, d_width), bias, scoring, scratch, own, shifted(ctx, row, h * d),
            )  # fmt: skip


@kernel
def project_qkv(m, sizes, model, at, x, normed, room, qkv):  # type: ignore[no-untyped-def]
    """qkv (m, 3 C) = the query, key and value of m rows of x.

    normed (m, C) takes the normed rows where the norm comes first; room: for FF_ROWS prepared rows.
    """
    c = sizes.hidden
    width = tile_width(x.data)
    count = (sizes.qkv + width - 1) // width
    source = x
    if sizes.norm_first and at.norm1 >= 0:
        norm_rows(m, c, x, norm_of(model, at.norm1, at.norm1_bias), model.eps, normed)
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
    c, f, eps = sizes.hidden, sizes.ff, model.eps
    width = tile_width(x.data)
    c_panels = (c + width - 1) // width
    out = weight_of(model, at.out, at.out_bias, c, c, at.out_precision)
    up = weight_of(model, at.up, at.up_bias, c, f, at.up_precision)
    down = weight_of(model, at.down, at.down_bias, f, c, at.down_precision)
    norm1, norm2 = norm_of(model, at.norm1, at.norm1_bias), norm_of(model, at.norm2, at.norm2_bias)
    # The scratch: y, normed rows, the expansion of a chain, a gate's panel, then prepared rows of C and of the expansion.
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
        add_norm(rows, sizes, y, norm1, eps, here)
        source = here
        if sizes.norm_first and at.norm2 >= 0:
            norm_rows(rows, c, here, norm2, eps, normed)
            source = normed
        source = prepare_all(rows, source, up, room)
        # The expansion of one chain of the second product at a time: it stays in the cache.
        for chain in range(chains):
            first = chain * columns // width
            last = (min(f, (chain + 1) * columns) + width - 1) // width
            expand(rows, (first, last), sizes, model, at, source, spare, matrix(scratch, h - first * width, ldh))
            part = prepare(rows, (chain, chain + 1), matrix(scratch, h, ldh), down, chain_room)
            chain_products(rows, (chain, chain + 1), (0, c_panels), part, down, y, 0)
        add_norm(rows, sizes, y, norm2, eps, here)
