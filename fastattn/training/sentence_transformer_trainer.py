"""Trainer of a SentenceTransformer."""

from __future__ import annotations

from typing import ClassVar

from fastattn.text.sentence_transformer import SentenceTransformer
from fastattn.training.arguments import SentenceTransformerTrainingArguments, TrainingArguments
from fastattn.training.loss_trainer import LossTrainer
from fastattn.training.losses import CoSENTLoss, MultipleNegativesRankingLoss
from fastattn.training.losses.loss import Loss

__all__ = ["SentenceTransformerTrainer"]


class SentenceTransformerTrainer(LossTrainer):
    """Trains a SentenceTransformer on pairs, triplets, or pairs with labels.

    Parameters
    ----------
    model : SentenceTransformer
        Its first module is a Transformer or a StaticEmbedding; the others are Pooling, Dense, Normalize or Dropout.
    args : SentenceTransformerTrainingArguments, optional
        Arguments of the run.
    train_dataset : mapping of columns, list of mappings, ``datasets.Dataset``, or mapping of several of these
        Columns of texts in the order that the loss expects; a column named label, labels, score or scores has the labels.
    eval_dataset : as `train_dataset`, optional
        Its loss is logged.
    loss : Loss, class of one, or mapping of them by dataset, optional
        By default `CoSENTLoss` where there are labels, else `MultipleNegativesRankingLoss`.
    evaluator : callable or sequence of callables, optional
        Take the model, return metrics; those of `fastattn.training.evaluation` write files in ``output_dir/eval``.
    callbacks : sequence of callable
        Called with the state and each entry of its log.

    Raises
    ------
    TypeError
        A dataset or a loss is of another kind.
    ValueError
        A module of the model has no gradient here, a dataset is empty, or an argument is out of range.

    References
    ----------
    Reimers and Gurevych 2019, arXiv:1908.10084.  Arguments: sentence_transformers.SentenceTransformerTrainer.
    """

    arguments: ClassVar[type[TrainingArguments]] = SentenceTransformerTrainingArguments

    def _default_loss(self) -> Loss:
        """Return the loss of a trainer that was given none."""
        data = next(iter((self.train_data or self.eval_data or {}).values()), None)
        kind = MultipleNegativesRankingLoss if data is None or data.labels is None else CoSENTLoss
        return kind(self.model)

    def _check(self) -> None:
        """Raise a TypeError for another model."""
        if not isinstance(self.model, SentenceTransformer):
            raise TypeError(f"model must be a SentenceTransformer, got {type(self.model).__name__}")
