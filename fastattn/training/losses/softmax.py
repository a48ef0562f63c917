"""Classification of pairs of texts by their embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fastattn.training.arithmetic import absolute, concatenate
from fastattn.training.graph import Parameter, Tensor
from fastattn.training.losses.entropy import cross_entropy
from fastattn.training.losses.linear import Linear
from fastattn.training.losses.loss import Loss

__all__ = ["SoftmaxLoss"]

Array = NDArray[Any]


class SoftmaxLoss(Loss):
    """Cross-entropy of a linear classifier of pairs, whose weights are learned too.

    ::

        loss = mean_i -log softmax(W [a_i, b_i, |a_i - b_i|, a_i b_i] + bias)[label_i]

    Parameters
    ----------
    model : SentenceTransformer
        What is trained.
    embedding_dimension : int
        Width C of the embeddings.
    num_labels : int
        Number of classes.
    concatenation_sent_rep, concatenation_sent_difference, concatenation_sent_multiplication : bool
        Which of ``[a, b]``, ``|a - b|`` and ``a b`` the classifier sees.
    loss_fct : callable
        Takes the logits, a Tensor (B, K), and the labels (B,); the cross-entropy by default.
    seed : int
        Of the classifier's random weights, uniform within 1 / sqrt(inputs) as in torch.nn.Linear.

    Raises
    ------
    ValueError
        The classifier would see nothing, or a size is not positive.

    Notes
    -----
    Names, arguments and values as in sentence-transformers, except `seed`. Source: A. Conneau et al., Supervised Learning of
    Universal Sentence Representations from Natural Language Inference Data, 2017, arXiv:1705.02364.
    """

    def __init__(
        self,
        model: Any,
        embedding_dimension: int,
        num_labels: int,
        concatenation_sent_rep: bool = True,
        concatenation_sent_difference: bool = True,
        concatenation_sent_multiplication: bool = False,
        loss_fct: Callable[[Tensor, Array], Tensor] = cross_entropy,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        self.num_labels = num_labels
        self.concatenation_sent_rep = concatenation_sent_rep
        self.concatenation_sent_difference = concatenation_sent_difference
        self.concatenation_sent_multiplication = concatenation_sent_multiplication
        self.loss_fct = loss_fct
        vectors = 2 * concatenation_sent_rep + concatenation_sent_difference + concatenation_sent_multiplication
        if not vectors:
            raise ValueError(
                "one of concatenation_sent_rep, concatenation_sent_difference and concatenation_sent_multiplication must be True"
            )
        self.classifier = Linear(vectors * embedding_dimension, num_labels, seed, "classifier")

    def parameters(self) -> list[Parameter]:
        """Return the classifier's weight (num_labels, inputs) and bias.

        Returns
        -------
        list of Parameter
            Both.
        """
        return self.classifier.parameters()

    def logits(self, embeddings: list[Tensor]) -> Tensor:
        """Return the classifier's result.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            Two columns.

        Returns
        -------
        Tensor, (B, num_labels)
            The logits.

        Raises
        ------
        ValueError
            There are not 2 columns, or they have another width than the loss was made for.
        """
        self._check_columns(embeddings, 2, 2)
        a, b = embeddings
        vectors = [a, b] if self.concatenation_sent_rep else []
        if self.concatenation_sent_difference:
            vectors.append(absolute(a - b))
        if self.concatenation_sent_multiplication:
            vectors.append(a * b)
        return self.classifier(concatenate(vectors, axis=1))

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Array | None) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        embeddings : list of Tensor, each (B, C)
            Two columns.
        labels : array, (B,) or (B, 1)
            Classes, whole numbers below `num_labels`.

        Returns
        -------
        Tensor, ()
            The loss.

        Raises
        ------
        ValueError
            There are not 2 columns of the width that the loss was made for, or labels are missing, too many or out of range.
        """
        logits = self.logits(embeddings)
        return self.loss_fct(logits, self._one_label_each(labels, len(logits.data)))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings of the loss.

        Returns
        -------
        dict
            Names and values.
        """
        parts = ("num_labels", "concatenation_sent_rep", "concatenation_sent_difference", "concatenation_sent_multiplication")
        return {name: getattr(self, name) for name in parts}
