"""LlamaIndex, LanceDB, Chonkie, MTEB and llm from PyPI, with the adapter of a model of this package."""

import importlib
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.checkpoint.hub import find_model
from fastattn.integrations import (
    chonkie_embeddings,
    lancedb_function,
    llama_index_embedding,
    llm_embedding_model,
    mteb_encoder,
)
from tests.support.texts import texts

# Warnings of these libraries and their dependencies are not ours.
pytestmark = [pytest.mark.jit, pytest.mark.filterwarnings("ignore")]

QUERY = "How is a file compressed?"


def module(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return [text for text in texts() if 100 < len(text) < 700 and text.isascii()][:60]


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    return SentenceTransformer(find_model())


@pytest.fixture(scope="module")
def nearest(model: SentenceTransformer, documents: list[str]) -> list[str]:
    scores = model.similarity(model.encode_query(QUERY), model.encode_document(documents))[0]
    return [documents[i] for i in np.argsort(-scores)[:3]]


def test_llama_index(model: SentenceTransformer, documents: list[str], nearest: list[str]) -> None:
    core = module("llama_index.core")
    nodes = [importlib.import_module("llama_index.core.schema").TextNode(text=text) for text in documents]
    embedding = llama_index_embedding(model)
    for one in (embedding, pickle.loads(pickle.dumps(embedding))):
        hits = core.VectorStoreIndex(nodes, embed_model=one).as_retriever(similarity_top_k=3).retrieve(QUERY)
        assert [hit.node.text for hit in hits] == nearest


def test_lancedb(model: SentenceTransformer, documents: list[str], nearest: list[str], tmp_path: Path) -> None:
    lancedb = module("lancedb")
    pydantic = importlib.import_module("lancedb.pydantic")
    function = lancedb_function(model, normalize_embeddings=True)

    class Row(pydantic.LanceModel):  # type: ignore[misc, name-defined]
        text: str = function.SourceField()
        vector: pydantic.Vector(function.ndims()) = function.VectorField()  # type: ignore[valid-type]

    table = lancedb.connect(tmp_path).create_table("texts", schema=Row)
    table.add([{"text": text} for text in documents])
    for one in (table, lancedb.connect(tmp_path).open_table("texts")):
        assert [hit["text"] for hit in one.search(QUERY).limit(3).to_list()] == nearest


def test_chonkie(model: SentenceTransformer, documents: list[str]) -> None:
    chonkie = module("chonkie")
    text = " ".join(documents[:20])
    chunks = chonkie.SemanticChunker(embedding_model=chonkie_embeddings(model), chunk_size=128).chunk(text)
    assert len(chunks) > 3
    assert "".join(chunk.text for chunk in chunks) == text


def test_mteb(model: SentenceTransformer, documents: list[str]) -> None:
    mteb = module("mteb")
    encoder = mteb_encoder(model)
    metadata = mteb.get_tasks(tasks=["STS12"])[0].metadata
    batches = [{"text": documents[:4]}, {"text": documents[4:6]}]
    kind = importlib.import_module("mteb.types").PromptType
    for prompt, method in ((None, model.encode), (kind.query, model.encode_query), (kind.document, model.encode_document)):
        found = encoder.encode(batches, task_metadata=metadata, hf_split="test", hf_subset="default", prompt_type=prompt)
        assert np.array_equal(found, method(documents[:6]))
    assert np.array_equal(encoder.similarity(found, found), model.similarity(found, found))
    assert isinstance(encoder, importlib.import_module("mteb.models").EncoderProtocol)


def test_llm(model: SentenceTransformer, documents: list[str], nearest: list[str]) -> None:
    llm = module("llm")
    database = importlib.import_module("sqlite_utils").Database(memory=True)
    collection = llm.Collection("texts", database, model=llm_embedding_model(model))
    collection.embed_multi([(str(i), text) for i, text in enumerate(documents)], store=True)
    assert [hit.content for hit in collection.similar(QUERY, number=3)] == nearest
