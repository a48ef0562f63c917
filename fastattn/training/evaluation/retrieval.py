"""Evaluator of search: queries, a corpus, and which documents are relevant."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.text.similarity_functions import SimilarityFunction
from fastattn.training.evaluation.evaluator import BaseEvaluator, Metrics

__all__ = ["InformationRetrievalEvaluator"]

Array = NDArray[Any]
# Name of a metric in a file, by that in the result.
_TITLES = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "mrr": "MRR", "ndcg": "NDCG", "map": "MAP"}


class InformationRetrievalEvaluator(BaseEvaluator):
    """Quality of the ranking of a corpus for queries.

    ::

        accuracy@k  = mean_q [ a relevant document is among the first k ]
        precision@k = mean_q hits_k / k,   recall@k = mean_q hits_k / relevant
        mrr@k       = mean_q 1 / rank of the first relevant document, 0 beyond k
        ndcg@k      = mean_q sum_{ranks r <= k of relevant documents} 1 / log2(r + 1) / the same of a perfect ranking
        map@k       = mean_q sum_{ranks r <= k of relevant documents} hits_r / r / min(k, relevant)

    Documents of equal scores are ranked by their ids.

    Parameters
    ----------
    queries : dict of str
        Texts by id; those without relevant documents do not count.
    corpus : dict of str
        Documents by id.
    relevant_docs : dict of set
        Ids of the relevant documents, by id of the query.
    corpus_chunk_size : int
        Documents scored at once.
    mrr_at_k, ndcg_at_k, accuracy_at_k, precision_recall_at_k, map_at_k : sequence of int
        The values of k.
    show_progress_bar : bool
        Of the encoding.
    batch_size : int
        Texts encoded at once.
    name : str
        Put before the names of the metrics and into that of the file.
    write_csv : bool
        Whether a line is added to a file in `output_path`.
    truncate_dim : int, optional
        Width to which the embeddings are cut.
    score_functions : dict of callable, optional
        Functions of (Q, C) and (D, C) that return scores (Q, D), by name; the model's own by default.
    main_score_function : str or SimilarityFunction, optional
        The function whose ndcg at the greatest k is the primary metric; the best one by default.
    query_prompt, query_prompt_name, corpus_prompt, corpus_prompt_name : str, optional
        As `prompt` and `prompt_name` of `SentenceTransformer.encode`.
    write_predictions : bool
        Whether the rankings are written to a file of JSON lines in `output_path`.

    Raises
    ------
    ValueError
        No query has a relevant document, the corpus is empty, or a k is not positive.

    Notes
    -----
    Names, arguments and metrics as in sentence-transformers. Source of ndcg: K. Järvelin, J. Kekäläinen, Cumulated
    gain-based evaluation of IR techniques, 2002.
    """

    def __init__(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        relevant_docs: Mapping[str, set[str]],
        corpus_chunk_size: int = 50000,
        mrr_at_k: Sequence[int] = (10,),
        ndcg_at_k: Sequence[int] = (10,),
        accuracy_at_k: Sequence[int] = (1, 3, 5, 10),
        precision_recall_at_k: Sequence[int] = (1, 3, 5, 10),
        map_at_k: Sequence[int] = (100,),
        show_progress_bar: bool = False,
        batch_size: int = 32,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
        score_functions: Mapping[str, Callable[[Any, Any], Any]] | None = None,
        main_score_function: str | SimilarityFunction | None = None,
        query_prompt: str | None = None,
        query_prompt_name: str | None = None,
        corpus_prompt: str | None = None,
        corpus_prompt_name: str | None = None,
        write_predictions: bool = False,
    ) -> None:
        self.queries_ids = [each for each in queries if relevant_docs.get(each)]
        self.queries = [queries[each] for each in self.queries_ids]
        self.corpus_ids = list(corpus)
        self.corpus = list(corpus.values())
        if not self.queries or not self.corpus:
            raise ValueError("corpus must have a document and relevant_docs one for a query, by the ids of queries; there is none")
        self.relevant_docs = relevant_docs
        self.corpus_chunk_size = corpus_chunk_size
        self.mrr_at_k, self.ndcg_at_k, self.accuracy_at_k = list(mrr_at_k), list(ndcg_at_k), list(accuracy_at_k)
        self.precision_recall_at_k, self.map_at_k = list(precision_recall_at_k), list(map_at_k)
        every_k = [*self.mrr_at_k, *self.ndcg_at_k, *self.accuracy_at_k, *self.precision_recall_at_k, *self.map_at_k]
        if not self.ndcg_at_k or min(every_k) < 1 or corpus_chunk_size < 1:
            raise ValueError(
                f"ndcg_at_k must not be empty, and all k and corpus_chunk_size positive, got {every_k}, {corpus_chunk_size}"
            )
        self._most = max(every_k)
        self.show_progress_bar = show_progress_bar
        self.batch_size = batch_size
        self.name = name
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.score_functions = score_functions
        self.main_score_function = SimilarityFunction(main_score_function) if main_score_function else None
        self.query_prompt, self.query_prompt_name = query_prompt, query_prompt_name
        self.corpus_prompt, self.corpus_prompt_name = corpus_prompt, corpus_prompt_name
        self.write_predictions = write_predictions
        self._stem = f"Information-Retrieval_evaluation{'_' + name if name else ''}"
        self.csv_file = f"{self._stem}_results.csv"

    def __call__(self, model: Any, output_path: str | Path | None = None, epoch: int = -1, steps: int = -1) -> Metrics:
        """Measure a model.

        Parameters
        ----------
        model : SentenceTransformer
            What is measured.
        output_path : str or Path, optional
            Folder for a line in a CSV file, and for the rankings.
        epoch, steps : int
            Where the training is, for that line.

        Returns
        -------
        dict of float
            "cosine_accuracy@1", "cosine_ndcg@10" and so on.
        """
        functions = self.score_functions or {model.similarity_fn_name: model.similarity}
        found = {}
        for name, (ranked, scores) in self._rank(model, functions).items():
            found[name] = self._measure(ranked)
            if self.write_predictions and output_path is not None:
                self._write_ranking(Path(output_path) / f"{self._stem}_predictions_{name}.jsonl", ranked, scores)
        columns = {
            f"{name}-{_TITLES[metric]}@{k}": found[name][f"{metric}@{k}"]
            for name in sorted(found)
            for metrics, ks in (
                (("accuracy",), self.accuracy_at_k),
                (("precision", "recall"), self.precision_recall_at_k),
                (("mrr",), self.mrr_at_k),
                (("ndcg",), self.ndcg_at_k),
                (("map",), self.map_at_k),
            )
            for k in ks
            for metric in metrics
        }
        self._write_line(output_path, epoch, steps, columns)
        last = f"ndcg@{max(self.ndcg_at_k)}"
        main = self.main_score_function.value if self.main_score_function else max(sorted(found), key=lambda x: found[x][last])
        self.primary_metric = f"{main}_{last}"
        every = {f"{name}_{metric}": value for name, metrics in found.items() for metric, value in metrics.items()}
        return self.prefix_name_to_metrics(every, self.name)

    def _rank(self, model: Any, functions: Mapping[str, Callable[[Any, Any], Any]]) -> dict[str, tuple[list[Array], list[Array]]]:
        """Return for each function the documents of each query, the best first, and their scores."""
        options = {
            "batch_size": self.batch_size,
            "show_progress_bar": self.show_progress_bar,
            "truncate_dim": self.truncate_dim,
        }
        queries = model.encode_query(self.queries, prompt_name=self.query_prompt_name, prompt=self.query_prompt, **options)
        places = np.empty(len(self.corpus), np.int64)
        places[sorted(range(len(self.corpus)), key=self.corpus_ids.__getitem__)] = np.arange(len(self.corpus))
        ranked = {name: [np.empty(0, np.int64)] * len(self.queries) for name in functions}
        kept = {name: [np.empty(0, np.float32)] * len(self.queries) for name in functions}
        for begin in range(0, len(self.corpus), self.corpus_chunk_size):
            texts = self.corpus[begin : begin + self.corpus_chunk_size]
            documents = model.encode_document(texts, prompt_name=self.corpus_prompt_name, prompt=self.corpus_prompt, **options)
            numbers = np.arange(begin, begin + len(texts))
            for name, function in functions.items():
                for i, row in enumerate(np.asarray(function(queries, documents))):
                    scores, among = np.append(kept[name][i], row), np.append(ranked[name][i], numbers)
                    if len(scores) > self._most:
                        least = np.partition(scores, -self._most)[-self._most]
                        scores, among = scores[scores >= least], among[scores >= least]
                    order = np.lexsort((places[among], -scores))[: self._most]
                    ranked[name][i], kept[name][i] = among[order], scores[order]
        return {name: (ranked[name], kept[name]) for name in functions}

    def _measure(self, ranked: list[Array]) -> dict[str, float]:
        """Return the metrics of a ranking."""
        gains = 1 / np.log2(np.arange(2, self._most + 2))
        found: dict[str, list[float]] = {}

        def add(metric: str, k: int, value: float) -> None:
            found.setdefault(f"{metric}@{k}", []).append(value)

        for query, documents in zip(self.queries_ids, ranked, strict=True):
            relevant = self.relevant_docs[query]
            ranks = np.flatnonzero([self.corpus_ids[each] in relevant for each in documents])
            for k in self.accuracy_at_k:
                add("accuracy", k, float((ranks < k).any()))
            for k in self.precision_recall_at_k:
                add("precision", k, (ranks < k).sum() / k)
                add("recall", k, (ranks < k).sum() / len(relevant))
            for k in self.mrr_at_k:
                add("mrr", k, 1 / (ranks[0] + 1) if (ranks < k).any() else 0.0)
            for k in self.ndcg_at_k:
                add("ndcg", k, gains[ranks[ranks < k]].sum() / gains[: min(k, len(relevant))].sum())
            for k in self.map_at_k:
                near = ranks[ranks < k]
                add("map", k, (np.arange(1, len(near) + 1) / (near + 1)).sum() / min(k, len(relevant)))
        return {name: float(np.mean(values)) for name, values in found.items()}

    def _write_ranking(self, path: Path, ranked: list[Array], scores: list[Array]) -> None:
        """Write the documents of each query with their scores."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for query, text, documents, values in zip(self.queries_ids, self.queries, ranked, scores, strict=True):
                results = [
                    {"corpus_id": self.corpus_ids[i], "score": float(score)} for i, score in zip(documents, values, strict=True)
                ]
                file.write(json.dumps({"query_id": query, "query": text, "results": results}) + "\n")

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings that change the metrics.

        Returns
        -------
        dict
            Names and values of those that are given.
        """
        names = ("truncate_dim", "query_prompt", "query_prompt_name", "corpus_prompt", "corpus_prompt_name")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
