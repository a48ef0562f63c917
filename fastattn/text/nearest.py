"""The embeddings that are most similar to each query, among floats, quantised levels or packed signs."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.encoder.pooling import normalize
from fastattn.kernels.ops._arrays import workers_for
from fastattn.kernels.search import KINDS, MOST_ROWS, ROWS, bits_kernel, search_kernel
from fastattn.runtime.memory import aligned_empty, check_large
from fastattn.runtime.rounding import rounding

__all__ = ["Hits", "Rescoring", "nearest", "pieces_of"]

Array = NDArray[np.float32]
Numbers = NDArray[np.int64]

# Elements of a block of rows: in float32 they stay in the first-level cache.
_BLOCK = 6144
# Queries of a call of a kernel: they stay in the second-level cache.
_QUERIES = 128
# Bytes of a piece of an array: Ctrl-C waits for one.
_PIECE = 2**28
# Bytes of a hit while two pieces are joined: as found, numbered, of the best so far, of both together, their order, as taken.
_HIT = 12 + 8 + 12 + 2 * 12 + 2 * 12 + 12
# Bytes of the heaps of a call, unless those of one query take more.
_HEAPS = 2**26
# Bytes that a task reads, about.
_TASK = 2**19
# Bytes that a thread reads in a microsecond, about.
_BYTES_PER_US = 1e4
# Rows that are converted to float32 at a time, where they are of another type or layout.
_CONVERTED = 4096


class Hits(NamedTuple):
    """The best rows of each query, (Q, K), the best first, equal ones in their order, and their similarities."""

    rows: Numbers
    scores: Array


class Rescoring(NamedTuple):
    """How the best by a first search are compared again, with the whole query.

    Parameters
    ----------
    multiplier : int
        How many times as many rows the first search finds.
    embeddings : float, (N, C), optional
        What they are compared with; by default what their own numbers stand for.
    """

    multiplier: int = 4
    embeddings: NDArray[Any] | None = None


def pieces_of(rows: NDArray[Any], count: int | None = None) -> Iterator[tuple[Numbers, NDArray[Any]]]:
    """Yield the numbers and the rows of each piece of an array: of `count` rows, by default of 256 MiB."""
    if count is None:
        count = max(1, _PIECE // max(1, rows.shape[1] * rows.itemsize))
    for start in range(0, len(rows) if rows.size else 0, count):
        part = rows[start : start + count]
        yield np.arange(start, start + len(part)), part


@rounding()
def nearest(
    queries: Array,
    pieces: Iterable[tuple[Numbers, NDArray[Any]]],
    top_k: int,
    name: str,
    ranges: Array | None = None,
    rescoring: Rescoring | None = None,
) -> Hits:
    """Return the best of rows that come in pieces, each with the numbers of its rows, which rise.

    Rows are of floats; with `ranges` (2, C) of levels, int8 or uint8, compared as what they stand for; or of packed signs, compared
    by their bits with the signs of the queries.  With `rescoring` the best of those, and where it has embeddings of any kind, are
    compared again.  NaN is the lowest similarity.
    """
    queries = np.require(queries, np.float32, ("C_CONTIGUOUS", "ALIGNED"))
    if ranges is not None and np.shape(ranges) != (2, queries.shape[1]):
        raise ValueError(f"ranges must have shape {(2, queries.shape[1])}, got {np.shape(ranges)}")
    asked = normalize(queries) if name == "cosine" else _writable(queries)
    own = rescoring is not None and rescoring.embeddings is None
    best, kept = Hits(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)), None
    again = False
    for numbers, rows in _usable(pieces, queries.shape[1], ranges):
        is_bits = _is_bits(rows, ranges)
        again = rescoring is not None and (is_bits or not own)
        k = top_k * rescoring.multiplier if again and rescoring is not None else top_k
        found = _best_bits(asked, rows, k, name) if is_bits else _best(asked, rows, k, name, ranges)
        numbered = Hits(numbers[found.rows], found.scores)
        if again and own:
            kept, found_rows = (rows[:0][best.rows] if kept is None else kept), rows[found.rows]
            best, order = _joined(best, numbered, k)
            kept = np.take_along_axis(np.concatenate([kept, found_rows], axis=1), order[:, :, None], axis=1)
        else:
            best, _ = _joined(best, numbered, k)
    if not again or rescoring is None:
        return best
    return _rescored(asked, best, kept, rescoring.embeddings, top_k, name)


def _joined(first: Hits, second: Hits, k: int) -> tuple[Hits, NDArray[np.intp]]:
    """Return the `k` best of both, and their places in both, one after the other."""
    rows, scores = np.concatenate([first.rows, second.rows], axis=1), np.concatenate([first.scores, second.scores], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return Hits(np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)), order


def _is_bits(rows: NDArray[Any], ranges: Any) -> bool:
    """Tell whether rows are packed signs: numbers of a byte are levels only with `ranges`."""
    return rows.dtype.itemsize == 1 and ranges is None


def _usable(pieces: Iterable[tuple[Numbers, NDArray[Any]]], width: int, ranges: Any) -> Iterator[tuple[Numbers, NDArray[Any]]]:
    """Yield the pieces as kernels take them: contiguous float32, levels of int8, or packed signs."""
    for numbers, rows in pieces:
        if ranges is not None and rows.dtype.itemsize > 1:
            raise ValueError(f"ranges must not be given with embeddings of {rows.dtype}: they are those of int8 or uint8")
        is_bits = _is_bits(rows, ranges)
        expected = -(-width // 8) if is_bits else width
        if rows.shape[1] != expected:
            raise ValueError(f"embeddings of {rows.dtype} must have width {expected} for queries of {width}, got {rows.shape[1]}")
        turned = rows.dtype == np.uint8 and not is_bits
        kind = rows.dtype if rows.dtype.itemsize == 1 else np.dtype(np.float32)
        if rows.dtype == kind and rows.flags.c_contiguous and rows.flags.aligned and not turned:
            yield numbers, _writable(rows)
            continue
        for start in range(0, len(rows), _CONVERTED):
            part = slice(start, start + _CONVERTED)
            # Less 128, a level of uint8 is one of int8.
            converted = (rows[part] ^ np.uint8(128)).view(np.int8) if turned else rows[part]
            yield numbers[part], np.require(converted, np.int8 if turned else kind, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE"))


def _writable(x: NDArray[Any]) -> NDArray[Any]:
    """Return an array of the same memory that counts as writable: Numba would compile every kernel anew for one that does not."""
    if x.flags.writeable or not x.size:
        return x if x.flags.writeable else x.copy()
    memory = (ctypes.c_char * x.nbytes).from_address(x.ctypes.data)
    view: NDArray[Any] = np.frombuffer(memoryview(memory), x.dtype).reshape(x.shape)
    return view


def _best(queries: Array, rows: NDArray[Any], k: int, name: str, ranges: Array | None) -> Hits:
    """Return the best of one array of floats or levels; queries have length 1 for "cosine"."""
    n, width = rows.shape
    step = min(MOST_ROWS, max(ROWS, _BLOCK // max(1, width) // ROWS * ROWS))
    levels = np.empty(0, np.float32) if ranges is None else _levels(ranges)
    workers = workers_for(max(rows.nbytes / _BYTES_PER_US, 2e-5 * rows.size * len(queries)), -(-n // step))
    share = max(step, min(_TASK // max(1, width * rows.itemsize), n // (8 * workers)) // step * step)

    def search(part: Array, scores: Array, places: Numbers) -> None:
        scratch = aligned_empty(workers * ((len(part) + 1) * MOST_ROWS + step * width), np.float32)
        counter = np.zeros(8, np.int64)
        search_kernel(rows, levels, part, KINDS[name], step, share, scores, places, scratch, counter, workers)

    return _by_heaps(search, queries, n, k, workers)


def _best_bits(queries: Array, rows: NDArray[Any], k: int, name: str) -> Hits:
    """Return the best of one array of packed signs, and their similarities to the signs of the queries, 1 and -1."""
    n, size = rows.shape
    signs = np.packbits(queries > 0, axis=1)
    # Of int8 the first bit is turned over.
    packed = _writable(rows.view(np.uint8)), signs ^ np.uint8(128) if rows.dtype == np.int8 else signs
    workers = workers_for(rows.nbytes * len(queries) / _BYTES_PER_US, -(-n // MOST_ROWS))
    share = max(MOST_ROWS, min(_TASK // max(1, size), n // (8 * workers)))

    def search(part: NDArray[np.uint8], scores: Array, places: Numbers) -> None:
        bits_kernel(packed[0], part, share, scores, places, np.zeros(8, np.int64), workers)

    found = _by_heaps(search, packed[1], n, k, workers)
    width = np.float32(queries.shape[1])
    if name == "euclidean":
        return Hits(found.rows, -2 * np.sqrt(-found.scores))
    if name == "manhattan":
        return Hits(found.rows, 2 * found.scores)
    return Hits(found.rows, (width + 2 * found.scores) / (max(width, 1) if name == "cosine" else 1))


def _by_heaps(search: Any, queries: NDArray[Any], n: int, k: int, workers: int) -> Hits:
    """Return the `k` best of `n` rows, from the heaps that ``search(queries, scores, places)`` fills for some queries at a time."""
    k = max(0, min(k, n))
    count = min(len(queries), max(1, min(_QUERIES, _HEAPS // (12 * workers * max(1, k)))))
    check_large((40 * workers * count + _HIT * len(queries)) * k, "the {} best rows of {} queries", k, len(queries))
    out = Hits(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
    if not out.rows.size:
        return out
    for first in range(0, len(queries), count):
        part = queries[first : first + count]
        scores, places = np.full((workers, len(part), k), -np.inf, np.float32), np.full((workers, len(part), k), n)
        search(part, scores, places)
        values, ids = (x.transpose(1, 0, 2).reshape(len(part), -1) for x in (scores, places))
        order = np.lexsort((ids, -values), axis=1)[:, :k]
        out.rows[first : first + count] = np.take_along_axis(ids, order, axis=1)
        out.scores[first : first + count] = np.take_along_axis(values, order, axis=1)
    return out


def _rescored(queries: Array, best: Hits, kept: NDArray[Any] | None, embeddings: Any, top_k: int, name: str) -> Hits:
    """Return the best of what a first search found, by the similarity of the whole query to floats, or to the signs kept."""
    found = []
    for i, query in enumerate(queries):
        order = np.argsort(best.rows[i])
        numbers = best.rows[i][order]
        if embeddings is None:
            rows = _signs(kept[i][order], queries.shape[1]) if kept is not None else np.empty((0, queries.shape[1]), np.float32)
        else:
            if numbers.size and numbers[-1] >= len(embeddings):
                raise ValueError(f"embeddings to rescore with have {len(embeddings)} rows: row {numbers[-1]} is not there")
            rows = np.require(embeddings[numbers], np.float32, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE"))
            if rows.shape[1] != queries.shape[1]:
                raise ValueError(f"embeddings to rescore with have width {rows.shape[1]}, and the queries {queries.shape[1]}")
        hits = _best(query[None], rows, top_k, name, None)
        found.append((numbers[hits.rows[0]], hits.scores[0]))
    return Hits(np.array([rows for rows, _ in found], np.int64), np.array([scores for _, scores in found], np.float32))


def _levels(ranges: Array) -> Array:
    """Return the step of each channel and, behind them, what level 0 of int8 stands for: each level is the middle of its part."""
    low, high = np.asarray(ranges, np.float32)
    step = (high - low) / np.float32(255)
    return np.concatenate([step, low + step * np.float32(128.5)])


def _signs(rows: NDArray[Any], width: int) -> Array:
    """Return 1 for each positive number and -1 for each other, of signs that `quantize_embeddings` packed."""
    packed = rows.view(np.uint8) ^ np.uint8(128) if rows.dtype == np.int8 else rows
    return np.unpackbits(packed, axis=1)[:, :width].astype(np.float32) * 2 - 1
