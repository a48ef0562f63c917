"""Losses under the names that fastattn and sentence-transformers share, with inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
BOTH = ("query_to_doc", "doc_to_query")


class Case(NamedTuple):
    """`make(losses, model, util)` returns a loss of `columns` columns; `labels(rng, rows, channels)` its labels."""

    name: str
    make: Callable[[Any, Any, Any], Any]
    columns: int
    labels: Callable[[np.random.Generator, int, int], Array] | None = None


def scores(rng: np.random.Generator, rows: int, channels: int) -> Array:
    """Eighths, which float32 has exactly; some are equal."""
    return rng.integers(0, 9, rows) / 8


def binary(rng: np.random.Generator, rows: int, channels: int) -> Array:
    return rng.integers(0, 2, rows)


def classes(rng: np.random.Generator, rows: int, channels: int) -> Array:
    return rng.integers(0, 3, rows)


def teacher(count: int) -> Callable[[np.random.Generator, int, int], Array]:
    return lambda rng, rows, channels: rng.integers(-16, 17, (rows, count)) / 8


def vectors(rng: np.random.Generator, rows: int, channels: int) -> Array:
    return rng.integers(-16, 17, (rows, channels)) / 8


def _ranking(name: str, columns: int = 2, **options: Any) -> Case:
    return Case(name, lambda L, model, util: L.MultipleNegativesRankingLoss(model, **options), columns)


def _triplet(metric: str, margin: float) -> Case:
    def make(L: Any, model: Any, util: Any) -> Any:
        return L.TripletLoss(model, getattr(L.TripletDistanceMetric, metric), margin)

    return Case(f"triplet {metric}", make, 3)


def _contrastive(name: str, metric: str, margin: float, **options: Any) -> Case:
    def make(L: Any, model: Any, util: Any) -> Any:
        # sentence-transformers has this name inside the module of the loss only.
        metrics = getattr(L, "SiameseDistanceMetric", None)
        return getattr(L, name)(model, getattr(metrics, metric), margin, **options)

    return Case(f"{name} {metric} {options or ''}".strip(), make, 2, binary)


def _matryoshka(inner: str, columns: int, labels: Any = None, **options: Any) -> Case:
    def make(L: Any, model: Any, util: Any) -> Any:
        return L.MatryoshkaLoss(model, getattr(L, inner)(model, **options), [2, 6, 3], [0.5, 1, 2])

    return Case(f"matryoshka {inner}", make, columns, labels)


# All for embeddings of 6 channels.
CASES = (
    _ranking("ranking"),
    _ranking("ranking one negative", 3, scale=3.0),
    _ranking("ranking two negatives", 4, scale=3.0),
    _ranking("ranking all directions", 4, scale=3.0, directions=ALL_DIRECTIONS),
    _ranking("ranking queries", 3, scale=3.0, directions=("query_to_doc", "query_to_query")),
    _ranking("ranking documents", 3, scale=3.0, directions=("query_to_doc", "doc_to_doc")),
    _ranking("ranking both", 3, scale=3.0, directions=BOTH),
    _ranking("ranking both apart", 3, scale=3.0, directions=BOTH, partition_mode="per_direction"),
    _ranking("ranking harder batch", 4, scale=3.0, hardness_mode="in_batch_negatives", hardness_strength=2.0),
    _ranking("ranking harder negatives", 4, scale=3.0, hardness_mode="hard_negatives", hardness_strength=2.0),
    _ranking("ranking harder all", 4, scale=3.0, directions=ALL_DIRECTIONS, hardness_mode="all_negatives", hardness_strength=2.0),
    *(
        Case(
            f"ranking {name}",
            lambda L, model, util, name=name: L.MultipleNegativesRankingLoss(model, 0.5, getattr(util, name), directions=BOTH),
            3,
        )
        for name in ("dot_score", "euclidean_sim", "manhattan_sim")
    ),
    Case("symmetric", lambda L, model, util: L.MultipleNegativesSymmetricRankingLoss(model, 3.0), 2),
    Case(
        "cached",
        lambda L, model, util: L.CachedMultipleNegativesRankingLoss(
            model, 3.0, mini_batch_size=3, directions=ALL_DIRECTIONS, hardness_mode="all_negatives", hardness_strength=2.0
        ),
        4,
    ),
    Case(
        "cached apart",
        lambda L, model, util: L.CachedMultipleNegativesRankingLoss(
            model, 3.0, mini_batch_size=2, directions=BOTH, partition_mode="per_direction"
        ),
        3,
    ),
    Case("cosine", lambda L, model, util: L.CosineSimilarityLoss(model), 2, scores),
    Case("cosent", lambda L, model, util: L.CoSENTLoss(model), 2, scores),
    Case("cosent dot", lambda L, model, util: L.CoSENTLoss(model, 2.0, util.pairwise_dot_score), 2, scores),
    Case("cosent euclidean", lambda L, model, util: L.CoSENTLoss(model, 2.0, util.pairwise_euclidean_sim), 2, scores),
    Case("cosent manhattan", lambda L, model, util: L.CoSENTLoss(model, 2.0, util.pairwise_manhattan_sim), 2, scores),
    Case("angle", lambda L, model, util: L.AnglELoss(model), 2, scores),
    Case("angle negatives", lambda L, model, util: L.AnglELoss(model, 2.0), 4, binary),
    _triplet("COSINE", 0.5),
    _triplet("EUCLIDEAN", 1.0),
    _triplet("MANHATTAN", 2.0),
    _contrastive("ContrastiveLoss", "COSINE_DISTANCE", 0.9),
    _contrastive("ContrastiveLoss", "EUCLIDEAN", 3.0),
    _contrastive("ContrastiveLoss", "MANHATTAN", 6.0, size_average=False),
    _contrastive("OnlineContrastiveLoss", "COSINE_DISTANCE", 1.1),
    _contrastive("OnlineContrastiveLoss", "EUCLIDEAN", 3.5),
    Case("softmax", lambda L, model, util: L.SoftmaxLoss(model, 6, 3), 2, classes),
    Case(
        "softmax products",
        lambda L, model, util: L.SoftmaxLoss(model, 6, 3, False, True, True),
        2,
        classes,
    ),
    Case("mse", lambda L, model, util: L.MSELoss(model), 2, vectors),
    Case("mse projected", lambda L, model, util: L.MSELoss(model, 5), 1, lambda rng, rows, _: vectors(rng, rows, 5)),
    Case(
        "mse columns",
        lambda L, model, util: L.MSELoss(model),
        2,
        lambda rng, rows, _: vectors(rng, 2 * rows, 6).reshape(rows, 2, 6),
    ),
    Case("margin mse", lambda L, model, util: L.MarginMSELoss(model), 3, lambda rng, rows, _: teacher(1)(rng, rows, 0)[:, 0]),
    Case("margin mse scores", lambda L, model, util: L.MarginMSELoss(model, util.pairwise_cos_sim), 4, teacher(3)),
    Case("margin mse margins", lambda L, model, util: L.MarginMSELoss(model), 4, teacher(2)),
    Case("distil", lambda L, model, util: L.DistillKLDivLoss(model), 4, teacher(3)),
    Case(
        "distil temperatures",
        lambda L, model, util: L.DistillKLDivLoss(model, temperature=2.0, teacher_temperature=0.5),
        3,
        teacher(2),
    ),
    _matryoshka("MultipleNegativesRankingLoss", 3, scale=3.0),
    _matryoshka("CachedMultipleNegativesRankingLoss", 3, scale=3.0, mini_batch_size=2),
    _matryoshka("CoSENTLoss", 2, scores),
    _matryoshka("MSELoss", 2, vectors),
)
CHANNELS = 6


def inputs(case: Case, seed: int, rows: int) -> tuple[list[Array], Array | None]:
    """Return embeddings of each column, each away from 0, and labels."""
    rng = np.random.default_rng(seed)
    columns = [rng.standard_normal((rows, CHANNELS)) for _ in range(case.columns)]
    return columns, None if case.labels is None else case.labels(rng, rows, CHANNELS)


class Model:
    """What a loss asks of a model."""

    num_labels = 1

    def get_embedding_dimension(self) -> int:
        return CHANNELS
