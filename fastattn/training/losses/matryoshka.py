"""Embeddings whose first channels alone are embeddings too."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.training.arithmetic import normalize
from fastattn.training.graph import Parameter, Tensor
from fastattn.training.losses.loss import Column, Loss

__all__ = ["MatryoshkaLoss"]

Array = NDArray[Any]


class MatryoshkaLoss(Loss):
    """A loss of embeddings cut to several widths.

    ::

        loss = sum_k weight_k * inner(normalize(embeddings[:, :dim_k]))

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    loss : Loss
        The inner loss. One with a gradient cache keeps it.
    matryoshka_dims : sequence of int
        The widths; a warning tells if the model's own is not among them.
    matryoshka_weights : sequence of float, optional
        A weight for each width; 1 by default.
    n_dims_per_step : int
        Number of widths drawn at random in each step; -1 takes all, as an evaluation does.
    seed : int
        Of the draws.

    Raises
    ------
    ValueError
        A width is not positive or beyond the model's, there is none, or there are not as many weights.

    Notes
    -----
    Names, arguments and values as in sentence-transformers, except `seed`. Source: A. Kusupati et al., Matryoshka
    Representation Learning, 2022, arXiv:2205.13147.
    """

    def __init__(
        self,
        model: Any,
        loss: Loss,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_dims_per_step: int = -1,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        dims = list(matryoshka_dims)
        weights = [1] * len(dims) if matryoshka_weights is None else list(matryoshka_weights)
        width = model.get_embedding_dimension()
        if not dims or min(dims) < 1:
            raise ValueError(f"matryoshka_dims must be one positive number or more, got {dims}")
        if len(weights) != len(dims):
            raise ValueError(f"matryoshka_weights must have a weight for each of {len(dims)} matryoshka_dims, got {len(weights)}")
        if width is not None and max(dims) > width:
            raise ValueError(f"matryoshka_dims must not exceed the model's embedding dimension {width}, got {max(dims)}")
        if width is not None and width not in dims:
            warnings.warn(
                f"matryoshka_dims {dims} lack the model's embedding dimension {width}, which is not trained", stacklevel=2
            )
        self.loss = loss
        order = sorted(range(len(dims)), key=lambda i: dims[i], reverse=True)
        self.matryoshka_dims = tuple(dims[i] for i in order)
        self.matryoshka_weights = tuple(weights[i] for i in order)
        self.n_dims_per_step = n_dims_per_step
        self.rng = np.random.default_rng(seed)

    def parameters(self) -> list[Parameter]:
        """Return what the inner loss learns.

        Returns
        -------
        list of Parameter
            Its parameters.
        """
        return self.loss.parameters()

    def parts(self, texts: Column) -> list[slice] | None:
        """Return the mini-batches in which the inner loss embeds a column.

        Parameters
        ----------
        texts : sequence
            The token ids of each text.

        Returns
        -------
        list of slice, optional
            Consecutive parts; None if it has no gradient cache.
        """
        return self.loss.parts(texts)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the weighted sum of the inner loss at the widths.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            The columns that the inner loss takes.  Without a gradient, as in an evaluation, they are cut to all widths.
        labels : array, optional
            As the inner loss takes them; labels that are embeddings are cut too.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            The embeddings are narrower than a width, or the inner loss refuses them.
        """
        total = Tensor(np.zeros((), embeddings[0].data.dtype))
        learns = any(each.requires_grad for each in embeddings)
        for dim, weight in self._drawn() if learns else self._all():
            some = [_shrink(each, dim) for each in embeddings]
            total = total + self.loss.compute_loss_from_embeddings(some, self._cut(labels, embeddings, dim)) * weight
        return total

    def add_gradients(self, embeddings: list[Tensor], labels: Array | None, scale: float) -> float:
        """Compute the loss and add its gradients; one width after another if the inner loss has a gradient cache.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            The embeddings of each column.
        labels : array, optional
            As the inner loss takes them.
        scale : float
            Factor of the gradients.

        Returns
        -------
        float
            The loss.
        """
        if self.loss.parts([[0]]) is None:
            return super().add_gradients(embeddings, labels, scale)
        total = 0.0
        for dim, weight in self._drawn():
            shrunk = [_shrink(each, dim) for each in embeddings]
            leaves = [Parameter(each.data) for each in shrunk]
            total += weight * self.loss.add_gradients(list(leaves), self._cut(labels, embeddings, dim), scale * weight)
            for each, leaf in zip(shrunk, leaves, strict=True):
                each.backward(leaf.grad)
        return total

    def _all(self) -> list[tuple[int, float]]:
        """Return all widths with their weights."""
        return list(zip(self.matryoshka_dims, self.matryoshka_weights, strict=True))

    def _drawn(self) -> list[tuple[int, float]]:
        """Return the widths of this step with their weights."""
        pairs = self._all()
        if not 0 < self.n_dims_per_step < len(pairs):
            return pairs
        return [pairs[i] for i in sorted(self.rng.choice(len(pairs), self.n_dims_per_step, replace=False))]

    def _cut(self, labels: Array | None, embeddings: list[Tensor], dim: int) -> Array | None:
        """Return labels of the width: those that are embeddings, of MSELoss, are cut as the embeddings are."""
        if labels is None or np.ndim(labels) not in (2, 3) or np.shape(labels)[-1] != embeddings[0].shape[-1]:
            return labels
        return np.asarray(labels)[..., :dim]

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        return {
            "loss": type(self.loss).__name__,
            "matryoshka_dims": self.matryoshka_dims,
            "matryoshka_weights": self.matryoshka_weights,
            "n_dims_per_step": self.n_dims_per_step,
        }


def _shrink(embeddings: Tensor, dim: int) -> Tensor:
    """Return the first channels, of unit length."""
    if dim > embeddings.shape[-1]:
        raise ValueError(f"matryoshka_dims must not exceed the embeddings' width {embeddings.shape[-1]}, got {dim}")
    return normalize(embeddings[..., :dim])
