"""What evaluators share: names of metrics, files of results, embeddings of texts."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.text.similarity_functions import SimilarityFunction

__all__ = ["BaseEvaluator", "SequentialEvaluator", "call_evaluator", "check_lengths", "check_similarities", "pairwise"]

Array = NDArray[Any]
Metrics = dict[str, float]


class BaseEvaluator:
    """Measures a model, such as after each epoch.

    A subclass defines `__call__` and sets `primary_metric`, the name of the metric by which models are compared.
    """

    greater_is_better = True
    primary_metric: str | None = None
    name = ""
    write_csv = True
    csv_file = ""

    def __call__(self, model: Any, output_path: str | Path | None = None, epoch: int = -1, steps: int = -1) -> Metrics:
        """Measure a model.

        Parameters
        ----------
        model : SentenceTransformer or CrossEncoder
            What is measured.
        output_path : str or Path, optional
            Folder in which a line is added to a CSV file.
        epoch, steps : int
            Where the training is, for that line; -1 for none.

        Returns
        -------
        dict of float
            The metrics by name.

        Raises
        ------
        NotImplementedError
            The class is `BaseEvaluator` itself.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings that change the metrics.

        Returns
        -------
        dict
            Names and values of those that are given.
        """
        return {}

    def prefix_name_to_metrics(self, metrics: dict[str, Any], name: str) -> Metrics:
        """Put the evaluator's name before the metrics' and before that of `primary_metric`.

        Parameters
        ----------
        metrics : dict
            The metrics by name.
        name : str
            The evaluator's name; none if empty.

        Returns
        -------
        dict of float
            The metrics by their new names.
        """
        prefix = f"{name}_" if name else ""
        if self.primary_metric is not None and not self.primary_metric.startswith(prefix):
            self.primary_metric = prefix + self.primary_metric
        return {prefix + key: float(value) for key, value in metrics.items()}

    def _write_line(self, folder: str | Path | None, epoch: int, steps: int, values: dict[str, Any]) -> None:
        """Add a line to the CSV file, which begins with the names."""
        if folder is None or not self.write_csv:
            return
        path = Path(folder) / self.csv_file
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["epoch", "steps", *values])
            writer.writerow([epoch, steps, *(float(value) for value in values.values())])


class SequentialEvaluator(BaseEvaluator):
    """Several evaluators, one after another.

    Parameters
    ----------
    evaluators : iterable of BaseEvaluator
        What measures.
    main_score_function : callable
        Takes the primary metric of each, returns "sequential_score"; the last by default.

    Notes
    -----
    Names and arguments as in sentence-transformers.
    """

    def __init__(
        self,
        evaluators: Sequence[BaseEvaluator],
        main_score_function: Callable[[list[float]], float] = lambda scores: scores[-1],
    ) -> None:
        self.evaluators = list(evaluators)
        self.main_score_function = main_score_function
        self.primary_metric = "sequential_score"

    def __call__(self, model: Any, output_path: str | Path | None = None, epoch: int = -1, steps: int = -1) -> Metrics:
        """Measure a model.

        Parameters
        ----------
        model : SentenceTransformer or CrossEncoder
            What is measured.
        output_path : str or Path, optional
            Folder for the evaluators' files.
        epoch, steps : int
            Where the training is.

        Returns
        -------
        dict of float
            The metrics of all, and "sequential_score".
        """
        scores, found = [], {}
        for evaluator in self.evaluators:
            metrics = evaluator(model, output_path, epoch, steps)
            scores.append(metrics[evaluator.primary_metric or next(iter(metrics))])
            found.update(metrics)
        return {**found, "sequential_score": float(self.main_score_function(scores)) if scores else 0.0}


def call_evaluator(evaluator: Callable[..., Any], model: Any, output_path: str, epoch: float, steps: int) -> Any:
    """Call an evaluator, or any function of a model, with those of folder, epoch and step that it has arguments for."""
    place = {"output_path": output_path, "epoch": epoch, "steps": steps}
    try:
        # The first takes the model, whatever its name.
        others = list(inspect.signature(evaluator).parameters.values())[1:]
    except (TypeError, ValueError):
        # Functions of C may have no signature.
        return evaluator(model)
    if any(each.kind is each.VAR_KEYWORD for each in others):
        return evaluator(model, **place)
    names = {each.name for each in others if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    return evaluator(model, **{name: value for name, value in place.items() if name in names})


def check_similarities(names: Sequence[str] | None, main: Any) -> list[str]:
    """Return the names of similarity functions: those given, else the main one, else none."""
    known = SimilarityFunction.possible_values()
    chosen = list(names or ([SimilarityFunction(main).value] if main else []))
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(f"similarity_fn_names must be among {', '.join(known)}, got {unknown}")
    return chosen


def pairwise(name: str, a: Array, b: Array) -> Array:
    """Return the similarities of rows of the same number."""
    return np.asarray(SimilarityFunction.to_similarity_pairwise_fn(name)(a, b))


def check_lengths(**lists: Sequence[Any]) -> None:
    """Raise ValueError unless the lists are as long as the first, and not empty."""
    sizes = {name: len(values) for name, values in lists.items()}
    if len(set(sizes.values())) > 1 or not all(sizes.values()):
        raise ValueError(f"{' and '.join(sizes)} must have one length, at least 1, got {list(sizes.values())}")
