"""Embedding class of LlamaIndex."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["FastattnEmbedding"]


class FastattnEmbedding(BaseEmbedding):
    """Embeds with a fastattn model."""

    _model: SentenceTransformer = PrivateAttr()
    _encode_kwargs: dict[str, Any] = PrivateAttr()

    def __init__(self, model: SentenceTransformer, encode_kwargs: dict[str, Any]) -> None:
        # The largest batch that LlamaIndex allows: fastattn makes its own.
        super().__init__(model_name=str(model.folder), embed_batch_size=2048)
        self._model = model
        self._encode_kwargs = encode_kwargs

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores the class."""
        return "FastattnEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        found: list[float] = self._model.encode_query(query, **self._encode_kwargs).tolist()
        return found

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        found: list[list[float]] = self._model.encode_document(texts, **self._encode_kwargs).tolist()
        return found
