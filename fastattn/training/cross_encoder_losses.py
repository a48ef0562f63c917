"""Losses of a CrossEncoder's logits, with sentence-transformers' names and arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.training.arithmetic import relu, sigmoid, square, sum_of, tanh
from fastattn.training.graph import Tensor
from fastattn.training.losses.entropy import Reduction, binary_cross_entropy, check_reduction, cross_entropy, mean_squared_error
from fastattn.training.losses.loss import Loss

__all__ = ["BinaryCrossEntropyLoss", "CrossEntropyLoss", "MSELoss"]

Array = NDArray[Any]
Activation = Callable[[Tensor], Tensor]

# By the names of torch.nn.
_ACTIVATIONS: dict[str, Activation] = {"Identity": lambda x: x, "ReLU": relu, "Sigmoid": sigmoid, "Tanh": tanh}


class _LogitsLoss(Loss):
    """A loss of a CrossEncoder's logits, after an activation.

    Parameters
    ----------
    model : CrossEncoder
        What is trained.
    activation_fn : callable or str, optional
        Function of the logits, a Tensor, or one of "Identity", "ReLU", "Sigmoid", "Tanh"; None is "Identity".

    Raises
    ------
    ValueError
        `activation_fn` is unknown, or `model` is no CrossEncoder.
    """

    def __init__(self, model: Any, activation_fn: Activation | str | None = None) -> None:
        super().__init__(model)
        if not isinstance(getattr(model, "num_labels", None), int):
            raise ValueError(f"{type(self).__name__} expects a CrossEncoder, got {type(model).__name__}")
        given = "Identity" if activation_fn is None else activation_fn
        # torch's modules do not take Tensors: their names do.
        if type(given).__module__.startswith("torch."):
            given = type(given).__name__
        if isinstance(given, str) and given.rpartition(".")[2] not in _ACTIVATIONS:
            raise ValueError(f"activation_fn must be a function of a Tensor or one of {', '.join(_ACTIVATIONS)}, got {given!r}")
        self.activation_fn = _ACTIVATIONS[given.rpartition(".")[2]] if isinstance(given, str) else given
        self._activation_name = given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)

    def _logits(self, embeddings: list[Tensor]) -> Tensor:
        """Return the logits after the activation."""
        name, labels = type(self).__name__, self.model.num_labels
        if len(embeddings) != 1 or embeddings[0].data.ndim != 2 or embeddings[0].shape[1] != labels:
            shapes = [each.shape for each in embeddings]
            raise ValueError(f"{name} expects the logits of pairs, one array of shape (B, {labels}), got {shapes}")
        return self.activation_fn(embeddings[0])

    def _check_one_label(self) -> None:
        """Raise ValueError unless the model has one logit for each pair."""
        if self.model.num_labels != 1:
            raise ValueError(f"{type(self).__name__} expects a model with num_labels 1, got {self.model.num_labels}")

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        return {"activation_fn": self._activation_name}


class BinaryCrossEntropyLoss(_LogitsLoss):
    """Binary cross-entropy of a model with one logit.

    ::

        loss = mean_i -[ p y_i log sigmoid(x_i) + (1 - y_i) log sigmoid(-x_i) ]

    Parameters
    ----------
    model : CrossEncoder
        What is trained; it has one logit for each pair.
    activation_fn : callable or str, optional
        Function of the logits before the loss, a function of a Tensor or one of "Identity", "ReLU", "Sigmoid", "Tanh".
    pos_weight : float, optional
        Weight p of the positive pairs.
    weight : float or array, (B,), optional
        Weight of each pair.
    reduction : {"mean", "sum"}
        Of the losses of the pairs.

    Raises
    ------
    ValueError
        `model` is no CrossEncoder with `num_labels` 1, or an argument has an unknown value.

    Notes
    -----
    Names, arguments and values as in sentence-transformers and torch.nn.BCEWithLogitsLoss.
    """

    def __init__(
        self,
        model: Any,
        activation_fn: Activation | str | None = None,
        pos_weight: Any = None,
        weight: Any = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(model, activation_fn)
        self._check_one_label()
        check_reduction(reduction)
        self.pos_weight = None if pos_weight is None else float(pos_weight)
        self.weight = None if weight is None else np.asarray(weight)
        self.reduction: Reduction = reduction

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor
            The logits alone, (B, 1).
        labels : array, (B,) or (B, 1)
            0 or 1, or probabilities between.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            The logits have another shape, or there are not as many labels.
        """
        logits = self._logits(embeddings).reshape(-1)
        wanted = self._one_label_each(labels, len(logits.data))
        return binary_cross_entropy(logits, wanted, self.weight, self.pos_weight, self.reduction)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        return {**super().get_config_dict(), "pos_weight": self.pos_weight}


class CrossEntropyLoss(_LogitsLoss):
    """Cross-entropy of a model with a logit for each class.

    ::

        loss = sum_i w[y_i] (-log softmax(x_i)[y_i]) / sum_i w[y_i]

    Parameters
    ----------
    model : CrossEncoder
        What is trained; it has a logit for each class.
    activation_fn : callable or str, optional
        Function of the logits before the loss, a function of a Tensor or one of "Identity", "ReLU", "Sigmoid", "Tanh".
    weight : array, (K,), optional
        Weight w of each class; 1 by default.
    ignore_index : int
        Label of pairs that do not count.
    reduction : {"mean", "sum"}
        Of the losses of the pairs.
    label_smoothing : float
        Part of each label that is spread over all classes, between 0 and 1.

    Raises
    ------
    ValueError
        `model` is no CrossEncoder, or an argument has an unknown value.

    Notes
    -----
    Names, arguments and values as in sentence-transformers and torch.nn.CrossEntropyLoss.
    """

    def __init__(
        self,
        model: Any,
        activation_fn: Activation | str | None = None,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(model, activation_fn)
        check_reduction(reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")
        self.weight = None if weight is None else np.asarray(weight)
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.label_smoothing = label_smoothing

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor
            The logits alone, (B, K).
        labels : array, (B,) or (B, 1) of classes, or float (B, K) of probabilities
            What each pair is.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            The logits or labels have another shape, or a label is no class.
        """
        logits = self._logits(embeddings)
        rows, classes = logits.shape
        wanted = self._labels(labels, (rows,), (rows, 1), (rows, classes))
        if wanted.shape != (rows, classes) or wanted.dtype.kind != "f":
            wanted = self._one_label_each(wanted, rows)
        return cross_entropy(logits, wanted, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class MSELoss(_LogitsLoss):
    """Squared error of a model with one logit against a teacher's scores.

    ::

        loss = mean_i (x_i - y_i)^2

    Parameters
    ----------
    model : CrossEncoder
        What is trained; it has one logit for each pair.
    activation_fn : callable or str, optional
        Function of the logits before the loss, a function of a Tensor or one of "Identity", "ReLU", "Sigmoid", "Tanh".
    reduction : {"mean", "sum"}
        Of the losses of the pairs.

    Raises
    ------
    ValueError
        `model` is no CrossEncoder with `num_labels` 1, or an argument has an unknown value.

    Notes
    -----
    Names, arguments and values as in sentence-transformers and torch.nn.MSELoss. Source: S. Hofstätter et al., Improving
    Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation, 2020, arXiv:2010.02666.
    """

    def __init__(self, model: Any, activation_fn: Activation | str | None = None, reduction: Reduction = "mean") -> None:
        super().__init__(model, activation_fn)
        self._check_one_label()
        check_reduction(reduction)
        self.reduction: Reduction = reduction

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor
            The logits alone, (B, 1).
        labels : array, (B,) or (B, 1)
            The teacher's scores.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            The logits have another shape, or there are not as many labels.
        """
        logits = self._logits(embeddings).reshape(-1)
        wanted = self._one_label_each(labels, len(logits.data))
        return mean_squared_error(logits, wanted) if self.reduction == "mean" else sum_of(square(logits - wanted))
