"""The steps of one encoder layer on a block of packed rows, from packed weights: what both schedules are made of.

``dims`` holds the sizes (C, H, F, ...) and ``layout[layer]`` where each packed matrix and vector of a layer starts in ``weights``.
"""

from __future__ import annotations

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.ops._attend import attend, pack_keys, pack_values
from fastattn.kernels.ops.layer_norm import layer_norm_rows
from fastattn.kernels.ops.linear import SUM_BLOCK, chains_of, linear_chains, linear_rows
from fastattn.kernels.ops.rotary_embedding import rotate_rows
from fastattn.kernels.vector.rows import add_row, multiply_rows
from fastattn.kernels.vector.simd import tile_width
from fastattn.kernels.vector.target import TILE_BYTES

# Fields of `dims`; a place below 0 is a norm or a projection that is not there.
C, H, F, FF_STRIDE, ACTIVATION, NORM_FIRST, EMBED_NORM_W, EMBED_NORM_B, FINAL_NORM_W, FINAL_NORM_B = range(10)
E, PROJECT_W, PROJECT_B, ROTARY_TABLES = range(10, 14)
# Fields of `layout`: the query, key and value matrices are one.
QKV_W, QKV_B, OUT_W, OUT_B, NORM1_W, NORM1_B, IN_W, IN_B, FF_W, FF_B, NORM2_W, NORM2_B = range(12)
# Below 0: a norm that is not there (where it comes first), no gate.  How far a token sees; which table its rotation takes.
GATE_W, GATE_B, LEFT, RIGHT, ROTARY = range(12, 17)
FIELDS = 17

# Rows that go through the feed-forward network together: their expansion stays in the second-level cache.
FF_ROWS = 128
# Rows of a long sequence that are attended to between two looks at whether the call is still wanted.
_HEAD_ROWS = 8 * FF_ROWS
# Where the counter of work says that it is not.
STOP = 8
# Columns of the panels that reach beyond a chain's part of the expansion, at both ends.
EDGES = 2 * TILE_BYTES // 4


def ff_stride(f: int) -> int:
    """Row distance of the feed-forward expansion: rows a multiple of 4 KiB apart would share one set of the first-level cache."""
    return f + 16 if f % 512 == 0 else f


def tail_scratch(c: int, f: int) -> int:
    """Elements of scratch that `layer_tail` needs."""
    return FF_ROWS * (2 * c + min(f, SUM_BLOCK) + EDGES + TILE_BYTES // 4)


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
def attend_heads(  # type: ignore[no-untyped-def]
    first, last, tokens, dims, at, rotary, relative, qkv, iqkv, scratch, iw, ctx, ictx, counter
):
    """ctx = attention of heads first .. last - 1 of one sequence of packed rows qkv (tokens, 3 C).

    rotary: (tables, T, D), the cosines of a place before its sines; queries and keys of a head are turned in place, so each
    head is attended to once.  relative: (H, 2 T - 1), a head's bias for each distance; T the longest sequence, or both empty.
    It ends early where counter[STOP] is set.
    """
    c, d = dims[C], dims[C] // dims[H]
    width = tile_width(scratch)
    d_width = (d + width - 1) // width * width
    keys = iw
    values = keys + (tokens + width - 1) // width * width * d
    own = values + tokens * d_width
    factor = 1.0 / float(d) ** 0.5
    none = scratch[:0]
    distances = relative.size // dims[H]
    for h in range(first, last):
        q, k, v = iqkv + h * d, iqkv + c + h * d, iqkv + 2 * c + h * d
        if rotary.size:
            turn = rotary.size // dims[ROTARY_TABLES] * at[ROTARY]
            rotate_rows(tokens, d, qkv, q, 3 * c, rotary, turn, rotary, turn + d // 2, d, qkv, q, 3 * c)
            rotate_rows(tokens, d, qkv, k, 3 * c, rotary, turn, rotary, turn + d // 2, d, qkv, k, 3 * c)
        pack_keys(tokens, d, qkv, k, 3 * c, scratch, keys)
        # Rows of qkv are so far apart that a head's values would share few sets of the cache.
        pack_values(tokens, d, qkv, v, 3 * c, none, 0, scratch, values)
        # The bias of key s for query t lies at the middle of the head's distances + s - t.
        for row in range(0, tokens, _HEAD_ROWS):
            if counter[STOP] != 0:
                return
            attend(
                min(_HEAD_ROWS, tokens - row), row, tokens, d, d, qkv, q + row * 3 * c, 3 * c,
                scratch, keys, scratch, values, d_width, relative, h * distances + distances // 2, -1, 1,
                factor, 0.0, at[LEFT], at[RIGHT], scratch, own, ctx, ictx + row * c + h * d, c,
            )  # fmt: skip


@kernel
def project_qkv(m, dims, weights, at, eps, x, ix, scratch, iw, qkv, iqkv):  # type: ignore[no-untyped-def]
    """qkv (m, 3 C) = the query, key and value of m rows of x; scratch (m, C) holds the normed rows where the norm comes first."""
    c = dims[C]
    width = tile_width(x)
    count = (3 * c + width - 1) // width
    source, start = x, ix
    if dims[NORM_FIRST] and at[NORM1_W] >= 0:
        norm_of(m, c, x, ix, weights, at[NORM1_W], at[NORM1_B], eps, scratch, iw)
        source, start = scratch, iw
    # In blocks of rows, which stay in the second-level cache while the panels pass.
    blocks = (m + FF_ROWS - 1) // FF_ROWS
    for block in range(blocks):
        row = m * block // blocks
        rows = m * (block + 1) // blocks - row
        here, to = start + row * c, iqkv + row * 3 * c
        linear_rows(rows, c, 0, count, source, here, c, weights, at[QKV_W], weights, at[QKV_B], qkv, to, 3 * c, 3 * c, 0)


@kernel
def expand(m, first, last, dims, weights, at, x, ix, scratch, iw, out, io, ldh):  # type: ignore[no-untyped-def]
    """out = activation(input(x)), or activation(gate(x)) * input(x), for panels first .. last - 1 of F columns of m rows.

    With a gate, scratch has room for a panel of m rows: the gate goes to its place in `out`, the input through scratch.
    """
    c, f = dims[C], dims[F]
    width = tile_width(x)
    gated = at[GATE_W] >= 0
    parts, step = (2, 1) if gated else (1, last - first)
    for p in range(first, last, max(1, step)):
        for part in range(parts):
            w, b, kind = at[IN_W], at[IN_B], dims[ACTIVATION]
            target, to, ld = out, io, ldh
            if gated and part == 0:
                w, b = at[GATE_W], at[GATE_B]
            elif gated:
                target, to, ld, kind = scratch, iw - p * width, width, 0
            linear_rows(m, c, p, p + step, x, ix, c, weights, w, weights, b, target, to, ld, f, kind)
        if gated:
            multiply_rows(m, min(width, f - p * width), scratch, iw, width, out, io + p * width, ldh)


@kernel
def layer_tail(m, dims, weights, at, eps, ctx, ictx, scratch, iw, x, ix):  # type: ignore[no-untyped-def]
    """What follows the attention, for m rows: output product, residual and norm, feed-forward network, residual and norm."""
    c, f = dims[C], dims[F]
    width = tile_width(x)
    c_panels, chains = (c + width - 1) // width, chains_of(f)
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
        if dims[NORM_FIRST] and at[NORM2_W] >= 0:
            norm_of(rows, c, x, here, weights, at[NORM2_W], at[NORM2_B], eps, scratch, normed)
            source, start = scratch, normed
        # The expansion of one chain of the second product at a time: half the scratch, or less.
        for chain in range(chains):
            first, last = f * chain // chains // width, (f * (chain + 1) // chains + width - 1) // width
            part = h - first * width
            expand(rows, first, last, dims, weights, at, source, start, scratch, h + FF_ROWS * ldh, scratch, part, ldh)
            linear_chains(
                rows,
                f,
                chain,
                chain + 1,
                0,
                c_panels,
                scratch,
                part,
                ldh,
                weights,
                at[FF_W],
                weights,
                at[FF_B],
                scratch,
                y,
                c,
                c,
                0,
            )
        add_norm(rows, dims, scratch, y, weights, at[NORM2_W], at[NORM2_B], eps, x, here)
