"""Losses of pairs of texts with a score of their similarity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.training.arithmetic import concatenate, log_sum_exp, where
from fastattn.training.graph import Tensor
from fastattn.training.losses.entropy import mean_squared_error
from fastattn.training.losses.loss import Loss
from fastattn.training.losses.similarities import pairwise_angle_sim, pairwise_cos_sim, similarity_name, similarity_of_pairs

__all__ = ["AnglELoss", "CoSENTLoss", "CosineSimilarityLoss"]

Array = NDArray[Any]


class CosineSimilarityLoss(Loss):
    """Error of the cosine of a pair against its score.

    ::

        loss = mean_i (f(cos(a_i, b_i)) - score_i)^2

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    loss_fct : callable
        Takes a Tensor (B,) and the scores (B,), returns the loss; the mean squared error by default.
    cos_score_transformation : callable, optional
        Function `f` of a Tensor (B,); None leaves the cosines as they are.

    Notes
    -----
    Names, arguments and values as in sentence-transformers. Source: N. Reimers, I. Gurevych, Sentence-BERT, 2019,
    arXiv:1908.10084.
    """

    def __init__(
        self,
        model: Any,
        loss_fct: Callable[[Tensor, Array], Tensor] = mean_squared_error,
        cos_score_transformation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(model)
        self.loss_fct = loss_fct
        self.cos_score_transformation = cos_score_transformation

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            Two columns.
        labels : array, (B,) or (B, 1)
            The scores.

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
        scores = pairwise_cos_sim(*embeddings)
        return self.loss_fct(scores if self.cos_score_transformation is None else self.cos_score_transformation(scores), wanted)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        transformation = self.cos_score_transformation
        return {
            "loss_fct": similarity_name(self.loss_fct),  # type: ignore[arg-type]
            "cos_score_transformation": transformation and getattr(transformation, "__name__", type(transformation).__name__),
        }


class CoSENTLoss(Loss):
    """Pairs ranked by their scores: a loss for each two pairs whose similarities are in the wrong order.

    ::

        loss = log(1 + sum_{i, j: score_i > score_j} exp(s (sim_j - sim_i)))

    where sim_i is the similarity of pair i and s the scale.

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    scale : float
        1 / temperature.
    similarity_fct : callable, str or SimilarityFunction
        Similarity of rows of the same number: a name, a function of `fastattn.util`, or one of two Tensors.

    Raises
    ------
    ValueError
        `similarity_fct` is unknown.

    Notes
    -----
    Names, arguments and values as in sentence-transformers. Source: J. Su, CoSENT: a more effective sentence vector scheme
    than Sentence-BERT, 2022, https://kexue.fm/archives/8847.
    """

    def __init__(self, model: Any, scale: float = 20.0, similarity_fct: Any = pairwise_cos_sim) -> None:
        super().__init__(model)
        self.scale = scale
        self.similarity_fct = similarity_of_pairs(similarity_fct)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            Two columns.
        labels : array, (B,) or (B, 1)
            The scores; only their order matters.

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
        count = len(embeddings[0].data)
        wanted = self._one_label_each(labels, count)
        scores = self.similarity_fct(embeddings[0], embeddings[1]) * self.scale
        differences = scores.reshape(1, count) - scores.reshape(count, 1)
        wrong = where(wanted[:, None] > wanted[None, :], differences, -np.inf).reshape(count * count)
        return log_sum_exp(concatenate([Tensor(np.zeros(1, wrong.data.dtype)), wrong]))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        return {"scale": self.scale, "similarity_fct": similarity_name(self.similarity_fct)}


class AnglELoss(CoSENTLoss):
    """`CoSENTLoss` of the angle between embeddings in complex space, whose gradient does not vanish near cosine 1.

    ::

        sim(a, b) = |Re z + Im z|,   z = <a, b> of unit vectors read as C/2 complex numbers

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    scale : float
        1 / temperature.

    Notes
    -----
    Names, arguments and values as in sentence-transformers. Source: X. Li, J. Li, AnglE-optimized Text Embeddings, 2023,
    arXiv:2309.12871.
    """

    def __init__(self, model: Any, scale: float = 20.0) -> None:
        super().__init__(model, scale, pairwise_angle_sim)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            Two columns; or anchors, positives and any number of columns of negatives.
        labels : array, (B,) or (B, 1), optional
            The scores; with negatives 1 by default, and a negative has 1 minus the score.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            There are fewer than 2 columns, or not as many labels as rows.
        """
        self._check_columns(embeddings, 2)
        if len(embeddings) == 2:
            return super().compute_loss_from_embeddings(embeddings, labels)
        count, others = len(embeddings[0].data), embeddings[1:]
        first = np.ones(count) if labels is None else self._one_label_each(labels, count).astype(np.float64)
        scores = np.concatenate([first, *[1 - first] * (len(others) - 1)])
        return super().compute_loss_from_embeddings([concatenate(embeddings[:1] * len(others)), concatenate(others)], scores)
