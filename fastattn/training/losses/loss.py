"""What all losses share: one step of learning, and checks of what a dataset gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.training.graph import Parameter, Tensor

__all__ = ["Column", "Embed", "Loss"]

Array = NDArray[Any]
# Token ids of a column's texts.
Column = Sequence[Any]
# Takes columns, and as `part` the number of a mini-batch, which chooses the dropout; returns the embeddings of each column.
Embed = Callable[..., list[Tensor]]


class Loss:
    """Function of embeddings that learning makes small.

    A subclass defines `compute_loss_from_embeddings`.

    Parameters
    ----------
    model : SentenceTransformer or CrossEncoder
        What is trained; a loss asks it for its sizes only.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def parameters(self) -> list[Parameter]:
        """Return what is learned beside the model's own parameters.

        Returns
        -------
        list of Parameter
            The weights of the loss; most losses have none.
        """
        return []

    def parts(self, texts: Column) -> list[slice] | None:
        """Return the mini-batches in which a column is embedded by a gradient cache.

        Parameters
        ----------
        texts : sequence
            The token ids of each text of a column.

        Returns
        -------
        list of slice, optional
            Consecutive parts of the column; None for a loss that embeds a batch at once.
        """
        return None

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            The embeddings of each column of the dataset; for a CrossEncoder its logits alone.
        labels : array, optional
            A label for each example.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        NotImplementedError
            The class is `Loss` itself.
        """
        raise NotImplementedError(f"{type(self).__name__} must define compute_loss_from_embeddings")

    def add_gradients(self, embeddings: list[Tensor], labels: Array | None, scale: float) -> float:
        """Compute the loss and add its gradients to the parameters that the embeddings were computed from.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            The embeddings of each column.
        labels : array, optional
            A label for each example.
        scale : float
            Factor of the gradients.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError
            `compute_loss_from_embeddings` returned no Tensor of shape ().
        """
        loss = self.compute_loss_from_embeddings(embeddings, labels)
        if not isinstance(loss, Tensor) or loss.shape != ():
            found = f"one of shape {loss.shape}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TypeError(f"{type(self).__name__}.compute_loss_from_embeddings must return a Tensor of shape (), got {found}")
        if loss.requires_grad:
            (loss * scale).backward()
        return loss.item()

    def step(self, embed: Embed, columns: Sequence[Column], labels: Array | None, scale: float = 1.0) -> float:
        """Go forward and backward: add the gradients of a batch to the parameters.

        A loss with a gradient cache (L. Gao, Y. Zhang, J. Han, J. Callan, Scaling Deep Contrastive Learning Batch Size under
        Memory Limited Setup, 2021, arXiv:2101.06983) embeds each mini-batch without its graph, takes the gradients of the
        loss at all embeddings, then embeds each mini-batch again and goes backward from these gradients: the memory is that
        of one mini-batch, and the gradients are those of the whole batch.

        Parameters
        ----------
        embed : callable
            ``embed(columns)`` returns a Tensor (B, C) for each column. A gradient cache calls ``embed([part_of_a_column],
            part=i)`` twice for each `i`: the dropout must depend on `i` alone.
        columns : sequence of sequences
            The token ids of the texts of each column.
        labels : array, optional
            A label for each example.
        scale : float
            Factor of the gradients, such as 1 / accumulation steps.

        Returns
        -------
        float
            The loss, without `scale`.
        """
        parts = [self.parts(texts) for texts in columns]
        jobs = [(column, part) for column, each in enumerate(parts) for part in each or []]
        if not jobs:
            return self.add_gradients(embed(columns), labels, scale)
        found: list[list[Array]] = [[] for _ in columns]
        for number, (column, part) in enumerate(jobs):
            found[column].append(embed([columns[column][part]], part=number)[0].data)
        leaves = [Parameter(np.concatenate(rows)) for rows in found]
        found.clear()
        loss = self.add_gradients(list(leaves), labels, scale)
        for number, (column, part) in enumerate(jobs):
            grad = leaves[column].grad
            if grad is not None:
                embed([columns[column][part]], part=number)[0].backward(np.ascontiguousarray(grad[part]))
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        return {}

    def _check_columns(self, embeddings: list[Tensor], least: int, most: int | None = None) -> None:
        """Raise ValueError unless the dataset has the number of columns that the loss takes, all of as many rows."""
        name, count = type(self).__name__, len(embeddings)
        if count < least or (most is not None and count > most):
            wanted = str(least) if most == least else f"at least {least}" if most is None else f"{least} to {most}"
            raise ValueError(f"{name} expects {wanted} columns of texts, got {count}: remove or add columns of the dataset")
        if len({each.shape for each in embeddings}) > 1:
            raise ValueError(f"{name} expects embeddings of one shape, got {[each.shape for each in embeddings]}")

    def _labels(self, labels: Array | None, *shapes: tuple[int, ...]) -> Array:
        """Return the labels as an array, or raise ValueError unless they have one of the shapes."""
        name = type(self).__name__
        if labels is None:
            raise ValueError(f"{name} expects labels, and the dataset has none: add a column named label or score")
        array = np.asarray(labels)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} expects labels that are numbers, got an array of {array.dtype}")
        if shapes and array.shape not in shapes:
            raise ValueError(f"{name} expects labels of shape {' or '.join(map(str, shapes))}, got {array.shape}")
        return array

    def _one_label_each(self, labels: Array | None, count: int) -> Array:
        """Return one label for each of `count` examples, which may stand in a column."""
        return self._labels(labels, (count,), (count, 1)).reshape(count)
