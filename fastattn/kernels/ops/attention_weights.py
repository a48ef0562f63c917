"""Attention weights: the softmax of the scores as a matrix, for those who want to see it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
from fastattn.kernels.ops._arrays import (
    Array,
    aligned_empty,
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
from fastattn.kernels.ops._attend import finish_scores, pack_keys
from fastattn.kernels.ops._attention_arguments import additive, bounds, check_heads, flat, leading
from fastattn.kernels.ops.softmax import row_exp, row_max, scale_row
from fastattn.kernels.vector.elementary import LOG2_E
from fastattn.kernels.vector.simd import atomic_next, tile_width
from fastattn.kernels.vector.target import TILE_ROWS
from fastattn.kernels.vector.tile import panel_product
from fastattn.runtime.memory import check_large

# Query rows of a task, a multiple of the tile's.
ROW_BLOCK = 4 * TILE_ROWS


@kernel
def weigh_row(n, x, ix, c):  # type: ignore[no-untyped-def]
    """Softmax of n scores in place, exponents times c; zeros where all are -inf."""
    top = row_max(n, x, ix)
    if top == -np.inf:
        for j in range(n):
            x[ix + j] = 0.0
    else:
        total = row_exp(n, x, ix, x, ix, top, c)
        scale_row(n, x, ix, x, ix, 1.0 / total)


@kernel
def weigh(  # type: ignore[no-untyped-def]
    rows, row, s_all, d, q, iq, keys, ik, mask, im, mask_row, mask_column, scale, softcap, left, right, zeros, out, io,
):  # fmt: skip
    """out (rows, S) = the weights of `rows` queries, the first of which is query `row` of its sequence, on S keys.

    keys: packed by `pack_keys`.  mask: additive, with the strides given; size 0 is none.  zeros: a panel's width of them.
    """
    width = tile_width(out)
    # A factor that is not positive would turn the maximum into a minimum, or -inf into NaN.
    plain = mask.size == 0 and softcap == 0.0 and scale > 0.0
    c = scale * LOG2_E if plain else LOG2_E
    for first in range(0, rows, TILE_ROWS):
        m, t0 = min(TILE_ROWS, rows - first), row + first
        low, high = min(max(0, t0 - left), s_all), min(s_all, t0 + m + right)
        for p in range(low // width * width, high, width):
            n = min(width, s_all - p)
            panel_product(
                m, d, q, iq + first * d, d, keys, ik + p * d, width, 0, zeros, 0, 0, out, io + first * s_all + p, s_all, n
            )  # fmt: skip
        for i in range(m):
            t, at = t0 + i, io + (first + i) * s_all
            start = min(max(0, t - left), s_all)
            stop = max(start, min(s_all, t + right + 1))
            for j in range(start):
                out[at + j] = 0.0
            for j in range(stop, s_all):
                out[at + j] = 0.0
            if not plain:
                place = im + t * mask_row + start * mask_column
                finish_scores(stop - start, out, at + start, scale, softcap, mask, place, mask_column)
            weigh_row(stop - start, out, at + start, c)


@kernel
def weights_share(  # type: ignore[no-untyped-def]
    scoring, q, k, mask, mask_strides, shape, scale, softcap, left, right, keys, zeros, counter, out
):
    """A worker's share of the packing, or of the scores."""
    b_all, h_all, g_all, length, s_all, d = shape
    width = tile_width(q)
    keys_size = (s_all + width - 1) // width * width * d
    if not scoring:
        task = atomic_next(counter, 0)
        while task < b_all * g_all:
            pack_keys(s_all, d, k, task * s_all * d, d, keys, task * keys_size)
            task = atomic_next(counter, 0)
        return
    blocks = (length + ROW_BLOCK - 1) // ROW_BLOCK
    task = atomic_next(counter, 8)
    while task < b_all * h_all * blocks:
        head, row = task // blocks, task % blocks * ROW_BLOCK
        b, h = head // h_all, head % h_all
        group = b * g_all + h // (h_all // g_all)
        place = b * mask_strides[0] + h * mask_strides[1]
        weigh(
            min(ROW_BLOCK, length - row), row, s_all, d, q, (head * length + row) * d, keys, group * keys_size,
            mask, place, mask_strides[2], mask_strides[3], scale, softcap, left, right, zeros, out,
            (head * length + row) * s_all,
        )  # fmt: skip
        task = atomic_next(counter, 8)


@ParallelKernel
def attention_weights_kernel(  # type: ignore[no-untyped-def]
    q, k, mask, mask_strides, shape, scale, softcap, left, right, keys, zeros, counter, out, workers
):
    """Weights of q (B, H, L, D) on k (B, G, S, D), all flat; `shape` is (B, H, G, L, S, D).

    keys: room for B * G packed heads.  zeros: a panel's width of them.
    """
    for phase in range(2):
        scoring = phase == 1
        if workers == 1:
            weights_share(scoring, q, k, mask, mask_strides, shape, scale, softcap, left, right, keys, zeros, counter, out)
        else:
            for _ in prange(workers):
                weights_share(scoring, q, k, mask, mask_strides, shape, scale, softcap, left, right, keys, zeros, counter, out)


def attention_weights(
    query: Any,
    key: Any,
    attn_mask: Any = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    softcap: float | None = None,
    window: tuple[int | None, int | None] | None = None,
    out: Array | None = None,
) -> Array:
    """Attention weights: out[t, s] = softmax_s(scale <query[t], key[s]> + attn_mask[t, s]).

    What `scaled_dot_product_attention` multiplies the values by, and never holds as a whole.

    Parameters
    ----------
    query : float32, float64 or float16, (..., H, L, D), any strides
    key : array of the dtype of `query`, (..., H, S, D)
    attn_mask : bool or float, broadcastable to (..., H, L, S), optional
        bool: True takes part.  float: added to the scores; -inf masks.  A masked score is replaced, so what stands there
        has no effect, and its weight is 0.
    is_causal : bool
        Query t sees keys 0 .. t.  Excludes `attn_mask`.
    scale : float, optional
        Factor on the dot product, no unit.  Default 1 / sqrt(D).
    enable_gqa : bool
        Allow fewer key heads than query heads: each serves H / heads neighbouring query heads.
    softcap : float, optional
        c tanh(score / c), before the mask.
    window : (left, right), optional
        Query t sees keys t - left .. t + right; None is no bound on that side.
    out : array of the dtype of `query`, (..., H, L, S), optional
        Written and returned.

    Returns
    -------
    array of the dtype of `query`, (..., H, L, S)
        Rows that sum to 1; the row of a query that sees no key is 0.

    Raises
    ------
    TypeError
        An array is not a float array or has another dtype than `query`, `attn_mask` is neither bool nor float, or
        `scale` or `softcap` is not a number.
    ValueError
        The shapes disagree, `attn_mask` does not broadcast or comes with `is_causal`, `softcap` is not positive, `window` is not
        a pair of non-negative numbers.
    MemoryError
        The result, with what computes it, is larger than the memory that is free.

    Notes
    -----
    Memory O(B * H * L * S): the result.  Work 2 * B * H * L * S * D flop.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1, equation 1 without V.
    Definition: fastattn.reference.attention_weights.
    """
    query, key = float_array("query", query), float_array("key", key)
    same_dtype("query", query, key=key)
    check_heads(query, key, attn_mask, is_causal, softcap)
    left, right = bounds(is_causal, window)
    (length, d), s_all = query.shape[-2:], key.shape[-2]
    lead, heads, groups = leading(query, key, None, enable_gqa)
    shape = (length, s_all) if max(query.ndim, key.ndim) == 2 else (*lead, heads, length, s_all)
    check_out(out, shape, query.dtype)
    check_room(shape, out, query, key)
    cap = 0.0 if softcap is None else number("softcap", softcap)
    factor = (1.0 / math.sqrt(d) if d else 0.0) if scale is None else number("scale", scale)
    dtype = np.dtype(np.float64 if query.dtype.type is np.float64 else np.float32)
    batch = math.prod(lead)
    q, k = flat(query, (*lead, heads, length, d)), flat(key, (*lead, groups, s_all, d))
    if attn_mask is None:
        mask, strides = np.empty(0, dtype), np.zeros(4, np.int64)
    else:
        mask, strides = additive(attn_mask, dtype, lead, shape)
    result = kernel_out(out, shape, q, q, k, mask)
    if result.size:
        count, width = panels(s_all, dtype)
        own = batch * groups * count * width * d * dtype.itemsize + (0 if result is out else result.nbytes)
        check_large(own, "a result of shape {}, with packed keys,", shape)
        keys = aligned_empty(max(1, batch * groups * count * width * d), dtype)
        zeros = aligned_empty(width, dtype)
        zeros[:] = 0
        work_us = 2e-5 * batch * heads * length * s_all * (d + 32)
        workers = workers_for(work_us, batch * heads * -(-length // ROW_BLOCK))
        dims = np.array([batch, heads, groups, length, s_all, d], np.int64)
        attention_weights_kernel(
            q, k, mask, strides, dims, factor, cap, left, right,
            keys, zeros, np.zeros(16, np.int64), result.reshape(-1), workers,
        )  # fmt: skip
    return finish(result, out, query.dtype)


__all__ = ["attention_weights"]
