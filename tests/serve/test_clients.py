"""Official clients of the interfaces, and the embeddings of LangChain and LlamaIndex that call OpenAI's."""

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from fastattn.serve.app import application
from fastattn.serve.models import Served
from fastattn.serve.service import Limits, Service
from tests.serve.running import running

pytestmark = [pytest.mark.jit, pytest.mark.filterwarnings("ignore")]

TEXTS = ["the cat sat on the mat", "a dog", "the dog sat on a mat"]


@pytest.fixture(scope="module")
def address(models: list[Served]) -> Iterator[str]:
    with running(application(Service(models, Limits(truncate=False)), "secret")) as (port, _):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def truth(models: list[Served]) -> Any:
    return models[0].model.encode(TEXTS, normalize_embeddings=True)


def module(name: str) -> Any:
    return pytest.importorskip(name)


def client_of_openai(address: str, key: str = "secret") -> Any:
    return module("openai").OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)


@pytest.mark.parametrize("form", [None, "float", "base64"])
def test_openai(form: str | None, address: str, truth: Any) -> None:
    client = client_of_openai(address)
    given = {} if form is None else {"encoding_format": form}
    with client:
        found = client.embeddings.create(model="embedder", input=TEXTS, **given)
        rows = [item.embedding for item in found.data]
        if form == "base64":
            rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
        np.testing.assert_array_equal(np.float32(rows), truth)
        assert found.usage.total_tokens == 8 + 4 + 8
        assert {model.id for model in client.models.list()} == {"embedder", "reranker", "sparse"}
        assert client.models.retrieve("embedder").id == "embedder"


def test_errors_of_openai(address: str) -> None:
    openai = module("openai")
    with client_of_openai(address) as client:
        for error, given in (
            (openai.NotFoundError, {"model": "x", "input": "a"}),
            (openai.BadRequestError, {"model": "embedder", "input": ["a"] * 10_000}),
            (openai.BadRequestError, {"model": "embedder", "input": "the cat " * 20}),
            (openai.BadRequestError, {"model": "reranker", "input": "a"}),
        ):
            with pytest.raises(error) as raised:
                client.embeddings.create(**given)
            assert raised.value.body["message"] and raised.value.type == "invalid_request_error"
    with client_of_openai(address, "other") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


@pytest.mark.parametrize("name", ["Client", "ClientV2"])
def test_cohere(name: str, address: str, models: list[Served]) -> None:
    cohere = module("cohere")
    client = getattr(cohere, name)(api_key="secret", base_url=address)
    found = client.rerank(model="reranker", query="a cat", documents=TEXTS, top_n=2)
    scores = models[1].model.predict([("a cat", text) for text in TEXTS], activation_fn="Sigmoid")
    order = sorted(range(3), key=lambda i: -scores[i])[:2]
    assert [(item.index, item.relevance_score) for item in found.results] == [(i, float(scores[i])) for i in order]
    with pytest.raises(cohere.NotFoundError):
        client.rerank(model="x", query="a cat", documents=TEXTS)


def test_langchain(address: str, truth: Any) -> None:
    # Without the last argument it sends token ids of OpenAI's models.
    client = module("langchain_openai").OpenAIEmbeddings(
        base_url=f"{address}/v1", api_key="secret", model="embedder", check_embedding_ctx_length=False
    )
    np.testing.assert_array_equal(np.float32(client.embed_documents(TEXTS)), truth)
    np.testing.assert_array_equal(np.float32(client.embed_query(TEXTS[1])), truth[1])


def test_llama_index(address: str, truth: Any) -> None:
    client = module("llama_index.embeddings.openai").OpenAIEmbedding(
        api_base=f"{address}/v1", api_key="secret", model_name="embedder"
    )
    np.testing.assert_array_equal(np.float32(client.get_text_embedding_batch(TEXTS)), truth)
    np.testing.assert_array_equal(np.float32(client.get_query_embedding(TEXTS[1])), truth[1])
