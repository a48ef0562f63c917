"""Embedding function of Chroma."""

from __future__ import annotations

from typing import Any

import numpy as np
from chromadb import EmbeddingFunction
from chromadb.utils.embedding_functions import register_embedding_function

from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["FastattnEmbeddingFunction"]


@register_embedding_function
class FastattnEmbeddingFunction(EmbeddingFunction):
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
        config = {"model_name_or_path": str(self.model.folder), "encode_kwargs": self.encode_kwargs}
        return config if self.model.precision == "float32" else {**config, "precision": self.model.precision}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> FastattnEmbeddingFunction:
        """Rebuild the function from a stored configuration."""
        model = SentenceTransformer(config["model_name_or_path"], precision=config.get("precision"))
        return FastattnEmbeddingFunction(model, config["encode_kwargs"])
