"""Embedding model of the program ``llm``, and the plugin that registers the default model as ``fastattn``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import llm

from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["FastattnModel", "register_embedding_models"]


class FastattnModel(llm.EmbeddingModel):
    """Embeds with a fastattn model: documents, because ``llm`` does not say what is a query."""

    def __init__(self, model_id: str, model: SentenceTransformer | None, encode_kwargs: dict[str, Any]) -> None:
        self.model_id = model_id
        self.model = model
        self.encode_kwargs = encode_kwargs

    def embed_batch(self, items: Iterable[str | bytes]) -> Iterator[list[float]]:
        """Embed texts; the default model is loaded on the first call."""
        if self.model is None:
            self.model = SentenceTransformer()
        texts: Any = list(items)
        yield from self.model.encode(texts, **self.encode_kwargs).tolist()


@llm.hookimpl
def register_embedding_models(register: Any) -> None:
    """Register the default model."""
    register(FastattnModel("fastattn/all-MiniLM-L6-v2", None, {}), aliases=("fastattn",))
