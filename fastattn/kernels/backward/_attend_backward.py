"""Gradients of one head's attention: scores of a block of keys and queries once more, their gradients, and the products of both.

Scores lie transposed, a row for each key, so that no block of them is turned: with P the weights, G the gradient of the result,
V and K the values and keys, ``grad_v = P^T G``, ``dS = P * (G V^T - D)``, ``grad_k = dS^T Q`` and ``grad_q^T = K^T dS^T`` are
products whose first factor lies in rows and whose second in panels.  D is the sum of ``G * out`` over each row.
"""

from __future__ import annotations

from fastattn.kernels.backward._ahead import ask
from fastattn.kernels.backward._head_room import KEY_BLOCK, KEY_GROUP, QUERY_BLOCK, clear, mark_keys, prepare_queries, room_of
from fastattn.kernels.backward._weigh import weigh_block
from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.ops._attend import pack_values
from fastattn.kernels.ops.softmax import scale_row
from fastattn.kernels.records import matrix, shifted
from fastattn.kernels.vector.simd import lanes, tile_width
from fastattn.kernels.vector.tile import panel_product
from fastattn.kernels.vector.transpose import transpose_block


@kernel
def transpose(m, n, x, ix, ldx, out, io, ldo):  # type: ignore[no-untyped-def]
    """out[j, i] = x[i, j] for m rows and n columns."""
    step = lanes(x)
    for i in range(0, m, step):
        rows = min(step, m - i)
        whole = n - n % step if rows == step else 0
        for j in range(0, whole, step):
            transpose_block(x, ix + i * ldx + j, ldx, out, io + j * ldo + i, ldo)
        for j in range(whole, n):
            for a in range(i, i + rows):
                out[io + j * ldo + a] = x[ix + a * ldx + j]


@kernel
def add_products(m, k, a, b, columns, to):  # type: ignore[no-untyped-def]
    """to += a[:m, :k] b[:k, :columns], whole panels."""
    width = tile_width(to.data)
    for p in range(0, columns, width):
        target = shifted(to, 0, p)
        panel_product(m, k, a, shifted(b, 0, p), 0, target, target, width)


@kernel
def ask_keys(head, first, last):  # type: ignore[no-untyped-def]
    """Ask for what is read and written for keys first .. last - 1."""
    ask(head.k, first, last, head.d)
    ask(head.v, first, last, head.e)
    ask(head.grad_k, first, last, head.d)
    ask(head.grad_v, first, last, head.e)


@kernel
def attend_block(head, keys, t0, room, scoring):  # type: ignore[no-untyped-def]
    """Add what a block of queries, from t0 on, and a block of keys give to the gradients.

    keys: the group's first key, and the first and the number of the block.
    """
    d, e, x = head.d, head.e, room.x
    group, s0, n = keys
    width = tile_width(x)
    d_width, e_width = (d + width - 1) // width * width, (e + width - 1) // width * width
    ld = QUERY_BLOCK + width
    at = s0 - group
    low, high = max(0, s0 - scoring.right), min(head.length, s0 + n + scoring.left)
    # Whole panels of queries that see some key of the block.
    first = max(low - t0, 0) // width * width
    last = min(QUERY_BLOCK, (high - t0 + width - 1) // width * width)
    if last <= first:
        return
    none = matrix(x, room.zeros, 0)
    k, v = matrix(x, room.k + at * d_width, d_width), matrix(x, room.v + at * e_width, e_width)
    scores, slopes = matrix(x, room.scores, ld), matrix(x, room.slopes, ld)
    m = min(last, head.length - t0) - first
    for p in range(first, last, width):
        panel = matrix(x, room.q_panels + (t0 + p) * d, width)
        panel_product(n, d, k, panel, 0, none, shifted(scores, 0, p), width)
        panel = matrix(x, room.grad_panels + (t0 + p) * e, width)
        panel_product(n, e, v, panel, 0, none, shifted(slopes, 0, p), width)
    weigh_block(head, (s0, n), (t0, first, last), room, scoring, ld)
    rows = t0 + first
    grad, to = matrix(x, room.grad + rows * e_width, e_width), matrix(x, room.grad_v + at * e_width, e_width)
    add_products(n, m, shifted(scores, 0, first), grad, e_width, to)
    q, to = matrix(x, room.q + rows * d_width, d_width), matrix(x, room.grad_k + at * d_width, d_width)
    add_products(n, m, shifted(slopes, 0, first), q, d_width, to)
    to = matrix(x, room.grad_q + t0 * d + first, QUERY_BLOCK)
    add_products(d, n, matrix(x, room.k_turned + at * d, KEY_BLOCK), shifted(slopes, 0, first), last - first, to)


@kernel
def attend_backward(head, scoring, scratch, iw):  # type: ignore[no-untyped-def]
    """The gradients of a Head; its sums have an order that L, S and the bounds of the scores fix."""
    d, e, x = head.d, head.e, scratch
    width = tile_width(x)
    d_width, e_width = (d + width - 1) // width * width, (e + width - 1) // width * width
    room = room_of(head, scratch, iw)
    clear(width, x, room.zeros)
    mark_keys(head.length, head.keys, head.mask, head.masks_keys, scoring, x, room.live)
    ask_keys(head, 0, min(KEY_GROUP, head.keys))
    prepare_queries(head, room)
    for group in range(0, head.keys, KEY_GROUP):
        stop = min(group + KEY_GROUP, head.keys)
        ask_keys(head, stop, min(stop + KEY_GROUP, head.keys))
        n, live = stop - group, room.live + group
        pack_values(n, d, head.k.data, head.k.at + group * head.k.ld, head.k.ld, x, live, x, room.k)
        pack_values(n, e, head.v.data, head.v.at + group * head.v.ld, head.v.ld, x, live, x, room.v)
        for s in range(0, n, KEY_BLOCK):
            transpose(min(KEY_BLOCK, n - s), d, x, room.k + s * d_width, d_width, x, room.k_turned + s * d, KEY_BLOCK)
        clear(n * d_width, x, room.grad_k)
        clear(n * e_width, x, room.grad_v)
        low, high = max(0, group - scoring.right), min(head.length, stop + scoring.left)
        for t0 in range(low // QUERY_BLOCK * QUERY_BLOCK, high, QUERY_BLOCK):
            for s0 in range(group, stop, KEY_BLOCK):
                attend_block(head, (group, s0, min(KEY_BLOCK, stop - s0)), t0, room, scoring)
        for i in range(n):
            row = group + i
            scale_row(d, x, room.grad_k + i * d_width, head.grad_k.data, head.grad_k.at + row * head.grad_k.ld, scoring.scale)
            scale_row(e, x, room.grad_v + i * e_width, head.grad_v.data, head.grad_v.at + row * head.grad_v.ld, 1.0)
    ask(head.grad_q, 0, min(QUERY_BLOCK, head.length), d)
    for t0 in range(0, head.length, QUERY_BLOCK):
        ask(head.grad_q, t0 + QUERY_BLOCK, min(t0 + 2 * QUERY_BLOCK, head.length), d)
        at = room.grad_q + t0 * d
        scale_row(d * QUERY_BLOCK, x, at, x, at, scoring.scale)
        m = min(QUERY_BLOCK, head.length - t0)
        transpose(d, m, x, at, QUERY_BLOCK, head.grad_q.data, head.grad_q.at + t0 * head.grad_q.ld, head.grad_q.ld)
