"""What the gradients of one head are computed from, and the scratch that they take."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastattn.kernels.backward._ahead import ROWS, ask
from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.ops._arrays import panels
from fastattn.kernels.ops._attend import live_keys, pack_keys, pack_values
from fastattn.kernels.vector.simd import fill, fma, lanes, load, load_part, reduce_add, tile_width

# Queries and keys of a block, the first a multiple of every tile's width: sums over a block are added to those before.
QUERY_BLOCK = 128
KEY_BLOCK = 64
# Keys that meet a block of queries one block after another: of long sequences, the queries come from the third-level cache.
KEY_GROUP = 4 * KEY_BLOCK


class Head(NamedTuple):
    """One head of one sequence: L queries of size D and S keys with values of size E, all a Matrix with a row a token.

    `q` ... `lse` are read; the gradients are written, but `grad_mask` is added to.  `mask`, `grad_mask`: a Mask.  `masks_keys`:
    whether the mask may hide a key from all queries.
    """

    length: Any
    keys: Any
    d: Any
    e: Any
    q: Any
    k: Any
    v: Any
    grad: Any
    out: Any
    lse: Any
    grad_q: Any
    grad_k: Any
    grad_v: Any
    mask: Any
    grad_mask: Any
    masks_keys: Any


class Room(NamedTuple):
    """Scratch, and where in it each part begins.

    For all queries: rows `q` and `grad`, both again in panels, `grad_q` transposed by blocks, `minus_lse` and what
    its rounding lost, `lost`, `delta`.  For a group of keys: rows `k` and `v`, `k_turned` by blocks, sums `grad_k` and
    `grad_v`.  For a block of them: transposed `scores` and `slopes` (then weights and their gradients).
    Lines: `added`, `capped`, `zeros`.  `live`: a flag for each key.
    """

    x: Any
    q: Any
    grad: Any
    q_panels: Any
    grad_panels: Any
    grad_q: Any
    minus_lse: Any
    lost: Any
    delta: Any
    k: Any
    v: Any
    k_turned: Any
    grad_k: Any
    grad_v: Any
    scores: Any
    slopes: Any
    added: Any
    capped: Any
    zeros: Any
    live: Any


def scratch_size(length: int, s_all: int, d: int, e: int, dtype: Any) -> int:
    """Elements of scratch that `attend_backward` needs: linear in L + S."""
    width = panels(1, dtype)[1]
    d_width, e_width = (panels(n, dtype)[0] * width for n in (d, e))
    padded = -(-length // QUERY_BLOCK) * QUERY_BLOCK
    queries = padded * (d_width + e_width + 2 * d + e + 3)
    keys = KEY_GROUP * (2 * d_width + 2 * e_width + d) + 2 * KEY_BLOCK * (QUERY_BLOCK + width)
    return int(queries + keys + 2 * QUERY_BLOCK + width + s_all + 64) // 64 * 64 + 64


@kernel
def room_of(head, x, ix):  # type: ignore[no-untyped-def]
    """The Room in scratch `x` from element `ix` on."""
    width = tile_width(x)
    d_width, e_width = (head.d + width - 1) // width * width, (head.e + width - 1) // width * width
    padded = (head.length + QUERY_BLOCK - 1) // QUERY_BLOCK * QUERY_BLOCK
    block = KEY_BLOCK * (QUERY_BLOCK + width)
    q = ix
    grad = q + padded * d_width
    q_panels = grad + padded * e_width
    grad_panels = q_panels + padded * head.d
    grad_q = grad_panels + padded * head.e
    minus_lse = grad_q + padded * head.d
    lost = minus_lse + padded
    delta = lost + padded
    k = delta + padded
    v = k + KEY_GROUP * d_width
    k_turned = v + KEY_GROUP * e_width
    grad_k = k_turned + KEY_GROUP * head.d
    grad_v = grad_k + KEY_GROUP * d_width
    scores = grad_v + KEY_GROUP * e_width
    slopes = scores + block
    added = slopes + block
    capped = added + QUERY_BLOCK
    zeros = capped + QUERY_BLOCK
    return Room(
        x, q, grad, q_panels, grad_panels, grad_q, minus_lse, lost, delta, k, v, k_turned, grad_k, grad_v, scores, slopes, added,
        capped, zeros, zeros + width,
    )  # fmt: skip


@kernel
def clear(n, x, ix):  # type: ignore[no-untyped-def]
    """x[ix : ix + n] = 0."""
    for j in range(ix, ix + n):
        x[j] = 0.0


@kernel
def dot_rows(n, x, ix, y, iy):  # type: ignore[no-untyped-def]
    """The sum of x[ix + j] * y[iy + j] over n elements."""
    width = lanes(x)
    whole = n - n % width
    total = fill(x, 0.0)
    for j in range(0, whole, width):
        total = fma(load(x, ix + j), load(y, iy + j), total)
    if whole < n:
        total = fma(load_part(x, ix + whole, n - whole, 0.0), load_part(y, iy + whole, n - whole, 0.0), total)
    return reduce_add(total)


@kernel
def mark_keys(length, s_all, mask, masks_keys, scoring, live, il):  # type: ignore[no-untyped-def]
    """live[s] = 1 where some query sees key s, else 0."""
    if masks_keys:
        live_keys(length, s_all, mask, scoring, live, il)
        return
    for s in range(s_all):
        live[il + s] = 1.0 if max(0, s - scoring.right) < min(length, s + scoring.left + 1) else 0.0


@kernel
def prepare_queries(head, room):  # type: ignore[no-untyped-def]
    """Queries and gradients of a head, with -lse and D of each; a query that sees no key is taken as 0 and not read."""
    x, d, e = room.x, head.d, head.e
    width = tile_width(x)
    d_width, e_width = (d + width - 1) // width * width, (e + width - 1) // width * width
    padded = (head.length + width - 1) // width * width
    for t0 in range(0, head.length, ROWS):
        m = min(ROWS, head.length - t0)
        ask(head.lse, t0, t0 + m, 1)
        ask(head.q, t0, t0 + m, d)
        ask(head.grad, t0, t0 + m, e)
        ask(head.out, t0, t0 + m, e)
        for t in range(t0, t0 + m):
            lse = head.lse.data[head.lse.at + t * head.lse.ld]
            x[room.delta + t] = 0.0 if lse == -np.inf else 1.0
            # exp(score - lse) is 0 where there is no key.
            x[room.minus_lse + t] = -np.inf if lse == -np.inf else -lse
            x[room.lost + t] = 0.0 if lse == -np.inf else -lse - x[room.minus_lse + t]
        q, grad, live = room.q + t0 * d_width, room.grad + t0 * e_width, room.delta + t0
        pack_values(m, d, head.q.data, head.q.at + t0 * head.q.ld, head.q.ld, x, live, x, q)
        pack_values(m, e, head.grad.data, head.grad.at + t0 * head.grad.ld, head.grad.ld, x, live, x, grad)
        pack_keys(m, d, x, q, d_width, x, room.q_panels + t0 * d)
        pack_keys(m, e, x, grad, e_width, x, room.grad_panels + t0 * e)
        for t in range(t0, t0 + m):
            x[room.delta + t] = dot_rows(e, x, room.grad + t * e_width, head.out.data, head.out.at + t * head.out.ld)
    for t in range(head.length, padded):
        x[room.minus_lse + t], x[room.lost + t], x[room.delta + t] = -np.inf, 0.0, 0.0
    clear((head.length + QUERY_BLOCK - 1) // QUERY_BLOCK * QUERY_BLOCK * d, x, room.grad_q)
