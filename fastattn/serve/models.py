"""Models that are served: an embedder, a reranker or a sparse encoder, as tokens of texts to results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from fastattn.checkpoint.hub import find_model
from fastattn.config import Precision
from fastattn.serve.requests import Input, Refused, Settings
from fastattn.text.batches import TextBatch, TokenRow, gathered, groups, pack, rows_of, tokenize
from fastattn.text.cross_encoder import CrossEncoder
from fastattn.text.folder_kind import DENSE, RERANKER, SPARSE, kind_of_folder
from fastattn.text.modules.activations import resolve_activation
from fastattn.text.modules.module import SCORES
from fastattn.text.pipeline import Pipeline
from fastattn.text.prompts import resolve_prompt
from fastattn.text.sentence_transformer import SentenceTransformer
from fastattn.text.sparse_encoder import SparseEncoder
from fastattn.text.sparse_pipeline import SparsePipeline

__all__ = ["Embedder", "Reranker", "Served", "Sparse", "load"]


class Served(ABC):
    """A model under the name that requests give."""

    makes: ClassVar[str]
    kind: ClassVar[str]

    def __init__(self, name: str, model: Any) -> None:
        self.name, self.model = name, model
        for task in model._pipeline.tasks():
            self._pipeline(Settings(task=task)).load_kernels()

    @abstractmethod
    def _results(self, batch: TextBatch, settings: Settings) -> Sequence[Any]:
        """Return the result of each text of a batch."""

    @property
    def most_tokens(self) -> int:
        """Most tokens of a text; a longer one is truncated."""
        return int(self.model.max_seq_length)

    def prompt(self, name: str | None) -> str:
        """Return the prompt of a name, the model's own by default."""
        try:
            return resolve_prompt(self.model.prompts, self.model.default_prompt_name, None, name)
        except ValueError as error:
            raise Refused("field", str(error), "prompt_name") from None

    def _pipeline(self, settings: Settings) -> Pipeline:
        try:
            return cast("Pipeline", self.model._pipeline_of(None, settings.task))
        except ValueError as error:
            raise Refused("field", str(error), "task") from None

    def read(self, inputs: Sequence[Input], settings: Settings, field: str) -> tuple[list[TokenRow], int]:
        """Return the tokens of each input, and the number of inputs that were truncated."""
        first = self._pipeline(settings).first
        most = first.max_seq_length
        if isinstance(inputs[0], list):
            return list(self._checked(cast("Sequence[list[int]]", inputs), first.vocab_size, most, field)), 0
        found: list[TokenRow] = []
        truncated = 0
        for group in groups(inputs, settings.prompt):
            part = tokenize(first.tokenizer, inputs[group], settings.prompt, most, group.start, first.chat)
            if part.truncated and not settings.truncate:
                for i, item in enumerate(inputs[group], group.start):
                    if tokenize(first.tokenizer, [item], settings.prompt, most, i, first.chat).truncated:
                        raise Refused("long", f"{field}[{i}] has more than {most:,} tokens, and truncation is off", field)
            truncated += part.truncated
            found += rows_of(part)
        return found, truncated

    def _checked(self, inputs: Sequence[list[int]], vocabulary: int, most: int, field: str) -> Iterator[TokenRow]:
        """Yield token ids that the client made: they are taken as they are, special tokens included."""
        for i, ids in enumerate(inputs):
            if len(ids) > most:
                raise Refused("long", f"{field}[{i}] has {len(ids):,} token ids, and the model takes {most:,}", field)
            if wrong := [number for number in ids if not 0 <= number < vocabulary]:
                said = f"{wrong[0]!s:.20}, and {self.name} has {vocabulary:,} tokens: use its own tokenizer, or send texts"
                raise Refused("field", f"{field}[{i}] has token id {said}", field)
            yield TokenRow(np.array(ids, np.int32), None)

    def compute(self, texts: Sequence[TokenRow], settings: Settings) -> list[Any]:
        """Return the result of each text, computed in one forward."""
        first, found = self._pipeline(settings).first, gathered(texts)
        size = max(1, sum(map(len, found.ids)))
        (batch,) = pack(found, first.vocab_size, first.tokenizer, 0, size)
        results: list[Any] = [None] * len(texts)
        for row, result in zip(batch.rows, self._results(batch, settings), strict=True):
            results[row] = result
        return results


class Embedder(Served):
    """SentenceTransformer: an array (C,) for a text."""

    makes, kind = "embeddings", "embedding"
    model: SentenceTransformer

    def width(self, task: str | None = None) -> int:
        """Return the number of channels of an embedding, of the route of a task if the model has several."""
        return int(self.model.get_embedding_dimension() or 0) if task is None else self._pipeline(Settings(task=task)).width

    def _results(self, batch: TextBatch, settings: Settings) -> Sequence[Any]:
        pipeline = self._pipeline(settings)
        width = self.model._kept_width(settings.width, pipeline.width)
        rows = pipeline.embeddings(batch, pipeline.prompt_tokens(settings.prompt), width, settings.normalize)
        # Copies: a row of the cache must not keep the whole batch.
        return [row.copy() for row in rows]


class Reranker(Served):
    """CrossEncoder of one label: a score for a pair."""

    makes, kind = "scores of pairs", "rerank"
    model: CrossEncoder

    def _results(self, batch: TextBatch, settings: Settings) -> Sequence[Any]:
        pipeline = self._pipeline(settings)
        logits = pipeline.features(batch, pipeline.prompt_tokens(settings.prompt))[SCORES]
        return list(self.model._activated(logits, resolve_activation(settings.activation), False))


class Sparse(Served):
    """SparseEncoder: the indices and weights of a text that are not 0."""

    makes, kind = "sparse embeddings", "sparse"
    model: SparseEncoder

    def _results(self, batch: TextBatch, settings: Settings) -> Sequence[Any]:
        pipeline = cast("SparsePipeline", self._pipeline(settings))
        found = pipeline.sparse(batch, pipeline.prompt_tokens(settings.prompt), self.model.max_active_dims)
        return [(found.indices[a:b].copy(), found.data[a:b].copy()) for a, b in pairwise(found.indptr)]


def load(model: str | None, precision: Precision = "float32") -> Served:
    """Load a folder, or a name on the Hub, as what it is; ``NAME=FOLDER`` gives it another name than that of the folder."""
    name, path = None, model
    if model is not None and not Path(model).exists() and "=" in model:
        name, _, path = model.partition("=")
    folder = find_model(path)
    if not name:
        name = "all-MiniLM-L6-v2" if path is None else Path(path).resolve().name if Path(path).exists() else path
    kind = kind_of_folder(folder)
    if kind == DENSE:
        return Embedder(name, SentenceTransformer(str(folder), precision=precision))
    if kind == SPARSE:
        return Sparse(name, SparseEncoder(str(folder), precision=precision))
    if kind != RERANKER:
        raise ValueError(f"{model}: is a {kind}, which is not served: give a {DENSE}, a {RERANKER} or a {SPARSE}")
    found = CrossEncoder(str(folder), precision=precision)
    if found.num_labels != 1:
        raise ValueError(f"{model}: gives {found.num_labels} scores for a pair: a reranker that is served needs one")
    return Reranker(name, found)
