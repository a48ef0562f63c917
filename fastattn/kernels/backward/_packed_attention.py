"""Attention of packed sequences for training: the forward keeps the log-sum-exp of each query for the backward."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from fastattn.kernels.backward._attention_tasks import ScoreMask, Tasks, add_parts, backward_room, parts_of, run_forward
from fastattn.kernels.backward.scaled_dot_product_attention_backward import scaled_dot_product_attention_backward_kernel
from fastattn.kernels.ops._arrays import Array, absent
from fastattn.kernels.records import Scoring


def attention_forward(
    q: Array,
    k: Array,
    v: Array,
    offsets: NDArray[np.int64],
    heads: int,
    groups: int,
    *,
    scale: float,
    softcap: float | None,
    left: int,
    right: int,
    bias: Array | None,
) -> tuple[Array, Array]:
    """Return the attention (N, H E) of q (N, H D) on k (N, G D), v (N, G E), each sequence on itself, and the log-sum-exp (N, H).

    The log-sum-exp is in float64: the weights of large scores need it.
    bias (H, 2 L - 1), L not less than any length: bias[h, s - t + L - 1] is added to the score of query t and key s.
    left, right: how far a query sees, from `fastattn.kernels.ops._attend.NO_BOUND` on everything.
    """
    n = len(q)
    e = v.shape[1] // groups
    out, lse = np.empty((n, heads * e), q.dtype), np.empty((n, heads))
    if out.size:
        arrays, places, tasks = _described(q, k, v, out, lse, heads, groups, len(offsets) - 1)
        run_forward(
            arrays, places, _sequences(offsets, bias), tasks, _mask(bias, 1, q.dtype), _scoring(scale, softcap, left, right)
        )
    return out, lse


def attention_backward(
    grad_out: Array,
    out: Array,
    lse: Array,
    q: Array,
    k: Array,
    v: Array,
    offsets: NDArray[np.int64],
    heads: int,
    groups: int,
    **scores: Any,
) -> tuple[Array, Array, Array, Array | None]:
    """Return the gradients of q, k, v and the bias, of what `attention_forward` returned and was given.

    scores: scale, softcap, left, right and bias.  The first three are views of one array (N, H D + G D + G E), side by side.
    """
    bias = scores.pop("bias")
    scoring = _scoring(**scores)
    n, query, key, values = len(q), q.shape[1], k.shape[1], v.shape[1]
    joined = np.empty((n, query + key + values), q.dtype)
    grad_q, grad_k, grad_v = joined[:, :query], joined[:, query : query + key], joined[:, query + key :]
    if not joined.size or not values:
        joined[...] = 0
        return grad_q, grad_k, grad_v, None if bias is None else np.zeros_like(bias)
    shared = heads // groups
    # Each query head has its own sums, which are added in order.
    k_parts, v_parts = (x if shared == 1 else np.empty((n, shared * x.shape[1]), q.dtype) for x in (grad_k, grad_v))
    arrays, places, tasks = _described(q, k, v, out, lse, heads, groups, len(offsets) - 1)
    sequences = _sequences(offsets, bias)
    added = [_rows(grad_out), _rows(grad_q), _rows(k_parts), _rows(v_parts)]
    sizes = (values // groups, query // heads, key // groups, values // groups)
    places = np.concatenate([places, [(row, size) for (_, row), size in zip(added, sizes, strict=True)]])
    sums, grad_mask = absent(q.dtype), (absent(q.dtype), 0, 0, 0, 0)
    if bias is not None:
        distances = bias.shape[1]
        tasks = tasks._replace(plane_batch=1, parts=parts_of(len(sequences), heads, (1, heads)))
        sums = np.zeros((heads, tasks.parts, distances), q.dtype)
        grad_mask = (sums.reshape(-1), distances // 2, distances, 1, -1)
    workers, room = backward_room(sequences, tasks, q.dtype)
    scaled_dot_product_attention_backward_kernel(
        (*arrays, *(x for x, _ in added)), places, sequences, tuple(tasks), tuple(_mask(bias, -1, q.dtype)), grad_mask,
        tuple(scoring), room, workers,
    )  # fmt: skip
    if shared > 1:
        for to, parts in ((grad_k, k_parts), (grad_v, v_parts)):
            to[...] = add_parts(parts.reshape(n * groups, shared, -1)).reshape(n, -1)
    return grad_q, grad_k, grad_v, None if bias is None else np.ascontiguousarray(add_parts(sums)[:, ::-1])


def _rows(x: Array) -> tuple[Array, int]:
    """Return an array whose rows may be strided as a flat one from its first element on, without a copy, and the rows' distance."""
    n, columns = x.shape
    item = x.itemsize
    if n < 2 or x.strides[1] != item or x.strides[0] % item or x.strides[0] < columns * item or not x.flags.writeable:
        x = np.require(x, None, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE"))
        return x.reshape(-1), columns
    distance = x.strides[0] // item
    return as_strided(x, ((n - 1) * distance + columns,), (item,)), distance


def _described(
    q: Array, k: Array, v: Array, out: Array, lse: Array, heads: int, groups: int, batch: int
) -> tuple[tuple[Array, ...], Array, Tasks]:
    """Return the first five arrays, their places, and the tasks where each head is one."""
    d, e = q.shape[1] // heads, v.shape[1] // groups
    given = [_rows(x) for x in (q, k, v, out, lse)]
    places = np.array([(row, size) for (_, row), size in zip(given, (d, d, e, e, 1), strict=True)], np.int64)
    return tuple(x for x, _ in given), places, Tasks(heads, groups, d, e, 0, batch, heads, 1)


def _sequences(offsets: NDArray[np.int64], bias: Array | None) -> NDArray[np.int64]:
    first, lengths = offsets[:-1], np.diff(offsets)
    if bias is not None and 2 * int(lengths.max(initial=0)) - 1 > bias.shape[1]:
        raise ValueError(f"bias must have distances for {int(lengths.max())} tokens, got shape {bias.shape}")
    return np.stack([first, lengths, first, lengths, first], axis=1)


def _mask(bias: Array | None, step: int, dtype: np.dtype[np.floating]) -> ScoreMask:
    """Return the bias as a mask: 1 with distances that rise with the key, -1 reversed, so that a key's row is contiguous."""
    if bias is None:
        return ScoreMask(absent(dtype), 0, 0, 0, 0, 0)
    distances = bias.shape[1]
    data = np.require(bias[:, ::step], dtype, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE"))
    return ScoreMask(data.reshape(-1), distances // 2, 0, distances, -step, step)


def _scoring(scale: float, softcap: float | None, left: int, right: int) -> Scoring:
    return Scoring(float(scale), float(softcap or 0.0), int(left), int(right))
