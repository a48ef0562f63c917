"""One head's attention for a block of query rows: scores of a tile of rows against a block of keys, online softmax, times V."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.ops._arrays import panels
from fastattn.kernels.ops.softmax import row_exp, row_max, scale_row
from fastattn.kernels.vector.elementary import LOG2_E, exp2, tanh
from fastattn.kernels.vector.simd import fill, fma, lanes, load, load_part, reduce_max, store, store_part, tile_width, where_less
from fastattn.kernels.vector.target import TILE_ROWS
from fastattn.kernels.vector.tile import panel_product
from fastattn.kernels.vector.transpose import transpose_block

# Keys of a block, a multiple of every tile's width: a tile's scores stay in the first-level cache.
KEY_BLOCK = 512
NO_BOUND = 1 << 40


def scratch_size(s_all: int, e: int, dtype: Any) -> int:
    """Elements of scratch that `attend` needs for values of head size `e` (and `live_keys` for S keys)."""
    count, width = panels(e, dtype)
    return int(max(TILE_ROWS * (KEY_BLOCK + 2 * count * width + 3) + count * width + 64, s_all + 64)) // 64 * 64 + 64


@kernel
def pack_keys(s_all, d, k, ik, ldk, out, io):  # type: ignore[no-untyped-def]
    """out = the S keys of size d in panels (ceil(S / W), d, W); zeros behind the last key."""
    width, step = tile_width(out), lanes(out)
    for first in range(0, s_all, width):
        for start in range(first, first + width, step):
            base = io + first * d + start - first
            keys = min(step, max(0, s_all - start))
            whole = d - d % step if keys == step else 0
            for j in range(0, whole, step):
                transpose_block(k, ik + start * ldk + j, ldk, out, base + j * width, width)
            for j in range(whole, d):
                row = base + j * width
                for c in range(keys):
                    out[row + c] = k[ik + (start + c) * ldk + j]
                for c in range(keys, step):
                    out[row + c] = 0.0


@kernel
def pack_values(s_all, e, v, iv, ldv, live, il, out, io):  # type: ignore[no-untyped-def]
    """out = the S value rows, each padded with zeros to whole panels; a row that `live` marks 0 becomes 0 and is not read.

    `live` of size 0 marks none.
    """
    width = tile_width(out)
    step = lanes(out)
    padded = (e + width - 1) // width * width
    for s in range(s_all):
        row = io + s * padded
        used = e if live.size == 0 or live[il + s] != 0.0 else 0
        for j in range(0, padded, step):
            store(out, row + j, load_part(v, iv + s * ldv + j, min(step, max(0, used - j)), 0.0))


@kernel
def live_keys(length, s_all, mask, im, mask_row, mask_column, left, right, live, il):  # type: ignore[no-untyped-def]
    """live[s] = 1 where some query sees key s, else 0."""
    for s in range(s_all):
        live[il + s] = 0.0
    for t in range(length):
        for s in range(max(0, t - left), min(s_all, t + right + 1)):
            if mask.size == 0 or mask[im + t * mask_row + s * mask_column] != -np.inf:
                live[il + s] = 1.0
        if mask_row == 0 and left >= s_all and right >= s_all:
            break


@kernel
def finish_scores(n, x, ix, scale, softcap, mask, im, mask_column):  # type: ignore[no-untyped-def]
    """Scale n scores in place, cap them, add the mask; a masked score is replaced by -inf."""
    width = lanes(x)
    for j in range(0, n, width):
        count = min(width, n - j)
        s = load_part(x, ix + j, count, 0.0) * scale
        if softcap != 0.0:
            s = tanh(s / softcap) * softcap
        if mask.size:
            if mask_column:
                add = load_part(mask, im + j, count, 0.0)
            else:
                add = fill(x, mask[im])
            s = where_less(-np.inf, add, s + add, where_less(add, np.inf, -np.inf, add))
        store_part(x, ix + j, count, s)


@kernel
def blank(n, x, ix):  # type: ignore[no-untyped-def]
    """x[ix : ix + n] = -inf."""
    width = lanes(x)
    for j in range(0, n, width):
        store_part(x, ix + j, min(width, n - j), fill(x, -np.inf))


@kernel
def exp_rows(m, n, x, ix, tops, totals, fades, fresh, c):  # type: ignore[no-untyped-def]
    """exp of m rows of scores in place; their maxima and sums join those in x[tops ..], x[totals ..], which fade by x[fades ..]."""
    for i in range(m):
        at = ix + i * KEY_BLOCK
        top = row_max(n, x, at)
        if fresh:
            if top == -np.inf:
                total = 0.0
                for j in range(at, at + n):
                    x[j] = 0.0
            else:
                total = row_exp(n, x, at, x, at, top, c)
        else:
            before = x[tops + i]
            if before > top:
                top = before
            x[fades + i] = 1.0
            total = x[totals + i]
            if top == -np.inf:
                for j in range(at, at + n):
                    x[j] = 0.0
            else:
                x[fades + i] = reduce_max(exp2(fill(x, before) - top, c))
                total = row_exp(n, x, at, x, at, top, c) + total * x[fades + i]
        x[tops + i], x[totals + i] = top, total


@kernel
def attend(  # type: ignore[no-untyped-def]
    rows, row, s_all, d, e, q, iq, ldq, keys, ik, v, iv, ldv, mask, im, mask_row, mask_column, scale, softcap, left, right,
    scratch, iw, out, io, ldo,
):  # fmt: skip
    """Attention of `rows` queries, the first of which is query `row` of its sequence, on S keys; out (rows, e).

    keys: packed by `pack_keys`.  v: rows of whole panels (ldv), or e a multiple of the panel.  mask: additive, with the
    strides given; size 0 is none.  A query t sees keys t - left .. t + right.
    Blocks of keys start at multiples of KEY_BLOCK whatever the rows, so the bits depend on the sequence alone.
    """
    width = tile_width(scratch)
    e_width = (e + width - 1) // width * width
    scores, values = iw, iw + TILE_ROWS * KEY_BLOCK
    added = values + TILE_ROWS * e_width
    zeros = added + TILE_ROWS * e_width
    tops = zeros + e_width
    totals, fades = tops + TILE_ROWS, tops + 2 * TILE_ROWS
    for j in range(e_width):
        scratch[zeros + j] = 0.0
    # A factor that is not positive would turn the maximum into a minimum, or -inf into NaN.
    plain = mask.size == 0 and softcap == 0.0 and scale > 0.0
    c = scale * LOG2_E if plain else LOG2_E
    tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    done = 0
    for tile in range(tiles):
        m = (rows - done + tiles - tile - 1) // (tiles - tile)
        t0 = row + done
        low, high = max(0, t0 - left), min(s_all, t0 + m - 1 + right + 1)
        for i in range(m):
            scratch[tops + i], scratch[totals + i] = -np.inf, 0.0
        fresh = True
        for block in range(low // KEY_BLOCK * KEY_BLOCK, high, KEY_BLOCK):
            # Whole panels of keys that some row of the tile sees.
            first = max(low - block, 0) // width * width
            last = min(KEY_BLOCK, (high - block + width - 1) // width * width)
            stop = min(last, high - block)
            for p in range(first, last, width):
                panel = ik + (block + p) * d
                panel_product(
                    m,
                    d,
                    q,
                    iq + done * ldq,
                    ldq,
                    keys,
                    panel,
                    width,
                    0,
                    scratch,
                    zeros,
                    0,
                    scratch,
                    scores + p,
                    KEY_BLOCK,
                    width,
                )
            # Rows that see every key of the block need no look of their own.
            if not plain or stop < last or t0 + m - 1 - left > block + first or t0 + right + 1 < block + stop:
                for i in range(m):
                    t, at = t0 + i, scores + i * KEY_BLOCK
                    if not plain:
                        finish_scores(
                            stop - first, scratch, at + first, scale, softcap, mask,
                            im + t * mask_row + (block + first) * mask_column, mask_column,
                        )  # fmt: skip
                    seen_from = min(max(t - left - block, first), last)
                    seen_to = max(min(min(t + right + 1, s_all) - block, last), seen_from)
                    blank(seen_from - first, scratch, at + first)
                    blank(last - seen_to, scratch, at + seen_to)
            exp_rows(m, last - first, scratch, scores + first, tops, totals, fades, fresh, c)
            # A block's sum starts at 0 and joins the others afterwards: the error grows with the block, not with S.
            to = values if fresh else added
            for p in range(0, e_width, width):
                panel_product(
                    m, stop - first, scratch, scores + first, KEY_BLOCK, v, iv + (block + first) * ldv + p, ldv, 0,
                    scratch, zeros, 0, scratch, to + p, e_width, width,
                )  # fmt: skip
            if not fresh:
                for i in range(m):
                    fade = fill(scratch, scratch[fades + i])
                    for j in range(i * e_width, (i + 1) * e_width, lanes(scratch)):
                        store(scratch, values + j, fma(load(scratch, values + j), fade, load(scratch, added + j)))
            fresh = False
        for i in range(m):
            total = scratch[totals + i]
            row_out = io + (done + i) * ldo
            if fresh or total == 0.0:
                for j in range(e):
                    out[row_out + j] = 0.0
            else:
                scale_row(e, scratch, values + i * e_width, out, row_out, 1.0 / total)
        done += m
