"""Attention weights: the softmax of the scores as a matrix, for those who want to see it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.compile.jit import ParallelKernel, kernel, prange
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
from fastattn.kernels.ops._attend import finish_scores, group_of, is_plain, mask_of, pack_keys
from fastattn.kernels.ops._attention_arguments import additive, bounds, check_heads, flat, leading
from fastattn.kernels.ops.softmax import row_exp, row_max, scale_row
from fastattn.kernels.records import HeadSizes, MaskTensor, Scoring, matrix, shifted
from fastattn.kernels.vector.elementary import LOG2_E
from fastattn.kernels.vector.simd import atomic_next, tile_width
from fastattn.kernels.vector.target import TILE_ROWS
from fastattn.kernels.vector.tile import panel_product
from fastattn.runtime.memory import aligned_empty, check_large

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
def weigh(rows, row, s_all, d, q, keys, mask, scoring, none, out):  # type: ignore[no-untyped-def]
    """out (rows, S) = the weights of `rows` queries, the first of which is query `row` of its sequence, on S keys.

    keys: packed by `pack_keys`.  none: a panel's width of zeros.
    """
    left, right = scoring.left, scoring.right
    width = tile_width(out.data)
    plain = is_plain(scoring, mask)
    c = scoring.scale * LOG2_E if plain else LOG2_E
    for first in range(0, rows, TILE_ROWS):
        m, t0 = min(TILE_ROWS, rows - first), row + first
        low, high = min(max(0, t0 - left), s_all), min(s_all, t0 + m + right)
        for p in range(low // width * width, high, width):
            panel = matrix(keys.data, keys.at + p * d, width)
            panel_product(m, d, shifted(q, first, 0), panel, 0, none, shifted(out, first, p), min(width, s_all - p))
        for i in range(m):
            t, at = t0 + i, out.at + (first + i) * s_all
            start = min(max(0, t - left), s_all)
            stop = max(start, min(s_all, t + right + 1))
            for j in range(start):
                out.data[at + j] = 0.0
            for j in range(stop, s_all):
                out.data[at + j] = 0.0
            if not plain:
                place = mask.at + t * mask.row + start * mask.column
                finish_scores(stop - start, out.data, at + start, scoring, mask, place)
            weigh_row(stop - start, out.data, at + start, c)


@kernel
def weights_share(phase, q, k, mask, sizes, scoring, keys, zeros, counter, out):  # type: ignore[no-untyped-def]
    """A worker's share of the packing (phase 0), or of the scores (phase 1)."""
    mask, sizes, scoring = MaskTensor(*mask), HeadSizes(*sizes), Scoring(*scoring)
    heads, length, s_all, d = sizes.heads, sizes.length, sizes.keys, sizes.d
    width = tile_width(q)
    keys_size = (s_all + width - 1) // width * width * d
    if phase == 0:
        task = atomic_next(counter, 0)
        while task < sizes.batch * sizes.groups:
            pack_keys(s_all, d, k, task * s_all * d, d, keys, task * keys_size)
            task = atomic_next(counter, 0)
        return
    blocks = (length + ROW_BLOCK - 1) // ROW_BLOCK
    task = atomic_next(counter, 8)
    while task < sizes.batch * heads * blocks:
        head, row = task // blocks, task % blocks * ROW_BLOCK
        first = head * length + row
        weigh(
            min(ROW_BLOCK, length - row), row, s_all, d, matrix(q, first * d, d),
            matrix(keys, group_of(sizes, head) * keys_size, width), mask_of(mask, head // heads, head % heads), scoring,
            matrix(zeros, 0, 0), matrix(out, first * s_all, s_all),
        )  # fmt: skip
        task = atomic_next(counter, 8)


@ParallelKernel
def attention_weights_kernel(q, k, mask, sizes, scoring, keys, zeros, counter, out, workers):  # type: ignore[no-untyped-def]
    """Weights of q (B, H, L, D) on k (B, G, S, D), all flat.

    mask, sizes, scoring: a MaskTensor, HeadSizes and Scoring as plain tuples.  keys: room for B * G packed heads.  zeros: a panel's
    width of them.
    """
    for phase in range(2):
        if workers == 1:
            weights_share(phase, q, k, mask, sizes, scoring, keys, zeros, counter, out)
        else:
            for _ in prange(workers):
                weights_share(phase, q, k, mask, sizes, scoring, keys, zeros, counter, out)


def attention_weights(
    query: NDArray[F],
    key: NDArray[F],
    attn_mask: Array | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    softcap: float | None = None,
    window: tuple[int | None, int | None] | None = None,
    out: NDArray[F] | None = None,
) -> NDArray[F]:
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
        Query t sees keys 0 .. t.
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
        The shapes disagree, `attn_mask` does not broadcast, `softcap` is not positive, `window` is not a pair of non-negative
        numbers.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    `attn_mask`, `is_causal` and `window` may come together: a query sees the keys that all of them allow.
    Memory O(B * H * L * S): the result.  Work 2 * B * H * L * S * D flop.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1, equation 1 without V.
    Definition: fastattn.reference.attention_weights.
    """
    query, key = float_array("query", query), float_array("key", key)
    same_dtype("query", query, key=key)
    check_heads(query, key, softcap)
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
    mask = additive(attn_mask, dtype, lead, shape)
    result = kernel_out(out, shape, q, q, k, mask[0])
    if result.size:
        count, width = panels(s_all, dtype)
        own = batch * groups * count * width * d * dtype.itemsize + (0 if result is out else result.nbytes)
        check_large(own, "a result of shape {}, with packed keys,", shape)
        keys = aligned_empty(max(1, batch * groups * count * width * d), dtype)
        zeros = aligned_empty(width, dtype)
        zeros[:] = 0
        work_us = 2e-5 * batch * heads * length * s_all * (d + 32)
        workers = workers_for(work_us, batch * heads * -(-length // ROW_BLOCK))
        sizes, counter = (batch, heads, groups, length, s_all, d, 0), np.zeros(16, np.int64)
        attention_weights_kernel(q, k, mask, sizes, (factor, cap, left, right), keys, zeros, counter, result.reshape(-1), workers)
    return finish(result, out, query.dtype)


__all__ = ["attention_weights"]
