"""Token poolings, and the clusters of the hierarchical one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import MultiVectorEncoder
from fastattn.modules import BaseTokenPooling, HierarchicalTokenPooling, LambdaTokenPooling
from fastattn.text.modules.clusters import ward_clusters
from tests.support.cases import normal
from tests.support.late_interaction import DOCUMENTS, QUERIES, native


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MultiVectorEncoder:
    path: Path = tmp_path_factory.mktemp("model")
    native({"query_expansion": {"strategy": "fixed", "length": 12}})(path)
    return MultiVectorEncoder(path)


class FirstTokens(BaseTokenPooling):
    kind = "FirstTokens"

    def pool_one(self, embedding: Any, **kwargs: Any) -> Any:
        return embedding[:3]


def test_token_pooling(model: MultiVectorEncoder) -> None:
    documents = model.encode_document(DOCUMENTS)
    for pooling in (FirstTokens(), LambdaTokenPooling(lambda x: x[:3])):
        found = model.encode_document(DOCUMENTS, token_pooling=pooling)
        for pooled, rows, alone in zip(found, documents, pooling.pool(documents), strict=True):
            np.testing.assert_array_equal(pooled, rows[:3])
            np.testing.assert_array_equal(alone, rows[:3])
        assert len(model.encode_query("a", token_pooling=pooling)) == 12
    inside = MultiVectorEncoder(modules=[*model, FirstTokens(tasks="query")])
    assert [len(rows) for rows in inside.encode_query(QUERIES)] == [3] * len(QUERIES)
    assert [len(rows) for rows in inside.encode_document(DOCUMENTS)] == [len(rows) for rows in documents]
    more = MultiVectorEncoder(modules=[*model, LambdaTokenPooling(lambda x: np.repeat(x, 2, axis=0))])
    with pytest.raises(ValueError, match="LambdaTokenPooling must make at most"):
        more.encode_document("a")
    with pytest.raises(NotImplementedError, match="cannot be saved"):
        more.save("/nonexistent")
    with pytest.raises(NotImplementedError, match="must define pool_one"):
        BaseTokenPooling().pool(documents)


def test_padded_token_pooling() -> None:
    texts = [normal(5, 4), normal(2, 4, seed=1), normal(3, 4, seed=2)]
    right, left = np.zeros((3, 6, 4), np.float32), np.zeros((3, 6, 4), np.float32)
    for i, text in enumerate(texts):
        right[i, : len(text)], left[i, 6 - len(text) :] = text, text
    pooling = FirstTokens()
    for side, padded in (("right", right), ("left", left)):
        for mask in (None, padded.any(axis=2)):
            found = pooling.pool(padded, attention_mask=mask, padding_side=side)
            assert isinstance(found, np.ndarray)
            assert found.shape == (3, 3, 4)
            for pooled, text in zip(found, texts, strict=True):
                kept = pooled[: len(text)] if side == "right" else pooled[3 - min(3, len(text)) :]
                np.testing.assert_array_equal(kept, text[:3])
                assert len(text) >= 3 or not pooled[-1 if side == "right" else 0].any()
    with pytest.raises(ValueError, match="padding_side"):
        pooling.pool(right, padding_side="middle")
    with pytest.raises(ValueError, match="list of"):
        pooling.pool(right[0])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"pool_factor": 0.5}, "pool_factor"),
        ({"pool_factor": "2"}, "pool_factor"),
        ({"pool_factor": float("nan")}, "pool_factor"),
        ({"num_protected_tokens": -1}, "num_protected_tokens"),
        ({"tasks": [1]}, "tasks"),
    ],
)
def test_bad_poolings(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        HierarchicalTokenPooling(**options)
    with pytest.raises(TypeError, match="pool_fn"):
        LambdaTokenPooling(3)  # type: ignore[arg-type]


def test_clusters() -> None:
    """Two groups on a line, then three; the nearest are merged first."""
    places = np.array([0.0, 10.0, 0.5, 10.1, 4.0])
    distances = np.abs(places[:, None] - places)
    assert ward_clusters(distances, 2).tolist() == [1, 0, 1, 0, 1]
    three = ward_clusters(distances, 3)
    assert len(set(three)) == 3
    assert three[0] == three[2]
    assert three[1] == three[3]
    assert ward_clusters(distances, 1).tolist() == [0] * 5


@pytest.mark.parametrize("count", [2, 3, 17, 60])
def test_clusters_as_in_scipy(count: int) -> None:
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    rows = normal(count, 6, seed=count)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = np.clip(1 - rows @ rows.T, 0, 2)
    tree = hierarchy.linkage(distances[np.triu_indices(count, 1)], method="ward")
    for clusters in range(1, count):
        expected = hierarchy.fcluster(tree, t=clusters, criterion="maxclust") - 1
        np.testing.assert_array_equal(ward_clusters(distances, clusters), expected)
