"""Late interaction: each query token's best match among the tokens of a document, summed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
    panels,
    same_dtype,
    workers_for,
    working,
)
from fastattn.kernels.products.float32 import SUM_BLOCK, chain_products
from fastattn.kernels.products.pack import pack_linear
from fastattn.kernels.records import Weight, matrix
from fastattn.kernels.vector.simd import atomic_next, lanes, load, maximum, store, tile_width, where_less
from fastattn.runtime.memory import aligned_empty, check_large

# Document tokens whose products with a panel of query tokens are at hand at once: they stay in the first-level cache.
ROW_BLOCK = 96
# Documents that share such a block at most: each has a maximum for every query token of the call.
_DOCUMENTS = 16
# Query tokens of a call of the kernel, unless one query has more: their maxima stay in the second-level cache.
_QUERY_TOKENS = 256


@kernel
def join_maxima(rows, x, ix, tops, marks):  # type: ignore[no-untyped-def]
    """The maxima of the panel's columns over some rows of products join those at `tops`.

    A maximum may lose a NaN, so `marks` become NaN with the first one; infinity makes them infinite, other products leave them.
    """
    width, step = tile_width(x), lanes(x)
    for j in range(0, width, step):
        top, mark = load(x, tops + j), load(x, marks + j)
        for i in range(rows):
            product = load(x, ix + i * width + j)
            top = maximum(product, top)
            mark = mark + where_less(product, np.inf, 0.0, product)
        store(x, tops + j, top)
        store(x, marks + j, mark)


@kernel
def score_documents(start, stop, documents, offsets, query, query_offsets, mean, scratch, at, out):  # type: ignore[no-untyped-def]
    """Scores of documents start .. stop - 1 with all queries; out (queries, documents), flat.

    query: (packed tokens, zeros of a panel, D).  scratch from `at` on: the products of a block, then maxima and marks, which have a
    row for each document of the block.
    """
    packed, zeros, d = query
    width = tile_width(scratch)
    queries, count = query_offsets.size - 1, offsets.size - 1
    tokens = (query_offsets[queries] + width - 1) // width * width
    chains = max(1, (d + SUM_BLOCK - 1) // SUM_BLOCK)
    tops = at + ROW_BLOCK * width
    marks = tops + _DOCUMENTS * tokens
    first = start
    while first < stop:
        last = first + 1
        while last < stop and last - first < _DOCUMENTS and offsets[last + 1] - offsets[first] <= ROW_BLOCK:
            last += 1
        for j in range((last - first) * tokens):
            scratch[tops + j], scratch[marks + j] = -np.inf, 0.0
        for row in range(offsets[first], offsets[last], ROW_BLOCK):
            rows = min(ROW_BLOCK, offsets[last] - row)
            source, products = matrix(documents, row * d, d), matrix(scratch, at, width)
            for column in range(0, tokens, width):
                weight = Weight(packed, np.int64(column * d), zeros, np.int64(0), d, width, np.int64(0))
                chain_products(rows, (0, chains), (0, 1), source, weight, products, 0)
                for document in range(first, last):
                    low, high = max(offsets[document], row), min(offsets[document + 1], row + rows)
                    place = (document - first) * tokens + column
                    join_maxima(high - low, scratch, at + (low - row) * width, tops + place, marks + place)
        for document in range(first, last):
            place = (document - first) * tokens
            for q in range(queries):
                total = 0.0
                for token in range(query_offsets[q], query_offsets[q + 1]):
                    mark = scratch[marks + place + token]
                    total += scratch[tops + place + token] if mark < 1.0 else mark
                out[q * count + document] = total / max(1, query_offsets[q + 1] - query_offsets[q]) if mean else total
        first = last


@ParallelKernel
def maxsim_kernel(documents, offsets, packed, zeros, query_offsets, mean, out, scratch, counter, workers):  # type: ignore[no-untyped-def]
    """out (queries, documents) = scores of documents (N, D), cut by `offsets`, with packed query tokens, cut by `query_offsets`."""
    count = offsets.size - 1
    d = documents.shape[1]
    rows, to = documents.reshape(-1), out.reshape(-1)
    if workers == 1:
        score_documents(0, count, rows, offsets, (packed, zeros, d), query_offsets, mean, scratch, 0, to)
    else:
        share = max(1, min(4 * _DOCUMENTS, count // (8 * workers)))
        room = scratch.size // workers
        for worker in prange(workers):
            own = np.int64(worker) * room
            start = atomic_next(counter, 0) * share
            while start < count:
                stop = min(count, start + share)
                score_documents(start, stop, rows, offsets, (packed, zeros, d), query_offsets, mean, scratch, own, to)
                start = atomic_next(counter, 0) * share


def _checked_offsets(name: str, offsets: Any, of: str, count: int) -> NDArray[np.int64]:
    """Return offsets as int64; an error unless they rise from 0 to `count`, the rows of the array `of`."""
    array = np.asarray(offsets)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be (B + 1,), got shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be whole numbers, got {array.dtype}")
    found = np.require(array, np.int64, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE"))
    if found[0] != 0 or found[-1] != count or (found[1:] < found[:-1]).any():
        raise ValueError(f"{name} must rise from 0 to {count}, the rows of {of}, got {np.array2string(found, threshold=8)}")
    return found


def _groups(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the first query and the end of each call of the kernel: whole queries."""
    first, count = 0, len(offsets) - 1
    while first < count:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _QUERY_TOKENS, "right")) - 1)
        yield first, last
        first = last


def maxsim(
    query: NDArray[F],
    documents: NDArray[F],
    offsets: Any,
    query_offsets: Any = None,
    *,
    length_normalize: bool = False,
    out: NDArray[F] | None = None,
) -> NDArray[F]:
    """Late interaction of a query with documents: score = sum over query tokens q of max over document tokens t of q . t.

    Parameters
    ----------
    query : float32, float64 or float16, (Q, D), any strides
        Embeddings of the query's tokens, or with `query_offsets` of all queries' tokens, end to end.
    documents : array of the dtype of `query`, (N, D)
        Embeddings of the documents' tokens, end to end.
    offsets : int, (B + 1,)
        Document b has the tokens offsets[b] .. offsets[b + 1] - 1.
    query_offsets : int, (A + 1,), optional
        Query a has the tokens query_offsets[a] .. query_offsets[a + 1] - 1.
    length_normalize : bool
        Divide each score by the number of the query's tokens ("meanmaxsim").
    out : array of the dtype of `query`, (B,), or (A, B) with `query_offsets`, optional
        Written and returned.

    Returns
    -------
    array of the dtype of `query`, (B,), or (A, B) with `query_offsets`
        The scores; -inf for a document without tokens, 0 for a query without tokens.

    Raises
    ------
    TypeError
        `query` is not a float array, another array has another dtype, or offsets are not whole numbers.
    ValueError
        The shapes disagree, or offsets do not rise from 0 to the number of tokens.
    MemoryError
        The result, with temporary arrays, is larger than the memory that is free.

    Notes
    -----
    The products of 96 document tokens with a few query tokens are in cache at once, and nothing of the size of tokens x tokens is
    written.  A score's bits depend on its query and its document alone.  The maxima are summed in float64, in the order of the
    query's tokens.  A NaN among the products of a query and a document makes their score NaN.
    Work 2 * Q * N * D flop, traffic N * D elements for each 256 query tokens.

    References
    ----------
    Khattab & Zaharia 2020, arXiv:2004.12832, equation 3.  Definition: fastattn.reference.maxsim.
    """
    query, documents = float_array("query", query), float_array("documents", documents)
    same_dtype("query", query, documents=documents)
    if query.ndim != 2 or documents.ndim != 2 or query.shape[1] != documents.shape[1]:
        raise ValueError(f"query and documents must be (Q, D) and (N, D), got shapes {query.shape} and {documents.shape}")
    ends = _checked_offsets("offsets", offsets, "documents", len(documents))
    starts, shape = np.array([0, len(query)], np.int64), [len(ends) - 1]
    if query_offsets is not None:
        starts = _checked_offsets("query_offsets", query_offsets, "query", len(query))
        shape = [len(starts) - 1, *shape]
    check_out(out, tuple(shape), query.dtype)
    check_room(tuple(shape), out, query, documents)
    rows, tokens = working(documents), working(query)
    result = kernel_out(out, tuple(shape), rows, rows, tokens)
    if result.size:
        scores = result.reshape(len(starts) - 1, len(ends) - 1)
        for first, last in _groups(starts):
            own = starts[first : last + 1] - starts[first]
            _score(rows, ends, tokens[starts[first] : starts[last]], own, bool(length_normalize), scores[first:last])
    return finish(result, out, query.dtype)


def _score(
    rows: Array, offsets: NDArray[np.int64], tokens: Array, query_offsets: NDArray[np.int64], mean: bool, out: Array
) -> None:
    """Write the scores of some queries, by as many threads as the work is worth."""
    count, width = panels(len(tokens), rows.dtype)
    workers = workers_for(2e-5 * len(rows) * count * width * max(1, rows.shape[1]), len(offsets) - 1)
    room = width * (ROW_BLOCK + 2 * _DOCUMENTS * count)
    check_large(rows.itemsize * workers * room, "the maxima of {} query tokens", len(tokens))
    scratch = aligned_empty(workers * room, rows.dtype)
    packed, zeros = pack_linear(np.zeros((1, rows.shape[1]), rows.dtype) if len(tokens) == 0 else tokens, None, rows.dtype)
    maxsim_kernel(rows, offsets, packed, zeros, query_offsets, mean, out, scratch, np.zeros(8, np.int64), workers)


__all__ = ["maxsim"]
