"""Embedding function of LanceDB, which makes its functions again from the name that a table stores."""

from __future__ import annotations

import weakref
from typing import Any

from lancedb.embeddings import TextEmbeddingFunction, register

from fastattn.config import check_precision
from fastattn.text.sentence_transformer import SentenceTransformer

__all__ = ["FastattnFunction"]

# Models in use, by the name and the precision that a table stores.
_MODELS: weakref.WeakValueDictionary[tuple[str, str], SentenceTransformer] = weakref.WeakValueDictionary()


@register("fastattn")
class FastattnFunction(TextEmbeddingFunction):
    """Embeds with the fastattn model of a name."""

    name: str
    # Not a type of this module, which pydantic would have to find.
    encode_kwargs: dict = {}  # type: ignore[type-arg] # noqa: RUF012
    precision: str = "float32"

    @classmethod
    def of(cls, model: SentenceTransformer, encode_kwargs: dict[str, Any]) -> FastattnFunction:
        """Return the function of a model, whose folder is its name."""
        name = str(model.folder)
        _MODELS[name, model.precision] = model
        found: FastattnFunction = cls.create(name=name, encode_kwargs=encode_kwargs, precision=model.precision)
        found._loaded()
        return found

    def _loaded(self) -> SentenceTransformer:
        """Return the model; load it if no other function has."""
        if "_model" not in self.__dict__:
            key = self.name, self.precision
            found = _MODELS.get(key) or SentenceTransformer(self.name, precision=check_precision(self.precision))
            _MODELS[key] = self.__dict__["_model"] = found
        model: SentenceTransformer = self.__dict__["_model"]
        return model

    def ndims(self) -> int:
        """Return the number of channels."""
        return self._loaded().get_embedding_dimension()

    def compute_query_embeddings(self, query: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Embed a query."""
        return list(self._loaded().encode_query(self.sanitize_input(query), **self.encode_kwargs))

    def generate_embeddings(self, texts: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Embed documents."""
        return list(self._loaded().encode_document(list(texts), **self.encode_kwargs))
