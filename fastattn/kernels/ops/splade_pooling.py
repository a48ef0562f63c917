"""SPLADE pooling: product with the vocabulary, log(1 + relu), maximum or sum over the tokens of a text, in one pass."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastattn.kernels.compile.jit import ParallelKernel, inline, kernel, prange
from fastattn.kernels.ops._arrays import (
    Array,
    F,
    check_out,
    checked_offsets,
    finish,
    float_array,
    kernel_out,
    panels,
    same_dtype,
    workers_for,
    working,
)
from fastattn.kernels.ops.linear import ROW_BLOCK
from fastattn.kernels.products.pack import pack_linear, room_words
from fastattn.kernels.products.product import prepare_all, products
from fastattn.kernels.records import PRECISION_NUMBERS, Weight, matrix
from fastattn.kernels.vector.elementary import log1p
from fastattn.kernels.vector.simd import atomic_next, fill, lanes, load_part, store_part, tile_width, where_less
from fastattn.kernels.vector.target import TILE_BYTES
from fastattn.runtime.memory import aligned_empty, check_large

# Numbers by which kernels know the strategies; how often each function takes the logarithm.
POOLING_STRATEGIES = {"max": 0, "sum": 1}
ACTIVATION_FUNCTIONS = {"relu": 1, "log1p_relu": 2}
SUM = POOLING_STRATEGIES["sum"]


@inline
def saturated(v, logs):  # type: ignore[no-untyped-def]
    """log(1 + max(v, 0)), and log(1 + .) of that where `logs` is 2; NaN stays."""
    v = log1p(where_less(v, 0.0, 0.0, v))
    if logs == 2:
        v = log1p(v)
    return v


@kernel
def saturate_row(n, x, ix, logs):  # type: ignore[no-untyped-def]
    """x[:n] = saturated(x[:n])."""
    width = lanes(x)
    for j in range(0, n, width):
        count = min(width, n - j)
        store_part(x, ix + j, count, saturated(load_part(x, ix + j, count, 0.0), logs))


@kernel
def add_saturated_rows(m, n, x, ix, ld, logs, out, io):  # type: ignore[no-untyped-def]
    """out[:n] += the sum of saturated(x[i, :n]) over m rows, one after the other."""
    width = lanes(x)
    for j in range(0, n, width):
        count = min(width, n - j)
        total = load_part(out, io + j, count, 0.0)
        for i in range(m):
            total = total + saturated(load_part(x, ix + i * ld + j, count, 0.0), logs)
        store_part(out, io + j, count, total)


@kernel
def largest_of_rows(m, n, x, ix, ld, out, io):  # type: ignore[no-untyped-def]
    """out[:n] = the greatest of out[:n] and m rows of x; a NaN stays."""
    width = lanes(x)
    for j in range(0, n, width):
        count = min(width, n - j)
        top = load_part(out, io + j, count, 0.0)
        for i in range(m):
            v = load_part(x, ix + i * ld + j, count, 0.0)
            larger = where_less(top, v, v, top)
            # False for NaN, which the sum keeps; infinity plus infinity is itself.
            top = where_less(v, np.inf, larger, larger + v)
        store_part(out, io + j, count, top)


@kernel
def pool_texts(texts, columns, k, n, arrays, pooling, logs, precision, room):  # type: ignore[no-untyped-def]
    """Texts texts[0] .. texts[1] - 1 of `splade_pooling_kernel`, panels columns[0] .. columns[1] - 1 of the vocabulary."""
    x, offsets, packed, bias, out = arrays
    weight = Weight(packed, np.int64(0), bias, np.int64(0), k, n, precision)
    width = tile_width(out)
    scratch, at = room
    left, right = columns[0] * width, min(columns[1] * width, n)
    for s in range(texts[0], texts[1]):
        for j in range(left, right, lanes(out)):
            store_part(out, s * n + j, min(lanes(out), right - j), fill(out, 0.0))
    begin, end = offsets[texts[0]], offsets[texts[1]]
    blocks = (end - begin + ROW_BLOCK - 1) // ROW_BLOCK
    first = texts[0]
    for block in range(blocks):
        row = begin + (end - begin) * block // blocks
        rows = begin + (end - begin) * (block + 1) // blocks - row
        while offsets[first + 1] <= row:
            first += 1
        prepared = prepare_all(rows, matrix(x, row * k, k), weight, matrix(scratch, at + ROW_BLOCK * width, 0))
        for p in range(columns[0], columns[1]):
            column = p * width
            # The logits of a panel alone, in the first-level cache.
            products(rows, (p, p + 1), prepared, weight, matrix(scratch, at - column, width), 0)
            count = min(width, n - column)
            s = first
            while s < texts[1] and offsets[s] < row + rows:
                above = max(offsets[s], row)
                tokens = min(offsets[s + 1], row + rows) - above
                logits = at + (above - row) * width
                if pooling == SUM:
                    add_saturated_rows(tokens, count, scratch, logits, width, logs, out, s * n + column)
                else:
                    largest_of_rows(tokens, count, scratch, logits, width, out, s * n + column)
                s += 1
    if pooling != SUM:
        # Logarithm and relu rise: one of the maximum is the maximum of all.
        for s in range(texts[0], texts[1]):
            saturate_row(right - left, out, s * n + left, logs)


@ParallelKernel
def splade_pooling_kernel(x, packed, bias, offsets, chunks, out, pooling, logs, precision, scratch, counter, workers):  # type: ignore[no-untyped-def]
    """out (B, N) = a text's pooled logits x weight^T + bias, for x (M, K), packed weight, bias padded to whole panels.

    chunks: the first text of each chunk, and the end.  scratch: for each worker, logits of ROW_BLOCK rows and a panel, and room
    for as many rows in low precision.
    """
    k, n = x.shape[1], out.shape[1]
    width = tile_width(out)
    count = (n + width - 1) // width
    arrays = (x.reshape(-1), offsets, packed, bias, out.reshape(-1))
    parts = chunks.size - 1
    # The panels are shared out too, until there are tasks enough to keep the threads busy to the end.
    groups = 1 if workers == 1 else min(count, max(1, (8 * workers + parts - 1) // parts))
    room = scratch.size // workers
    if workers == 1:
        for part in range(parts):
            texts = (chunks[part], chunks[part + 1])
            pool_texts(texts, (0, count), k, n, arrays, pooling, logs, precision, (scratch, 0))
    else:
        for worker in prange(workers):
            own = np.int64(worker) * room
            task = atomic_next(counter, 0)
            while task < parts * groups:
                part, group = task // groups, task % groups
                texts = (chunks[part], chunks[part + 1])
                columns = (count * group // groups, count * (group + 1) // groups)
                pool_texts(texts, columns, k, n, arrays, pooling, logs, precision, (scratch, own))
                task = atomic_next(counter, 0)


def pooled_product(
    x: Array,
    packed: Array,
    bias: Array,
    offsets: NDArray[np.int64],
    out: Array,
    options: tuple[str, str],
    precision: str = "float32",
) -> None:
    """Write to out (B, C_out) the pooled logits of packed rows x (N, C_in); `options`: pooling strategy, activation function."""
    (m, k), n = x.shape, out.shape[1]
    chunks = np.unique([*np.searchsorted(offsets[:-1], np.arange(0, m, ROW_BLOCK)), 0, len(out)])
    count, width = panels(n, out.dtype)
    workers = workers_for(2e-5 * m * max(k, 1) * n, count * (len(chunks) - 1))
    scratch = aligned_empty(workers * (ROW_BLOCK * width + room_words(ROW_BLOCK, k, precision)), out.dtype)
    pooling, logs = POOLING_STRATEGIES[options[0]], ACTIVATION_FUNCTIONS[options[1]]
    number, counter = PRECISION_NUMBERS[precision], np.zeros(8, np.int64)
    splade_pooling_kernel(x, packed, bias, offsets, chunks, out, pooling, logs, number, scratch, counter, workers)


def check_options(pooling_strategy: Any, activation_function: Any) -> None:
    """Raise a ValueError for a strategy or a function that is unknown."""
    for name, value, known in (
        ("pooling_strategy", pooling_strategy, POOLING_STRATEGIES),
        ("activation_function", activation_function, ACTIVATION_FUNCTIONS),
    ):
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def splade_pooling(
    x: NDArray[F],
    weight: NDArray[F],
    bias: NDArray[F] | None = None,
    offsets: Any = None,
    *,
    pooling_strategy: Literal["max", "sum"] = "max",
    activation_function: Literal["relu", "log1p_relu"] = "relu",
    out: NDArray[F] | None = None,
) -> NDArray[F]:
    """Sparse embeddings of texts: out_v = max_t log(1 + relu(x_t weight_v + bias_v)), or the sum over the tokens t of a text.

    Parameters
    ----------
    x : float32, float64 or float16, (N, C), any strides
        Hidden states of the tokens of all texts, end to end.
    weight : array of the dtype of `x`, (V, C)
        A row for each word of the vocabulary.
    bias : array of the dtype of `x`, (V,), optional
    offsets : int, (B + 1,), optional
        Text b is tokens offsets[b] .. offsets[b + 1] - 1; one text of all tokens by default.
    pooling_strategy : "max" or "sum"
        What becomes of the tokens of a text.
    activation_function : "relu" or "log1p_relu"
        log(1 + relu(.)), or log(1 + log(1 + relu(.))): the names are sentence-transformers'.
    out : array of the dtype of `x`, (B, V), optional
        Written and returned.

    Returns
    -------
    array of the dtype of `x`, (B, V)
        At least 0; zeros for a text without tokens.

    Raises
    ------
    TypeError
        `x` is not a float array, or another array has another dtype.
    ValueError
        The shapes disagree, the offsets do not rise from 0 to N, or a name is unknown.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    Work 2 * N * C * V flop.  The N * V logits never exist: those of 112 tokens and a panel of columns are reduced in the cache.
    The logarithm follows the maximum, so it is taken B * V times.  `weight` is packed in every call; the encoder packs once.

    References
    ----------
    Formal et al. 2021, arXiv:2109.10086, section 3 (v2: the maximum).  Definition: fastattn.reference.splade_pooling.
    """
    x, weight = float_array("x", x), float_array("weight", weight)
    bias = None if bias is None else float_array("bias", bias)
    same_dtype("x", x, weight=weight, bias=bias)
    check_options(pooling_strategy, activation_function)
    if weight.ndim != 2:
        raise ValueError(f"weight must have two axes (V, C), got shape {weight.shape}")
    n, k = weight.shape
    if x.ndim != 2 or x.shape[1] != k:
        raise ValueError(f"x must have shape (N, C) with C = {k} for a weight of shape {weight.shape}, got shape {x.shape}")
    if bias is not None and bias.shape != (n,):
        raise ValueError(f"bias must have shape ({n},) for a weight of shape {weight.shape}, got {bias.shape}")
    starts = checked_offsets(np.array([0, len(x)]) if offsets is None else np.asarray(offsets), len(x))
    shape = (len(starts) - 1, n)
    check_out(out, shape, x.dtype)
    work = working(x)
    result = kernel_out(out, shape, work, work, starts)
    if result.size:
        own = 0 if result is out else result.nbytes
        own += -(-n * work.itemsize // TILE_BYTES) * TILE_BYTES * k
        check_large(own, "a result of shape {}, with the packed weight,", shape)
        packed, padded = pack_linear(weight, bias, work.dtype)
        pooled_product(work, packed, padded, starts, result, (pooling_strategy, activation_function))
    return finish(result, out, x.dtype)


__all__ = ["splade_pooling"]
