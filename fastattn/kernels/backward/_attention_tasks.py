"""Attention of many heads, forward with the log-sum-exp of each query and backward: every head of every sequence is a task.

A call has arrays ``(q, k, v, out, lse, grad, grad_q, grad_k, grad_v)``, lse in float64; the forward has the first five.
``places[i]``: the distance of the rows of array i and that of its heads.  ``sequences[b]``: first query row, queries, first key
row, keys, and the first row of the gradients of keys, of which every query head has its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.backward import _head_room as head_room
from fastattn.kernels.backward._ahead import ROWS, ask
from fastattn.kernels.backward._attend_backward import attend_backward
from fastattn.kernels.backward._head_room import Head, mark_keys
from fastattn.kernels.compile.jit import ParallelKernel, inline, kernel, prange
from fastattn.kernels.ops import _attend
from fastattn.kernels.ops._arrays import Array, panels, workers_for
from fastattn.kernels.ops._attend import attend, pack_keys, pack_values
from fastattn.kernels.records import Mask, Scoring, matrix, shifted
from fastattn.kernels.vector.simd import atomic_next, tile_width
from fastattn.runtime.memory import aligned_empty, check_large

# Most parts of the heads that share a mask: each has its own sum of the mask's gradient, whatever the threads.
PARTS = 4


class Tasks(NamedTuple):
    """H, G, D, E; whether a mask may hide a key from all queries; planes of the mask (along B and H), and parts of a plane.

    The heads that share a plane of the mask are cut into parts.  Where no gradient of a mask is asked for, each head is one.
    """

    heads: int
    groups: int
    d: int
    e: int
    masks_keys: int
    plane_batch: int
    plane_heads: int
    parts: int


class ScoreMask(NamedTuple):
    """An additive mask (B, H, L, S): offset of its first element, distances along each axis; of size 0 it masks nothing."""

    data: Any
    at: Any
    batch: Any
    head: Any
    row: Any
    column: Any


class MaskSums(NamedTuple):
    """The gradient of a mask, a plane for each part: the offset of the first element in a plane, the sizes and distances of it."""

    data: Any
    at: Any
    plane: Any
    row: Any
    column: Any


@inline
def rows_of(data, places, i, row, head):  # type: ignore[no-untyped-def]
    """The Matrix of a head in array i, from `row` on."""
    return matrix(data, row * places[i, 0] + head * places[i, 1], places[i, 0])


@kernel
def forward_share(w, workers, arrays, places, sequences, tasks, mask, scoring, scratch, counter):  # type: ignore[no-untyped-def]
    """Worker w's share of the heads: results and the log-sum-exp of each query."""
    tasks, mask, scoring = Tasks(*tasks), ScoreMask(*mask), Scoring(*scoring)
    q, k, v, out, lse = arrays
    d, e, width = tasks.d, tasks.e, tile_width(scratch)
    e_width = (e + width - 1) // width * width
    keys = w * (scratch.size // workers)
    task = atomic_next(counter, 0)
    while task < sequences.shape[0] * tasks.heads:
        b, h = task // tasks.heads, task % tasks.heads
        g = h // (tasks.heads // tasks.groups)
        row, length, key, s_all = sequences[b, 0], sequences[b, 1], sequences[b, 2], sequences[b, 3]
        here = Mask(mask.data, mask.at + b * mask.batch + h * mask.head, mask.row, mask.column)
        values = keys + (s_all + width - 1) // width * width * d
        live = values + s_all * e_width
        own = live + (s_all + 63) // 64 * 64
        k_rows, v_rows = rows_of(k, places, 1, key, g), rows_of(v, places, 2, key, g)
        mark_keys(length, s_all, here, tasks.masks_keys, scoring, scratch, live)
        for s0 in range(0, s_all, ROWS):
            m = min(ROWS, s_all - s0)
            ask(k_rows, s0, s0 + m, d)
            ask(v_rows, s0, s0 + m, e)
            pack_keys(m, d, k_rows.data, k_rows.at + s0 * k_rows.ld, k_rows.ld, scratch, keys + s0 * d)
            at = v_rows.at + s0 * v_rows.ld
            pack_values(m, e, v_rows.data, at, v_rows.ld, scratch, live + s0, scratch, values + s0 * e_width)
        q_rows, out_rows, lse_rows = rows_of(q, places, 0, row, h), rows_of(out, places, 3, row, h), rows_of(lse, places, 4, row, h)
        for t0 in range(0, length, ROWS):
            m = min(ROWS, length - t0)
            ask(q_rows, t0, t0 + m, d)
            ask(out_rows, t0, t0 + m, e)
            ask(lse_rows, t0, t0 + m, 1)
            attend(
                m, t0, (s_all, d, e), shifted(q_rows, t0, 0), matrix(scratch, keys, width), matrix(scratch, values, e_width),
                here, scoring, scratch, own, shifted(out_rows, t0, 0), shifted(lse_rows, t0, 0),
            )  # fmt: skip
        task = atomic_next(counter, 0)


@ParallelKernel
def attention_forward_kernel(arrays, places, sequences, tasks, mask, scoring, scratch, counter, workers):  # type: ignore[no-untyped-def]
    """Attention, and the log-sum-exp of each query; tasks, mask, scoring: records as plain tuples."""
    if workers == 1:
        forward_share(0, 1, arrays, places, sequences, tasks, mask, scoring, scratch, counter)
    else:
        for part in prange(workers):
            forward_share(np.int64(part), workers, arrays, places, sequences, tasks, mask, scoring, scratch, counter)


@kernel
def backward_head(b, h, arrays, places, sequences, tasks, mask, grad_mask, scoring, scratch, iw):  # type: ignore[no-untyped-def]
    """The gradients of one head."""
    q, k, v, out, lse, grad, grad_q, grad_k, grad_v = arrays
    g = h // (tasks.heads // tasks.groups)
    row, length, key, s_all, to = sequences[b, 0], sequences[b, 1], sequences[b, 2], sequences[b, 3], sequences[b, 4]
    head = Head(
        length, s_all, tasks.d, tasks.e,
        rows_of(q, places, 0, row, h), rows_of(k, places, 1, key, g), rows_of(v, places, 2, key, g),
        rows_of(grad, places, 5, row, h), rows_of(out, places, 3, row, h), rows_of(lse, places, 4, row, h),
        rows_of(grad_q, places, 6, row, h), rows_of(grad_k, places, 7, to, h), rows_of(grad_v, places, 8, to, h),
        Mask(mask.data, mask.at + b * mask.batch + h * mask.head, mask.row, mask.column), grad_mask, tasks.masks_keys,
    )  # fmt: skip
    attend_backward(head, scoring, scratch, iw)


@kernel
def backward_share(w, workers, arrays, places, sequences, tasks, mask, grad_mask, scoring, room):  # type: ignore[no-untyped-def]
    """Worker w's share of the parts; the heads of a part come in order."""
    tasks, mask, sums, scoring = Tasks(*tasks), ScoreMask(*mask), MaskSums(*grad_mask), Scoring(*scoring)
    scratch, counter = room
    iw = w * (scratch.size // workers)
    b_each, h_each = sequences.shape[0] // tasks.plane_batch, tasks.heads // tasks.plane_heads
    members, parts = b_each * h_each, tasks.parts
    task = atomic_next(counter, 0)
    while task < tasks.plane_batch * tasks.plane_heads * parts:
        plane, part = task // parts, task % parts
        first_b, first_h = plane // tasks.plane_heads * b_each, plane % tasks.plane_heads * h_each
        here = Mask(sums.data, sums.at + task * sums.plane, sums.row, sums.column)
        for i in range(members * part // parts, members * (part + 1) // parts):
            b, h = first_b + i // h_each, first_h + i % h_each
            backward_head(b, h, arrays, places, sequences, tasks, mask, here, scoring, scratch, iw)
        task = atomic_next(counter, 0)


def run_forward(
    arrays: tuple[Array, ...], places: Array, sequences: NDArray[np.int64], tasks: Tasks, mask: ScoreMask, scoring: Scoring
) -> None:
    """Write `out` and `lse`, the last two of the arrays."""
    dtype, (count, width) = arrays[0].dtype, panels(_most(sequences, 3), arrays[0].dtype)
    e_width = panels(tasks.e, dtype)[0] * width
    own = count * width * (tasks.d + e_width + 1) + 64 + _attend.scratch_size(_most(sequences, 3), tasks.e, dtype)
    workers = workers_for(_work_us(sequences, tasks, 4e-5), len(sequences) * tasks.heads)
    scratch = _scratch(workers, own, dtype)
    attention_forward_kernel(
        arrays, places, sequences, tuple(tasks), tuple(mask), tuple(scoring), scratch, np.zeros(8, np.int64), workers
    )


def backward_room(sequences: NDArray[np.int64], tasks: Tasks, dtype: np.dtype[Any]) -> tuple[int, tuple[Array, Array]]:
    """Return how many workers share a backward, and its scratch and counter of work."""
    own = head_room.scratch_size(_most(sequences, 1), _most(sequences, 3), tasks.d, tasks.e, dtype)
    workers = workers_for(_work_us(sequences, tasks, 1e-4), tasks.plane_batch * tasks.plane_heads * tasks.parts)
    return workers, (_scratch(workers, own, dtype), np.zeros(8, np.int64))


def parts_of(batch: int, heads: int, planes: tuple[int, int]) -> int:
    """Return into how many parts the heads that share a plane are cut: fixed by the shapes."""
    return min(PARTS, batch * heads // (planes[0] * planes[1]))


def add_parts(sums: Array) -> Array:
    """Return the sum over the parts (planes, parts, ...), in order."""
    total: Array = sums[:, 0]
    with np.errstate(all="ignore"):
        for part in range(1, sums.shape[1]):
            total = total + sums[:, part]
    return total


def _most(sequences: NDArray[np.int64], column: int) -> int:
    return int(sequences[:, column].max())


def _work_us(sequences: NDArray[np.int64], tasks: Tasks, each: float) -> float:
    return each * tasks.heads * float(sequences[:, 1] @ sequences[:, 3]) * (tasks.d + tasks.e)


def _scratch(workers: int, size: int, dtype: np.dtype[Any]) -> Array:
    size = (size + 63) // 64 * 64
    check_large(workers * size * dtype.itemsize, "scratch of {} elements for each of {} threads", size, workers)
    return aligned_empty(workers * size, dtype)
