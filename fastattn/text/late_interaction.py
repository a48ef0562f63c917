"""TaskPipeline: texts to the token embeddings that are scored, for queries or for documents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.encoder.padding import places
from fastattn.runtime.rounding import rounding
from fastattn.text.batches import TextBatch
from fastattn.text.modules import Module
from fastattn.text.modules.input_module import with_limit
from fastattn.text.modules.module import TOKENS
from fastattn.text.pipeline import Pipeline
from fastattn.text.query_expansion import expansion_token
from fastattn.tokenizer.tokenizer import TokenIds

__all__ = ["TaskPipeline"]


class TaskPipeline(Pipeline):
    """Modules in a row, for texts of a task.

    Parameters
    ----------
    modules : sequence of Module
        A Transformer, and the modules that follow it.
    task : str, optional
        "query" and "document" have their own number of tokens, and a query its expansion.
    limit : int, optional
        Maximum number of tokens of this call.
    """

    knows_tasks = True

    def __init__(self, modules: Sequence[Module], task: str | None = None, limit: int | None = None) -> None:
        super().__init__(modules)
        self.task = task
        self.token_names |= {"input_ids", "token_type_ids", "attention_mask", "query_expansion_positions"}
        expansion = self.transformer.query_expansion if task == "query" else None
        self._length, self._token = 0, 0
        self.attends = True
        """Whether a query's own tokens see those that expand it."""
        if expansion is not None:
            self._length, self.attends = expansion["length"], expansion["attend"]
            self._token = expansion_token(expansion, self.transformer.tokenizer)
            if expansion["strategy"] == "fixed":
                limit = self._length
            elif limit is None and self.transformer.query_length is not None:
                limit = max(self.transformer.query_length, self._length)
        elif limit is None and task in ("query", "document"):
            limit = self.transformer.query_length if task == "query" else self.transformer.document_length
        if limit is not None:
            self.first = with_limit(self.transformer, min(limit, self.transformer.max_positions))

    def expanded(self, found: TokenIds) -> tuple[TokenIds, NDArray[np.int64] | None]:
        """Return token ids with a query's expansion, and how many of each text are its own; None where nothing is expanded."""
        if not self._length:
            return found, None
        own = np.array([len(row) for row in found.ids], np.int64)
        missing = np.maximum(self._length - own, 0)
        ids = [np.append(row, np.full(count, self._token, np.int32)) for row, count in zip(found.ids, missing, strict=True)]
        types = found.types
        if types is not None:
            types = [np.append(row, np.zeros(count, np.int32)) for row, count in zip(types, missing, strict=True)]
        return TokenIds(ids, types, found.truncated), own

    def _packed(self, found: TokenIds, start: int, batch_tokens: int | None) -> list[TextBatch]:
        """Expand the queries of a slice, and pack all."""
        found, own = self.expanded(found)
        batches = super()._packed(found, start, batch_tokens)
        return batches if own is None else [batch._replace(own=own[batch.rows - start]) for batch in batches]

    @rounding()
    def features(self, batch: TextBatch, prompt_tokens: int = 0) -> dict[str, Any]:
        """Return the outputs of all modules for a batch, and what they read: ids, mask, expansion, task."""
        ids, offsets, own = batch.ids, np.asarray(batch.offsets, np.int64), batch.own
        features: dict[str, Any] = {"input_ids": ids, "task": self.task}
        if batch.types is not None:
            features["token_type_ids"] = batch.types
        mask = np.ones(len(ids), np.bool_)
        if own is not None:
            expanded = places(offsets) >= np.repeat(own, np.diff(offsets))
            features["query_expansion_positions"] = expanded
            mask = mask if self.attends else ~expanded
        keys = None if self.attends else own
        features["attention_mask"] = mask
        features[TOKENS] = self.transformer.encoder._encode(ids, offsets, batch.types, keys=keys)
        for module in self.modules[1:]:
            module._apply(features, offsets, prompt_tokens)
        return features

    def scored(self, batch: TextBatch) -> Iterator[NDArray[np.float32]]:
        """Yield the token embeddings of each text that are scored."""
        features = self.features(batch)
        tokens, mask = features[TOKENS], features["attention_mask"]
        for first, last in itertools.pairwise(batch.offsets.tolist()):
            yield tokens[first:last][mask[first:last]]
