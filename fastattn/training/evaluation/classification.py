"""Evaluators of classes: of pairs by a threshold of their similarity, and by a learned classifier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.training.evaluation.evaluator import BaseEvaluator, Metrics, check_lengths, check_similarities, pairwise
from fastattn.training.graph import Tensor
from fastattn.training.losses.softmax import SoftmaxLoss

__all__ = ["BinaryClassificationEvaluator", "LabelAccuracyEvaluator"]

Array = NDArray[Any]

_METRICS = ("accuracy", "accuracy_threshold", "f1", "precision", "recall", "f1_threshold", "ap", "mcc")
_DISTANCES = ("euclidean", "manhattan")


class BinaryClassificationEvaluator(BaseEvaluator):
    """How well a threshold of the similarity tells similar pairs from others.

    ::

        accuracy = (TP + TN) / B,   precision P = TP / (TP + FP),   recall R = TP / (TP + FN),   f1 = 2 P R / (P + R)
        ap = sum_n (R_n - R_(n-1)) P_n,   mcc = (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))

    Accuracy and f1 are those of the best thresholds, which lie halfway between two values; precision, recall and mcc are of
    the threshold of f1. Euclidean and Manhattan thresholds are distances, below which pairs are similar.

    Parameters
    ----------
    sentences1, sentences2 : sequence of str
        The pairs.
    labels : sequence of int
        1 for similar pairs, 0 for others.
    name : str
        Put before the names of the metrics and into that of the file.
    batch_size : int
        Texts encoded at once.
    show_progress_bar : bool
        Of the encoding.
    write_csv : bool
        Whether a line is added to a file in `output_path`.
    truncate_dim : int, optional
        Width to which the embeddings are cut.
    similarity_fn_names : list of {"cosine", "dot", "euclidean", "manhattan"}, optional
        Functions that are measured; the model's own by default.

    Raises
    ------
    ValueError
        The lists differ in length or are empty, a label is neither 0 nor 1, or a function is unknown.

    Notes
    -----
    Names, arguments and metrics as in sentence-transformers.
    """

    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        labels: Sequence[int],
        name: str = "",
        batch_size: int = 32,
        show_progress_bar: bool = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
        similarity_fn_names: Sequence[str] | None = None,
    ) -> None:
        check_lengths(sentences1=sentences1, sentences2=sentences2, labels=labels)
        self.sentences1, self.sentences2 = list(sentences1), list(sentences2)
        self.labels = np.asarray(labels)
        if not np.isin(self.labels, (0, 1)).all():
            raise ValueError(f"labels must be 0 or 1, got {self.labels[~np.isin(self.labels, (0, 1))][0]}")
        self.name = name
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.similarity_fn_names = check_similarities(similarity_fn_names, None)
        self.csv_file = f"binary_classification_evaluation{'_' + name if name else ''}_results.csv"

    def __call__(self, model: Any, output_path: str | Path | None = None, epoch: int = -1, steps: int = -1) -> Metrics:
        """Measure a model.

        Parameters
        ----------
        model : SentenceTransformer
            What is measured.
        output_path : str or Path, optional
            Folder in which a line is added to a CSV file.
        epoch, steps : int
            Where the training is, for that line.

        Returns
        -------
        dict of float
            "cosine_accuracy", "cosine_ap" and so on; with several functions also "max_accuracy" and so on.
        """
        texts = list(dict.fromkeys([*self.sentences1, *self.sentences2]))
        places = {text: i for i, text in enumerate(texts)}
        embeddings = np.asarray(
            model.encode(
                texts, batch_size=self.batch_size, show_progress_bar=self.show_progress_bar, truncate_dim=self.truncate_dim
            )
        )
        first, second = (embeddings[[places[text] for text in each]] for each in (self.sentences1, self.sentences2))
        names = self.similarity_fn_names or [model.similarity_fn_name]
        found = {name: thresholds(pairwise(name, first, second), self.labels == 1, name in _DISTANCES) for name in names}
        metrics = {f"{name}_{metric}": value for name, values in found.items() for metric, value in values.items()}
        self._write_line(output_path, epoch, steps, metrics)
        if len(names) > 1:
            metrics |= {f"max_{metric}": max(values[metric] for values in found.values()) for metric in _METRICS}
        self.primary_metric = f"{'max' if len(names) > 1 else names[0]}_ap"
        return self.prefix_name_to_metrics(metrics, self.name)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings that change the metrics.

        Returns
        -------
        dict
            Names and values of those that are given.
        """
        return {} if self.truncate_dim is None else {"truncate_dim": self.truncate_dim}


def thresholds(similarities: Array, is_positive: Array, as_distance: bool) -> dict[str, float]:
    """Return the metrics of the best thresholds of a similarity; `as_distance` gives these the other sign."""
    order = np.argsort(-similarities, kind="stable")
    values, right = similarities[order], np.cumsum(is_positive[order])
    # Of equal values the last: a threshold takes all or none.
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    taken, right = ends + 1, right[ends]
    count, positives = len(values), int(is_positive.sum())
    halfway = (values[ends] + np.append(values[ends[1:]], values[-1])) / 2
    # Between neighbouring numbers there is none: the greater is the threshold.
    halfway = np.where(halfway == np.append(values[ends[1:]], -np.inf), values[ends], halfway)
    above_all = np.nextafter(values[0], values.dtype.type(np.inf))
    # Pairs told rightly: none is called similar, or those up to each end.
    accuracies = np.append(count - positives, right + (count - positives) - (taken - right)) / count
    best = int(accuracies.argmax())
    precision, recall = right / taken, right / max(1, positives)
    f1 = np.divide(2 * precision * recall, precision + recall, out=np.zeros(len(ends)), where=right > 0)
    at = int(f1.argmax())
    f1_threshold = halfway[at] if f1[at] > 0 else values.dtype.type(0)
    sign = -1.0 if as_distance else 1.0
    is_any = f1[at] > 0
    return {
        "accuracy": float(accuracies[best]),
        "accuracy_threshold": sign * float(above_all if best == 0 else halfway[best - 1]),
        "f1": float(f1[at]),
        "precision": float(precision[at]) if is_any else 0.0,
        "recall": float(recall[at]) if is_any else 0.0,
        "f1_threshold": sign * float(f1_threshold),
        "ap": float((np.diff(recall, prepend=0.0) * precision).sum()),
        "mcc": _matthews(similarities >= f1_threshold, is_positive),
    }


def _matthews(predicted: Array, wanted: Array) -> float:
    """Return Matthews' correlation of two vectors of bools; 0 if one is constant."""
    true, false = float((predicted & wanted).sum()), float((predicted & ~wanted).sum())
    missed, rejected = float((~predicted & wanted).sum()), float((~predicted & ~wanted).sum())
    product = (true + false) * (true + missed) * (rejected + false) * (rejected + missed)
    return (true * rejected - false * missed) / float(np.sqrt(product)) if product else 0.0


class LabelAccuracyEvaluator(BaseEvaluator):
    """How often the classifier of a `SoftmaxLoss` is right.

    ::

        accuracy = mean_i [ argmax_k logits_ik = label_i ]

    Parameters
    ----------
    dataloader : iterable
        Batches ``([texts1, texts2], labels)``; it is gone through anew in each call.
    name : str
        Put before the name of the metric and into that of the file.
    softmax_model : SoftmaxLoss
        The loss whose classifier is measured.
    write_csv : bool
        Whether a line is added to a file in `output_path`.

    Raises
    ------
    ValueError
        `softmax_model` is no SoftmaxLoss.

    Notes
    -----
    Names and metrics as in sentence-transformers; a batch has texts where it has features there.
    """

    def __init__(
        self,
        dataloader: Iterable[tuple[Sequence[Sequence[str]], Any]],
        name: str = "",
        softmax_model: SoftmaxLoss | None = None,
        write_csv: bool = True,
    ) -> None:
        if not isinstance(softmax_model, SoftmaxLoss):
            raise ValueError(f"softmax_model must be a SoftmaxLoss, got {type(softmax_model).__name__}")
        self.dataloader = dataloader
        self.name = name
        self.softmax_model = softmax_model
        self.write_csv = write_csv
        self.csv_file = f"accuracy_evaluation{'_' + name if name else ''}_results.csv"
        self.primary_metric = "accuracy"

    def __call__(self, model: Any, output_path: str | Path | None = None, epoch: int = -1, steps: int = -1) -> Metrics:
        """Measure a model.

        Parameters
        ----------
        model : SentenceTransformer
            What is measured.
        output_path : str or Path, optional
            Folder in which a line is added to a CSV file.
        epoch, steps : int
            Where the training is, for that line.

        Returns
        -------
        dict of float
            "accuracy".

        Raises
        ------
        ValueError
            The dataloader has no example.
        """
        right = total = 0
        for columns, labels in self.dataloader:
            embeddings = [Tensor(np.asarray(model.encode(list(texts)))) for texts in columns]
            wanted = np.asarray(labels).reshape(-1)
            right += int((self.softmax_model.logits(embeddings).data.argmax(axis=1) == wanted).sum())
            total += len(wanted)
        if not total:
            raise ValueError("dataloader must have an example, and it has none: give a list, which can be gone through again")
        metrics = {"accuracy": right / total}
        self._write_line(output_path, epoch, steps, metrics)
        return self.prefix_name_to_metrics(metrics, self.name)
