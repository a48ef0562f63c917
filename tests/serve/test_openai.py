"""OpenAI's /v1/embeddings and /v1/models."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from starlette.testclient import TestClient

from fastattn.serve.app import application
from fastattn.serve.models import Served, load
from fastattn.serve.service import Service
from tests.support.models import C, write_json, write_sentence_model

pytestmark = pytest.mark.jit

TEXTS = ["the cat sat on the mat", "a dog", "", "the dog sat on a mat"]


def embed(client: TestClient, **body: Any) -> Any:
    response = client.post("/v1/embeddings", json={"model": "embedder", **body})
    assert response.status_code == 200, response.text
    return response.json()


def rows(content: Any) -> Any:
    assert [item["index"] for item in content["data"]] == list(range(len(content["data"])))
    return np.array([item["embedding"] for item in content["data"]], np.float32)


@pytest.fixture
def model(models: list[Served]) -> Any:
    return models[0].model


def test_embeddings_are_those_of_encode(client: TestClient, model: Any) -> None:
    content = embed(client, input=TEXTS)
    np.testing.assert_array_equal(rows(content), model.encode(TEXTS, normalize_embeddings=True))
    tokens = sum(len(ids) for ids in model.tokenizer(TEXTS, truncation=True)["input_ids"])
    assert content["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert (content["object"], content["model"], content["data"][0]["object"]) == ("list", "embedder", "embedding")


@pytest.mark.parametrize("given", [TEXTS[0], [TEXTS[0]]], ids=["text", "list"])
def test_one_text(given: Any, client: TestClient, model: Any) -> None:
    np.testing.assert_array_equal(rows(embed(client, input=given)), model.encode(TEXTS[:1], normalize_embeddings=True))


@pytest.mark.parametrize("several", [False, True])
def test_token_ids_are_taken_as_they_are(several: bool, client: TestClient, model: Any) -> None:
    ids = model.tokenizer(TEXTS[:2], truncation=True)["input_ids"]
    content = embed(client, input=ids if several else ids[0])
    np.testing.assert_array_equal(rows(content), model.encode(TEXTS[: 1 + several], normalize_embeddings=True))
    assert content["usage"]["total_tokens"] == sum(map(len, ids[: 1 + several]))


@pytest.mark.parametrize(("default", "path"), [(None, "/v1/embeddings"), ("query", "/v1/embeddings"), (None, "/embed")])
def test_token_ids_get_no_prompt(default: str | None, path: str, tmp_path: Path) -> None:
    """Neither in front of them, nor left out of pooling, where that leaves out the prompt."""
    pooling = {"word_embedding_dimension": C, "pooling_mode_mean_tokens": True, "include_prompt": False}
    folder = write_sentence_model(tmp_path / "embedder", pooling)
    prompts = {"prompts": {"query": "query : "}, "default_prompt_name": default}
    write_json(folder / "config_sentence_transformers.json", prompts)
    served = load(str(folder))
    ids = served.model.tokenizer(TEXTS[:2], truncation=True)["input_ids"]
    plain = served.model.encode(TEXTS[:2], prompt="", normalize_embeddings=True)
    prompted = served.model.encode(TEXTS[:2], prompt_name="query", normalize_embeddings=True)
    with TestClient(application(Service([served]))) as client:
        for given, wanted in ((ids, plain), (TEXTS[:2], prompted)):
            body: dict[str, Any] = {"input" if path.startswith("/v1") else "inputs": given}
            response = client.post(path, json=body if default else {**body, "prompt_name": "query"})
            content = response.json()
            found = rows(content) if path.startswith("/v1") else np.float32(content)
            np.testing.assert_array_equal(found, wanted)


def test_base64_has_the_same_bits(client: TestClient) -> None:
    content = embed(client, input=TEXTS, encoding_format="base64")
    found = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in content["data"]]
    np.testing.assert_array_equal(found, rows(embed(client, input=TEXTS)))


def test_dimensions_keep_the_first_channels_at_unit_length(client: TestClient, model: Any) -> None:
    found = rows(embed(client, input=TEXTS, dimensions=5))
    np.testing.assert_array_equal(found, model.encode(TEXTS, truncate_dim=5, normalize_embeddings=True))


def test_prompt_name(client: TestClient, model: Any) -> None:
    found = rows(embed(client, input=TEXTS, prompt_name="query"))
    np.testing.assert_array_equal(found, model.encode(TEXTS, prompt_name="query", normalize_embeddings=True))
    assert not np.array_equal(found, rows(embed(client, input=TEXTS)))


def test_without_a_model_the_first_embedder_answers(client: TestClient) -> None:
    assert client.post("/v1/embeddings", json={"input": "a dog"}).json()["model"] == "embedder"


def test_null_counts_as_absent(client: TestClient) -> None:
    assert embed(client, input="a dog", dimensions=None, encoding_format=None, user=None)["data"]


def test_models(client: TestClient) -> None:
    content = client.get("/v1/models").json()
    kinds = {"embedder": "embedding", "reranker": "rerank", "sparse": "sparse"}
    assert {item["id"]: item["task"] for item in content["data"]} == kinds
    assert client.get("/v1/models/sparse").json() == content["data"][2]
    assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


BAD: dict[str, tuple[Any, int, str | None, str]] = {
    "no JSON": (b"{", 400, None, "the body must be JSON"),
    "not UTF-8": (b'{"input": "\xff"}', 400, None, "the body must be JSON"),
    "nothing": (b"", 400, None, "the body must be JSON"),
    "nested deeply": (b"[" * 200_000, 400, None, "nested too deeply"),
    "a huge number": (b'{"input": ' + b"9" * 5000 + b"}", 400, None, "the body must be JSON"),
    "a list": ([], 400, None, "a JSON object, got a list"),
    "no input": ({}, 400, "input", "input is missing"),
    "a number": ({"input": 1}, 400, "input", "got a number"),
    "an object": ({"input": {}}, 400, "input", "got an object"),
    "no texts": ({"input": []}, 400, "input", "input is an empty list"),
    "no ids": ({"input": [[]]}, 400, "input", "input[0] must be a list of token ids, got an empty list"),
    "a list of texts": ({"input": [[1, "a"]]}, 400, "input", "input[0][1] must be a token id, got a text"),
    "true as id": ({"input": [[5], [True]]}, 400, "input", "input[1][0] must be a token id, got true or false"),
    "null among texts": ({"input": ["a", None]}, 400, "input", "input[1] must be a text, got null"),
    "texts and ids": ({"input": [[1], "a"]}, 400, "input", "input[1] must be a list of token ids, got a text"),
    "half a pair": (b'{"input": ["a", "x\\ud800"]}', 400, "input", "input[1] is no valid Unicode"),
    "an unknown id": ({"input": [[1, 40]]}, 400, "input", "input[0] has token id 40, and embedder has 40 tokens"),
    "a negative id": ({"input": [-1]}, 400, "input", "token id -1"),
    "a huge id": ({"input": [2**70]}, 400, "input", "token id 1180591620717411303424"[:28]),
    "too many ids": ({"input": [1] * 13}, 400, "input", "input[0] has 13 token ids, and the model takes 12"),
    "10,000 texts": ({"input": ["a"] * 10_000}, 400, "input", "input has 10,000 items, and a request may have 2,048"),
    "10,000 lists of ids": ({"input": [[1]] * 10_000}, 400, "input", "input has 10,000 items"),
    "an unknown model": ({"input": "a", "model": "x"}, 404, "model", "no model 'x'; served: embedder (embedding)"),
    "a model by number": ({"input": "a", "model": 1}, 400, "model", "model must be a text"),
    "a model of surrogates": (b'{"input": "a", "model": "\\ud800"}', 400, "model", "no valid Unicode"),
    "a reranker": ({"input": "a", "model": "reranker"}, 400, "model", "makes scores of pairs, not embeddings; these do: embedder"),
    "another format": ({"input": "a", "encoding_format": "x"}, 400, "encoding_format", "one of float, base64"),
    "a format by list": ({"input": "a", "encoding_format": []}, 400, "encoding_format", "one of float, base64"),
    "no dimensions": ({"input": "a", "dimensions": 0}, 400, "dimensions", "from 1 to 32, got 0"),
    "too many dimensions": ({"input": "a", "dimensions": 33}, 400, "dimensions", "from 1 to 32, got 33"),
    "dimensions by truth": ({"input": "a", "dimensions": True}, 400, "dimensions", "from 1 to 32, got true"),
    "dimensions of no number": (b'{"input": "a", "dimensions": NaN}', 400, "dimensions", "got NaN"),
    "dimensions by text": ({"input": "a", "dimensions": "é" * 99}, 400, "dimensions", 'got "' + "é" * 49),
    "dimensions nested": (b'{"input":"a","dimensions":' + b"[" * 900 + b"]" * 900 + b"}", 400, "dimensions", "32, got a list"),
    "an unknown prompt": ({"input": "a", "prompt_name": "x"}, 400, "prompt_name", "no prompt 'x'; prompts: "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_have_the_shape_of_openais_errors(case: str, client: TestClient, model: Any) -> None:
    body, status, field, message = BAD[case]
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = client.post("/v1/embeddings", **sent)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, field)
    assert message in error["message"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    # Nothing else is affected.
    np.testing.assert_array_equal(rows(embed(client, input="a cat")), model.encode(["a cat"], normalize_embeddings=True))


def test_too_long_a_text(limited: Any, client: TestClient, model: Any) -> None:
    texts = ["a dog", "the cat " * 20]
    np.testing.assert_array_equal(rows(embed(client, input=texts)), model.encode(texts, normalize_embeddings=True))
    response = limited(truncate=False).post("/v1/embeddings", json={"input": texts})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert response.json()["error"]["message"] == "input[1] has more than 12 tokens, and truncation is off"


def test_too_large_a_body(limited: Any) -> None:
    small = limited(body_bytes=100)
    assert small.post("/v1/embeddings", json={"input": "a"}).status_code == 200
    response = small.post("/v1/embeddings", json={"input": "a" * 100})
    assert (response.status_code, response.json()["error"]["type"]) == (413, "invalid_request_error")
    # Without Content-Length.
    chunked = small.post("/v1/embeddings", content=iter([b'{"input": "' + b"a" * 60, b"a" * 60]))
    assert chunked.status_code == 413


def test_unknown_paths_and_methods(client: TestClient) -> None:
    response = client.post("/v1/completions", json={})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
    assert client.get("/v1/embeddings").status_code == 405
    assert client.get("/v1/embeddings").json()["error"]["message"] == "/v1/embeddings does not take GET"
    assert client.get("/nothing").json()["error_type"] == "Validation"
