"""Adapters of a model for libraries with an embedding class of their own, such as BERTopic, LangChain and LlamaIndex.

Each adapter derives from the base class that the library documents for other models.  KeyBERT and BERTopic silently replace an
object of any other class by their default model.  A library is imported by the module that has its adapter, on the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = [
    "bertopic_backend",
    "chonkie_embeddings",
    "chroma_embedding_function",
    "keybert_backend",
    "lancedb_function",
    "langchain_embeddings",
    "llama_index_embedding",
    "llm_embedding_model",
    "mteb_encoder",
]


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


def llama_index_embedding(model: SentenceTransformer, **encode_kwargs: Any) -> Any:
    """Return a LlamaIndex embedding, for ``Settings.embed_model`` and indices.

    Parameters
    ----------
    model : SentenceTransformer
        Embeds documents with `encode_document` and queries with `encode_query`.
    **encode_kwargs
        Arguments of `SentenceTransformer.encode`.

    Returns
    -------
    llama_index.core.base.embeddings.base.BaseEmbedding

    Raises
    ------
    ImportError
        llama-index-core is not installed.
    """
    from fastattn.integrations.llama_index import FastattnEmbedding

    return FastattnEmbedding(model, encode_kwargs)


def lancedb_function(model: SentenceTransformer, **encode_kwargs: Any) -> Any:
    """Return a LanceDB embedding function, for ``SourceField`` and ``VectorField`` of a table.

    A table stores the path of the model's folder, and makes the function again from it.  Import `fastattn.integrations.lancedb`
    before an existing table is opened: the import registers the function in LanceDB.

    Parameters
    ----------
    model : SentenceTransformer
        Embeds documents with `encode_document` and queries with `encode_query`.
    **encode_kwargs
        Arguments of `SentenceTransformer.encode` that can be stored as JSON.

    Returns
    -------
    lancedb.embeddings.TextEmbeddingFunction

    Raises
    ------
    ImportError
        lancedb is not installed.
    """
    from fastattn.integrations.lancedb import FastattnFunction

    return FastattnFunction.of(model, encode_kwargs)


def chonkie_embeddings(model: SentenceTransformer, **encode_kwargs: Any) -> Any:
    """Return a Chonkie embeddings, for the argument ``embedding_model`` of chunkers.

    Parameters
    ----------
    model : SentenceTransformer
        Embeds sentences and chunks.
    **encode_kwargs
        Arguments of `SentenceTransformer.encode`.

    Returns
    -------
    chonkie.embeddings.BaseEmbeddings

    Raises
    ------
    ImportError
        chonkie is not installed.
    """
    from fastattn.integrations.chonkie import FastattnEmbeddings

    return FastattnEmbeddings(model, encode_kwargs)


def mteb_encoder(model: SentenceTransformer, **encode_kwargs: Any) -> Any:
    """Return a MTEB encoder, for ``mteb.evaluate``.

    Parameters
    ----------
    model : SentenceTransformer
        Embeds documents with `encode_document`, queries with `encode_query`, other texts with `encode`.
    **encode_kwargs
        Arguments of `SentenceTransformer.encode`.

    Returns
    -------
    mteb.models.abs_encoder.AbsEncoder

    Raises
    ------
    ImportError
        mteb is not installed.
    """
    from fastattn.integrations.mteb import FastattnEncoder

    return FastattnEncoder(model, encode_kwargs)


def llm_embedding_model(model: SentenceTransformer, **encode_kwargs: Any) -> Any:
    """Return an embedding model of the program ``llm``, for ``llm.Collection`` and its plugins.

    Where ``llm`` is installed too, ``llm embed -m fastattn`` embeds with the default model.

    Parameters
    ----------
    model : SentenceTransformer
        Embeds texts.
    **encode_kwargs
        Arguments of `SentenceTransformer.encode`.

    Returns
    -------
    llm.EmbeddingModel

    Raises
    ------
    ImportError
        llm is not installed.
    """
    from fastattn.integrations.llm import FastattnModel

    name = "local" if model.folder is None else model.folder.name
    return FastattnModel(f"fastattn/{name}", model, encode_kwargs)
