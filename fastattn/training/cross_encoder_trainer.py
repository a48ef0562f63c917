"""Trainer of a CrossEncoder."""

from __future__ import annotations

from typing import Any, ClassVar

from fastattn.text.cross_encoder import CrossEncoder
from fastattn.training.arguments import CrossEncoderTrainingArguments, TrainingArguments
from fastattn.training.cross_encoder_losses import BinaryCrossEntropyLoss, CrossEntropyLoss
from fastattn.training.loss_trainer import LossTrainer
from fastattn.training.losses.loss import Loss

__all__ = ["CrossEncoderTrainer"]


class CrossEncoderTrainer(LossTrainer):
    """Trains a CrossEncoder on pairs of texts with labels.

    Parameters
    ----------
    model : CrossEncoder
        Its head is trained too.
    args : CrossEncoderTrainingArguments, optional
        Arguments of the run.
    train_dataset : mapping of columns, list of mappings, ``datasets.Dataset``, or mapping of several of these
        Two columns of texts, and one named label, labels, score or scores.
    eval_dataset : as `train_dataset`, optional
        Its loss is logged.
    loss : Loss, class of one, or mapping of them by dataset, optional
        By default `BinaryCrossEntropyLoss` for one label, `CrossEntropyLoss` for several.
    evaluator : callable or sequence of callables, optional
        Take the model, return metrics; those of `fastattn.training.evaluation` write files in ``output_dir/eval``.
    callbacks : sequence of callable
        Called with the state and each entry of its log.

    Raises
    ------
    TypeError
        A dataset or a loss is of another kind.
    ValueError
        A dataset is empty or has not two columns of texts, or an argument is out of range.

    References
    ----------
    Nogueira and Cho 2019, arXiv:1901.04085, section 3.  Arguments: sentence_transformers.CrossEncoderTrainer.
    """

    arguments: ClassVar[type[TrainingArguments]] = CrossEncoderTrainingArguments
    pairs: ClassVar[bool] = True

    def _default_loss(self) -> Loss:
        """Return the loss of a trainer that was given none."""
        return default_loss(self.model)

    def _check(self) -> None:
        """Raise a TypeError for another model, a ValueError for data that are no pairs."""
        if not isinstance(self.model, CrossEncoder):
            raise TypeError(f"model must be a CrossEncoder, got {type(self.model).__name__}")
        for argument, data in (("train_dataset", self.train_data), ("eval_dataset", self.eval_data)):
            for each in (data or {}).values():
                if len(each.names) != 2:
                    raise ValueError(f"{argument} must have two columns of texts, got {', '.join(each.names)}")


def default_loss(model: CrossEncoder, activation_fn: Any = None) -> Loss:
    """Return binary cross-entropy for a model of one label, cross-entropy for one of several, of its activated logits."""
    kind = BinaryCrossEntropyLoss if model.num_labels == 1 else CrossEntropyLoss
    return kind(model, activation_fn)
