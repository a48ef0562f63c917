"""Adapters of a model for libraries with an embedding class of their own: KeyBERT, BERTopic, LangChain, Chroma.

Each adapter derives from the base class that the library documents for other models.  KeyBERT and BERTopic silently replace an
object of any other class by their default model.  A library is imported by the module that has its adapter, on the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    from fastattn.integrations.keybert import Backend

    return Backend(model, encode_kwargs)


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
    from fastattn.integrations.bertopic import Backend

    return Backend(model, encode_kwargs)


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
    from fastattn.integrations.langchain import FastattnEmbeddings

    return FastattnEmbeddings(model, encode_kwargs)


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
    from fastattn.integrations.chroma import FastattnEmbeddingFunction

    return FastattnEmbeddingFunction(model, encode_kwargs)
