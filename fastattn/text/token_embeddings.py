"""Features of each text, for `encode` with another `output_value`: token ids, token embeddings, sentence embedding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastattn.runtime.memory import LARGE, check_fits, free_bytes
from fastattn.text.batches import TextBatch, characters, modality
from fastattn.text.modules.module import SENTENCE
from fastattn.text.pipeline import Pipeline

__all__ = ["check_room", "text_features"]


def check_room(pipeline: Pipeline, texts: Sequence[Any], prompt: str, width: int | None = None) -> None:
    """Raise a MemoryError if the token embeddings of all texts, by default the first module's, need more than the free memory."""
    first = pipeline.first
    if first.output_name == SENTENCE:
        return
    token = 4 * (width or first.get_embedding_dimension())
    # An upper bound first, one token per byte: counting the tokens takes time.
    pairs = len(texts) > 0 and not isinstance(texts[0], str)
    special = first.tokenizer.num_special_tokens_to_add(pairs) + len(prompt.encode("utf-8", "replace"))
    most = sum(min(first.max_seq_length, 4 * characters(text) + special) for text in texts)
    free = free_bytes() if token * most >= LARGE else None
    if free is not None and token * most > free:
        check_fits(token * pipeline.count_tokens(texts, prompt), f"token embeddings of {len(texts)} texts")


def text_features(pipeline: Pipeline, batch: TextBatch, skip: int, prompt: str, width: int) -> Iterator[dict[str, Any]]:
    """Yield the token ids, the mask and the outputs of the modules for each text of a batch."""
    features = pipeline.features(batch, skip)
    features[SENTENCE] = features[SENTENCE][:, :width]
    tokenizer, chat = pipeline.first.tokenizer, pipeline.first.chat
    typed = "token_type_ids" in tokenizer.model_input_names
    length = tokenizer.prefix_length(prompt, pipeline.first.max_seq_length) if prompt and chat is None else 0
    for i, first in enumerate(batch.offsets[:-1]):
        tokens = slice(first, batch.offsets[i + 1])
        ids = batch.ids[tokens].astype(np.int64)
        text: dict[str, Any] = {"input_ids": ids}
        if typed:
            text["token_type_ids"] = np.zeros_like(ids) if batch.types is None else batch.types[tokens].astype(np.int64)
        text |= {"attention_mask": np.ones_like(ids), "modality": modality(chat)}
        if prompt and chat is None:
            text["prompt_length"] = length
        # Copies: a view would keep the arrays of the whole batch alive.
        for name, array in features.items():
            text[name] = (array[tokens] if name in pipeline.token_names else array[i]).copy()
        yield text
