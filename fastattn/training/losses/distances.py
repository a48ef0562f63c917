"""Losses of distances: similar pairs are pulled together, others pushed apart up to a margin."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.training.arithmetic import absolute, mean, relu, square, square_root, sum_of
from fastattn.training.graph import Tensor
from fastattn.training.losses.loss import Loss
from fastattn.training.losses.similarities import pairwise_cos_sim, pairwise_euclidean_sim, pairwise_manhattan_sim

__all__ = ["ContrastiveLoss", "OnlineContrastiveLoss", "SiameseDistanceMetric", "TripletDistanceMetric", "TripletLoss"]

Array = NDArray[Any]
Distance = Callable[[Tensor, Tensor], Tensor]

# Added to each difference, as torch.nn.functional.pairwise_distance does.
_SHIFT = 1e-6


def _cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    return 1 - pairwise_cos_sim(a, b)


def _euclidean_distance(a: Tensor, b: Tensor) -> Tensor:
    return -pairwise_euclidean_sim(a, b)


def _manhattan_distance(a: Tensor, b: Tensor) -> Tensor:
    return -pairwise_manhattan_sim(a, b)


def _shifted_euclidean(a: Tensor, b: Tensor) -> Tensor:
    return square_root(sum_of(square(a - b + _SHIFT), axis=-1))


def _shifted_manhattan(a: Tensor, b: Tensor) -> Tensor:
    return sum_of(absolute(a - b + _SHIFT), axis=-1)


class TripletDistanceMetric:
    """Distances of rows of the same number, for `TripletLoss`: 1 - cosine, Euclidean, Manhattan.

    Each is a function of two Tensors (B, C) that returns a Tensor (B,).
    """

    COSINE = staticmethod(_cosine_distance)
    EUCLIDEAN = staticmethod(_euclidean_distance)
    MANHATTAN = staticmethod(_manhattan_distance)


class SiameseDistanceMetric:
    """Distances of rows of the same number, for `ContrastiveLoss` and `OnlineContrastiveLoss`.

    The lengths are of ``a - b + 1e-6``, as in torch. Each is a function of two Tensors (B, C) that returns a Tensor (B,).
    """

    EUCLIDEAN = staticmethod(_shifted_euclidean)
    MANHATTAN = staticmethod(_shifted_manhattan)
    COSINE_DISTANCE = staticmethod(_cosine_distance)


def _metric_name(metrics: type, distance: Distance) -> str:
    """Return the name of a distance among the metrics, or its own."""
    for name in vars(metrics):
        if name.isupper() and getattr(metrics, name) is distance:
            return f"{metrics.__name__}.{name}"
    return str(getattr(distance, "__name__", type(distance).__name__))


class TripletLoss(Loss):
    """An anchor nearer to its positive than to its negative, by a margin.

    ::

        loss = mean_i max(0, d(a_i, p_i) - d(a_i, n_i) + margin)

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    distance_metric : callable
        One of `TripletDistanceMetric`, or a function of two Tensors (B, C) that returns a Tensor (B,).
    triplet_margin : float
        The margin, in units of the distance.

    Notes
    -----
    Names, arguments and values as in sentence-transformers. Source: F. Schroff, D. Kalenichenko, J. Philbin, FaceNet, 2015,
    arXiv:1503.03832.
    """

    def __init__(self, model: Any, distance_metric: Distance = TripletDistanceMetric.EUCLIDEAN, triplet_margin: float = 5) -> None:
        super().__init__(model)
        self.distance_metric = distance_metric
        self.triplet_margin = triplet_margin

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            Anchors, positives, negatives.
        labels : array, optional
            Not used.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            There are not 3 columns.
        """
        self._check_columns(embeddings, 3, 3)
        anchor, positive, negative = embeddings
        nearer = self.distance_metric(anchor, positive) - self.distance_metric(anchor, negative)
        return mean(relu(nearer + self.triplet_margin))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        name = _metric_name(TripletDistanceMetric, self.distance_metric)
        return {"distance_metric": name, "triplet_margin": self.triplet_margin}


class ContrastiveLoss(Loss):
    """Pairs of label 1 at distance 0, pairs of label 0 beyond a margin.

    ::

        loss = mean_i 1/2 [ y_i d_i^2 + (1 - y_i) max(0, margin - d_i)^2 ]

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    distance_metric : callable
        One of `SiameseDistanceMetric`, or a function of two Tensors (B, C) that returns a Tensor (B,).
    margin : float
        Distance beyond which a pair of label 0 costs nothing.
    size_average : bool
        The mean over the pairs, otherwise their sum.

    Notes
    -----
    Names, arguments and values as in sentence-transformers. Source: R. Hadsell, S. Chopra, Y. LeCun, Dimensionality
    Reduction by Learning an Invariant Mapping, CVPR 2006.
    """

    def __init__(
        self,
        model: Any,
        distance_metric: Distance = SiameseDistanceMetric.COSINE_DISTANCE,
        margin: float = 0.5,
        size_average: bool = True,
    ) -> None:
        super().__init__(model)
        self.distance_metric = distance_metric
        self.margin = margin
        self.size_average = size_average

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            Two columns.
        labels : array, (B,) or (B, 1)
            1 for similar pairs, 0 for others; a warning tells of other values, which weight both terms.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            There are not 2 columns, or not as many labels as pairs.
        """
        self._check_columns(embeddings, 2, 2)
        similar = self._one_label_each(labels, len(embeddings[0].data)).astype(embeddings[0].data.dtype)
        _warn_unless_binary(self, similar)
        distance = self.distance_metric(embeddings[0], embeddings[1])
        losses = (square(distance) * similar + square(relu(self.margin - distance)) * (1 - similar)) * 0.5
        return mean(losses) if self.size_average else sum_of(losses)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        name = _metric_name(SiameseDistanceMetric, self.distance_metric)
        return {"distance_metric": name, "margin": self.margin, "size_average": self.size_average}


class OnlineContrastiveLoss(Loss):
    """`ContrastiveLoss` of the hard pairs of a batch only.

    ::

        loss = sum_{similar i: d_i > min d of the others} d_i^2 + sum_{other i: d_i < max d of the similar} max(0, margin - d_i)^2

    Where a batch has only one kind of pairs, the mean of their distances stands for the other kind's.

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    distance_metric : callable
        One of `SiameseDistanceMetric`, or a function of two Tensors (B, C) that returns a Tensor (B,).
    margin : float
        Distance beyond which a pair of label 0 costs nothing.

    Notes
    -----
    Names, arguments and values as in sentence-transformers, the source of this form.
    """

    def __init__(self, model: Any, distance_metric: Distance = SiameseDistanceMetric.COSINE_DISTANCE, margin: float = 0.5) -> None:
        super().__init__(model)
        self.distance_metric = distance_metric
        self.margin = margin

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            Two columns.
        labels : array, (B,) or (B, 1)
            1 for similar pairs, 0 for others; pairs of other values, of which a warning tells, do not count.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            There are not 2 columns, or not as many labels as pairs.
        """
        self._check_columns(embeddings, 2, 2)
        wanted = self._one_label_each(labels, len(embeddings[0].data))
        _warn_unless_binary(self, wanted)
        distance = self.distance_metric(embeddings[0], embeddings[1])
        values, is_similar, is_other = distance.data, wanted == 1, wanted == 0
        similar, other = values[is_similar], values[is_other]
        if not similar.size and not other.size:
            return sum_of(distance) * 0
        farthest = similar.max() if similar.size else other.mean()
        nearest = other.min() if other.size else similar.mean()
        pulled = distance[np.flatnonzero(is_similar & (values > nearest))]
        pushed = distance[np.flatnonzero(is_other & (values < farthest))]
        return sum_of(square(pulled)) + sum_of(square(relu(self.margin - pushed)))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        return {"distance_metric": _metric_name(SiameseDistanceMetric, self.distance_metric), "margin": self.margin}


def _warn_unless_binary(loss: Loss, labels: Array) -> None:
    """Warn of labels that are neither 0 nor 1."""
    if not np.isin(labels, (0, 1)).all():
        warnings.warn(f"{type(loss).__name__} expects labels 0 and 1, got also {labels[~np.isin(labels, (0, 1))][0]}", stacklevel=3)
