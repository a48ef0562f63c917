"""How close results in another precision are to those in float32: numbers of two sets of results, and a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LayerError",
    "cosines",
    "grade",
    "layer_errors",
    "pair_scores",
    "rank_correlation",
    "same_best",
    "top",
    "verdict",
]

Array = NDArray[Any]
Vector = NDArray[np.float64]

# What results keep that are close to float32's, and what those keep that need a trial.
_LIMITS = {
    "close": {"rank correlation": 0.999, "least cosine": 0.995, "mean cosine": 0.999},
    "changed": {"rank correlation": 0.99, "least cosine": 0.97, "mean cosine": 0.99},
}
_NEIGHBOURS = 10
# Medians of a few runs differ by so much without a cause.
_SLOWER = 0.95


class LayerError(NamedTuple):
    """Error of the hidden states behind a layer: the relative L2 norm of the difference, and the mean cosine of the tokens."""

    error: float
    cosine: float


def cosines(truth: Array, found: Array) -> Vector:
    """Return the cosine of each row of (B, C) to the same row of the other array; of two zero rows 1, of one 0."""
    a, b = truth.astype(np.float64), found.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    products = np.sum(a * b, axis=1)
    return np.where(both_zero, 1.0, np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0))


def pair_scores(similarities: Array) -> Array:
    """Return the similarity of every pair of texts once, from the matrix (B, B) of all."""
    return np.asarray(similarities[np.triu_indices(len(similarities), 1)])


def rank_correlation(truth: Array, found: Array) -> float:
    """Return Spearman's rank correlation, equal values sharing their mean rank; of values that are all equal 1 or 0."""
    a, b = _ranks(truth), _ranks(found)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float(np.ptp(a) == np.ptp(b))
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Array) -> Vector:
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.diff(np.append(starts, len(values)))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(starts + (counts - 1) / 2, counts)
    return ranks


def top(count: int) -> int:
    """Return how many of `count` candidates are the best: 10, or half of few, of which ten would be nearly all."""
    return max(1, min(_NEIGHBOURS, count // 2))


def same_best(truth: Array, found: Array, k: int) -> float:
    """Return which share of the `k` highest scores of a row stays the same, mean over the rows (Q, D); -inf is no candidate."""
    best = [np.argsort(-scores, axis=1, kind="stable")[:, :k] for scores in (truth, found)]
    kept = [len(np.intersect1d(*rows)) for rows in zip(*best, strict=True)]
    return float(np.mean(kept)) / k


def layer_errors(pairs: Iterable[tuple[Array, Array]]) -> list[LayerError]:
    """Return the error behind each layer from hidden states (layers + 1, T, C) of one text after another: float32's, the others."""
    sums: Any = 0
    for truth, found in pairs:
        a, b = truth.astype(np.float64), found.astype(np.float64)
        cosine = [cosines(x, y).sum() for x, y in zip(a, b, strict=True)]
        squares = [np.square(x).sum(axis=(1, 2)) for x in (b - a, a)]
        sums = sums + np.array([*squares, cosine, np.full(len(a), a.shape[1])])
    wrong, whole, cosine, tokens = sums
    return [LayerError(*map(float, row)) for row in zip(np.sqrt(wrong / np.maximum(whole, 1e-300)), cosine / tokens, strict=True)]


def grade(order: float, cosine: Vector | None = None) -> tuple[str, str]:
    """Return "close", "changed" or "far", by rank correlation and cosines to float32, and what keeps it from a better grade."""
    found = {"rank correlation": order}
    if cosine is not None:
        found |= {"least cosine": float(cosine.min()), "mean cosine": float(cosine.mean())}
    why = ""
    for name, limits in _LIMITS.items():
        # NaN keeps no limit.
        short = [f"{what} {value:.5f} < {limits[what]}" for what, value in found.items() if not value >= limits[what]]
        if not short:
            return name, why
        why = ", ".join(short)
    return "far", why


def verdict(precision: str, graded: tuple[str, str], speeds: Sequence[float], memory: float) -> str:
    """Return the sentence that a person decides by; `speeds`, of one text and of many, and `memory` are ratios to float32."""
    how_close, why = graded
    one, many = speeds
    numbers = f"Speed {one:.2f}x for one text, {many:.2f}x for many; memory {memory:.2f}x."
    if how_close == "far":
        other = "try bfloat16, or " if precision == "int8" else ""
        return f"{precision} changes the results on these texts too much ({why}): {other}stay with float32. {numbers}"
    if many < _SLOWER:
        return f"{precision} is slower than float32 on this CPU: it only saves memory. {numbers}"
    if how_close == "changed":
        return f"{precision} changes some results on these texts ({why}): try it on your task first. {numbers}"
    return f"{precision} gives nearly the results of float32 on these texts. {numbers}"
