"""Embeddings class of LangChain."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings

from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["FastattnEmbeddings"]


class FastattnEmbeddings(Embeddings):
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
