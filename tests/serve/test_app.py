"""The application: the key, the bounds, failures, and the bits of requests that are computed together."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from starlette.testclient import TestClient

from fastattn.serve import app as app_module
from fastattn.serve.app import application
from fastattn.serve.metrics import Metrics
from fastattn.serve.models import Served
from fastattn.serve.requests import Settings
from fastattn.serve.service import Limits, Service
from fastattn.text.batches import TokenRow
from tests.serve.gate import WAIT, Gate, until

pytestmark = pytest.mark.jit

WORDS = "the cat sat on a mat and dog w1 w2 w3 w4".split()


@pytest.fixture
def gate(models: list[Served], monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found = Gate(models[0].compute)
    monkeypatch.setattr(models[0], "compute", found)
    yield found
    found.opened.set()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as found:
        yield found


def post(client: TestClient, text: Any) -> Any:
    return client.post("/v1/embeddings", json={"input": text, "model": "embedder"})


@pytest.mark.parametrize("batch_tokens", [1, 7, 16_384])
def test_the_same_bits_whatever_is_computed_together(
    batch_tokens: int, models: list[Served], gate: Gate, threads: ThreadPoolExecutor
) -> None:
    rng = np.random.default_rng(0)
    requests = [[" ".join(rng.choice(WORDS, rng.integers(0, 14))) for _ in range(rng.integers(1, 5))] for _ in range(30)]
    service = Service(models, Limits(batch_tokens=batch_tokens, cache_bytes=0))
    with TestClient(application(service)) as client:
        first = threads.submit(post, client, "a dog")
        gate.begun(1)
        futures = [threads.submit(post, client, texts) for texts in requests]
        wanted = sum(len(ids) for texts in requests for ids in models[0].model.tokenizer(texts, truncation=True)["input_ids"])
        until(lambda: service.batcher.tokens("embedder") == wanted)
        gate.opened.set()
        found = [future.result(WAIT).json() for future in [first, *futures]]
    for texts, content in zip(requests, found[1:], strict=True):
        for text, item in zip(texts, content["data"], strict=True):
            np.testing.assert_array_equal(np.float32(item["embedding"]), models[0].model.encode(text, normalize_embeddings=True))
    if batch_tokens != 7:
        assert gate.sizes[1:] == ([1] * sum(map(len, requests)) if batch_tokens == 1 else [sum(map(len, requests))])


def test_the_cache_gives_the_same_bits(client: TestClient) -> None:
    texts = ["the cat", "a dog"]
    first, again = (post(client, given).json() for given in (texts, [*texts, "a mat", "the cat"]))
    assert [item["embedding"] for item in again["data"][:2]] == [item["embedding"] for item in first["data"]]
    assert again["data"][3]["embedding"] == first["data"][0]["embedding"]
    assert again["usage"]["total_tokens"] == 4 + 4 + 4 + 4


def test_past_the_bound_of_the_queue_429(models: list[Served], gate: Gate, threads: ThreadPoolExecutor) -> None:
    service = Service(models, Limits(queue_tokens=10))
    with TestClient(application(service)) as client:
        first = threads.submit(post, client, "a dog")
        gate.begun(1)
        second = threads.submit(post, client, ["the cat sat", "a dog"])
        until(lambda: service.batcher.tokens("embedder") == 9)
        refused = post(client, "a mat")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        theirs = client.post("/embed", json={"inputs": "a mat"})
        assert (theirs.status_code, theirs.json()["error_type"], theirs.headers["retry-after"]) == (429, "Overloaded", "1")
        gate.opened.set()
        assert first.result(WAIT).status_code == second.result(WAIT).status_code == 200
        assert post(client, "a mat").status_code == 200


def test_past_the_bound_of_requests_429(models: list[Served], gate: Gate, threads: ThreadPoolExecutor) -> None:
    service = Service(models, Limits(requests=2))
    with TestClient(application(service)) as client:
        first = threads.submit(post, client, "a dog")
        gate.begun(1)
        second = threads.submit(post, client, "a cat")
        until(lambda: service.batcher.tokens("embedder") == 4)
        assert post(client, "a mat").status_code == 429
        assert client.get("/health").status_code == 200
        gate.opened.set()
        assert first.result(WAIT).status_code == second.result(WAIT).status_code == 200


def test_after_the_end_of_the_queue_503(models: list[Served]) -> None:
    service = Service(models)
    with TestClient(application(service)) as client:
        service.close()
        assert (post(client, "a dog").status_code, client.get("/health").status_code) == (503, 503)
        assert client.post("/embed", json={"inputs": "a dog"}).json()["error_type"] == "Unhealthy"


@pytest.mark.parametrize("header", [None, "Bearer other", "Bearer ", "secret", "Basic secret", "Bearer sécret"])
def test_without_the_key_401(header: str | None, limited: Any) -> None:
    client = limited(key="secret")
    headers = {} if header is None else {"Authorization": header.encode()}
    for path in ("/v1/embeddings", "/embed", "/rerank"):
        response = client.post(path, json={"input": "a"}, headers=headers)
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert client.post("/v1/rerank", json={}, headers=headers).json()["error"]["code"] == "invalid_api_key"
    paths = ("/v1/models", "/v1/models/embedder", "/metrics", "/info", "/health", "/")
    assert [client.get(path, headers=headers).status_code for path in paths] == [401, 401, 401, 401, 200, 200]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_with_the_key(scheme: str, limited: Any) -> None:
    client = limited(key="sécret")
    headers = {"Authorization": f"{scheme} sécret".encode()}
    assert client.post("/v1/embeddings", json={"input": "a"}, headers=headers).status_code == 200
    assert client.get("/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize(("method", "path", "allowed"), [
    ("GET", "/v1/embeddings", "POST"), ("OPTIONS", "/embed", "POST"), ("DELETE", "/v1/models/embedder", "GET, HEAD"),
    ("POST", "/health", "GET, HEAD"), ("BREW", "/rerank", "POST"),
])  # fmt: skip
def test_another_method_is_405_with_those_that_are_allowed(method: str, path: str, allowed: str, client: TestClient) -> None:
    response = client.request(method, path)
    assert (response.status_code, ", ".join(sorted(response.headers["allow"].split(", ")))) == (405, allowed)
    assert f"{path} does not take {method}" in response.text


def test_head_is_answered_where_get_is(client: TestClient) -> None:
    assert [client.head(path).status_code for path in ("/", "/health", "/metrics", "/v1/models")] == [200] * 4


@pytest.mark.parametrize("path", ["/embed/", "//embed", "/v1/embeddings/", "/v1/chat/completions", "/nowhere"])
def test_another_path_is_404_and_leads_nowhere(path: str, client: TestClient) -> None:
    response = client.post(f"http://testserver{path}", json={"inputs": "a"}, follow_redirects=False)
    assert response.status_code == 404
    assert "texts are sent to: /v1/embeddings, " in response.text


def test_a_compressed_body_is_415(client: TestClient) -> None:
    body = gzip.compress(b'{"input": "a", "inputs": "a"}')
    message = "the body must not be compressed, got Content-Encoding: gzip"
    found = client.post("/v1/embeddings", content=body, headers={"Content-Encoding": "gzip"})
    assert (found.status_code, found.json()["error"]["message"]) == (415, message)
    found = client.post("/embed", content=body, headers={"Content-Encoding": "GZIP"})
    assert (found.status_code, found.json()) == (415, {"error": message, "error_type": "Validation"})
    assert client.post("/embed", json={"inputs": "a"}, headers={"Content-Encoding": "identity"}).status_code == 200


def fails(error: Exception) -> Callable[..., Any]:
    def compute(texts: Sequence[TokenRow], settings: Settings) -> Any:
        raise error

    return compute


def test_a_failure_of_the_model_is_500_and_the_service_goes_on(
    client: TestClient, models: list[Served], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(models[0], "compute", fails(MemoryError("no room")))
        response = post(client, "a dog")
        assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
        assert "no room" in caplog.text and "no room" not in response.text
    assert post(client, "a dog").status_code == 200


def test_a_failure_of_a_path_that_tells_something_is_500(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def text(_: Metrics) -> bytes:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "text", text)
        response = client.get("/metrics")
        assert (response.status_code, response.json()["error_type"]) == (500, "Backend")
        assert "no room" in caplog.text and "no room" not in response.text
    assert 'fastattn_requests_total{route="/metrics",status="500"} 1.0' in client.get("/metrics").text


def test_nan_is_no_json(client: TestClient, models: list[Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models[0], "compute", lambda texts, settings: [np.float32([np.nan])] * len(texts))
    assert post(client, "a dog").status_code == 500


def test_long_requests_delay_no_short_one(
    models: list[Served], threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, opened, reading = models[0].read, threading.Event(), threading.Semaphore(0)

    def slow(inputs: Sequence[str], *rest: Any) -> Any:
        if len(inputs[0]) > 1000:
            reading.release()
            assert opened.wait(WAIT)
        return read(inputs, *rest)

    monkeypatch.setattr(models[0], "read", slow)
    with TestClient(application(Service(models))) as client:
        long = [threads.submit(post, client, "the cat " * 30_000 + str(i)) for i in range(9)]
        assert reading.acquire(timeout=WAIT)
        assert [post(client, text).status_code for text in ("a dog", "a cat", "a dog")] == [200] * 3
        assert not any(future.done() for future in long)
        opened.set()
        assert {future.result(WAIT).status_code for future in long} == {200}


CONTENTS: list[Any] = [
    [[0.5, 1.5]] * 3,
    {"data": [{"embedding": [0.25] * 5, "index": 0}] * 2, "model": "é", "usage": {"total_tokens": 3}},
    [[], []],
    [],
    {},
    [{"index": 1, "score": 0.5, "text": '\ud83c"\\'}],
    [[{"index": 3, "value": 1e-30}], []],
    {"error": {"param": None, "code": True}},
]


@pytest.mark.parametrize("content", CONTENTS)
def test_a_response_is_json_that_is_written_row_by_row(content: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread runs while `json` writes: a response of many rows would hold up the others for seconds."""
    written = []
    dumps = json.dumps
    monkeypatch.setattr(app_module.json, "dumps", lambda *args, **options: written.append(dumps(*args, **options)) or written[-1])
    found = app_module._encoded(content)
    assert found.decode() == dumps(content, separators=(",", ":"))
    rows = content if isinstance(content, list) else content.get("data", [])
    assert len(rows) < 2 or len(written) >= len(rows)


def test_two_models_of_one_name(models: list[Served]) -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="two models have the name 'embedder': give one another name, NAME=FOLDER"):
        Service([models[0], models[1], models[0]])
    assert threading.active_count() == before


def test_no_model_of_the_kind(models: list[Served]) -> None:
    with TestClient(application(Service(models[:1]))) as client:
        response = client.post("/rerank", json={"query": "a", "texts": ["a"]})
        assert response.status_code == 424
        assert response.json()["error"] == "no model that is served makes scores of pairs; served: embedder (embedding)"
