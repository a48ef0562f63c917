"""Interface of text-embeddings-inference, the metrics and the page."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from starlette.testclient import TestClient

from fastattn import SentenceTransformer
from fastattn.serve.app import application
from fastattn.serve.models import Served, load
from fastattn.serve.service import Service
from fastattn.text.modules.router import Router
from tests.support.sparse_cases import write_router

pytestmark = pytest.mark.jit

TEXTS = ["the cat sat on the mat", "a dog", "the dog sat on a mat"]


def post(client: TestClient, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_embed(client: TestClient, models: list[Served]) -> None:
    model = models[0].model
    for given, texts in ((TEXTS, TEXTS), (TEXTS[0], TEXTS[:1])):
        np.testing.assert_array_equal(
            np.float32(post(client, "/embed", inputs=given)), model.encode(texts, normalize_embeddings=True)
        )
    short = np.float32(post(client, "/embed", inputs=TEXTS, dimensions=5, normalize=False, prompt_name="query"))
    np.testing.assert_array_equal(short, model.encode(TEXTS, truncate_dim=5, prompt_name="query"))
    unit = np.float32(post(client, "/embed", inputs=TEXTS, dimensions=5))
    np.testing.assert_array_equal(unit, model.encode(TEXTS, truncate_dim=5, normalize_embeddings=True))


def test_embed_sparse(client: TestClient, models: list[Served]) -> None:
    found, truth = post(client, "/embed_sparse", inputs=TEXTS), models[2].model.encode(TEXTS)
    for row, expected in zip(found, truth, strict=True):
        assert [item["index"] for item in row] == expected.indices.tolist()
        np.testing.assert_array_equal(np.float32([item["value"] for item in row]), expected.data)
        assert row


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_model_whose_tasks_have_routes_and_none_is_the_default(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "routed"
    if kind == "sparse":
        write_router(folder, default_route=None, allow_empty_key=False)
    else:
        sides = [SentenceTransformer(str(folders["embedder"])) for _ in range(2)]
        sides[1].max_seq_length = 3
        modules = [list(side) for side in sides]
        SentenceTransformer(modules=[Router.for_query_document(*modules, default_route=None, allow_empty_key=False)]).save(folder)
    served = load(str(folder))
    # Kernels of every route are loaded before the first request.
    assert all(served.model._pipeline_of(None, task)._loaded for task in ("query", "document"))
    path = "/embed" if kind == "dense" else "/embed_sparse"
    with TestClient(application(Service([served]))) as client:
        found = {task: post(client, path, inputs=TEXTS[0], task=task)[0] for task in ("query", "document")}
        for task, encode in (("query", served.model.encode_query), ("document", served.model.encode_document)):
            truth = encode(TEXTS[0], **({"normalize_embeddings": True} if kind == "dense" else {}))
            values = [item["value"] for item in found[task]] if kind == "sparse" else found[task]
            np.testing.assert_array_equal(np.float32(values), truth.data if kind == "sparse" else truth)
        assert found["query"] != found["document"]
        for body in ({}, {"task": "other"}):
            response = client.post(path, json={"inputs": "a", **body})
            assert response.status_code == 422 and "there is no route for the task" in response.json()["error"]
        assert client.get("/v1/models").status_code == 200
        if kind == "dense":
            given = client.post("/v1/embeddings", json={"input": TEXTS[0], "task": "document"}).json()
            assert given["data"][0]["embedding"] == found["document"]


def test_rerank(client: TestClient, models: list[Served]) -> None:
    pairs, model = [("a cat", text) for text in TEXTS], models[1].model
    for raw, activation in ((False, "Sigmoid"), (True, "Identity")):
        truth = model.predict(pairs, activation_fn=activation)
        found = post(client, "/rerank", query="a cat", texts=TEXTS, raw_scores=raw, return_text=raw)
        order = sorted(range(3), key=lambda i: -truth[i])
        text = [{"text": TEXTS[i]} if raw else {} for i in order]
        assert found == [{"index": i, **text, "score": float(truth[i])} for i, text in zip(order, text, strict=True)]


def test_truncation_is_that_of_the_request(client: TestClient, models: list[Served]) -> None:
    long = "the cat " * 20
    np.testing.assert_array_equal(
        np.float32(post(client, "/embed", inputs=long)), models[0].model.encode([long], normalize_embeddings=True)
    )
    # The cache has the truncated text by now, and does not answer for the whole one.
    response = client.post("/embed", json={"inputs": [TEXTS[0], long], "truncate": False})
    assert (response.status_code, response.json()["error_type"]) == (413, "Validation")
    assert response.json()["error"] == "inputs[1] has more than 12 tokens, and truncation is off"
    pair = {"query": long, "texts": [long], "truncate": False}
    assert client.post("/rerank", json=pair).json()["error"].startswith("texts[0] has more than")


BAD: dict[str, tuple[str, Any, int, str, str]] = {
    "no JSON": ("/embed", b"nonsense", 400, "Validation", "must be JSON"),
    "no inputs": ("/embed", {}, 422, "Validation", "inputs is missing"),
    "an empty list": ("/embed", {"inputs": []}, 400, "Empty", "empty list"),
    "10,000 texts": ("/embed", {"inputs": ["a"] * 10_000}, 413, "Validation", "10,000 items"),
    "a number": ("/embed_sparse", {"inputs": [1.5]}, 422, "Validation", "inputs[0] must be a text"),
    "a rerank of embedders": (
        "/rerank",
        {"query": "a", "texts": ["a"], "model": "embedder"},
        424,
        "Backend",
        "not scores of pairs",
    ),
    "an unknown model": ("/embed", {"inputs": "a", "model": "x"}, 404, "Validation", "no model"),
    "the left side": ("/embed", {"inputs": "a", "truncation_direction": "Left"}, 422, "Validation", "one of Right"),
    "a word as flag": ("/embed", {"inputs": "a", "normalize": "no"}, 422, "Validation", "normalize must be true or false"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_have_the_shape_of_teis_errors(case: str, client: TestClient) -> None:
    path, body, status, kind, message = BAD[case]
    response = client.post(path, **({"content": body} if isinstance(body, bytes) else {"json": body}))
    assert (response.status_code, response.json()["error_type"]) == (status, kind)
    assert message in response.json()["error"]
    assert set(response.json()) == {"error", "error_type"}


def test_health_and_info(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    info = client.get("/info").json()
    assert info["model_id"] == "embedder" and info["max_client_batch_size"] == 2048 and info["auto_truncate"] is True
    assert [model["model_id"] for model in info["models"]] == ["embedder", "reranker", "sparse"]


def test_metrics(client: TestClient) -> None:
    for _ in range(2):
        post(client, "/embed", inputs=TEXTS)
    client.post("/embed", json={})
    client.get("/somewhere/else")
    text = client.get("/metrics").text
    values = dict(re.findall(r"^(\w+\{[^}]*\}) (\S+)$", text, re.MULTILINE))
    expected = {
        'fastattn_requests_total{route="/embed",status="200"}': 2,
        'fastattn_requests_total{route="/embed",status="422"}': 1,
        'fastattn_requests_total{route="other",status="404"}': 1,
        'fastattn_request_seconds_count{route="/embed"}': 3,
        'fastattn_texts_total{model="embedder"}': 3,
        'fastattn_tokens_total{model="embedder"}': 8 + 4 + 8,
        'fastattn_cache_lookups_total{model="embedder"}': 6,
        'fastattn_cache_hits_total{model="embedder"}': 3,
        'fastattn_queue_tokens{model="sparse"}': 0,
    }
    assert {name: float(values[name]) for name in expected} == expected


class Loads(HTMLParser):
    """Addresses that a page names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [pair for pair in attributes if pair[0] in ("src", "href", "action", "data")]


def test_the_page_loads_nothing(client: TestClient) -> None:
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert Loads(response.text).found == [] and not re.search(r"https?://|@import|url\(", response.text)
    for path in re.findall(r'call\("([^"]+)"', response.text):
        assert client.get(f"/{path}").status_code in (200, 405), path
