"""From products to weights and gradients of scores, for a block of keys (rows) and queries (columns)."""

from __future__ import annotations

import numpy as np

from fastattn.kernels.backward._head_room import clear
from fastattn.kernels.compile.jit import inline, kernel
from fastattn.kernels.vector.elementary import LOG2_E, exp2, tanh
from fastattn.kernels.vector.simd import fill, lanes, load, load_part, reduce_add, store, store_part, where_less


@inline
def weigh(score, minus_lse, lost):  # type: ignore[no-untyped-def]
    """The weights exp(score - lse): never above 1, whatever is rounded."""
    d = score + minus_lse + lost
    return exp2(where_less(0.0, d, 0.0, d), LOG2_E)


@kernel
def plain_row(n, x, ip, ig, queries, scale):  # type: ignore[no-untyped-def]
    """A row of n products with the keys, and of those of gradients and values, to weights and gradients of scores, in place.

    queries: where `minus_lse`, `lost` and `delta` of the first begin.
    """
    il, lost, delta = queries
    for j in range(0, n, lanes(x)):
        p = weigh(load(x, ip + j) * scale, load(x, il + j), load(x, lost + j))
        store(x, ip + j, p)
        store(x, ig + j, p * (load(x, ig + j) - load(x, delta + j)))


@kernel
def mask_row(n, mask, im, out, io):  # type: ignore[no-untyped-def]
    """out[t] = the mask's element for query t, of n queries, from element `im` on."""
    width = lanes(out)
    if mask.row == 1:
        for j in range(0, n, width):
            store_part(out, io + j, min(width, n - j), load_part(mask.data, im + j, min(width, n - j), 0.0))
    else:
        for t in range(n):
            out[io + t] = mask.data[im + t * mask.row]


@kernel
def masked_row(n, x, ip, ig, queries, room, scoring, has_mask):  # type: ignore[no-untyped-def]
    """As `plain_row`, with a cap, whose derivative goes to the line `capped`, or a mask, which is the line `added`."""
    il, lost, delta = queries
    for j in range(0, n, lanes(x)):
        score = load(x, ip + j) * scoring.scale
        if scoring.softcap != 0.0:
            t = tanh(score / scoring.softcap)
            score = t * scoring.softcap
            store(x, room.capped + j, 1.0 - t * t)
        if has_mask:
            add = load(x, room.added + j)
            score = where_less(-np.inf, add, score + add, where_less(add, np.inf, -np.inf, add))
        p = weigh(score, load(x, il + j), load(x, lost + j))
        store(x, ip + j, p)
        # A weight that is masked has gradient 0, even where the value is NaN.
        slope = p * (load(x, ig + j) - load(x, delta + j))
        store(x, ig + j, where_less(-np.inf, score, slope, where_less(score, np.inf, fill(x, 0.0), score)))


@kernel
def add_to_mask(n, x, ix, grad, at):  # type: ignore[no-untyped-def]
    """Add the gradients of n scores, those of a key, to the mask's gradient from element `at` on."""
    width = lanes(x)
    if grad.row == 1:
        for j in range(0, n, width):
            m = min(width, n - j)
            store_part(grad.data, at + j, m, load_part(grad.data, at + j, m, 0.0) + load_part(x, ix + j, m, 0.0))
    elif grad.row == 0:
        total = fill(x, 0.0)
        for j in range(0, n, width):
            total = total + load_part(x, ix + j, min(width, n - j), 0.0)
        grad.data[at] += reduce_add(total)
    else:
        for t in range(n):
            grad.data[at + t * grad.row] += x[ix + t]


@kernel
def weigh_block(head, block, queries, room, scoring, ld):  # type: ignore[no-untyped-def]
    """Weights, and gradients of the scores, from the products; `block`: (first key, keys).

    `queries`: the block's first query, and the range of columns, of which those beyond L are padding.
    """
    x, mask, grad_mask = room.x, head.mask, head.grad_mask
    (s0, n), (t0, first, last) = block, queries
    plain = mask.data.size == 0 and scoring.softcap == 0.0
    real = min(last, head.length - t0)
    places = room.minus_lse + t0 + first, room.lost + t0 + first, room.delta + t0 + first
    for i in range(n):
        s, ip, ig = s0 + i, room.scores + i * ld, room.slopes + i * ld
        if plain:
            plain_row(last - first, x, ip + first, ig + first, places, scoring.scale)
        else:
            if mask.data.size:
                mask_row(real - first, mask, mask.at + (t0 + first) * mask.row + s * mask.column, x, room.added)
                clear(last - real, x, room.added + real - first)
            masked_row(last - first, x, ip + first, ig + first, places, room, scoring, mask.data.size > 0)
        seen_from = min(max(s - scoring.right - t0, first), last)
        seen_to = max(min(s + scoring.left + 1 - t0, last), seen_from)
        if seen_to - seen_from < last - first:
            for row in (ip, ig):
                clear(seen_from - first, x, row + first)
                clear(last - seen_to, x, row + seen_to)
        if grad_mask.data.size:
            place = grad_mask.at + (t0 + seen_from) * grad_mask.row + s * grad_mask.column
            add_to_mask(min(seen_to, real) - seen_from, x, ig + seen_from, grad_mask, place)
        if scoring.softcap != 0.0:
            for j in range(0, last - first, lanes(x)):
                store(x, ig + first + j, load(x, ig + first + j) * load(x, room.capped + j))
