"""Search, paraphrases and communities among embeddings, with sentence-transformers' arguments and results."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.text.nearest import Rescoring, nearest, pieces_of
from fastattn.text.similarity import as_float
from fastattn.text.similarity_functions import cos_sim, dot_score, euclidean_sim, manhattan_sim, normalize_embeddings

__all__ = ["community_detection", "mine_hard_negatives", "paraphrase_mining", "paraphrase_mining_embeddings", "semantic_search"]

Array = NDArray[np.float32]
Score = Callable[[Any, Any], Any]
# Score functions that kernels know, and their names there.
_NAMES = ((cos_sim, "cosine"), (dot_score, "dot"), (euclidean_sim, "euclidean"), (manhattan_sim, "manhattan"))


def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: Score = cos_sim,
    *,
    ranges: Any = None,
    rescore: bool = True,
    rescore_multiplier: int = 4,
    rescore_embeddings: Any = None,
) -> list[list[dict[str, int | float]]]:
    """Find the nearest rows of a corpus for each query, exactly.

    Parameters
    ----------
    query_embeddings : float, (Q, C) or (C,)
        Embeddings: an array, a torch tensor, or a list of either.
    corpus_embeddings : float, int8 or uint8, (N, C), or packed signs, (N, C / 8)
        Embeddings, mapped from a file too, or what `quantize_embeddings` made of them.
    query_chunk_size : int
        Queries that a score function which is none of the four named gets at a time.
    corpus_chunk_size : int
        Rows of the corpus that are compared at a time.
    top_k : int
        Number of hits for each query.
    score_function : callable
        Gives the scores (A, B) of two matrices (A, C) and (B, C); for a quantised corpus `cos_sim`, `dot_score`, `euclidean_sim` or
        `manhattan_sim`.
    ranges : float, (2, C), optional
        With which an int8 or uint8 corpus was quantised; the query, of floats, is compared with what its levels stand for.
    rescore : bool
        Compare the best again, as `rescore_embeddings` says.  Packed signs are first compared by the bits in which they differ from
        the signs of the query.
    rescore_multiplier : int
        How many times `top_k` rows are compared again.
    rescore_embeddings : float, (N, C), optional
        What these are compared with, such as float32 in a mapped file; by default the signs, 1 and -1.

    Returns
    -------
    list of list of dict
        For each query its hits, the best first, equal ones in their order: ``corpus_id`` and ``score``.

    Raises
    ------
    ValueError
        The widths differ, int8 or uint8 levels come without `ranges` or floats with them, the score function is another one,
        or `rescore_embeddings` has another shape or no floats.
    MemoryError
        The best rows need more than the free memory.

    Notes
    -----
    For the four functions named a kernel reads the corpus once for up to 128 queries and keeps the best: no scores are written, and
    float32 and quantised rows are not copied.  A score has the same bits alone and among others, for any number of threads.

    Examples
    --------
    >>> from fastattn.util import semantic_search
    >>> semantic_search([[1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]], top_k=1)
    [[{'corpus_id': 1, 'score': 1.0}]]
    """
    # Numbers that are compared with numbers of their kind are compared as they are.
    is_quantised = str(getattr(query_embeddings, "dtype", "")).endswith("int8")
    queries = np.atleast_2d(as_float(query_embeddings))
    corpus = np.atleast_2d(as_float(corpus_embeddings)) if is_quantised else _rows_of(corpus_embeddings)
    if corpus.dtype.itemsize > 1 and rescore_embeddings is None and ranges is None:
        hits = _nearest(queries, corpus, query_chunk_size, corpus_chunk_size, top_k, score_function)
    else:
        name = _name_of(score_function)
        if name is None:
            raise ValueError(
                f"score_function must be one of {', '.join(known.__name__ for known, _ in _NAMES)} here, got {score_function!r}"
            )
        if rescore_multiplier < 1:
            raise ValueError(f"rescore_multiplier must be 1 or more, got {rescore_multiplier}")
        width = queries.shape[1]
        if corpus.dtype.itemsize == 1 and ranges is None and corpus.shape[1] != -(-width // 8):
            raise ValueError(f"ranges must be given: those of quantize_embeddings for the corpus, {corpus.dtype} {corpus.shape}")
        kept = None if rescore_embeddings is None else _rows_of(rescore_embeddings)
        if kept is not None and kept.shape != (len(corpus), width):
            raise ValueError(f"rescore_embeddings must have shape {(len(corpus), width)}, got {kept.shape}")
        if kept is not None and kept.dtype.kind != "f":
            raise ValueError(f"rescore_embeddings must be floats, got {kept.dtype}")
        levels = None if ranges is None else as_float(ranges)
        rescoring = Rescoring(rescore_multiplier, kept) if rescore else None
        hits = list(zip(*nearest(queries, pieces_of(corpus, corpus_chunk_size), top_k, name, levels, rescoring), strict=True))
    return [
        [{"corpus_id": row, "score": score} for row, score in zip(ids.tolist(), values.tolist(), strict=True)]
        for ids, values in hits
    ]


def _rows_of(embeddings: Any) -> NDArray[Any]:
    """Return embeddings as an array (N, C): floats of 2 or 4 bytes and quantised numbers as they are, others as float32."""
    if hasattr(embeddings, "detach"):
        embeddings = embeddings.detach().cpu()
        embeddings = embeddings.numpy() if str(embeddings.dtype) in ("torch.int8", "torch.uint8") else embeddings
    if getattr(embeddings, "dtype", None) in (np.int8, np.uint8, np.float16, np.float32):
        return np.atleast_2d(np.asarray(embeddings))
    return np.atleast_2d(as_float(embeddings))


def paraphrase_mining(
    model: Any,
    sentences: list[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: Score = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """Find the pairs of texts with the highest scores.

    Parameters
    ----------
    model : SentenceTransformer
        Embeds the texts.
    sentences : list of str
        The texts.
    show_progress_bar, batch_size : optional
        As in `SentenceTransformer.encode`.
    query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function : optional
        As in `paraphrase_mining_embeddings`.
    truncate_dim, prompt_name, prompt : optional
        As in `SentenceTransformer.encode`.

    Returns
    -------
    list of [float, int, int]
        Score and indices of each pair, the best first.
    """
    embeddings = model.encode(
        inputs=sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    return paraphrase_mining_embeddings(embeddings, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function)


def paraphrase_mining_embeddings(
    embeddings: Any,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: Score = cos_sim,
) -> list[list[float | int]]:
    """Find the pairs of embeddings with the highest scores.

    Parameters
    ----------
    embeddings : float, (N, C)
        Embeddings: an array, a torch tensor, or a list of either.
    query_chunk_size : int
        Rows that are compared at a time.
    corpus_chunk_size : int
        Rows that they are compared with at a time.
    max_pairs : int
        Number of pairs to return at most.
    top_k : int
        Number of neighbours of a row that are looked at.
    score_function : callable
        Gives the scores (A, B) of two matrices (A, C) and (B, C); symmetric.

    Returns
    -------
    list of [float, int, int]
        Score and indices of each pair, the best first.
    """
    rows = as_float(embeddings)
    pairs, scores = np.empty((0, 2), np.int64), np.empty(0, np.float32)
    for first in range(0, len(rows), query_chunk_size):
        # A row is its own best neighbour, so one more is searched for.
        queries = rows[first : first + query_chunk_size]
        found = _nearest(queries, rows, len(queries), corpus_chunk_size, top_k + 1, score_function)
        others = [(ids[ids != i][:top_k], values[ids != i][:top_k]) for i, (ids, values) in enumerate(found, first)]
        ones = np.repeat(np.arange(first, first + len(others)), [len(ids) for ids, _ in others])
        ids = np.concatenate([ids for ids, _ in others])
        pairs = np.concatenate([pairs, np.stack([np.minimum(ids, ones), np.maximum(ids, ones)], axis=1)])
        scores = np.concatenate([scores, *(values for _, values in others)])
        pairs, scores = _best_pairs(pairs, scores, max_pairs)
    return [[score, i, j] for score, (i, j) in zip(scores.tolist(), pairs.tolist(), strict=True)]


def community_detection(
    embeddings: Any,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Find groups of embeddings that are near a central one.

    Parameters
    ----------
    embeddings : float, (N, C)
        Embeddings: an array, a torch tensor, or a list of either.
    threshold : float
        Least cosine similarity of a member to the centre.
    min_community_size : int
        Least number of members.
    batch_size : int
        Rows that are compared at a time.
    show_progress_bar : bool
        Show a progress bar.

    Returns
    -------
    list of list of int
        Indices of the members of each group, the centre first; the largest group first.  A row is in one group at most.

    Examples
    --------
    >>> from fastattn.util import community_detection
    >>> community_detection([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1], [3.0, 0.0]], min_community_size=2)
    [[0, 3, 2]]
    """
    if len(embeddings) < max(1, min_community_size):
        return []
    rows = normalize_embeddings(np.atleast_2d(as_float(embeddings)))
    found: list[tuple[int, NDArray[np.int64]]] = []
    starts: Any = range(0, len(rows), batch_size)
    if show_progress_bar:
        starts = importlib.import_module("tqdm.auto").tqdm(starts, desc="Finding communities")
    for start in starts:
        for i, scores in enumerate(dot_score(rows[start : start + batch_size], rows), start):
            members = np.flatnonzero(scores >= np.float32(threshold))
            if len(members) >= min_community_size:
                found.append((i, members[np.argsort(-scores[members], kind="stable")]))
    found.sort(key=lambda community: -len(community[1]))
    communities, taken = [], np.zeros(len(rows), bool)
    for centre, members in found:
        free = members[~taken[members]]
        if not taken[centre] and len(free) >= min_community_size:
            communities.append([centre, *free[free != centre].tolist()])
            taken[free] = True
    return sorted(communities, key=len, reverse=True)


def mine_hard_negatives(*args: Any, **kwargs: Any) -> Any:
    """Mine hard negatives for training, by sentence-transformers, which must be installed.

    Parameters
    ----------
    *args
        As for ``sentence_transformers.util.mine_hard_negatives``; its models may be of fastattn.
    **kwargs
        As there.

    Returns
    -------
    datasets.Dataset
        The data set with negatives.

    Raises
    ------
    ImportError
        sentence-transformers or datasets is not installed.
    """
    try:
        theirs = importlib.import_module("sentence_transformers.util")
        importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(
            "mine_hard_negatives makes training data, a datasets.Dataset: pip install sentence-transformers datasets; "
            "it takes a model of fastattn"
        ) from error
    return theirs.mine_hard_negatives(*args, **kwargs)


def _name_of(score_function: Score) -> str | None:
    """Return the name of a score function that kernels know."""
    return next((name for known, name in _NAMES if known is score_function), None)


def _nearest(
    queries: Array, corpus: NDArray[Any], query_chunk: int, corpus_chunk: int, top_k: int, score_function: Score
) -> list[tuple[NDArray[np.int64], Array]]:
    """Return the rows of the corpus and their scores for each query, the best first; equal scores in the order of the rows."""
    name = _name_of(score_function)
    if name is not None:
        return list(zip(*nearest(queries, pieces_of(corpus, corpus_chunk), top_k, name), strict=True))
    hits = [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
    for numbers, piece in pieces_of(corpus, corpus_chunk):
        rows = as_float(piece)
        for first in range(0, len(queries), query_chunk):
            scores = _scores(score_function, queries[first : first + query_chunk], rows)
            for i, (ids, values) in enumerate(_best(scores, top_k), first):
                merged = np.concatenate([hits[i][0], numbers[ids]]), np.concatenate([hits[i][1], values])
                order = np.argsort(-merged[1], kind="stable")[:top_k]
                hits[i] = merged[0][order], merged[1][order]
    return hits


def _scores(score_function: Score, a: Array, b: NDArray[np.float32]) -> Array:
    """Return the scores as an array; a score that is not a number is the lowest."""
    scores = as_float(score_function(a, b))
    return np.where(np.isnan(scores), -np.inf, scores) if np.isnan(scores).any() else scores


def _best(scores: Array, k: int) -> Iterator[tuple[NDArray[np.int64], Array]]:
    """Yield the columns and values of the `k` highest scores of each row, the highest first."""
    count = scores.shape[1]
    for row in scores:
        ids = np.arange(count)
        if k < count:
            ids = np.flatnonzero(row >= np.partition(row, count - k)[count - k]) if k > 0 else ids[:0]
        order = np.argsort(-row[ids], kind="stable")[:k]
        yield ids[order], row[ids[order]]


def _best_pairs(pairs: NDArray[np.int64], scores: Array, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the `count` pairs with the highest scores, each once, the highest first."""
    first = np.unique(pairs[:, 0] << 32 | pairs[:, 1], return_index=True)[1]
    order = first[np.argsort(-scores[first], kind="stable")][:count]
    return pairs[order], scores[order]
