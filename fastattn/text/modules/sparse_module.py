"""SparseModule, the base class of the modules whose output has few active dimensions."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fastattn.text.modules.module import SENTENCE, Features, Module
from fastattn.text.sparse_embeddings import SparseEmbeddings

__all__ = ["SparseModule"]


class SparseModule(Module):
    """Last module of a sparse model: writes one sparse embedding per text."""

    library: ClassVar[str | None] = "sentence_transformers.sparse_encoder.models"

    def _sparse(self, features: Features, offsets: NDArray[np.int64], most: int | None) -> SparseEmbeddings:
        """Return the embeddings (B, V) with at most `most` active dimensions each; None keeps all."""
        raise NotImplementedError

    def _apply(self, features: Features, offsets: NDArray[np.int64], prompt_tokens: int) -> None:
        """Write the dense embeddings into `features`."""
        features[SENTENCE] = self._sparse(features, offsets, None).toarray()
