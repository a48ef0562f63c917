"""What the backends of BERTopic and KeyBERT do: their base classes have one interface."""

from __future__ import annotations

from typing import Any

from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["ModelBackend"]


class ModelBackend:
    """Embeds with a fastattn model; stands before the library's base class."""

    def __init__(self, model: SentenceTransformer, encode_kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.embedding_model = model
        self.encode_kwargs = encode_kwargs

    def embed(self, documents: list[str], verbose: bool = False) -> Any:
        """Embed documents or words."""
        return self.embedding_model.encode(documents, **{"show_progress_bar": verbose, **self.encode_kwargs})
