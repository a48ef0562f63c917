"""Adapters over stand-ins of the libraries: what they embed, and that they can be pickled."""

import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer, integrations
from tests.support.models import write_sentence_model

pytestmark = pytest.mark.jit


class Base:
    """Stand-in of the libraries' base classes."""


def register(kind: type) -> type:
    return kind


# Modules of the libraries, and what an adapter takes from them.
LIBRARIES: dict[str, dict[str, Any]] = {
    "keybert.backend": {"BaseEmbedder": Base},
    "bertopic.backend": {"BaseEmbedder": Base},
    "langchain_core.embeddings": {"Embeddings": Base},
    "chromadb": {"EmbeddingFunction": Base},
    "chromadb.utils.embedding_functions": {"register_embedding_function": register},
}
TEXTS = ["the cat sat", "a dog"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return SentenceTransformer(write_sentence_model(tmp_path_factory.mktemp("model")), prompts={"query": "query : "})


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, content in LIBRARIES.items():
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            dotted = ".".join(parts[:i])
            if dotted not in LIBRARIES or i == len(parts):
                stand_in = ModuleType(dotted)
                stand_in.__dict__.update(content if i == len(parts) else {}, __path__=[])
                monkeypatch.setitem(sys.modules, dotted, stand_in)
    adapters = [path.stem for path in Path(integrations.__file__).parent.glob("[a-z]*.py")]
    names = [f"fastattn.integrations.{stem}" for stem in adapters]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


EMBED: dict[str, Any] = {
    "keybert_backend": lambda adapter: adapter.embed(TEXTS),
    "bertopic_backend": lambda adapter: adapter.embed(TEXTS, verbose=False),
    "langchain_embeddings": lambda adapter: adapter.embed_documents(TEXTS),
    "chroma_embedding_function": lambda adapter: adapter(TEXTS),
}
QUERY: dict[str, Any] = {
    "langchain_embeddings": lambda adapter: adapter.embed_query(TEXTS[0]),
    "chroma_embedding_function": lambda adapter: adapter.embed_query(TEXTS[:1])[0],
}


def test_every_adapter_is_tried() -> None:
    assert set(EMBED) == set(integrations.__all__)


@pytest.mark.parametrize("name", EMBED)
def test_adapter(name: str, model: SentenceTransformer) -> None:
    adapter = getattr(integrations, name)(model, normalize_embeddings=True)
    assert isinstance(adapter, Base)
    for one in (adapter, pickle.loads(pickle.dumps(adapter))):
        np.testing.assert_array_equal(np.array(EMBED[name](one), np.float32), model.encode(TEXTS, normalize_embeddings=True))
        if name in QUERY:
            expected = model.encode_query(TEXTS[0], normalize_embeddings=True)
            np.testing.assert_array_equal(np.array(QUERY[name](one), np.float32), expected)


def test_a_pickle_is_read_where_nothing_was_made(model: SentenceTransformer) -> None:
    content = pickle.dumps(integrations.keybert_backend(model))
    del sys.modules["fastattn.integrations.keybert"]
    again = pickle.loads(content)
    assert type(again) is importlib.import_module("fastattn.integrations.keybert").Backend


def test_library_that_is_missing(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keybert", None)
    monkeypatch.delitem(sys.modules, "keybert.backend")
    with pytest.raises(ImportError, match="keybert"):
        integrations.keybert_backend(model)
