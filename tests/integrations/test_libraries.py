"""KeyBERT, BERTopic, LangChain and Chroma from PyPI, with a model of this package.

Each runs twice: by our documented adapter, and by its own sentence-transformers backend with our class patched in.  Results must
equal those with sentence-transformers itself.
"""

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.checkpoint.hub import find_model
from fastattn.integrations import bertopic_backend, chroma_embedding_function, keybert_backend, langchain_embeddings
from tests.support.texts import texts

# Warnings of these libraries and their dependencies are not ours.
pytestmark = [pytest.mark.jit, pytest.mark.filterwarnings("ignore")]

FOLDER = str(find_model())
QUERIES = ["How is a file compressed?", "parse an e-mail message", "dates and times"]


def module(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return [text for text in texts() if 100 < len(text) < 700 and text.isascii()][:120]


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    return SentenceTransformer(FOLDER)


@pytest.fixture(scope="module")
def peer() -> Any:
    return module("sentence_transformers").SentenceTransformer(FOLDER, device="cpu")


def test_keybert(model: SentenceTransformer, peer: Any, documents: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    keybert = module("keybert")
    options: dict[str, Any] = {"keyphrase_ngram_range": (1, 2), "use_mmr": True, "diversity": 0.4, "top_n": 4}
    expected = keybert.KeyBERT(model=peer).extract_keywords(documents[:12], **options)
    found = keybert.KeyBERT(model=keybert_backend(model)).extract_keywords(documents[:12], **options)
    assert_same_keywords(found, expected)
    own = importlib.import_module("keybert.backend._sentencetransformers")
    monkeypatch.setattr(own, "SentenceTransformer", SentenceTransformer)
    assert_same_keywords(
        keybert.KeyBERT(model=own.SentenceTransformerBackend(model)).extract_keywords(documents[:12], **options), expected
    )
    assert_same_keywords(keybert.KeyBERT(model=FOLDER).extract_keywords(documents[:12], **options), expected)


def assert_same_keywords(found: Any, expected: Any) -> None:
    assert [[word for word, _ in words] for words in found] == [[word for word, _ in words] for words in expected]
    scores = [np.array([[score for _, score in words] for words in each]) for each in (found, expected)]
    np.testing.assert_allclose(*scores, atol=2e-4)  # KeyBERT rounds scores to four digits


def test_bertopic(model: SentenceTransformer, peer: Any, documents: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bertopic = module("bertopic")
    decomposition, cluster = module("sklearn.decomposition"), module("sklearn.cluster")

    def topics(embedding_model: Any) -> tuple[Any, Any]:
        # PCA and k-means vary smoothly with the embeddings, unlike the default UMAP and HDBSCAN.
        parts = {"umap_model": decomposition.PCA(5, random_state=0), "hdbscan_model": cluster.KMeans(6, n_init=5, random_state=0)}
        topic_model = bertopic.BERTopic(embedding_model=embedding_model, **parts)
        found, _ = topic_model.fit_transform(documents)
        return found, topic_model.find_topics("compression of files", top_n=3)[0]

    expected = topics(peer)
    assert topics(bertopic_backend(model)) == expected
    own = importlib.import_module("bertopic.backend._sentencetransformers")
    monkeypatch.setattr(own, "SentenceTransformer", SentenceTransformer)
    assert topics(own.SentenceTransformerBackend(model)) == expected
    assert topics(FOLDER) == expected


def test_langchain(model: SentenceTransformer, peer: Any, documents: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stores = module("langchain_core.vectorstores")
    huggingface = module("langchain_huggingface")

    def hits(embedding: Any) -> list[list[tuple[str, float]]]:
        store = stores.InMemoryVectorStore.from_texts(documents, embedding)
        found = (store.similarity_search_with_score(query, k=3) for query in QUERIES)
        return [[(document.page_content, round(score, 4)) for document, score in hit] for hit in found]

    expected = hits(huggingface.HuggingFaceEmbeddings(model_name=FOLDER, model_kwargs={"device": "cpu"}))
    assert hits(langchain_embeddings(model)) == expected
    monkeypatch.setattr(module("sentence_transformers"), "SentenceTransformer", SentenceTransformer)
    options: dict[str, Any] = {"model_kwargs": {"device": "cpu", "trust_remote_code": False}, "encode_kwargs": {"batch_size": 8}}
    theirs = huggingface.HuggingFaceEmbeddings(model_name=FOLDER, **options)
    assert type(theirs._client) is SentenceTransformer
    assert hits(theirs) == expected
    shared = huggingface.HuggingFaceEmbeddings(model_name=FOLDER, multi_process=True)
    np.testing.assert_allclose(shared.embed_documents(QUERIES), model.encode(QUERIES))


def test_chroma(
    model: SentenceTransformer, peer: Any, documents: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chromadb = module("chromadb")
    functions = module("chromadb.utils.embedding_functions")
    settings = chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(tmp_path), settings=settings)
    ids = [str(i) for i in range(len(documents))]

    def hits(name: str, function: Any) -> Any:
        collection = client.create_collection(name, embedding_function=function)
        collection.add(ids=ids, documents=documents)
        return collection.query(query_texts=QUERIES, n_results=3)

    own = functions.SentenceTransformerEmbeddingFunction
    expected = hits("theirs", own(model_name=FOLDER))
    found = hits("ours", chroma_embedding_function(model))
    assert found["ids"] == expected["ids"]
    np.testing.assert_allclose(found["distances"], expected["distances"], atol=1e-5)
    again = chromadb.PersistentClient(str(tmp_path), settings=settings).get_collection("ours")
    assert again.query(query_texts=QUERIES, n_results=3)["ids"] == expected["ids"]
    monkeypatch.setattr(module("sentence_transformers"), "SentenceTransformer", SentenceTransformer)
    monkeypatch.setattr(own, "models", {})
    replaced = own(model_name=FOLDER, normalize_embeddings=True)
    assert type(replaced._model) is SentenceTransformer
    assert hits("replaced", replaced)["ids"] == expected["ids"]
