"""Scaled dot-product attention: a block of scores at a time, never the (L, S) matrix."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.ops import _attend
from fastattn.kernels.ops._arrays import (
    Array,
    F,
    check_out,
    check_room,
    finish,
    float_array,
    kernel_out,
    number,
    panels,
    same_dtype,
    workers_for,
)
from fastattn.kernels.ops._attend import attend, group_of, live_keys, mask_of, pack_keys, pack_values
from fastattn.kernels.ops._attention_arguments import additive, bounds, check_heads, flat, leading
from fastattn.kernels.records import HeadSizes, MaskTensor, Scoring, matrix
from fastattn.kernels.vector.simd import atomic_next, tile_width
from fastattn.kernels.vector.target import TILE_ROWS
from fastattn.runtime.memory import aligned_empty, check_large

# Query rows of a task, a multiple of the tile's.
ROW_BLOCK = 8 * TILE_ROWS


@kernel
def attention_share(phase, w, workers, q, k, v, mask, sizes, scoring, room, out):  # type: ignore[no-untyped-def]
    """Worker w's share of the packing (phase 0), or of the scores and sums (phase 1)."""
    mask, sizes, scoring = MaskTensor(*mask), HeadSizes(*sizes), Scoring(*scoring)
    heads, length, s_all, d, e = sizes.heads, sizes.length, sizes.keys, sizes.d, sizes.e
    keys, values, scratch, counter = room
    width = tile_width(q)
    keys_size = (s_all + width - 1) // width * width * d
    e_width = (e + width - 1) // width * width
    copied = values.size > 0
    at = w * (scratch.size // workers)
    if phase == 0:
        task = atomic_next(counter, 0)
        while task < sizes.batch * sizes.groups:
            pack_keys(s_all, d, k, task * s_all * d, d, keys, task * keys_size)
            task = atomic_next(counter, 0)
        if copied:
            task = atomic_next(counter, 8)
            while task < sizes.batch * heads:
                live_keys(length, s_all, mask_of(mask, task // heads, task % heads), scoring, scratch, at)
                source = group_of(sizes, task) * s_all * e
                pack_values(s_all, e, v, source, e, scratch, at, values, task * s_all * e_width)
                task = atomic_next(counter, 8)
        return
    blocks = (length + ROW_BLOCK - 1) // ROW_BLOCK
    task = atomic_next(counter, 16)
    while task < sizes.batch * heads * blocks:
        head, row = task // blocks, task % blocks * ROW_BLOCK
        group = group_of(sizes, head)
        if copied:
            packed_values = matrix(values, head * s_all * e_width, e_width)
        else:
            packed_values = matrix(v, group * s_all * e, e)
        attend(
            min(ROW_BLOCK, length - row), row, (s_all, d, e), matrix(q, (head * length + row) * d, d),
            matrix(keys, group * keys_size, width), packed_values, mask_of(mask, head // heads, head % heads), scoring,
            scratch, at, matrix(out, (head * length + row) * e, e), matrix(scratch[:0], 0, 0),
        )  # fmt: skip
        task = atomic_next(counter, 16)


@ParallelKernel
def attention_kernel(q, k, v, mask, sizes, scoring, room, out, workers):  # type: ignore[no-untyped-def]
    """Attention of q (B, H, L, D) on k (B, G, S, D) and v (B, G, S, E), all flat.

    mask, sizes, scoring: a MaskTensor, HeadSizes and Scoring as plain tuples.  room: packed keys of B * G heads, as many values of
    B * H where value rows must be copied (else empty), scratch, the counter of work.
    """
    for phase in range(2):
        if workers == 1:
            attention_share(phase, 0, 1, q, k, v, mask, sizes, scoring, room, out)
        else:
            for part in prange(workers):
                attention_share(phase, np.int64(part), workers, q, k, v, mask, sizes, scoring, room, out)


def scaled_dot_product_attention(
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
    out: NDArray[F] | None = None,
) -> NDArray[F]:
    """Attention: out[t] = sum_s softmax_s(scale <query[t], key[s]> + attn_mask[t, s]) value[s].

    Parameters
    ----------
    query : float32, float64 or float16, (..., H, L, D), any strides
    key : array of the dtype of `query`, (..., H, S, D)
    value : array of the dtype of `query`, (..., H, S, E)
    attn_mask : bool or float, broadcastable to (..., H, L, S), optional
        bool: True takes part.  float: added to the scores; -inf masks.  A masked score is replaced, so what stands there
        has no effect; a key that no query of its head sees is not read.  A query that sees no key gives 0.
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
    out : array of the dtype of `query`, (..., H, L, E), optional
        Written and returned.

    Returns
    -------
    array of the dtype of `query`, (..., H, L, E)

    Raises
    ------
    TypeError
        An array is not a float array or has another dtype than `query`, `attn_mask` is neither bool nor float, or
        `scale` or `softcap` is not a number.
    ValueError
        The shapes disagree, `attn_mask` does not broadcast, `softcap` is not positive, `window` is not a pair of non-negative
        numbers.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    `attn_mask`, `is_causal` and `window` may come together: a query sees the keys that all of them allow.
    Keys in blocks of 512, one running maximum a row; a block that a row does not see is skipped.  Memory O(L + S).
    Work 2 * B * H * L * S * (D + E) flop.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1; Milakov & Gimelshein 2018, arXiv:1805.02867, algorithm 3.
    torch.nn.functional.scaled_dot_product_attention, its documentation.
    Definition: fastattn.reference.scaled_dot_product_attention.
    """
    query, key, value = float_array("query", query), float_array("key", key), float_array("value", value)
    same_dtype("query", query, key=key, value=value)
    check_heads(query, key, softcap, value)
    left, right = bounds(is_causal, window)
    length, d = query.shape[-2:]
    s_all, e = value.shape[-2:]
    lead, heads, groups = leading(query, key, value, enable_gqa)
    shape = (length, e) if max(query.ndim, key.ndim, value.ndim) == 2 else (*lead, heads, length, e)
    check_out(out, shape, query.dtype)
    check_room(shape, out, query, key, value)
    cap = 0.0 if softcap is None else number("softcap", softcap)
    factor = (1.0 / math.sqrt(d) if d else 0.0) if scale is None else number("scale", scale)
    dtype = np.dtype(np.float64 if query.dtype.type is np.float64 else np.float32)
    batch = math.prod(lead)
    q = flat(query, (*lead, heads, length, d))
    k = flat(key, (*lead, groups, s_all, d))
    v = flat(value, (*lead, groups, s_all, e))
    mask = additive(attn_mask, dtype, lead, (*shape[:-1], s_all))
    result = kernel_out(out, shape, q, q, k, v, mask[0])
    if result.size:
        count, width = panels(s_all, dtype)
        e_width = panels(e, dtype)[0] * width
        copied = attn_mask is not None or e_width != e
        own = batch * (groups * count * width * d + (heads * s_all * e_width if copied else 0)) * dtype.itemsize
        check_large(own + (0 if result is out else result.nbytes), "a result of shape {}, with packed keys and values,", shape)
        keys = aligned_empty(max(1, batch * groups * count * width * d), dtype)
        values = aligned_empty(batch * heads * s_all * e_width if copied else 0, dtype)
        work_us = 4e-5 * batch * heads * length * s_all * (d + e)
        workers = workers_for(work_us, batch * heads * -(-length // ROW_BLOCK))
        scratch = aligned_empty(workers * _attend.scratch_size(s_all, e, dtype), dtype)
        sizes = (batch, heads, groups, length, s_all, d, e)
        room = (keys, values, scratch, np.zeros(24, np.int64))
        attention_kernel(q, k, v, mask, sizes, (factor, cap, left, right), room, result.reshape(-1), workers)
    return finish(result, out, query.dtype)


__all__ = ["scaled_dot_product_attention"]
