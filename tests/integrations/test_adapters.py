"""Adapters over stand-ins of the libraries: what they embed, and that they can be pickled."""

import importlib
import itertools
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
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
class Function(Base):
    """Stand-in of LanceDB's base class, whose fields are arguments of `create`."""

    @classmethod
    def create(cls, **fields: Any) -> Any:
        function = cls()
        vars(function).update(fields)
        return function

    def sanitize_input(self, texts: Any) -> list[str]:
        return [texts] if isinstance(texts, str) else list(texts)


class Embedding(Base):
    """Stand-in of LlamaIndex's base class."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)


class Meta(SimpleNamespace):
    """Stand-in of MTEB's description of a model."""

    @classmethod
    def create_empty(cls, overwrites: dict[str, Any]) -> Any:
        return cls(**overwrites)


LIBRARIES: dict[str, dict[str, Any]] = {
    "keybert.backend": {"BaseEmbedder": Base},
    "bertopic.backend": {"BaseEmbedder": Base},
    "langchain_core.embeddings": {"Embeddings": Base},
    "chromadb": {"EmbeddingFunction": Base},
    "chromadb.utils.embedding_functions": {"register_embedding_function": register},
    "chonkie.embeddings": {"BaseEmbeddings": Base},
    "lancedb.embeddings": {"TextEmbeddingFunction": Function, "register": lambda name: register},
    "llama_index.core.base.embeddings.base": {"BaseEmbedding": Embedding},
    "llama_index.core.bridge.pydantic": {"PrivateAttr": lambda: None},
    "llm": {"EmbeddingModel": Base, "hookimpl": register},
    "mteb.models.abs_encoder": {"AbsEncoder": Base},
    "mteb.models.model_meta": {"ModelMeta": Meta},
}
TEXTS = ["the cat sat", "a dog"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return SentenceTransformer(write_sentence_model(tmp_path_factory.mktemp("model")), prompts={"query": "query : "})


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in LIBRARIES:
        for dotted in itertools.accumulate(name.split("."), "{}.{}".format):
            stand_in = ModuleType(dotted)
            vars(stand_in).update(LIBRARIES.get(dotted, {}), __path__=[])
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
    "chonkie_embeddings": lambda adapter: adapter.embed_batch(TEXTS),
    "lancedb_function": lambda adapter: adapter.generate_embeddings(np.array(TEXTS)),
    "llama_index_embedding": lambda adapter: adapter._get_text_embeddings(TEXTS),
    "llm_embedding_model": lambda adapter: list(adapter.embed_batch(iter(TEXTS))),
    "mteb_encoder": lambda adapter: adapter.encode([{"text": TEXTS[:1]}, {"text": TEXTS[1:]}], prompt_type="document"),
}
QUERY: dict[str, Any] = {
    "langchain_embeddings": lambda adapter: adapter.embed_query(TEXTS[0]),
    "chroma_embedding_function": lambda adapter: adapter.embed_query(TEXTS[:1])[0],
    "lancedb_function": lambda adapter: adapter.compute_query_embeddings(TEXTS[0])[0],
    "llama_index_embedding": lambda adapter: adapter._get_query_embedding(TEXTS[0]),
    "mteb_encoder": lambda adapter: adapter.encode([{"text": TEXTS[:1]}], prompt_type=SimpleNamespace(value="query"))[0],
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


def test_a_table_finds_the_model_in_use(model: SentenceTransformer) -> None:
    function = integrations.lancedb_function(model)
    again = type(function).create(name=function.name, encode_kwargs={})
    assert again.ndims() == model.get_embedding_dimension()
    assert again._loaded() is model
    del sys.modules["fastattn.integrations.lancedb"]
    fresh = importlib.import_module("fastattn.integrations.lancedb").FastattnFunction.create(name=function.name, encode_kwargs={})
    assert fresh._loaded() is not model
    np.testing.assert_array_equal(fresh.generate_embeddings(TEXTS), model.encode(TEXTS))


def test_precision_is_stored(model: SentenceTransformer) -> None:
    low = SentenceTransformer(model.folder, precision="bfloat16")
    chroma = [integrations.chroma_embedding_function(one) for one in (model, low)]
    assert "precision" not in chroma[0].get_config()
    for one, precision in zip(chroma, ("float32", "bfloat16"), strict=True):
        assert type(one).build_from_config(one.get_config()).model.precision == precision
    tables = [integrations.lancedb_function(one) for one in (model, low)]
    assert [table._loaded() for table in tables] == [model, low]
    again = type(tables[1]).create(name=tables[1].name, encode_kwargs={}, precision=tables[1].precision)
    assert again._loaded() is low
    names = [integrations.mteb_encoder(one).mteb_model_meta.name for one in (model, low)]
    assert names[1] == f"{names[0]}-bfloat16"


def test_the_plugin_loads_its_model_on_the_first_call(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = importlib.import_module("fastattn.integrations.llm")
    found: list[Any] = []
    plugin.register_embedding_models(lambda one, aliases: found.append((one, aliases)))
    ((one, aliases),) = found
    assert (one.model_id, one.model, aliases) == ("fastattn/all-MiniLM-L6-v2", None, ("fastattn",))
    monkeypatch.setattr(plugin, "SentenceTransformer", lambda: model)
    assert len(list(one.embed_batch(TEXTS))) == 2
    assert one.model is model


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
