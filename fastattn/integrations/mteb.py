"""Encoder class of MTEB."""

from __future__ import annotations

from typing import Any

from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta

from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["FastattnEncoder"]


class FastattnEncoder(AbsEncoder):
    """Embeds with a fastattn model: queries and documents with its own prompts."""

    def __init__(self, model: SentenceTransformer, encode_kwargs: dict[str, Any]) -> None:
        self.model = model
        self.encode_kwargs = encode_kwargs
        name = "local" if model.folder is None else model.folder.name
        # MTEB keeps results by this name.
        name = name if model.precision == "float32" else f"{name}-{model.precision}"
        self.mteb_model_meta = ModelMeta.create_empty(overwrites={"name": f"fastattn/{name}", "revision": "local"})

    def encode(self, inputs: Any, *, prompt_type: Any = None, **kwargs: Any) -> Any:
        """Embed the texts of a task; the other arguments describe the task."""
        texts = [text for batch in inputs for text in batch["text"]]
        methods = {"query": self.model.encode_query, "document": self.model.encode_document}
        method = methods.get(getattr(prompt_type, "value", prompt_type), self.model.encode)
        return method(texts, **self.encode_kwargs)
