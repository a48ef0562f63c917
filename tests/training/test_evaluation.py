"""Evaluators follow their definitions, and give what sentence-transformers' evaluators give."""

from __future__ import annotations

import csv
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastattn
import fastattn.util
from fastattn.training import evaluation, losses
from fastattn.training.evaluation.similarity import pearson, spearman
from tests.support.models import write_sentence_model

Array = NDArray[Any]
FUNCTIONS = ["cosine", "dot", "euclidean", "manhattan"]


class Table:
    """A model that has an embedding for each number in words."""

    similarity_fn_name = "cosine"

    def __init__(self, seed: int, rows: int = 40, levels: int = 3) -> None:
        # Few whole numbers, so that similarities are often equal.
        self.rows = np.random.default_rng(seed).integers(-levels, levels + 1, (rows, 4)).astype(np.float32)
        self.rows[:, 0] = np.abs(self.rows[:, 0]) + 1
        self.model_card_data = self
        self.asked: list[dict[str, Any]] = []

    def encode(self, texts: list[str], convert_to_tensor: bool = False, **options: Any) -> Any:
        self.asked.append(options)
        rows = self.rows[[int(text) for text in texts]]
        if options.get("precision") == "ubinary":
            rows = np.packbits(rows > 0, axis=1)
        if convert_to_tensor:
            import torch

            return torch.tensor(rows)
        return rows

    encode_query = encode_document = encode

    def similarity(self, a: Any, b: Any) -> Any:
        return fastattn.util.cos_sim(a, b)

    def set_evaluation_metrics(self, *arguments: Any) -> None:
        """As the model card of sentence-transformers."""


def texts(rng: np.random.Generator, count: int, most: int = 40) -> list[str]:
    return [str(each) for each in rng.integers(0, most, count)]


def pairs(seed: int, count: int) -> tuple[Table, list[str], list[str], Array]:
    rng = np.random.default_rng(seed)
    return Table(seed), texts(rng, count), texts(rng, count), rng.integers(0, 2, count)


def retrieval(seed: int) -> tuple[dict[str, str], dict[str, str], dict[str, set[str]]]:
    rng = np.random.default_rng(seed)
    queries = {f"q{i}": text for i, text in enumerate(texts(rng, 7))}
    corpus = {f"d{i}": text for i, text in enumerate(texts(rng, 30))}
    relevant = {query: {f"d{i}" for i in rng.integers(0, 30, rng.integers(0, 12))} for query in queries}
    return queries, corpus, relevant | {"q0": {"d3", "d4"}}


def test_correlations() -> None:
    assert pearson(np.array([1, 2, 3]), np.array([2, 4, 6])) == pytest.approx(1)
    assert pearson(np.array([1, 2, 3, 4]), np.array([1, 3, 2, 4])) == pytest.approx(0.8)
    assert spearman(np.array([1, 2, 3]), np.array([9, 4, 1])) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    assert spearman(np.array([1, 5, 5, 7]), np.array([1, 2, 3, 4])) == pytest.approx(math.sqrt(0.9))
    assert math.isnan(pearson(np.ones(3), np.arange(3)))
    assert math.isnan(spearman(np.arange(3), np.ones(3)))
    assert math.isnan(spearman(np.ones(1), np.ones(1)))


def test_similarities_in_the_order_of_the_scores() -> None:
    model = Table(0)
    model.rows[:3] = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 3, 0, 0]]
    evaluator = evaluation.EmbeddingSimilarityEvaluator(["0", "0", "0"], ["2", "1", "0"], [0.1, 0.2, 0.9], name="sts")
    metrics = evaluator(model)
    assert metrics["sts_spearman_cosine"] == pytest.approx(1)
    assert evaluator.primary_metric == "sts_spearman_cosine"
    assert evaluator(model) == metrics
    assert 0 < metrics["sts_pearson_cosine"] < 1


def test_triplets() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model, (a, p, n) = Table(seed), (texts(rng, 9) for _ in range(3))
        evaluator = evaluation.TripletEvaluator(a, p, n, "dot", margin={"dot": 1})
        rows = [[model.rows[int(i)] for i in each] for each in (a, p, n)]
        wanted = np.mean([x @ y > x @ z + 1 for x, y, z in zip(*rows, strict=True)])
        assert evaluator(model) == {"dot_accuracy": wanted}
        assert evaluator.primary_metric == "dot_accuracy"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_binary_classification(name: str) -> None:
    for seed in range(30):
        model, first, second, labels = pairs(seed, int(np.random.default_rng(seed).integers(1, 15)))
        found = evaluation.BinaryClassificationEvaluator(first, second, list(labels), similarity_fn_names=[name])(model)
        similarity = fastattn.util.SimilarityFunction.to_similarity_pairwise_fn(name)
        values = similarity(*(model.rows[[int(x) for x in each]] for each in (first, second)))
        sign = -1 if name in ("euclidean", "manhattan") else 1

        def counts(threshold: float, values: Array = values, labels: Array = labels) -> tuple[int, int, int]:
            said = values >= threshold
            return int((said & (labels == 1)).sum()), int(said.sum()), int((said == labels).sum())

        every = [counts(x) for x in (np.inf, *values)]
        assert found[f"{name}_accuracy"] == pytest.approx(max(right for _, _, right in every) / len(labels))
        assert counts(sign * found[f"{name}_accuracy_threshold"])[2] == max(right for _, _, right in every)
        positives = int(labels.sum())
        best = max(2 * hits / (said + positives) if hits else 0 for hits, said, _ in every)
        assert found[f"{name}_f1"] == pytest.approx(best)
        hits, said, _ = counts(sign * found[f"{name}_f1_threshold"])
        if hits:
            assert found[f"{name}_precision"] == pytest.approx(hits / said)
            assert found[f"{name}_recall"] == pytest.approx(hits / positives)
        steps = [counts(x) for x in sorted(set(values), reverse=True)]
        before = [0, *(hits for hits, _, _ in steps)]
        ap = sum((hits - last) / positives * hits / said for (hits, said, _), last in zip(steps, before, strict=False) if hits)
        assert found[f"{name}_ap"] == pytest.approx(ap)


def test_retrieval() -> None:
    for seed in range(20):
        queries, corpus, relevant = retrieval(seed)
        model = Table(seed)
        found = evaluation.InformationRetrievalEvaluator(queries, corpus, relevant, mrr_at_k=[3, 10], ndcg_at_k=[4], map_at_k=[5])(
            model
        )
        scores = fastattn.util.cos_sim(*(model.rows[[int(x) for x in each.values()]] for each in (queries, corpus)))
        wanted: dict[str, list[float]] = {}
        for i, query in enumerate(queries):
            if not relevant[query]:
                continue
            order = sorted(corpus, key=lambda each, i=i: (-scores[i, list(corpus).index(each)], each))  # type: ignore[misc]
            hits = [document in relevant[query] for document in order]
            count = len(relevant[query])
            for k in (1, 3, 5, 10):
                wanted.setdefault(f"accuracy@{k}", []).append(any(hits[:k]))
                wanted.setdefault(f"precision@{k}", []).append(sum(hits[:k]) / k)
                wanted.setdefault(f"recall@{k}", []).append(sum(hits[:k]) / count)
            for k in (3, 10):
                wanted.setdefault(f"mrr@{k}", []).append(next((1 / (r + 1) for r in range(k) if hits[r]), 0))
            gain = sum(hits[r] / math.log2(r + 2) for r in range(4))
            wanted.setdefault("ndcg@4", []).append(gain / sum(1 / math.log2(r + 2) for r in range(min(4, count))))
            precisions = [sum(hits[: r + 1]) / (r + 1) for r in range(5) if hits[r]]
            wanted.setdefault("map@5", []).append(sum(precisions) / min(5, count))
        assert found == pytest.approx({f"cosine_{name}": float(np.mean(values)) for name, values in wanted.items()})


def test_retrieval_is_the_same_in_chunks() -> None:
    queries, corpus, relevant = retrieval(1)
    whole = evaluation.InformationRetrievalEvaluator(queries, corpus, relevant)
    for size in (1, 7, 29, 30, 31):
        assert evaluation.InformationRetrievalEvaluator(queries, corpus, relevant, size)(Table(1)) == whole(Table(1))
    few = {"mrr_at_k": [2], "accuracy_at_k": [2], "ndcg_at_k": [2], "precision_recall_at_k": [2], "map_at_k": [2]}
    assert {
        name: value
        for name, value in evaluation.InformationRetrievalEvaluator(queries, corpus, relevant, 4, **few)(Table(1)).items()  # type: ignore[arg-type]
    } == evaluation.InformationRetrievalEvaluator(queries, corpus, relevant, **few)(Table(1))  # type: ignore[arg-type]


def test_a_model_takes_what_evaluators_ask(tmp_path: Path) -> None:
    model = fastattn.SentenceTransformer(str(write_sentence_model(tmp_path)))
    first, second = ["a", "b c", "d"], ["a b", "c", "e f"]
    numbered = [dict(enumerate(each)) for each in (first, second)]
    for evaluator in (
        evaluation.EmbeddingSimilarityEvaluator(first, second, [0, 1, 2], precision="float32", truncate_dim=4),
        evaluation.TripletEvaluator(first, second, first[::-1], truncate_dim=4),
        evaluation.BinaryClassificationEvaluator(first, second, [0, 1, 1]),
        evaluation.InformationRetrievalEvaluator(*numbered, {0: {1}}, query_prompt="query: "),  # type: ignore[arg-type]
    ):
        found = evaluator(model)
        assert evaluator.primary_metric in found


def test_label_accuracy() -> None:
    model = Table(0)
    loss = losses.SoftmaxLoss(None, 4, 3, concatenation_sent_difference=False)
    features = np.concatenate([model.rows[[1, 2, 3]], model.rows[[4, 5, 6]]], axis=1)
    best = (features @ loss.classifier.weight.data.T + loss.classifier.bias.data).argmax(axis=1)
    batches = [([["1", "2"], ["4", "5"]], best[:2]), ([["3"], ["6"]], (best[2:] + 1) % 3)]
    evaluator = evaluation.LabelAccuracyEvaluator(batches, softmax_model=loss, name="nli")
    for _ in range(2):
        assert evaluator(model) == {"nli_accuracy": 2 / 3}
        assert evaluator.primary_metric == "nli_accuracy"
    with pytest.raises(ValueError, match="dataloader must have an example"):
        evaluation.LabelAccuracyEvaluator([], softmax_model=loss)(model)
    with pytest.raises(ValueError, match="softmax_model must be a SoftmaxLoss"):
        evaluation.LabelAccuracyEvaluator([])


def test_sequential() -> None:
    model, first, second, labels = pairs(0, 9)
    parts = [
        evaluation.BinaryClassificationEvaluator(first, second, labels, name="a"),
        evaluation.EmbeddingSimilarityEvaluator(first, second, list(map(float, labels)), name="b"),
    ]
    found = evaluation.SequentialEvaluator(parts)(model)
    assert found["sequential_score"] == found["b_spearman_cosine"]
    assert found["a_cosine_ap"] > 0
    assert evaluation.SequentialEvaluator(parts, sum)(model)["sequential_score"] == pytest.approx(
        found["a_cosine_ap"] + found["b_spearman_cosine"]
    )


def test_files(tmp_path: Path) -> None:
    model = Table(0)
    evaluator = evaluation.EmbeddingSimilarityEvaluator(["1", "2", "3"], ["4", "5", "6"], [1, 2, 3], name="sts")
    metrics = evaluator(model, tmp_path / "new", 0, 10)
    evaluator(model, tmp_path / "new", 1, 20)
    with (tmp_path / "new" / "similarity_evaluation_sts_results.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["epoch", "steps", "cosine_pearson", "cosine_spearman"]
    assert [line[:2] for line in lines[1:]] == [["0", "10"], ["1", "20"]]
    assert float(lines[1][2]) == metrics["sts_pearson_cosine"]
    silent = evaluation.EmbeddingSimilarityEvaluator(["1"], ["2"], [0], write_csv=False)
    silent(model, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    search = evaluation.InformationRetrievalEvaluator(*retrieval(0), write_predictions=True)
    search(model, tmp_path)
    lines = (tmp_path / "Information-Retrieval_evaluation_predictions_cosine.jsonl").read_text("utf-8").splitlines()
    first = json.loads(lines[0])
    assert first["query_id"] == "q0"
    assert len(first["results"]) == 30
    assert first["results"][0]["score"] >= first["results"][1]["score"]


def test_bad_arguments() -> None:
    for make, message in (
        (lambda: evaluation.EmbeddingSimilarityEvaluator(["a"], ["b", "c"], [1]), "must have one length"),
        (lambda: evaluation.EmbeddingSimilarityEvaluator([], [], []), "at least 1"),
        (lambda: evaluation.EmbeddingSimilarityEvaluator(["a"], ["b"], [1], similarity_fn_names=["sine"]), "similarity_fn_names"),
        (lambda: evaluation.TripletEvaluator(["a"], ["b"], ["c"], margin={"sine": 1}), "margin"),
        (lambda: evaluation.TripletEvaluator(["a"], ["b"], ["c", "d"]), "must have one length"),
        (lambda: evaluation.BinaryClassificationEvaluator(["a"], ["b"], [2]), "labels must be 0 or 1, got 2"),
        (lambda: evaluation.InformationRetrievalEvaluator({"q": "a"}, {"d": "b"}, {}), "relevant_docs"),
        (lambda: evaluation.InformationRetrievalEvaluator({"q": "a"}, {"d": "b"}, {"q": {"d"}}, map_at_k=[0]), "positive"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(NotImplementedError, match="BaseEvaluator"):
        evaluation.BaseEvaluator()(Table(0))


def both(kind: str, model: Table, /, *arguments: Any, **options: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Return our metrics and theirs, and check the primary metric and the settings."""
    from sentence_transformers.sentence_transformer import evaluation as peer

    theirs, ours = (getattr(module, kind)(*arguments, **options) for module in (peer, evaluation))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = ours(model), theirs(model)
    assert ours.primary_metric == theirs.primary_metric
    assert ours.get_config_dict() == theirs.get_config_dict()
    assert ours.csv_file == theirs.csv_file
    return results


def same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("names", [["cosine"], FUNCTIONS, None])
def test_peers_evaluators(names: list[str] | None) -> None:
    pytest.importorskip("sentence_transformers")
    for seed in range(10):
        model, first, second, labels = pairs(seed, (1, 2, 5, 17, 30)[seed % 5])
        # Real numbers, and no text beside itself: rounding alone would tell such pairs' cosines apart.
        model.rows += np.random.default_rng(seed).standard_normal(model.rows.shape).astype(np.float32)
        first, second = ([str(int(each) % 20 + begin) for each in some] for begin, some in ((0, first), (20, second)))
        options = {"similarity_fn_names": names, "name": "dev"}
        if len(first) > 1:
            same(*both("EmbeddingSimilarityEvaluator", model, first, second, list(map(float, labels)), **options))
        same(*both("TripletEvaluator", model, first, second, first[::-1], margin=0.125, **options))
        if 0 < labels.sum() < len(labels):
            same(*both("BinaryClassificationEvaluator", model, first, second, list(labels), **options))
    same(*both("EmbeddingSimilarityEvaluator", Table(3), *pairs(3, 20)[1:], precision="ubinary", truncate_dim=4))


def test_peers_retrieval() -> None:
    pytest.importorskip("sentence_transformers")
    for seed in range(10):
        queries, corpus, relevant = retrieval(seed)
        same(
            *both(
                "InformationRetrievalEvaluator",
                Table(seed, levels=9),
                queries,
                corpus,
                relevant,
                8,
                name="dev",
                score_functions=DOT,
            )
        )


# Whole numbers: exact, and often equal.
DOT = {"dot": lambda a, b: a @ b.T}
