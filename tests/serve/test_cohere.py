"""Rerank of Cohere and Jina."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from starlette.testclient import TestClient

from fastattn.serve.models import Served

pytestmark = pytest.mark.jit

QUERY = "the cat sat"
DOCUMENTS = ["a dog", "the cat sat on the mat", "on a mat", "a dog"]


def rank(client: TestClient, path: str = "/v1/rerank", **body: Any) -> Any:
    response = client.post(path, json={"model": "reranker", "query": QUERY, "documents": DOCUMENTS, **body})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_scores_are_those_of_predict(path: str, client: TestClient, models: list[Served]) -> None:
    content = rank(client, path)
    truth = models[1].model.predict([(QUERY, document) for document in DOCUMENTS], activation_fn="Sigmoid")
    order = sorted(range(4), key=lambda i: -truth[i])
    # Of the two equal documents the first comes first.
    assert order.index(0) < order.index(3)
    assert content["results"] == [{"index": i, "relevance_score": float(truth[i])} for i in order]
    assert content["meta"]["api_version"]["version"] == path[2]
    assert content["usage"]["total_tokens"] > 0 and content["id"]
    assert len(set(np.round(truth, 6))) == 3


def test_top_n(client: TestClient) -> None:
    assert rank(client, top_n=2)["results"] == rank(client)["results"][:2]
    assert rank(client, top_n=9)["results"] == rank(client)["results"]


def test_documents_of_objects_come_back_when_asked_for(client: TestClient) -> None:
    results = rank(client, documents=[{"text": text, "more": 1} for text in DOCUMENTS], return_documents=True)["results"]
    assert [item["document"] for item in results] == [{"text": DOCUMENTS[item["index"]]} for item in results]
    assert [item["relevance_score"] for item in results] == [item["relevance_score"] for item in rank(client)["results"]]


BAD: dict[str, tuple[Any, int, str, str]] = {
    "no query": ({"documents": ["a"]}, 400, "query", "query is missing"),
    "a query by list": ({"query": ["a"], "documents": ["a"]}, 400, "query", "query must be a text, got a list"),
    "no documents": ({"query": "a"}, 400, "documents", "documents is missing"),
    "a text": ({"query": "a", "documents": "a"}, 400, "documents", "must be a text or a list of texts"),
    "an empty list": ({"query": "a", "documents": []}, 400, "documents", "empty"),
    "an object without text": ({"query": "a", "documents": ["a", {"title": "a"}]}, 400, "documents", "documents[1] must be a text"),
    "numbers": ({"query": "a", "documents": [1, 2]}, 400, "documents", "documents[0] must be a text, got a number"),
    "10,000 documents": ({"query": "a", "documents": ["a"] * 10_000}, 400, "documents", "10,000 items"),
    "10,000 numbers": ({"query": "a", "documents": [1] * 10_000}, 400, "documents", ""),
    "top_n of 0": ({"query": "a", "documents": ["a"], "top_n": 0}, 400, "top_n", "a positive integer"),
    "a word as flag": ({"query": "a", "documents": ["a"], "return_documents": "yes"}, 400, "return_documents", "true or false"),
    "an embedder": ({"query": "a", "documents": ["a"], "model": "embedder"}, 400, "model", "embedder makes embeddings, not scores"),
    "an unknown model": ({"query": "a", "documents": ["a"], "model": "x"}, 404, "model", "no model 'x'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests(case: str, client: TestClient) -> None:
    body, status, field, message = BAD[case]
    response = client.post("/v1/rerank", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, field)
    assert message in error["message"]
    assert rank(client)["results"]
