"""Similarity of embeddings as functions, under sentence-transformers' names, and their enumeration."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.encoder.pooling import normalize
from fastattn.kernels.ops.linear import linear
from fastattn.text.compatibility import as_tensors, is_tensor
from fastattn.text.similarity import as_float, check_widths, similarity, similarity_pairwise

__all__ = [
    "SimilarityFunction",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "manhattan_sim",
    "normalize_embeddings",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "truncate_embeddings",
]


def cos_sim(a: Any, b: Any) -> Any:
    """Cosine similarity of each of `a` to each of `b`.

    Parameters
    ----------
    a : float, (A, C) or (C,)
        Embeddings: an array, a torch tensor, or a list of either.
    b : float, (B, C) or (C,)
        Embeddings.

    Returns
    -------
    float32, (A, B)
        The similarities; a torch tensor if an argument is a torch tensor.

    Examples
    --------
    >>> from fastattn.util import cos_sim
    >>> cos_sim([[3.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]])
    array([[1., 0.]], dtype=float32)
    """
    return _like(_products(normalize(_rows(a)), normalize(_rows(b))), a, b)


def dot_score(a: Any, b: Any) -> Any:
    """Dot product of each of `a` and each of `b`.

    Parameters
    ----------
    a : float, (A, C) or (C,)
        Embeddings: an array, a torch tensor, or a list of either.
    b : float, (B, C) or (C,)
        Embeddings.

    Returns
    -------
    float32, (A, B)
        The products; a torch tensor if an argument is a torch tensor.
    """
    return _like(_products(_rows(a), _rows(b)), a, b)


def euclidean_sim(a: Any, b: Any) -> Any:
    """Minus the Euclidean distance of each of `a` to each of `b`.

    Parameters
    ----------
    a : float, (A, C) or (C,)
        Embeddings: an array, a torch tensor, or a list of either.
    b : float, (B, C) or (C,)
        Embeddings.

    Returns
    -------
    float32, (A, B)
        The negative distances; a torch tensor if an argument is a torch tensor.
    """
    return _like(similarity(a, b, "euclidean"), a, b)


def manhattan_sim(a: Any, b: Any) -> Any:
    """Minus the Manhattan distance of each of `a` to each of `b`.

    Parameters
    ----------
    a : float, (A, C) or (C,)
        Embeddings: an array, a torch tensor, or a list of either.
    b : float, (B, C) or (C,)
        Embeddings.

    Returns
    -------
    float32, (A, B)
        The negative distances; a torch tensor if an argument is a torch tensor.
    """
    return _like(similarity(a, b, "manhattan"), a, b)


def pairwise_cos_sim(a: Any, b: Any) -> Any:
    """Cosine similarity of each of `a` to the same row of `b`.

    Parameters
    ----------
    a, b : float, (B, C) or (C,)
        Embeddings: arrays, torch tensors, or lists of either.

    Returns
    -------
    float32, (B,)
        The similarities; a torch tensor if an argument is a torch tensor.
    """
    return _like(similarity_pairwise(a, b, "cosine"), a, b)


def pairwise_dot_score(a: Any, b: Any) -> Any:
    """Dot product of each of `a` and the same row of `b`.

    Parameters
    ----------
    a, b : float, (B, C) or (C,)
        Embeddings: arrays, torch tensors, or lists of either.

    Returns
    -------
    float32, (B,)
        The products; a torch tensor if an argument is a torch tensor.
    """
    return _like(similarity_pairwise(a, b, "dot"), a, b)


def pairwise_euclidean_sim(a: Any, b: Any) -> Any:
    """Minus the Euclidean distance of each of `a` to the same row of `b`.

    Parameters
    ----------
    a, b : float, (B, C) or (C,)
        Embeddings: arrays, torch tensors, or lists of either.

    Returns
    -------
    float32, (B,)
        The negative distances; a torch tensor if an argument is a torch tensor.
    """
    return _like(similarity_pairwise(a, b, "euclidean"), a, b)


def pairwise_manhattan_sim(a: Any, b: Any) -> Any:
    """Minus the Manhattan distance of each of `a` to the same row of `b`.

    Parameters
    ----------
    a, b : float, (B, C) or (C,)
        Embeddings: arrays, torch tensors, or lists of either.

    Returns
    -------
    float32, (B,)
        The negative distances; a torch tensor if an argument is a torch tensor.
    """
    return _like(similarity_pairwise(a, b, "manhattan"), a, b)


def normalize_embeddings(embeddings: Any) -> Any:
    """Divide each embedding by its length.

    Parameters
    ----------
    embeddings : float, (B, C) or (C,)
        Embeddings: an array, a torch tensor, or a list of either.

    Returns
    -------
    float32, (B, C) or (C,)
        Embeddings of unit length; a torch tensor for a torch tensor.
    """
    rows = as_float(embeddings)
    return _like(normalize(np.atleast_2d(rows)).reshape(rows.shape), embeddings)


def truncate_embeddings(embeddings: Any, truncate_dim: int | None) -> Any:
    """Keep the first channels of embeddings.

    Parameters
    ----------
    embeddings : array or torch tensor, (..., C)
        Embeddings.
    truncate_dim : int, optional
        Number of channels; None keeps all.

    Returns
    -------
    array or torch tensor, (..., `truncate_dim`)
        A view.
    """
    return embeddings[..., :truncate_dim]


class SimilarityFunction(Enum):
    """Similarity functions of embeddings, whose values are the names that `SentenceTransformer` takes.

    Examples
    --------
    >>> from fastattn import SimilarityFunction
    >>> SimilarityFunction.to_similarity_fn("dot")([1.0, 2.0], [[3.0, 1.0]])
    array([[5.]], dtype=float32)
    """

    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    @staticmethod
    def to_similarity_fn(similarity_function: str | SimilarityFunction) -> Callable[[Any, Any], Any]:
        """Return the function for all pairs of rows, such as `cos_sim`.

        Parameters
        ----------
        similarity_function : str or SimilarityFunction
            A function or its name.

        Returns
        -------
        callable
            A function of two matrices.
        """
        return _FUNCTIONS[SimilarityFunction(similarity_function)][0]

    @staticmethod
    def to_similarity_pairwise_fn(similarity_function: str | SimilarityFunction) -> Callable[[Any, Any], Any]:
        """Return the function for rows of the same number, such as `pairwise_cos_sim`.

        Parameters
        ----------
        similarity_function : str or SimilarityFunction
            A function or its name.

        Returns
        -------
        callable
            A function of two matrices.
        """
        return _FUNCTIONS[SimilarityFunction(similarity_function)][1]

    @staticmethod
    def possible_values() -> list[str]:
        """Return the names.

        Returns
        -------
        list of str
            "cosine", "dot", "euclidean", "manhattan".
        """
        return [function.value for function in SimilarityFunction]


_FUNCTIONS = {
    SimilarityFunction.COSINE: (cos_sim, pairwise_cos_sim),
    SimilarityFunction.DOT_PRODUCT: (dot_score, pairwise_dot_score),
    SimilarityFunction.EUCLIDEAN: (euclidean_sim, pairwise_euclidean_sim),
    SimilarityFunction.MANHATTAN: (manhattan_sim, pairwise_manhattan_sim),
}


def _rows(embeddings: Any) -> NDArray[np.float32]:
    return np.atleast_2d(as_float(embeddings))


def _products(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``a b^T``: the same bits however the rows are split into calls."""
    check_widths(a, b)
    return np.asarray(linear(a, b)) if a.size and b.size else np.zeros((len(a), len(b)), np.float32)


def _like(result: NDArray[np.float32], *arguments: Any) -> Any:
    return as_tensors(result) if any(map(is_tensor, arguments)) else result
