"""Gradient of scaled dot-product attention: scores are computed again, a block at a time, never the (L, S) matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.backward._attention_tasks import (
    ScoreMask,
    Tasks,
    add_parts,
    backward_room,
    backward_share,
    parts_of,
    run_forward,
)
from fastattn.kernels.compile.jit import ParallelKernel, prange
from fastattn.kernels.ops._arrays import Array, F, absent, check_room, finish, float_array, number, same_dtype
from fastattn.kernels.ops._attention_arguments import additive, bounds, check_heads, flat, leading
from fastattn.kernels.records import Scoring
from fastattn.runtime.memory import check_large


@ParallelKernel
def scaled_dot_product_attention_backward_kernel(  # type: ignore[no-untyped-def]
    arrays, places, sequences, tasks, mask, grad_mask, scoring, room, workers
):
    """Gradients of all heads; tasks, mask, grad_mask (MaskSums), scoring: records as plain tuples; room: scratch and counter.

    grad_k and grad_v have a part for each query head.
    """
    if workers == 1:
        backward_share(0, 1, arrays, places, sequences, tasks, mask, grad_mask, scoring, room)
    else:
        for part in prange(workers):
            backward_share(np.int64(part), workers, arrays, places, sequences, tasks, mask, grad_mask, scoring, room)


def scaled_dot_product_attention_backward(
    grad: NDArray[F],
    query: NDArray[F],
    key: NDArray[F],
    value: NDArray[F],
    attn_mask: Array | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    softcap: float | None = None,
    window: tuple[int | None, int | None] | None = None,
) -> tuple[NDArray[F], NDArray[F], NDArray[F], Array | None]:
    """Gradient of attention: with weights P and dS = P (grad value^T - D), D_t = <grad[t], out[t]>, grad_query = scale dS key.

    grad_key = scale dS^T query, grad_value = P^T grad, and the gradient of a mask that is added to the scores is dS.  With a
    softcap c, dS has the factor 1 - tanh(score / c)^2 in the first two.

    Parameters
    ----------
    grad : float32, float64 or float16, (..., H, L, E), any strides
        Gradient of the result of `scaled_dot_product_attention`.
    query : array of the dtype of `grad`, (..., H, L, D)
    key : array of the dtype of `grad`, (..., H, S, D)
    value : array of the dtype of `grad`, (..., H, S, E)
    attn_mask : bool or float, broadcastable to (..., H, L, S), optional
        bool: True takes part.  float: added to the scores; -inf masks.
    is_causal : bool
        Query t sees keys 0 .. t.
    scale : float, optional
        Factor on the dot product, no unit.  Default 1 / sqrt(D).
    enable_gqa : bool
        Allow fewer key and value heads than query heads: each serves H / heads neighbouring query heads.
    softcap : float, optional
        c tanh(score / c), before the mask.
    window : (left, right), optional
        Query t sees keys t - left .. t + right; None is no bound on that side.

    Returns
    -------
    grad_query, grad_key, grad_value : arrays of the dtype and shape of `query`, `key`, `value`
    grad_mask : array of the dtype and shape of `attn_mask`, or None
        None unless `attn_mask` is a float array.

    Raises
    ------
    TypeError
        An array is not a float array or has another dtype than `grad`, `attn_mask` is neither bool nor float, or
        `scale` or `softcap` is not a number.
    ValueError
        The shapes disagree, `attn_mask` does not broadcast, `softcap` is not positive, `window` is not a pair of non-negative
        numbers.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    Where axes broadcast, the gradient is summed over them.  A masked score has gradient 0, whatever stands there; so has a query
    that sees no key, and a key that no query of its head sees: neither is read.
    Every sum has an order that the shapes alone fix: the same bits for any number of threads.
    Memory O(L + S) beside the results; a float mask that heads share is summed in up to four parts of its shape.
    Work 14 * B * H * L * S * D flop for E = D, with the forward, which is computed again.

    References
    ----------
    Dao et al. 2022, arXiv:2205.14135, algorithm 4; Dao 2023, arXiv:2307.08691, algorithm 2.
    Definition: fastattn.reference.scaled_dot_product_attention_backward.
    """
    grad, query = float_array("grad", grad), float_array("query", query)
    key, value = float_array("key", key), float_array("value", value)
    same_dtype("grad", grad, query=query, key=key, value=value)
    check_heads(query, key, softcap, value)
    left, right = bounds(is_causal, window)
    length, d = query.shape[-2:]
    s_all, e = value.shape[-2:]
    lead, heads, groups = leading(query, key, value, enable_gqa)
    shape = (length, e) if max(query.ndim, key.ndim, value.ndim) == 2 else (*lead, heads, length, e)
    if grad.shape != shape:
        raise ValueError(f"grad must have the shape of the result, {shape}, got {grad.shape}")
    check_room((*shape, 4), None, grad, query, key, value)
    cap = 0.0 if softcap is None else number("softcap", softcap)
    factor = (1.0 / math.sqrt(d) if d else 0.0) if scale is None else number("scale", scale)
    dtype = np.dtype(np.float64 if query.dtype.type is np.float64 else np.float32)
    batch = math.prod(lead)
    mask = additive(attn_mask, dtype, lead, (*shape[:-1], s_all))
    added = None if attn_mask is None or np.asarray(attn_mask).dtype == np.bool_ else np.asarray(attn_mask)
    q_shape, k_shape, v_shape = (*lead, heads, length, d), (*lead, groups, s_all, d), (*lead, groups, s_all, e)
    if batch * heads * length * s_all * e == 0:
        zeros = [np.zeros(x.shape, x.dtype.newbyteorder("=")) for x in (query, key, value)]
        return zeros[0], zeros[1], zeros[2], None if added is None else np.zeros(added.shape, added.dtype.newbyteorder("="))
    planes = (batch, heads) if added is None else (batch if mask[1] else 1, heads if mask[2] else 1)
    tasks = Tasks(heads, groups, d, e, int(attn_mask is not None), *planes, parts_of(batch, heads, planes))
    out = np.empty(batch * heads * length * e, dtype)
    arrays = (flat(query, q_shape), flat(key, k_shape), flat(value, v_shape), out, np.empty(batch * heads * length))
    places = np.array([(n, n * rows) for n, rows in ((d, length), (d, s_all), (e, s_all), (e, length), (1, length))], np.int64)
    places = np.concatenate([places, places[[3, 0, 1, 2]]])
    each = np.arange(batch)
    fixed = np.ones_like(each)
    sequences = np.stack(
        [each * heads * length, fixed * length, each * groups * s_all, fixed * s_all, each * heads * s_all], axis=1
    )
    scoring = Scoring(factor, cap, left, right)
    given = ScoreMask(mask[0], 0, *mask[1:])
    run_forward(arrays, places, sequences, tasks, given, scoring)
    sums, record = mask_sums(added is not None, tasks, (length if mask[3] else 1, s_all if mask[4] else 1), dtype)
    grads = [np.empty((batch, heads, rows, n), dtype) for rows, n in ((length, d), (s_all, d), (s_all, e))]
    workers, room = backward_room(sequences, tasks, dtype)
    scaled_dot_product_attention_backward_kernel(
        (*arrays, flat(grad, (*lead, heads, length, e)), *(x.reshape(-1) for x in grads)), places, sequences, tuple(tasks),
        tuple(given), record, tuple(scoring), room, workers,
    )  # fmt: skip
    grads[1:] = [add_parts(x.reshape(batch * groups, heads // groups, s_all, -1)) for x in grads[1:]]
    results = [
        finish(summed_to(x.reshape(wide), like.shape), None, like.dtype)
        for x, wide, like in zip(grads, (q_shape, k_shape, v_shape), (query, key, value), strict=True)
    ]
    if added is None:
        return results[0], results[1], results[2], None
    wide_mask = (*(lead if mask[1] else (1,) * len(lead)), planes[1], *sums.shape[2:])
    grad_mask = summed_to(add_parts(sums).reshape(wide_mask), added.shape)
    return results[0], results[1], results[2], finish(grad_mask, None, added.dtype)


def mask_sums(wanted: bool, tasks: Tasks, plane: tuple[int, int], dtype: np.dtype[Any]) -> tuple[Array, tuple[Any, ...]]:
    """Return zeros for the sums of a mask's gradient (planes, parts, L, S), and the MaskSums of them as a plain tuple."""
    if not wanted:
        return absent(dtype), (absent(dtype), 0, 0, 0, 0)
    shape = (tasks.plane_batch * tasks.plane_heads, tasks.parts, *plane)
    check_large(2 * math.prod(shape) * dtype.itemsize, "the gradient of a mask, in sums of shape {},", shape)
    sums = np.zeros(shape, dtype)
    strides = [0 if n == 1 else step // dtype.itemsize for n, step in zip(plane, sums.strides[2:], strict=True)]
    return sums, (sums.reshape(-1), 0, math.prod(plane), *strides)


def summed_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Return `x`, summed over the axes along which an array of `shape` was repeated."""
    extra = x.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i for i in range(extra, x.ndim) if x.shape[i] != shape[i - extra])
    with np.errstate(all="ignore"):
        return x.sum(axis=axes, keepdims=True).reshape(shape) if axes else x


__all__ = ["scaled_dot_product_attention_backward"]
