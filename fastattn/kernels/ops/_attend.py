"""One head's attention for a block of query rows: scores of a tile of rows against a block of keys, online softmax, times V."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastattn.kernels.compile.jit import inline, kernel
from fastattn.kernels.ops._arrays import panels
from fastattn.kernels.ops.softmax import row_exp, row_max, scale_row
from fastattn.kernels.records import Mask, matrix, shifted
from fastattn.kernels.vector.elementary import LOG2_E, exp2, tanh
from fastattn.kernels.vector.simd import fill, fma, lanes, load, load_part, reduce_max, store, store_part, tile_width, where_less
from fastattn.kernels.vector.target import TILE_ROWS
from fastattn.kernels.vector.tile import panel_product
from fastattn.kernels.vector.transpose import transpose_block

# Keys of a block, a multiple of every tile's width: a tile's scores stay in the first-level cache.
KEY_BLOCK = 512
NO_BOUND = 1 << 40


def scratch_size(s_all: int, e: int, dtype: Any) -> int:
    """Elements of scratch that `attend` needs for values of head size `e` (and `live_keys` for S keys).

    What `prepare_queries` writes comes behind them.
    """
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
        whole = used - used % step
        for j in range(0, whole, step):
            store(out, row + j, load(v, iv + s * ldv + j))
        for j in range(whole, padded, step):
            store(out, row + j, load_part(v, iv + s * ldv + j, min(step, max(0, used - j)), 0.0))


@kernel
def live_keys(length, s_all, mask, scoring, live, il):  # type: ignore[no-untyped-def]
    """live[s] = 1 where some query sees key s, else 0."""
    left, right = scoring.left, scoring.right
    for s in range(s_all):
        live[il + s] = 0.0
    for t in range(length):
        for s in range(max(0, t - left), min(s_all, t + right + 1)):
            if mask.data.size == 0 or mask.data[mask.at + t * mask.row + s * mask.column] != -np.inf:
                live[il + s] = 1.0
        if mask.row == 0 and left >= s_all and right >= s_all:
            break


@kernel
def finish_scores(n, x, ix, scoring, mask, im):  # type: ignore[no-untyped-def]
    """Scale n scores in place, cap them, add the mask from element `im` on; a masked score is replaced by -inf."""
    width = lanes(x)
    whole = n - n % width
    for j in range(0, n, width):
        # Stores of a part cost as much as ten of a whole vector.
        s = load(x, ix + j) if j < whole else load_part(x, ix + j, n - j, 0.0)
        s = s * scoring.scale
        if scoring.softcap != 0.0:
            s = tanh(s / scoring.softcap) * scoring.softcap
        if mask.data.size:
            add = fill(x, mask.data[im])
            if mask.column:
                add = load(mask.data, im + j) if j < whole else load_part(mask.data, im + j, n - j, 0.0)
            s = where_less(-np.inf, add, s + add, where_less(add, np.inf, -np.inf, add))
        if j < whole:
            store(x, ix + j, s)
        else:
            store_part(x, ix + j, n - j, s)


@inline
def mask_of(mask, b, h):  # type: ignore[no-untyped-def]
    """The Mask of head h of batch entry b in a MaskTensor."""
    return Mask(mask.data, b * mask.batch + h * mask.head, mask.row, mask.column)


@inline
def group_of(sizes, head):  # type: ignore[no-untyped-def]
    """Which of the B * G key heads serves query head `head` of B * H."""
    b, h = head // sizes.heads, head % sizes.heads
    return b * sizes.groups + h // (sizes.heads // sizes.groups)


@inline
def is_plain(scoring, mask):  # type: ignore[no-untyped-def]
    """Whether the scale can wait until the exponential: without mask and cap, and where it keeps the maximum (no sign, no NaN)."""
    return mask.data.size == 0 and scoring.softcap == 0.0 and scoring.scale > 0.0


@kernel
def blank(n, x, ix):  # type: ignore[no-untyped-def]
    """x[ix : ix + n] = -inf."""
    width = lanes(x)
    for j in range(0, n, width):
        store_part(x, ix + j, min(width, n - j), fill(x, -np.inf))


@kernel
def exp_rows(m, n, x, ix, state, fresh, c):  # type: ignore[no-untyped-def]
    """One step of the online softmax: exp of m rows of scores in place; their maxima and sums join the running ones.

    x[state ..]: TILE_ROWS running maxima, as many running sums, and the factors that rescale what was summed before.
    """
    tops, totals, rescales = state, state + TILE_ROWS, state + 2 * TILE_ROWS
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
            x[rescales + i] = 1.0
            total = x[totals + i]
            if top == -np.inf:
                for j in range(at, at + n):
                    x[j] = 0.0
            else:
                x[rescales + i] = reduce_max(exp2(fill(x, before) - top, c))
                total = row_exp(n, x, at, x, at, top, c) + total * x[rescales + i]
        x[tops + i], x[totals + i] = top, total


@inline
def same_queries(m, d, q, scratch, iw):  # type: ignore[no-untyped-def]
    """Return the rows of queries as `score_products` takes them: as they are."""
    return q


@kernel
def score_products(m, d, q, keys, seen, scratch, scores, zeros):  # type: ignore[no-untyped-def]
    """Scores of m queries and the keys of whole panels; seen: where a block of keys begins, the first and the last key in it."""
    width, none = tile_width(scratch), matrix(scratch, zeros, 0)
    block, first, last = seen
    for p in range(first, last, width):
        panel = matrix(keys.data, keys.at + (block + p) * d, width)
        panel_product(m, d, q, panel, 0, none, matrix(scratch, scores + p, KEY_BLOCK), width)


@kernel
def value_products(m, n, weights, values, key, out, zeros):  # type: ignore[no-untyped-def]
    """out = the sums of n value rows from row `key` on, by the rows of weights that `scratch` has from `weights` on."""
    width, none = tile_width(out.data), matrix(out.data, zeros, 0)
    for p in range(0, out.ld, width):
        rows = matrix(out.data, weights, KEY_BLOCK)
        panel_product(m, n, rows, shifted(values, key, p), 0, none, shifted(out, 0, p), width)


def attend_of(prepare_queries: Any, score_products: Any, value_products: Any) -> Any:
    """Return the kernel `attend` whose two products are these.

    `prepare_queries` returns a tile's queries as `score_products` takes them, from its own room if they are written anew.
    `value_products` may overwrite the weights.  Both take keys and values as they were packed for them.
    """

    @kernel
    def attend(rows, row, shape, q, keys, values, mask, scoring, scratch, iw, out, lse):  # type: ignore[no-untyped-def]
        """Flash attention (online softmax) of `rows` queries, the first of which is query `row` of its sequence; out (rows, E).

        shape: (S, D, E).  keys, values: for `same_queries` packed by `pack_keys`, and rows of whole panels or E a multiple of them.
        lse: takes the log of the sum of exponentials of each query's scores, in float64, unless its data is empty.
        Blocks of keys start at multiples of KEY_BLOCK whatever the rows, so the bits depend on the sequence alone.
        """
        s_all, d, e = shape
        left, right = scoring.left, scoring.right
        width = tile_width(scratch)
        e_width = (e + width - 1) // width * width
        scores, sums = iw, iw + TILE_ROWS * KEY_BLOCK
        added = sums + TILE_ROWS * e_width
        zeros = added + TILE_ROWS * e_width
        state = zeros + e_width
        for j in range(e_width):
            scratch[zeros + j] = 0.0
        plain = is_plain(scoring, mask)
        c = scoring.scale * LOG2_E if plain else LOG2_E
        tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
        done = 0
        for tile in range(tiles):
            m = (rows - done + tiles - tile - 1) // (tiles - tile)
            t0 = row + done
            low, high = max(0, t0 - left), min(s_all, t0 + m - 1 + right + 1)
            for i in range(m):
                scratch[state + i], scratch[state + TILE_ROWS + i] = -np.inf, 0.0
            fresh = True
            queries = prepare_queries(m, d, shifted(q, done, 0), scratch, state + 3 * TILE_ROWS)
            # A tile whose window begins behind the last key has no block.
            for block in range(low // KEY_BLOCK * KEY_BLOCK, high if low < high else 0, KEY_BLOCK):
                # Whole panels of keys that some row of the tile sees.
                first = max(low - block, 0) // width * width
                last = min(KEY_BLOCK, (high - block + width - 1) // width * width)
                stop = min(last, high - block)
                score_products(m, d, queries, keys, (block, first, last), scratch, scores, zeros)
                # Rows that see every key of the block are not looked at one by one.
                if not plain or stop < last or t0 + m - 1 - left > block + first or t0 + right + 1 < block + stop:
                    for i in range(m):
                        t, at = t0 + i, scores + i * KEY_BLOCK
                        if not plain:
                            place = mask.at + t * mask.row + (block + first) * mask.column
                            finish_scores(stop - first, scratch, at + first, scoring, mask, place)
                        seen_from = min(max(t - left - block, first), last)
                        seen_to = max(min(min(t + right + 1, s_all) - block, last), seen_from)
                        blank(seen_from - first, scratch, at + first)
                        blank(last - seen_to, scratch, at + seen_to)
                exp_rows(m, last - first, scratch, scores + first, state, fresh, c)
                # A block's sum starts at 0 and joins the others afterwards: the error grows with the block, not with S.
                to = sums if fresh else added
                value_products(m, stop - first, scores + first, values, block + first, matrix(scratch, to, e_width), zeros)
                if not fresh:
                    for i in range(m):
                        rescale = fill(scratch, scratch[state + 2 * TILE_ROWS + i])
                        for j in range(i * e_width, (i + 1) * e_width, lanes(scratch)):
                            store(scratch, sums + j, fma(load(scratch, sums + j), rescale, load(scratch, added + j)))
                fresh = False
            for i in range(m):
                total = scratch[state + TILE_ROWS + i]
                row_out = out.at + (done + i) * out.ld
                if lse.data.size:
                    top = scratch[state + i]
                    if plain:
                        # Scaled as the scores are: exp(score - lse) of the only key that counts is 1.
                        top = reduce_max(fill(scratch, top) * scoring.scale)
                    rest = 0.0 if fresh or total == 0.0 else math.log(total)
                    lse.data[lse.at + (done + i) * lse.ld] = np.float64(top) + rest
                if fresh or total == 0.0:
                    for j in range(e):
                        out.data[row_out + j] = 0.0
                else:
                    scale_row(e, scratch, sums + i * e_width, out.data, row_out, 1.0 / total)
            done += m

    return attend


# Both products in the dtype of the queries.
attend = attend_of(same_queries, score_products, value_products)
