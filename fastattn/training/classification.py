"""Learning the classes of texts, or of their words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.training import functions
from fastattn.training.arguments import TrainingArguments
from fastattn.training.data import LABELS, Batch, TrainingData, columns_of
from fastattn.training.graph import Tensor
from fastattn.training.inputs import Columns, IdRows, Inputs
from fastattn.training.losses.entropy import cross_entropy
from fastattn.training.model import packed
from fastattn.training.state import TrainerState
from fastattn.training.trainable_encoder import TrainableEncoder
from fastattn.training.trainer import Trainer

__all__ = ["ClassificationTrainer"]

# Class of tokens without one, as in torch.
_IGNORED = -100


class _WordData(TrainingData):
    """Rows of token ids, and of their classes: that of a word at its first token, `_IGNORED` at the others."""

    def __init__(self, dataset: Any, name: str, model: TrainableEncoder) -> None:
        columns = columns_of(dataset, name)
        found = [column for column in columns if column in LABELS]
        if len(columns) != 2 or len(found) != 1:
            raise ValueError(f"{name} must have one column of lists of words and one named labels, got {', '.join(columns)}")
        words = next(values for column, values in columns.items() if column not in LABELS)
        if not len(words):
            raise ValueError(f"{name} has no rows")
        made = [_aligned(model, *pair, f"{name}: row {row}") for row, pair in enumerate(zip(words, columns[found[0]], strict=True))]
        self.names, self.labels = ["ids", "classes"], None
        self.texts = [[ids for ids, _ in made], [classes for _, classes in made]]


def _aligned(model: TrainableEncoder, words: Any, labels: Any, place: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the tokens of words, and the class of each."""
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"{place}: expected a list of words, got {type(words).__name__}")
    classes, count = np.asarray(labels), len(model.id2label)
    if classes.shape != (len(words),) or (len(words) and classes.dtype.kind not in "iu"):
        raise ValueError(f"{place}: labels must be a whole number for each of the {len(words)} words, got {labels!r:.80}")
    bad = classes[((classes < 0) | (classes >= count)) & (classes != _IGNORED)]
    if len(bad):
        raise ValueError(f"{place}: labels must be in 0 .. {count - 1} for the {count} classes of the model, got {int(bad[0])}")
    found = model.tokenizer.backend_tokenizer.encode(list(words), is_pretokenized=True)
    ids, of = np.array(found.ids, np.int32), [-1 if word is None else word for word in found.word_ids]
    begins = np.array([word >= 0 and word != before for word, before in zip(of, [-1, *of], strict=False)], bool)
    targets = np.full(len(ids), _IGNORED, np.int64)
    targets[begins] = classes[np.array(of, np.int64)[begins]]
    # Special tokens at the end stay.
    end = model.tokenizer.num_special - model.tokenizer.prefix_length("", model.max_seq_length)
    over = max(0, len(ids) - model.max_seq_length)
    kept = np.r_[0 : len(ids) - end - over, len(ids) - end : len(ids)]
    return ids[kept], targets[kept]


class ClassificationTrainer(Trainer):
    """Trains an encoder and its head to tell the classes of texts, or of their words.

    ::

        loss = mean over texts or words of -log softmax(head(h))[label]

    Parameters
    ----------
    model : TrainableEncoder
        Of the task "sequence-classification" or "token-classification".
    args : TrainingArguments, optional
        Arguments of the run.
    train_dataset : mapping of columns, list of mappings, or ``datasets.Dataset``
        A column of texts, and one named label or labels with whole numbers below the number of classes.  For words: a column of
        lists of words, and one of lists with a number for each, -100 for a word that is not learned; the class is told at a
        word's first token.
    eval_dataset : as `train_dataset`, optional
        Its loss and accuracy are logged.
    callbacks : sequence of callable
        Called with the state and each entry of its log.

    Raises
    ------
    TypeError
        `model` or a dataset is of another kind.
    ValueError
        `model` is of another task, a dataset has not one column of texts and one of labels, or a label is out of range.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 4.1.
    """

    def __init__(
        self,
        model: TrainableEncoder,
        args: TrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        callbacks: Sequence[Callable[[TrainerState, dict[str, Any]], object]] = (),
    ) -> None:
        self.model: TrainableEncoder = model
        if not isinstance(model, TrainableEncoder):
            raise TypeError(f"model must be a TrainableEncoder, got {type(model).__name__}")
        if model.task not in ("sequence-classification", "token-classification"):
            raise ValueError(f"model must be of the task sequence-classification or token-classification, got {model.task!r}")
        super().__init__(model, args, train_dataset, eval_dataset, callbacks=callbacks)

    def _check(self) -> None:
        """Raise for data that are not texts with labels in range."""
        if self._of_words:
            return
        classes = len(self.model.id2label)
        for argument, data in (("train_dataset", self.train_data), ("eval_dataset", self.eval_data)):
            for each in (data or {}).values():
                if len(each.names) != 1 or each.labels is None:
                    found = ", ".join(each.names) + ("" if each.labels is None else " and labels")
                    raise ValueError(f"{argument} must have one column of texts and one named label, got {found}")
                if each.labels.ndim != 1 or each.labels.dtype.kind != "i":
                    raise ValueError(f"{argument}: labels must be whole numbers, one a text, got {each.labels.dtype}")
                bad = np.flatnonzero((each.labels < 0) | (each.labels >= classes))
                if len(bad):
                    row = int(bad[0])
                    raise ValueError(
                        f"{argument}: labels must be in 0 .. {classes - 1} for the {classes} classes of the model, got "
                        f"{int(each.labels[row])} in row {row}"
                    )

    def _prepare(self) -> tuple[TrainableEncoder, Inputs]:
        """Return the model, and what makes token rows of its batches."""
        return self.model, IdRows() if self._of_words else Inputs(self.model, self.args.prompts, pairs=False)

    @property
    def _of_words(self) -> bool:
        return self.model.task == "token-classification"

    def _read_dataset(self, dataset: Any, name: str) -> dict[str, TrainingData]:
        """Return a dataset."""
        return {"": _WordData(dataset, name, self.model)} if self._of_words else super()._read_dataset(dataset, name)

    def _scores(self, columns: Columns, drop: functions.Dropout) -> Tensor:
        inputs = packed(columns[0])
        return self.model.head(self.model.graph(*inputs, drop), inputs.offsets, drop)

    def _add_gradients(self, batch: Batch, columns: Columns, key: tuple[int, ...], scale: float) -> float:
        """Add the gradients of a batch; return its loss."""
        data = (self.train_data or {})[batch.dataset]
        scores = self._scores(columns, functions.Dropout(self.model.dropout, key))
        labels = _labels(data, batch)
        if (labels == _IGNORED).all():
            return 0.0
        loss = cross_entropy(scores, labels)
        (loss * scale).backward()
        return loss.item()

    def _metrics_of(self, data: TrainingData, batch: Batch) -> tuple[dict[str, float], float]:
        """Return loss and accuracy of an evaluation batch, and its number of texts."""
        scores, labels = self._scores(self.inputs.columns(data, batch), functions.Dropout()), _labels(data, batch)
        kept = labels != _IGNORED
        if not kept.any():
            return {}, 0
        accuracy = float((scores.data.argmax(axis=1) == labels)[kept].mean())
        return {"loss": cross_entropy(Tensor(scores.data), labels).item(), "accuracy": accuracy}, int(kept.sum())


def _labels(data: TrainingData, batch: Batch) -> NDArray[np.int64]:
    """Return the class of each text of a batch, or of each of its tokens."""
    if isinstance(data, _WordData):
        return np.concatenate([data.texts[1][row] for row in batch.rows])
    return np.asarray(data.labels_of(batch), np.int64)
