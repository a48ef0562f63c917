"""Embeddings class of Chonkie."""

from __future__ import annotations

from typing import Any

from chonkie.embeddings import BaseEmbeddings

from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["FastattnEmbeddings"]


class FastattnEmbeddings(BaseEmbeddings):
    """Embeds with a fastattn model."""

    def __init__(self, model: SentenceTransformer, encode_kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.encode_kwargs = encode_kwargs

    def embed(self, text: str) -> Any:
        """Embed a text."""
        return self.model.encode(text, **self.encode_kwargs)

    def embed_batch(self, texts: list[str]) -> list[Any]:
        """Embed texts."""
        return list(self.model.encode(texts, **self.encode_kwargs))

    @property
    def dimension(self) -> int:
        """Number of channels."""
        return self.model.get_embedding_dimension()

    def get_tokenizer(self) -> Any:
        """Return the tokenizers library's object, which Chonkie knows: it counts with a call of any other."""
        return self.model.tokenizer.backend_tokenizer
