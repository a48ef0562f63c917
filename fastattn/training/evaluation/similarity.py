"""Evaluators of the similarities of pairs and triplets of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.text.similarity_functions import SimilarityFunction
from fastattn.training.evaluation.evaluator import BaseEvaluator, Metrics, check_lengths, check_similarities, pairwise

__all__ = ["EmbeddingSimilarityEvaluator", "TripletEvaluator", "pearson", "spearman"]

Array = NDArray[Any]


class EmbeddingSimilarityEvaluator(BaseEvaluator):
    """Correlation of the similarities of pairs with their scores.

    ::

        pearson(x, y) = cov(x, y) / (std(x) std(y)),   spearman(x, y) = pearson(rank(x), rank(y))

    Equal values share the mean of their ranks. A correlation with constant values is NaN.

    Parameters
    ----------
    sentences1, sentences2 : sequence of str
        The pairs.
    scores : sequence of float
        A score for each pair.
    batch_size : int
        Texts encoded at once.
    main_similarity : str or SimilarityFunction, optional
        The function whose Spearman correlation is the primary metric.
    similarity_fn_names : list of {"cosine", "dot", "euclidean", "manhattan"}, optional
        Functions that are measured; the main one, or the model's own, by default.
    name : str
        Put before the names of the metrics and into that of the file.
    show_progress_bar : bool
        Of the encoding.
    write_csv : bool
        Whether a line is added to a file in `output_path`.
    precision : {"float32", "int8", "uint8", "binary", "ubinary"}, optional
        Of the embeddings, which are then normalised.
    truncate_dim : int, optional
        Width to which the embeddings are cut.

    Raises
    ------
    ValueError
        The lists differ in length or are empty, or a function is unknown.

    Notes
    -----
    Names, arguments and metrics as in sentence-transformers. Source: D. Cer et al., SemEval-2017 Task 1: Semantic Textual
    Similarity, 2017, arXiv:1708.00055.
    """

    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        scores: Sequence[float],
        batch_size: int = 16,
        main_similarity: str | SimilarityFunction | None = None,
        similarity_fn_names: Sequence[str] | None = None,
        name: str = "",
        show_progress_bar: bool = False,
        write_csv: bool = True,
        precision: str | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        check_lengths(sentences1=sentences1, sentences2=sentences2, scores=scores)
        self.sentences1, self.sentences2 = list(sentences1), list(sentences2)
        self.scores = np.asarray(scores, np.float64)
        self.batch_size = batch_size
        self.main_similarity = SimilarityFunction(main_similarity) if main_similarity else None
        self.similarity_fn_names = check_similarities(similarity_fn_names, main_similarity)
        self.name = name
        self.show_progress_bar = show_progress_bar
        self.write_csv = write_csv
        self.precision = precision
        self.truncate_dim = truncate_dim
        self.csv_file = "_".join(["similarity_evaluation", *([name] if name else []), *([precision] if precision else [])])
        self.csv_file += "_results.csv"

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
            "pearson_cosine", "spearman_cosine" and so on; with several functions also "pearson_max" and "spearman_max".
        """
        count = len(self.sentences1)
        embeddings = self._encode(model, [*self.sentences1, *self.sentences2])
        names = self.similarity_fn_names or [model.similarity_fn_name]
        metrics = {}
        for name in names:
            found = pairwise(name, embeddings[:count], embeddings[count:])
            metrics[f"pearson_{name}"] = pearson(self.scores, found)
            metrics[f"spearman_{name}"] = spearman(self.scores, found)
        columns = {f"{name}_{kind}": metrics[f"{kind}_{name}"] for name in names for kind in ("pearson", "spearman")}
        self._write_line(output_path, epoch, steps, columns)
        if len(names) > 1:
            for kind in ("pearson", "spearman"):
                metrics[f"{kind}_max"] = max(metrics[f"{kind}_{name}"] for name in names)
        main = self.main_similarity.value if self.main_similarity else "max" if len(names) > 1 else names[0]
        self.primary_metric = f"spearman_{main}"
        return self.prefix_name_to_metrics(metrics, self.name)

    def _encode(self, model: Any, sentences: list[str]) -> Array:
        """Return the embeddings as numbers of which similarities can be taken."""
        options = {} if self.precision is None else {"precision": self.precision, "normalize_embeddings": True}
        rows = np.asarray(
            model.encode(
                sentences,
                batch_size=self.batch_size,
                show_progress_bar=self.show_progress_bar,
                truncate_dim=self.truncate_dim,
                **options,
            )
        )
        if self.precision == "binary":
            rows = (rows.astype(np.int16) + 128).astype(np.uint8)
        if self.precision in ("binary", "ubinary"):
            rows = np.unpackbits(rows, axis=1)
        return rows.astype(np.float32)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings that change the metrics.

        Returns
        -------
        dict
            Names and values of those that are given.
        """
        settings = {"truncate_dim": self.truncate_dim, "precision": self.precision}
        return {name: value for name, value in settings.items() if value is not None}


class TripletEvaluator(BaseEvaluator):
    """How often an anchor is more similar to its positive than to its negative.

    ::

        accuracy = mean_i [ sim(a_i, p_i) > sim(a_i, n_i) + margin ]

    Parameters
    ----------
    anchors, positives, negatives : sequence of str
        The triplets. Anchors are encoded as queries, the others as documents.
    main_similarity_function : str or SimilarityFunction, optional
        The function whose accuracy is the primary metric.
    margin : float or dict of float, optional
        The margin, or one for each function; 0 by default.
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
        Functions that are measured; the main one, or the model's own, by default.

    Raises
    ------
    ValueError
        The lists differ in length or are empty, or a function is unknown.

    Notes
    -----
    Names, arguments and metrics as in sentence-transformers.
    """

    def __init__(
        self,
        anchors: Sequence[str],
        positives: Sequence[str],
        negatives: Sequence[str],
        main_similarity_function: str | SimilarityFunction | None = None,
        margin: float | dict[str, float] | None = None,
        name: str = "",
        batch_size: int = 16,
        show_progress_bar: bool = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
        similarity_fn_names: Sequence[str] | None = None,
    ) -> None:
        check_lengths(anchors=anchors, positives=positives, negatives=negatives)
        self.anchors, self.positives, self.negatives = list(anchors), list(positives), list(negatives)
        self.main_similarity_function = SimilarityFunction(main_similarity_function) if main_similarity_function else None
        self.similarity_fn_names = check_similarities(similarity_fn_names, main_similarity_function)
        known = SimilarityFunction.possible_values()
        given = margin if isinstance(margin, dict) else dict.fromkeys(known, margin or 0.0)
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"margin must be a number or have keys among {', '.join(known)}, got {unknown}")
        self.margin = {**dict.fromkeys(known, 0.0), **given}
        self.name = name
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = f"triplet_evaluation{'_' + name if name else ''}_results.csv"

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
            "cosine_accuracy" and so on; with several functions also "max_accuracy".
        """
        options = {
            "batch_size": self.batch_size,
            "show_progress_bar": self.show_progress_bar,
            "truncate_dim": self.truncate_dim,
        }
        anchors = model.encode_query(self.anchors, **options)
        positives, negatives = (model.encode_document(texts, **options) for texts in (self.positives, self.negatives))
        names = self.similarity_fn_names or [model.similarity_fn_name]
        metrics = {}
        for name in names:
            is_right = pairwise(name, anchors, positives) > pairwise(name, anchors, negatives) + np.float32(self.margin[name])
            metrics[f"{name}_accuracy"] = is_right.mean()
        self._write_line(output_path, epoch, steps, {f"accuracy_{name}": metrics[f"{name}_accuracy"] for name in names})
        if len(names) > 1:
            metrics["max_accuracy"] = max(metrics.values())
        main = self.main_similarity_function.value if self.main_similarity_function else "max" if len(names) > 1 else names[0]
        self.primary_metric = "max_accuracy" if main == "max" else f"{main}_accuracy"
        return self.prefix_name_to_metrics(metrics, self.name)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings that change the metrics.

        Returns
        -------
        dict
            Names and values of those that are given.
        """
        found: dict[str, Any] = {"margin": self.margin} if any(self.margin.values()) else {}
        return {**found, "truncate_dim": self.truncate_dim} if self.truncate_dim is not None else found


def pearson(x: Array, y: Array) -> float:
    """Correlation of two vectors; NaN if one is constant."""
    a, b = (np.asarray(each, np.float64) for each in (x, y))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    a, b = (each - each.mean() for each in (a, b))
    return float((a / np.linalg.norm(a)) @ (b / np.linalg.norm(b)))


def spearman(x: Array, y: Array) -> float:
    """Correlation of the ranks of two vectors; NaN if one is constant."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(x: Array) -> Array:
    """Return the rank of each value; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)])
