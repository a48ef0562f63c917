"""Differentiable similarities and distances of embeddings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.training.arithmetic import absolute, concatenate, normalize, square, square_root, sum_of
from fastattn.training.graph import Tensor, apply

__all__ = [
    "Similarity",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "manhattan_sim",
    "pairwise_angle_sim",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "similarity_name",
    "similarity_of_all",
    "similarity_of_pairs",
]

Array = NDArray[Any]
Similarity = Callable[[Tensor, Tensor], Tensor]


def cos_sim(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each row of `a` and each of `b`."""
    return normalize(a) @ normalize(b).T


def dot_score(a: Tensor, b: Tensor) -> Tensor:
    """Dot product of each row of `a` and each of `b`."""
    return a @ b.T


def euclidean_sim(a: Tensor, b: Tensor) -> Tensor:
    """Minus the Euclidean distance of each row of `a` to each of `b`; its gradient at distance 0 is 0."""

    def slope(difference: Array, length: Array) -> Array:
        divisor = length[:, None]
        return np.divide(difference, divisor, out=np.zeros_like(difference), where=divisor > 0)

    return _distances(a, b, lambda difference: np.sqrt((difference * difference).sum(axis=1)), slope)


def manhattan_sim(a: Tensor, b: Tensor) -> Tensor:
    """Minus the Manhattan distance of each row of `a` to each of `b`."""
    return _distances(a, b, lambda difference: np.abs(difference).sum(axis=1), lambda difference, _: np.sign(difference))


def _distances(a: Tensor, b: Tensor, length: Callable[[Array], Array], slope: Callable[[Array, Array], Array]) -> Tensor:
    """Return minus the length of each difference; row after row of `a`, which takes the memory of one row's differences."""
    out = np.empty((len(a.data), len(b.data)), a.data.dtype)
    for i, row in enumerate(a.data):
        out[i] = -length(row - b.data)

    def pull(grad: Array) -> list[Array]:
        da, db = np.zeros_like(a.data), np.zeros_like(b.data)
        for i, row in enumerate(a.data):
            part = grad[i, :, None] * slope(row - b.data, -out[i])
            da[i] = -part.sum(axis=0)
            db += part
        return [da, db]

    return apply(out, [a, b], pull)


def pairwise_cos_sim(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of rows of the same number."""
    return sum_of(normalize(a) * normalize(b), axis=-1)


def pairwise_dot_score(a: Tensor, b: Tensor) -> Tensor:
    """Dot product of rows of the same number."""
    return sum_of(a * b, axis=-1)


def pairwise_euclidean_sim(a: Tensor, b: Tensor) -> Tensor:
    """Minus the Euclidean distance of rows of the same number; its gradient at distance 0 is 0."""
    return -square_root(sum_of(square(a - b), axis=-1))


def pairwise_manhattan_sim(a: Tensor, b: Tensor) -> Tensor:
    """Minus the Manhattan distance of rows of the same number."""
    return -sum_of(absolute(a - b), axis=-1)


def pairwise_angle_sim(a: Tensor, b: Tensor) -> Tensor:
    """|Re + Im| of the quotient of rows, read as complex vectors: the first half of the channels is the real part."""
    if a.shape[1] % 2:
        a, b = (concatenate([each, Tensor(np.zeros((len(each.data), 1), each.data.dtype))], axis=1) for each in (a, b))
    half = a.shape[1] // 2
    a, b = normalize(a), normalize(b)
    imaginary = a[:, half:] * b[:, :half] - a[:, :half] * b[:, half:]
    return absolute(sum_of(a * b, axis=1) + sum_of(imaginary, axis=1))


_ALL: dict[str, Similarity] = {
    "cos_sim": cos_sim,
    "pytorch_cos_sim": cos_sim,
    "dot_score": dot_score,
    "euclidean_sim": euclidean_sim,
    "manhattan_sim": manhattan_sim,
}
_PAIRS: dict[str, Similarity] = {
    "pairwise_cos_sim": pairwise_cos_sim,
    "pairwise_dot_score": pairwise_dot_score,
    "pairwise_euclidean_sim": pairwise_euclidean_sim,
    "pairwise_manhattan_sim": pairwise_manhattan_sim,
    "pairwise_angle_sim": pairwise_angle_sim,
}
_STEMS = {"cosine": "cos_sim", "dot": "dot_score", "euclidean": "euclidean_sim", "manhattan": "manhattan_sim"}
# Packages whose functions of these names work on arrays or torch's tensors.
_LIBRARIES = ("fastattn", "sentence_transformers")


def similarity_of_all(similarity_fct: Any) -> Similarity:
    """Return the differentiable function of all pairs of rows that a `similarity_fct` means."""
    return _resolved(similarity_fct, _ALL, "")


def similarity_of_pairs(similarity_fct: Any) -> Similarity:
    """Return the differentiable function of rows of the same number that a `similarity_fct` means."""
    return _resolved(similarity_fct, _PAIRS, "pairwise_")


def _resolved(given: Any, known: dict[str, Similarity], prefix: str) -> Similarity:
    """Return the function of a name, a `SimilarityFunction` or a library's function; others take Tensors already."""
    name = given.value if isinstance(given, Enum) else given
    if callable(name):
        library = str(getattr(name, "__module__", "")).partition(".")[0]
        if library not in _LIBRARIES:
            return name  # type: ignore[no-any-return]
        name = getattr(name, "__name__", "")
    elif isinstance(name, str) and name in _STEMS:
        name = prefix + _STEMS[name]
    if name not in known:
        raise ValueError(f"similarity_fct must be one of {', '.join(known)} or a function of two Tensors, got {given!r}")
    return known[name]


def similarity_name(similarity_fct: Similarity) -> str:
    """Return a function's name, and the arguments that `functools.partial` gave it."""
    if isinstance(similarity_fct, functools.partial):
        given = ", ".join(f"{name}={value!r}" for name, value in similarity_fct.keywords.items())
        return similarity_name(similarity_fct.func) + (f"({given})" if given else "")
    return str(getattr(similarity_fct, "__name__", type(similarity_fct).__name__))
