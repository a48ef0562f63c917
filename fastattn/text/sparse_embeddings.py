"""SparseEmbeddings: rows with few active dimensions, in compressed form."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastattn.runtime.memory import check_large
from fastattn.text.compatibility import check_torch

__all__ = ["SparseEmbeddings", "as_sparse"]

Array = NDArray[Any]


class SparseEmbeddings:
    """Sparse embeddings of B texts, (B, V), or of one text, (V,): compressed sparse rows (CSR).

    Row b has the values ``data[indptr[b]:indptr[b + 1]]`` in the columns ``indices[indptr[b]:indptr[b + 1]]``, which rise.

    Parameters
    ----------
    indptr : int64, (B + 1,)
        Where the rows begin, and the end of the last.
    indices : int32, (nnz,)
        Columns of the values: token ids of a model with a vocabulary.
    data : float, (nnz,)
        The values, none of which is 0.
    shape : (int, int) or (int,)
        (B, V), or (V,) for one text.

    Raises
    ------
    ValueError
        The arrays do not fit each other, or `shape`.

    Examples
    --------
    >>> from fastattn import SparseEmbeddings
    >>> rows = SparseEmbeddings.from_dense([[0.0, 2.0, 0.0], [1.0, 0.0, 0.5]])
    >>> rows.nnz, rows[1].indices, rows[1].toarray()
    (3, array([0, 2], dtype=int32), array([1. , 0. , 0.5], dtype=float32))
    """

    def __init__(self, indptr: Any, indices: Any, data: Any, shape: Sequence[int]) -> None:
        self.indptr, self.indices, self.data = np.asarray(indptr, np.int64), np.asarray(indices, np.int32), np.asarray(data)
        self.shape = tuple(map(int, shape))
        rows = self.shape[0] if len(self.shape) == 2 else 1
        sound = len(self.shape) in (1, 2) and self.indptr.shape == (rows + 1,) and self.indices.ndim == 1
        sound = sound and self.data.shape == self.indices.shape and (self.indptr[0], self.indptr[-1]) == (0, len(self.indices))
        if not sound or np.any(self.indptr[1:] < self.indptr[:-1]):
            shapes = f"{self.indptr.shape}, {self.indices.shape} and {self.data.shape}"
            raise ValueError(f"indptr, indices and data must be rows of shape {self.shape}, got arrays of shape {shapes}")
        if self.indices.size and not 0 <= self.indices.min() <= self.indices.max() < self.shape[-1]:
            raise ValueError(f"indices must be in 0 .. {self.shape[-1] - 1}, got {self.indices.min()} .. {self.indices.max()}")

    @classmethod
    def from_dense(cls, rows: Any) -> SparseEmbeddings:
        """Compress dense rows: keep what is not 0.

        Parameters
        ----------
        rows : float, (B, V) or (V,)
            Dense embeddings; other types than floats become float32.

        Returns
        -------
        SparseEmbeddings

        Raises
        ------
        ValueError
            There are more than two axes, or none.
        """
        rows = np.asarray(rows)
        rows = np.ascontiguousarray(rows if rows.dtype.kind == "f" and rows.dtype != np.float64 else rows.astype(np.float32))
        if rows.ndim not in (1, 2):
            raise ValueError(f"rows must have shape (B, V) or (V,), got {rows.shape}")
        flat, width = rows.reshape(-1), rows.shape[-1]
        places = np.flatnonzero(flat)
        ends = np.searchsorted(places, np.arange((rows.shape[0] if rows.ndim == 2 else 1) + 1) * width)
        return cls(ends, places % max(width, 1), flat[places], rows.shape)

    @classmethod
    def _stacked(cls, parts: Sequence[SparseEmbeddings], width: int) -> SparseEmbeddings:
        """Put the rows of several below each other."""
        if not parts:
            return cls([0], [], np.empty(0, np.float32), (0, width))
        counts = np.concatenate([np.diff(part.indptr) for part in parts])
        indices, data = (np.concatenate([getattr(part, name) for part in parts]) for name in ("indices", "data"))
        return cls(np.concatenate([[0], np.cumsum(counts)]), indices, data, (len(counts), width))

    def _at(self, rows: NDArray[np.int64]) -> SparseEmbeddings:
        """Return these rows, in their order."""
        counts = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        places = np.repeat(self.indptr[rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        return type(self)(indptr, self.indices[places], self.data[places], (len(rows), self.shape[-1]))

    def _largest(self, most: int | None) -> SparseEmbeddings:
        """Keep the `most` largest values of each row, by magnitude; of equal ones those of the lowest columns."""
        if most is None or not (np.diff(self.indptr) > most).any():
            return self
        kept = np.ones(self.nnz, bool)
        sizes = np.where(np.isnan(self.data), np.inf, np.abs(self.data))
        for first, last in zip(self.indptr[:-1], self.indptr[1:], strict=True):
            if last - first > most:
                size = sizes[first:last]
                least = np.partition(size, len(size) - most)[len(size) - most]
                kept[first:last] = size > least
                equal = np.flatnonzero(size == least)
                kept[first + equal[: most - int(kept[first:last].sum())]] = True
        ends = np.concatenate([[0], np.cumsum(kept)])[self.indptr]
        return type(self)(ends, self.indices[kept], self.data[kept], self.shape)

    @property
    def ndim(self) -> int:
        """Number of axes: 2, or 1 for one text."""
        return len(self.shape)

    @property
    def nnz(self) -> int:
        """Number of values that are kept."""
        return len(self.data)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.data.dtype

    def __len__(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """Return the row of a number, (V,), or several rows by a slice, a mask or an array of numbers; of one text a value."""
        if self.ndim == 1:
            return self.toarray()[key]
        rows = np.arange(len(self))[key]
        if np.ndim(rows):
            return self._at(rows)
        part = slice(self.indptr[rows], self.indptr[rows + 1])
        return type(self)([0, part.stop - part.start], self.indices[part], self.data[part], self.shape[1:])

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the rows; over the values of one text."""
        return (self[i] for i in range(len(self))) if self.ndim == 2 else iter(self.toarray())

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Return the dense rows."""
        return self.toarray().astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        """Show shape, number of values and dtype."""
        return f"SparseEmbeddings(shape={self.shape}, nnz={self.nnz}, dtype={self.dtype})"

    def astype(self, dtype: DTypeLike) -> SparseEmbeddings:
        """Convert the values.

        Parameters
        ----------
        dtype : dtype
            Of the values.

        Returns
        -------
        SparseEmbeddings
        """
        return type(self)(self.indptr, self.indices, self.data.astype(dtype), self.shape)

    def toarray(self) -> Array:
        """Return the dense rows.

        Returns
        -------
        array, (B, V) or (V,)

        Raises
        ------
        MemoryError
            They need more than the free memory.
        """
        rows, width = len(self.indptr) - 1, self.shape[-1]
        check_large(rows * width * self.dtype.itemsize, "dense embeddings of shape {}", self.shape)
        out = np.zeros((rows, width), self.dtype)
        out[np.repeat(np.arange(rows), np.diff(self.indptr)), self.indices] = self.data
        return out.reshape(self.shape)

    def to_dense(self) -> Array:
        """`toarray` under torch's name.

        Returns
        -------
        array, (B, V) or (V,)
        """
        return self.toarray()

    def to_scipy(self) -> Any:
        """Return the rows as a ``scipy.sparse.csr_array``, which shares their memory.

        Returns
        -------
        scipy.sparse.csr_array, (B, V), or (1, V) for one text

        Raises
        ------
        ImportError
            SciPy is not installed.
        """
        try:
            sparse = importlib.import_module("scipy.sparse")
        except ImportError as error:
            raise ImportError("to_scipy needs SciPy: pip install scipy") from error
        shape = (len(self.indptr) - 1, self.shape[-1])
        return sparse.csr_array((self.data, self.indices, self.indptr), shape=shape)

    def to_torch(self) -> Any:
        """Return the rows as a sparse tensor of torch in the layout that sentence-transformers gives: COO, coalesced.

        Returns
        -------
        torch.Tensor, (B, V) or (V,)

        Raises
        ------
        ImportError
            torch is not installed.
        """
        check_torch()
        torch = importlib.import_module("torch")
        rows = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        places = np.stack([rows, self.indices.astype(np.int64)])[2 - self.ndim :]
        found = torch.sparse_coo_tensor(torch.from_numpy(places), torch.from_numpy(self.data.copy()), self.shape)
        return found.coalesce()


def as_sparse(embeddings: Any, name: str = "embeddings") -> SparseEmbeddings:
    """Return embeddings as `SparseEmbeddings`: such, a tensor, an array, or a list of rows."""
    if isinstance(embeddings, SparseEmbeddings):
        return embeddings
    if isinstance(embeddings, (list, tuple)) and len(embeddings) and not np.isscalar(embeddings[0]):
        rows = [as_sparse(row, name) for row in embeddings]
        if any(row.ndim != 1 or row.shape != rows[0].shape for row in rows):
            raise ValueError(f"{name} must be rows of one width, got shapes {', '.join(str(row.shape) for row in rows[:4])}")
        return SparseEmbeddings._stacked(rows, rows[0].shape[0])
    if getattr(embeddings, "is_sparse", False):
        coalesced = embeddings.detach().cpu().coalesce()
        places, data = coalesced.indices().numpy(), coalesced.values().float().numpy()
        shape = tuple(embeddings.shape)
        counts = np.bincount(places[0], minlength=shape[0]) if len(shape) == 2 else np.array([len(data)])
        kept = data != 0
        found = SparseEmbeddings(np.concatenate([[0], np.cumsum(counts)]), places[-1], data, shape)
        return found if kept.all() else SparseEmbeddings.from_dense(found.toarray())
    if hasattr(embeddings, "detach"):
        embeddings = embeddings.detach().cpu().float().numpy()
    return SparseEmbeddings.from_dense(embeddings)
