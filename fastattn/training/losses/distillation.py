"""Losses against what a teacher says: its embeddings, its scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.training.arithmetic import stack, sum_of
from fastattn.training.graph import Parameter, Tensor
from fastattn.training.losses.entropy import log_softmax, mean_squared_error
from fastattn.training.losses.linear import Linear
from fastattn.training.losses.loss import Loss
from fastattn.training.losses.similarities import pairwise_dot_score, similarity_name, similarity_of_pairs

__all__ = ["DistillKLDivLoss", "MSELoss", "MarginMSELoss"]

Array = NDArray[Any]


class MSELoss(Loss):
    """Mean squared error of embeddings against a teacher's.

    ::

        loss = mean over columns, rows and channels of (P embedding - label)^2

    where P is a learned linear map if `projection_dim` is given.

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    projection_dim : int, optional
        Width of the teacher's embeddings, if it is not the model's: a learned linear map leads there.
    seed : int
        Of the map's random weights.

    Raises
    ------
    ValueError
        `projection_dim` is not positive.

    Notes
    -----
    Names, arguments and values as in sentence-transformers, except `seed`. Source: N. Reimers, I. Gurevych, Making
    Monolingual Sentence Embeddings Multilingual using Knowledge Distillation, 2020, arXiv:2004.09813.
    """

    def __init__(self, model: Any, projection_dim: int | None = None, seed: int = 0) -> None:
        super().__init__(model)
        self.projection_dim = projection_dim
        self.projection: Linear | None = None
        if projection_dim is not None:
            self.projection = Linear(model.get_embedding_dimension(), projection_dim, seed, "projection")

    def parameters(self) -> list[Parameter]:
        """Return the weight and bias of the linear map.

        Returns
        -------
        list of Parameter
            Empty without `projection_dim`.
        """
        return [] if self.projection is None else self.projection.parameters()

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            Any number of columns.
        labels : array, (B, C) or (B, columns, C)
            The teacher's embeddings, the same for all columns or one for each.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            There is no column, or the labels have another shape.
        """
        self._check_columns(embeddings, 1)
        rows, width = embeddings[0].shape
        width = width if self.projection_dim is None else self.projection_dim
        teacher = self._labels(labels, (rows, width), (rows, len(embeddings), width))
        student = [each if self.projection is None else self.projection(each) for each in embeddings]
        return mean_squared_error(stack(student, axis=1), teacher.reshape(rows, -1, width))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        return {"projection_dim": self.projection_dim}


class MarginMSELoss(Loss):
    """Mean squared error of the margin between a positive and its negatives, against a teacher's margin.

    ::

        loss = mean_{i, k} (q_i.p_i - q_i.n_ik - margin_ik)^2

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    similarity_fct : callable, str or SimilarityFunction
        Similarity of rows of the same number: a name, a function of `fastattn.util`, or one of two Tensors.

    Raises
    ------
    ValueError
        `similarity_fct` is unknown.

    Notes
    -----
    Names, arguments and values as in sentence-transformers. Source: S. Hofstätter et al., Improving Efficient Neural Ranking
    Models with Cross-Architecture Knowledge Distillation, 2020, arXiv:2010.02666.
    """

    def __init__(self, model: Any, similarity_fct: Any = pairwise_dot_score) -> None:
        super().__init__(model)
        self.similarity_fct = similarity_of_pairs(similarity_fct)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            Queries, positives and N columns of negatives.
        labels : array, (B, N) or (B, N + 1)
            The teacher's margins, or its scores of the positive and the negatives; (B,) for the margins of one negative.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            There are fewer than 3 columns, or the labels have another shape.
        """
        self._check_columns(embeddings, 3)
        rows, negatives = len(embeddings[0].data), len(embeddings) - 2
        shapes = [(rows, negatives), (rows, negatives + 1), *([(rows,)] if negatives == 1 else [])]
        margins = self._labels(labels, *shapes)
        if margins.ndim == 1:
            margins = margins[:, None]
        elif margins.shape[1] == negatives + 1:
            margins = margins[:, :1] - margins[:, 1:]
        positive, *others = [self.similarity_fct(embeddings[0], each) for each in embeddings[1:]]
        return mean_squared_error(stack([positive - each for each in others], axis=1), margins)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        return {"similarity_fct": similarity_name(self.similarity_fct)}


class DistillKLDivLoss(Loss):
    """Kullback-Leibler divergence of the scores of a query's candidates from a teacher's.

    ::

        loss = S^2 / B sum_i KL(softmax(teacher_i / T) || softmax(q_i.d_i / S))

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    similarity_fct : callable, str or SimilarityFunction
        Similarity of rows of the same number: a name, a function of `fastattn.util`, or one of two Tensors.
    temperature : float
        Default of both temperatures.
    student_temperature, teacher_temperature : float, optional
        S and T.

    Raises
    ------
    ValueError
        A temperature is not a positive finite number, or `similarity_fct` is unknown.

    Notes
    -----
    Names, arguments and values as in sentence-transformers. Source: S.-C. Lin, J.-H. Yang, J. Lin, Distilling Dense
    Representations for Ranking using Tightly-Coupled Teachers, 2020, arXiv:2010.11386.
    """

    def __init__(
        self,
        model: Any,
        similarity_fct: Any = pairwise_dot_score,
        temperature: float = 1.0,
        student_temperature: float | None = None,
        teacher_temperature: float | None = None,
    ) -> None:
        super().__init__(model)
        self.similarity_fct = similarity_of_pairs(similarity_fct)
        self.temperature = temperature
        self.student_temperature = temperature if student_temperature is None else student_temperature
        self.teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
        for name in ("temperature", "student_temperature", "teacher_temperature"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            Queries and N >= 2 columns of candidates.
        labels : array, (B, N)
            The teacher's scores of the candidates; -inf leaves a candidate out.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            There are fewer than 3 columns, the labels have another shape, or one is NaN.
        """
        self._check_columns(embeddings, 3)
        query, *candidates = embeddings
        rows = len(query.data)
        scores = self._labels(labels, (rows, len(candidates))).astype(np.float64) / self.teacher_temperature
        if np.isnan(scores).any():
            raise ValueError(f"{type(self).__name__} got labels that are NaN: check the teacher's scores")
        shifted = scores - scores.max(axis=1, keepdims=True)
        teacher = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        chances = np.exp(teacher)
        student = stack([self.similarity_fct(query, each) for each in candidates], axis=1) * (1 / self.student_temperature)
        information = float((chances * np.where(chances > 0, teacher, 0)).sum())
        divergence = -sum_of(log_softmax(student) * chances) + information
        return divergence * (self.student_temperature * self.student_temperature / rows)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        own = {name: getattr(self, name) for name in ("student_temperature", "teacher_temperature")}
        return {
            "similarity_fct": similarity_name(self.similarity_fct),
            "temperature": self.temperature,
            **{name: value for name, value in own.items() if value != self.temperature},
        }
