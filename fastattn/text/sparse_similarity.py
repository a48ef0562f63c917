"""Similarity of sparse embeddings: work by the values that are kept, without dense rows of both sides."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.runtime.memory import check_large
from fastattn.runtime.rounding import rounding
from fastattn.text.compatibility import as_tensors, is_tensor
from fastattn.text.similarity import ModelSimilarity, Similarity, similarity, similarity_pairwise
from fastattn.text.sparse_embeddings import SparseEmbeddings, as_sparse
from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["ModelSparseSimilarity", "sparse_similarity", "sparse_similarity_pairwise"]

Array = NDArray[Any]
# Values of the second side that are compared at once.
_AT_A_TIME = 2**20


def _is_sparse(embeddings: Any) -> bool:
    """Tell whether embeddings, or the first of a list, are sparse."""
    if isinstance(embeddings, (list, tuple)) and len(embeddings):
        embeddings = embeddings[0]
    return isinstance(embeddings, SparseEmbeddings) or bool(getattr(embeddings, "is_sparse", False))


def sparse_similarity(first: Any, second: Any, name: Any) -> Any:
    """Return the similarity of each of `first` to each of `second`; a tensor if one of them is a tensor."""
    if not (_is_sparse(first) or _is_sparse(second)):
        found = similarity(first, second, name)
    else:
        a, b = _matrix(as_sparse(first)), _matrix(as_sparse(second))
        _check_widths(a, b)
        check_large(4 * len(a) * len(b), "similarities of shape {}", (len(a), len(b)))
        found = np.empty((len(a), len(b)), np.float32)
        for i in range(len(a)):
            found[i] = _row_similarity(a[i].toarray(), b, name)
    return as_tensors(found) if is_tensor(first) or is_tensor(second) else found


def sparse_similarity_pairwise(first: Any, second: Any, name: Any) -> Any:
    """Return the similarity of each of `first` to the same row of `second`; a tensor if one of them is a tensor."""
    if not (_is_sparse(first) or _is_sparse(second)):
        found: Any = similarity_pairwise(first, second, name)
    else:
        one, other = as_sparse(first), as_sparse(second)
        a, b = _matrix(one), _matrix(other)
        _check_widths(a, b)
        if 1 not in (len(a), len(b)) and len(a) != len(b):
            raise ValueError(f"embeddings must have as many rows, or one of them one row, got {a.shape} and {b.shape}")
        a, b = (a, b) if len(a) >= len(b) else (b, a)
        if len(b) == 1 < len(a):
            found = _row_similarity(b[0].toarray(), a, name)
        else:
            found = np.array([_row_similarity(a[i].toarray(), b[i : i + 1], name)[0] for i in range(len(a))], np.float32)
        found = found[0] if one.ndim == other.ndim == 1 else found
    return as_tensors(found) if is_tensor(first) or is_tensor(second) else found


def _matrix(rows: SparseEmbeddings) -> SparseEmbeddings:
    return rows if rows.ndim == 2 else SparseEmbeddings(rows.indptr, rows.indices, rows.data, (1, *rows.shape))


def _check_widths(a: SparseEmbeddings, b: SparseEmbeddings) -> None:
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"embeddings must be (V,) or (B, V) of one width, got {a.shape} and {b.shape}")


@rounding()
def _row_similarity(dense: Array, rows: SparseEmbeddings, name: str) -> Array:
    """Return the similarity of one dense row to each sparse row, with sums in float64."""
    row = dense.astype(np.float64)
    square, length = float(row @ row), float(np.abs(row).sum())
    out = np.empty(len(rows))
    cuts = np.searchsorted(rows.indptr, np.arange(0, rows.nnz + _AT_A_TIME, _AT_A_TIME), side="right") - 1
    bounds = np.unique([0, *cuts, len(rows)])
    for first, last in itertools.pairwise(bounds):
        part = slice(rows.indptr[first], rows.indptr[last])
        x, y = row[rows.indices[part]], rows.data[part].astype(np.float64)
        starts = rows.indptr[first : last + 1] - rows.indptr[first]
        if name == "manhattan":
            out[first:last] = -(length + _sums(np.abs(x - y) - np.abs(x), starts))
            continue
        if name == "euclidean":
            out[first:last] = -np.sqrt(np.maximum(square + _sums((x - y) ** 2 - x * x, starts), 0))
            continue
        out[first:last] = _sums(x * y, starts)
        if name == "cosine":
            norms = np.sqrt(_sums(y * y, starts))
            out[first:last] /= np.maximum(norms, 1e-12) * max(np.sqrt(square), 1e-12)
    return out.astype(np.float32)


def _sums(values: Array, starts: Array) -> Array:
    """Return the sums of the parts of `values` that begin at `starts`, whose last is their end; 0 for an empty part."""
    out = np.zeros(len(starts) - 1)
    there = starts[1:] > starts[:-1]
    if there.any():
        out[there] = np.add.reduceat(values, starts[:-1][there])
    return out


class ModelSparseSimilarity(ModelSimilarity):
    """Similarity of a model's sparse embeddings, and what they have in common."""

    tokenizer: Tokenizer

    @property
    def similarity_fn_name(self) -> Similarity:
        """Name of the similarity function: "cosine", "dot", "euclidean" or "manhattan"."""
        return self._similarity_fn_name or "dot"

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: Any) -> None:
        ModelSimilarity.similarity_fn_name.__set__(self, value)  # type: ignore[attr-defined]

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Similarity of each of `embeddings1` to each of `embeddings2`, by `similarity_fn_name`.

        Parameters
        ----------
        embeddings1 : SparseEmbeddings, array, torch tensor, or a list of rows, (A, V) or (V,)
            Embeddings; tensors may be sparse.
        embeddings2 : SparseEmbeddings, array, torch tensor, or a list of rows, (B, V) or (V,)
            Embeddings.

        Returns
        -------
        float32, (A, B)
            The similarities; a torch tensor if an argument is a torch tensor.

        Raises
        ------
        ValueError
            The widths differ.
        MemoryError
            The result needs more than the free memory.
        """
        return sparse_similarity(embeddings1, embeddings2, self.similarity_fn_name)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Similarity of each of `embeddings1` to the same row of `embeddings2`, by `similarity_fn_name`.

        Parameters
        ----------
        embeddings1 : SparseEmbeddings, array, torch tensor, or a list of rows, (B, V) or (V,)
            Embeddings; tensors may be sparse.
        embeddings2 : SparseEmbeddings, array, torch tensor, or a list of rows, (B, V) or (V,)
            Embeddings.

        Returns
        -------
        float32, (B,)
            The similarities; a torch tensor if an argument is a torch tensor.

        Raises
        ------
        ValueError
            The shapes differ.
        """
        return sparse_similarity_pairwise(embeddings1, embeddings2, self.similarity_fn_name)

    @staticmethod
    def intersection(embeddings_1: Any, embeddings_2: Any) -> Any:
        """Products of the weights of one text and of another, or of each of several: the words that both have.

        Parameters
        ----------
        embeddings_1 : SparseEmbeddings, array or torch tensor, (V,)
            Embedding of one text.
        embeddings_2 : SparseEmbeddings, array or torch tensor, (V,) or (B, V)
            Embedding of another text, or of several.

        Returns
        -------
        SparseEmbeddings, shape of `embeddings_2`
            The products above 0; a torch tensor if an argument is a torch tensor.

        Raises
        ------
        ValueError
            `embeddings_1` has two axes, or the widths differ.
        """
        one, rows = as_sparse(embeddings_1, "embeddings_1"), as_sparse(embeddings_2, "embeddings_2")
        if one.ndim != 1:
            raise ValueError(f"embeddings_1 must have shape (V,), got {one.shape}")
        _check_widths(one, rows)
        products = one.toarray()[rows.indices] * rows.data
        kept = products > 0
        ends = np.concatenate([[0], np.cumsum(kept)])[rows.indptr]
        found = SparseEmbeddings(ends, rows.indices[kept], products[kept], rows.shape)
        return found.to_torch() if is_tensor(embeddings_1) or is_tensor(embeddings_2) else found

    @staticmethod
    def sparsity(embeddings: Any) -> dict[str, float]:
        """Count the active dimensions of embeddings.

        Parameters
        ----------
        embeddings : SparseEmbeddings, array or torch tensor, (B, V) or (V,)
            Embeddings.

        Returns
        -------
        dict of str to float
            ``active_dims``, the mean of a row, and ``sparsity_ratio``, the share of the others.
        """
        rows = _matrix(as_sparse(embeddings))
        count, width = rows.shape
        if not count or not width:
            return {"active_dims": 0.0, "sparsity_ratio": 1.0}
        mean = rows.nnz / count
        return {"active_dims": mean, "sparsity_ratio": 1.0 - mean / width}

    def decode(self, embeddings: Any, top_k: int | None = None) -> Any:
        """Return the words of embeddings and their weights, the largest first.

        Parameters
        ----------
        embeddings : SparseEmbeddings, array or torch tensor, (B, V) or (V,)
            What `encode` returned.
        top_k : int, optional
            Most words of a text.

        Returns
        -------
        list of (str, float), or list of such lists for several texts

        Raises
        ------
        ValueError
            `top_k` is not positive, or the embeddings have another shape.
        """
        if top_k is not None and top_k <= 0:
            raise ValueError(f"top_k must be a positive integer, got {top_k}")
        rows = as_sparse(embeddings)
        found = []
        for first, last in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
            data, columns = rows.data[first:last], rows.indices[first:last]
            order = np.argsort(-data, kind="stable")[:top_k]
            words = [self.tokenizer.convert_ids_to_tokens(column) for column in columns[order].tolist()]
            found.append(list(zip(words, data[order].tolist(), strict=True)))
        return found[0] if rows.ndim == 1 else found
