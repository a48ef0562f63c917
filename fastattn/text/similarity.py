"""Similarity of embeddings, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.encoder.pooling import normalize
from fastattn.runtime.memory import check_large
from fastattn.runtime.rounding import rounding
from fastattn.text.compatibility import as_tensors, is_tensor

__all__ = ["SIMILARITIES", "ModelSimilarity", "as_float", "check_widths", "similarity", "similarity_pairwise"]

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
SIMILARITIES: tuple[str, ...] = get_args(Similarity)
_Rows: TypeAlias = NDArray[Any] | Sequence[NDArray[Any]] | Sequence[Sequence[float]]


@rounding()
def similarity(first: ArrayLike, second: ArrayLike, name: Similarity = "cosine") -> NDArray[np.float32]:
    """Similarity of each row of a matrix to each row of another matrix.

    Parameters
    ----------
    first : float, (A, C) or (C,)
        Embeddings.
    second : float, (B, C) or (C,)
        Embeddings.
    name : {"cosine", "dot", "euclidean", "manhattan"}
        The last two are negative distances.

    Returns
    -------
    float32, (A, B)
        The similarities.

    Raises
    ------
    ValueError
        `name` is unknown, or the widths differ.
    MemoryError
        The result and its temporary arrays need more than the free memory.
    """
    a, b = np.atleast_2d(as_float(first)), np.atleast_2d(as_float(second))
    _check(a, b, name)
    # Temporary arrays: normalised copies for "cosine", differences and their squares for the distances.
    copies = 0 if name == "dot" else a.size + 2 * b.size
    check_large(4 * (len(a) * len(b) + copies), "similarities of shape {}, with temporary arrays,", (len(a), len(b)))
    if name == "cosine":
        return np.asarray(normalize(a) @ normalize(b).T)
    if name == "dot":
        return np.asarray(a @ b.T)
    result = np.empty((len(a), len(b)), np.float32)
    for i, row in enumerate(a):
        result[i] = _negative_distance(row - b, name)
    return result


@rounding()
def similarity_pairwise(first: ArrayLike, second: ArrayLike, name: Similarity = "cosine") -> NDArray[np.float32]:
    """Similarity of each row of a matrix to the same row of another matrix.

    Parameters
    ----------
    first : float, (B, C) or (C,)
        Embeddings; a single row is compared to each row of `second`.
    second : float, (B, C) or (C,)
        Embeddings; a single row is compared to each row of `first`.
    name : {"cosine", "dot", "euclidean", "manhattan"}
        The last two are negative distances.

    Returns
    -------
    float32, (B,), or a scalar for two vectors
        The similarities.

    Raises
    ------
    ValueError
        `name` is unknown, or the shapes differ.
    MemoryError
        The result and its temporary arrays need more than the free memory.
    """
    a, b = as_float(first), as_float(second)
    _check(a, b, name)
    if a.shape != b.shape:
        if 1 not in (a.size // max(a.shape[-1], 1), b.size // max(b.shape[-1], 1)):
            raise ValueError(f"embeddings must have the same shape, or one of them one row, got {a.shape} and {b.shape}")
        a, b = np.broadcast_arrays(a, b)
    check_large(12 * a.size, "similarities of rows of shape {}, with temporary arrays,", a.shape)
    if name in ("euclidean", "manhattan"):
        return _negative_distance(a - b, name)
    if name == "cosine":
        a, b = (normalize(np.atleast_2d(x)).reshape(x.shape) for x in (a, b))
    return np.asarray(np.sum(a * b, axis=-1))


def _negative_distance(difference: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Return minus the Euclidean or Manhattan norm of each row."""
    if name == "manhattan":
        return np.asarray(-np.sum(np.abs(difference), axis=-1))
    return np.asarray(-np.sqrt(np.sum(difference * difference, axis=-1)))


def as_float(embeddings: Any) -> NDArray[np.float32]:
    """Return embeddings, an array, a torch tensor, or a list of either, as a float32 array."""
    if isinstance(embeddings, (list, tuple)) and len(embeddings) and not np.isscalar(embeddings[0]):
        return np.stack([as_float(row) for row in embeddings])
    if hasattr(embeddings, "detach"):
        embeddings = embeddings.detach().cpu().float().numpy()
    return np.asarray(embeddings, np.float32)


def _check(a: NDArray[np.float32], b: NDArray[np.float32], name: str) -> None:
    if name not in SIMILARITIES:
        raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {name!r}")
    check_widths(a, b)


def check_widths(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    """Raise a ValueError unless both are embeddings, of one width."""
    if a.ndim not in (1, 2) or b.ndim not in (1, 2) or a.shape[-1] != b.shape[-1]:
        raise ValueError(f"embeddings must be (C,) or (B, C) of one width, got {a.shape} and {b.shape}")


class ModelSimilarity:
    """Similarity of a model's embeddings, by the function that `similarity_fn_name` selects."""

    SUPPORTED_SIMILARITY_FN_NAMES: ClassVar[tuple[str, ...]] = SIMILARITIES

    @property
    def similarity_fn_name(self) -> Similarity:
        """Name of the similarity function: "cosine", "dot", "euclidean" or "manhattan"."""
        return self._similarity_fn_name or "cosine"

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: Any) -> None:
        # A name, or a member of sentence-transformers' enumeration, whose `value` is the name.
        name = getattr(value, "value", value)
        if name is not None and name not in SIMILARITIES:
            raise ValueError(f"similarity_fn_name must be one of {', '.join(SIMILARITIES)}, got {name!r}")
        self._similarity_fn_name: Similarity | None = name

    @overload
    def similarity(self, embeddings1: _Rows, embeddings2: _Rows) -> NDArray[np.float32]: ...
    @overload
    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any: ...

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Similarity of each of `embeddings1` to each of `embeddings2`, by `similarity_fn_name`.

        Parameters
        ----------
        embeddings1 : float, (A, C) or (C,)
            Embeddings: an array, a torch tensor, or a list of either.
        embeddings2 : float, (B, C) or (C,)
            Embeddings.

        Returns
        -------
        float32, (A, B)
            The similarities; a torch tensor if an argument is a torch tensor.
        """
        found = similarity(embeddings1, embeddings2, self.similarity_fn_name)
        return as_tensors(found) if is_tensor(embeddings1) or is_tensor(embeddings2) else found

    @overload
    def similarity_pairwise(self, embeddings1: _Rows, embeddings2: _Rows) -> NDArray[np.float32]: ...
    @overload
    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any: ...

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Similarity of each of `embeddings1` to the same row of `embeddings2`, by `similarity_fn_name`.

        Parameters
        ----------
        embeddings1 : float, (B, C) or (C,)
            Embeddings: an array, a torch tensor, or a list of either.
        embeddings2 : float, (B, C) or (C,)
            Embeddings.

        Returns
        -------
        float32, (B,)
            The similarities; a torch tensor if an argument is a torch tensor.
        """
        found = similarity_pairwise(embeddings1, embeddings2, self.similarity_fn_name)
        return as_tensors(found) if is_tensor(embeddings1) or is_tensor(embeddings2) else found
