"""SparsePipeline: from texts to sparse embeddings, by the modules of a task."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastattn.encoder.heads import EncoderForMaskedLM
from fastattn.runtime.rounding import rounding
from fastattn.text.batches import TextBatch
from fastattn.text.modules import Module, SparseStaticEmbedding, Transformer
from fastattn.text.modules.module import IDS, LOGITS, SENTENCE
from fastattn.text.modules.sparse_module import SparseModule
from fastattn.text.routed_pipeline import RoutedPipeline
from fastattn.text.sparse_embeddings import SparseEmbeddings

__all__ = ["SparsePipeline"]


class SparsePipeline(RoutedPipeline):
    """The modules of a sparse model in a row: a Transformer or a SparseStaticEmbedding, and those that follow it."""

    first_kinds: ClassVar[tuple[type[Module], ...]] = (Transformer, SparseStaticEmbedding)
    first_names: ClassVar[tuple[str, ...]] = ("Transformer", "SparseStaticEmbedding")

    def _read(self, batch: TextBatch) -> dict[str, Any]:
        """Return what the first module makes of a batch."""
        features: dict[str, Any] = {IDS: batch.ids}
        first = self.modules[0]
        if isinstance(first, Transformer):
            model = first.model
            if isinstance(model, EncoderForMaskedLM):
                features[LOGITS] = model._logits(batch.ids, batch.offsets, batch.types)
            else:
                features[first.output_name] = model.forward_packed(batch.ids, batch.offsets, token_type_ids=batch.types)
        elif batch.ids.size and not 0 <= batch.ids.min() <= batch.ids.max() < self.first.vocab_size:
            wrong = batch.ids[(batch.ids < 0) | (batch.ids >= self.first.vocab_size)][0]
            raise ValueError(f"token ids must be in 0 .. {self.first.vocab_size - 1}, got {wrong}")
        return features

    @rounding()
    def features(self, batch: TextBatch, prompt_tokens: int = 0) -> dict[str, NDArray[np.float32]]:
        """Return the outputs of all modules for a batch, dense, by name; logits of single tokens are never computed."""
        features = self._read(batch)
        for module in self.modules:
            module._apply(features, batch.offsets, prompt_tokens)
        return {name: rows for name, rows in features.items() if name not in (IDS, LOGITS)}

    @rounding()
    def sparse(self, batch: TextBatch, prompt_tokens: int = 0, most: int | None = None) -> SparseEmbeddings:
        """Return the embeddings (B, V) of a batch, with at most `most` active dimensions each."""
        features, last = self._read(batch), self.modules[-1]
        for module in self.modules[:-1]:
            module._apply(features, batch.offsets, prompt_tokens)
        if isinstance(last, SparseModule):
            return last._sparse(features, batch.offsets, most)
        last._apply(features, batch.offsets, prompt_tokens)
        return SparseEmbeddings.from_dense(features[SENTENCE])._largest(most)
