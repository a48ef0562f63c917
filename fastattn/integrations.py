"""Adapters of a model for libraries with an embedding class of their own: KeyBERT, BERTopic, LangChain, Chroma.

Each adapter derives from the base class that the library documents for other models.  KeyBERT and BERTopic silently replace an
object of any other class by their default model.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["bertopic_backend", "chroma_embedding_function", "keybert_backend", "langchain_embeddings"]


def keybert_backend(model: SentenceTransformer, **encode_kwargs: Any) -> Any:
    """Return a KeyBERT backend, for ``keybert.KeyBERT(model=...)``.

    Parameters
    ----------
    model : SentenceTransformer
        Embeds documents and words.
    **encode_kwargs
        Arguments of `SentenceTransformer.encode`.

    Returns
    -------
    keybert.backend.BaseEmbedder

    Raises
    ------
    ImportError
        KeyBERT is not installed.
    """
    return _backend("keybert.backend")(model, encode_kwargs)


def bertopic_backend(model: SentenceTransformer, **encode_kwargs: Any) -> Any:
    """Return a BERTopic backend, for ``bertopic.BERTopic(embedding_model=...)``.

    Parameters
    ----------
    model : SentenceTransformer
        Embeds documents and words.
    **encode_kwargs
        Arguments of `SentenceTransformer.encode`.

    Returns
    -------
    bertopic.backend.BaseEmbedder

    Raises
    ------
    ImportError
        BERTopic is not installed.
    """
    return _backend("bertopic.backend")(model, encode_kwargs)


def langchain_embeddings(model: SentenceTransformer, **encode_kwargs: Any) -> Any:
    """Return a LangChain embeddings object, for the argument ``embedding`` of vector stores.

    Parameters
    ----------
    model : SentenceTransformer
        Embeds documents with `encode_document` and queries with `encode_query`.
    **encode_kwargs
        Arguments of `SentenceTransformer.encode`.

    Returns
    -------
    langchain_core.embeddings.Embeddings

    Raises
    ------
    ImportError
        langchain-core is not installed.
    """
    return _langchain_class()(model, encode_kwargs)


def chroma_embedding_function(model: SentenceTransformer, **encode_kwargs: Any) -> Any:
    """Return a Chroma embedding function, for the argument ``embedding_function`` of collections.

    A persistent collection stores the path of the model's folder, and loads the model from there when it is opened without an
    embedding function.  Call `chroma_embedding_function` once before in that process: the call registers the class in Chroma.

    Parameters
    ----------
    model : SentenceTransformer
        Embeds documents with `encode_document` and queries with `encode_query`.
    **encode_kwargs
        Arguments of `SentenceTransformer.encode` that can be stored as JSON.

    Returns
    -------
    chromadb.EmbeddingFunction

    Raises
    ------
    ImportError
        chromadb is not installed.
    """
    return _chroma_class()(model, encode_kwargs)


@functools.cache
def _backend(package: str) -> Any:
    """Return the backend class for KeyBERT or BERTopic, whose base classes have the same interface."""
    base = importlib.import_module(package).BaseEmbedder

    class Backend(base):  # type: ignore[misc, valid-type]
        """Embeds with a fastattn model."""

        def __init__(self, model: SentenceTransformer, encode_kwargs: dict[str, Any]) -> None:
            super().__init__()
            self.embedding_model = model
            self.encode_kwargs = encode_kwargs

        def embed(self, documents: list[str], verbose: bool = False) -> Any:
            """Embed documents or words."""
            return self.embedding_model.encode(documents, show_progress_bar=verbose, **self.encode_kwargs)

    return Backend


@functools.cache
def _langchain_class() -> Any:
    base = importlib.import_module("langchain_core.embeddings").Embeddings

    class Embeddings(base):  # type: ignore[misc, valid-type]
        """Embeds with a fastattn model."""

        def __init__(self, model: SentenceTransformer, encode_kwargs: dict[str, Any]) -> None:
            self.model = model
            self.encode_kwargs = encode_kwargs

        def embed_documents(self, texts: list[str]) -> Any:
            """Embed documents."""
            return self.model.encode_document(texts, **self.encode_kwargs).tolist()

        def embed_query(self, text: str) -> Any:
            """Embed a query."""
            return self.model.encode_query(text, **self.encode_kwargs).tolist()

    return Embeddings


@functools.cache
def _chroma_class() -> Any:
    base = importlib.import_module("chromadb").EmbeddingFunction
    register = importlib.import_module("chromadb.utils.embedding_functions").register_embedding_function

    class FastattnEmbeddingFunction(base):  # type: ignore[misc, valid-type]
        """Embeds with a fastattn model."""

        def __init__(self, model: SentenceTransformer, encode_kwargs: dict[str, Any]) -> None:
            self.model = model
            self.encode_kwargs = encode_kwargs

        def __call__(self, input: list[str]) -> Any:
            """Embed documents."""
            return list(self.model.encode_document(list(input), **self.encode_kwargs))

        def embed_query(self, input: list[str]) -> Any:
            """Embed queries."""
            return [np.asarray(row) for row in self.model.encode_query(list(input), **self.encode_kwargs)]

        @staticmethod
        def name() -> str:
            """Return the name that a collection stores."""
            return "fastattn"

        def default_space(self) -> str:
            """Return Chroma's name of the model's similarity."""
            return {"cosine": "cosine", "dot": "ip"}.get(self.model.similarity_fn_name, "l2")

        def get_config(self) -> dict[str, Any]:
            """Return the configuration that a collection stores."""
            return {"model_name_or_path": str(self.model.folder), "encode_kwargs": self.encode_kwargs}

        @staticmethod
        def build_from_config(config: dict[str, Any]) -> Any:
            """Rebuild the function from a stored configuration."""
            from fastattn.text.sentence_transformer import SentenceTransformer

            return FastattnEmbeddingFunction(SentenceTransformer(config["model_name_or_path"]), config["encode_kwargs"])

    return register(FastattnEmbeddingFunction)
