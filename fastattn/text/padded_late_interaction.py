"""Padded batches of a late-interaction model: `preprocess` makes one, and a call of the model applies its modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.encoder.padding import pack, real_tokens
from fastattn.text.batches import TextBatch, groups, joined, modality, tokenize
from fastattn.text.compatibility import as_tensors, call_limit, is_tensor
from fastattn.text.inputs import items_of
from fastattn.text.late_interaction import TaskPipeline

__all__ = ["ModelTaskCalls"]


class ModelTaskCalls:
    """Calls of a model with padded batches of queries or of documents."""

    _pipeline_for: Callable[[str | None, int | None], TaskPipeline]

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenise texts into padded arrays.

        Parameters
        ----------
        inputs : sequence of str
            The texts.
        prompt : str, optional
            Text that is put before each input.
        **kwargs
            ``task``, "query" or "document"; ``processing_kwargs`` as in `encode`.

        Returns
        -------
        dict of str to int64, (B, T)
            ``input_ids``, ``attention_mask``, ``token_type_ids`` if the tokenizer makes them; ``modality``; bool
            ``query_expansion_positions`` if queries are expanded.

        Raises
        ------
        TypeError
            An input is neither a str nor a pair of str; the message gives the index.
        ValueError
            An argument is unknown, or a text is not valid Unicode.
        """
        pipeline = self._pipeline_for(kwargs.get("task"), call_limit(type(self).preprocess, kwargs))
        tokenizer, limit = pipeline.transformer.tokenizer, pipeline.transformer.max_seq_length
        texts, text, chat = items_of(inputs), prompt or "", pipeline.transformer.chat
        if not texts:
            return {}
        parts = [tokenize(tokenizer, texts[group], text, limit, group.start, chat) for group in groups(texts, text)]
        found, own = pipeline.expanded(joined(parts))
        lengths = np.array([len(row) for row in found.ids], np.int64)
        places = np.arange(lengths.max())
        padded = {"input_ids": np.full((len(texts), len(places)), tokenizer.pad_token_id or 0, np.int64)}
        if "token_type_ids" in tokenizer.model_input_names:
            padded["token_type_ids"] = np.zeros_like(padded["input_ids"])
        for i, row in enumerate(found.ids):
            padded["input_ids"][i, : len(row)] = row
            if found.types is not None and "token_type_ids" in padded:
                padded["token_type_ids"][i, : len(row)] = found.types[i]
        seen = lengths if own is None or pipeline.attends else own
        columns: dict[str, Any] = {
            **padded,
            "attention_mask": (places < seen[:, None]).astype(np.int64),
            "modality": modality(chat),
        }
        if own is not None:
            columns["query_expansion_positions"] = (places >= own[:, None]) & (places < lengths[:, None])
        return columns

    def forward(self, input: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Apply the modules to a padded batch, such as `preprocess` returns.

        Parameters
        ----------
        input : mapping
            ``input_ids`` (B, T); ``attention_mask`` (B, T), bool or 0/1, 1 marks a token that is seen; ``token_type_ids`` (B, T);
            ``query_expansion_positions`` (B, T), behind the texts' own tokens.  Only ``input_ids`` is required.
        **kwargs
            ``task``, "query" or "document".

        Returns
        -------
        dict of str to arrays, or to torch tensors if ``input_ids`` is a tensor
            `input` and the outputs of the modules: ``token_embeddings`` (B, T, C), zeros at padding; ``attention_mask`` (B, T), the
            tokens that are scored.

        Raises
        ------
        TypeError
            ``input_ids`` or ``token_type_ids`` are not whole numbers, or `task` is no name.
        ValueError
            A shape is wrong, an id is out of range, an argument is unknown, or a token that expands a query is before its own.
        """
        if unknown := set(kwargs) - {"task"}:
            raise ValueError(f"forward has no argument {', '.join(sorted(unknown))}")
        if "input_ids" not in input:
            raise ValueError(f"input must have input_ids, got {', '.join(input) or 'nothing'}")
        ids = np.asarray(input["input_ids"])
        if ids.ndim != 2:
            raise ValueError(f"input_ids must have shape (B, T), got {ids.shape}")
        if ids.dtype.kind not in "iu":
            raise TypeError(f"input_ids must be whole numbers, got {ids.dtype}")
        seen = real_tokens(input.get("attention_mask"), ids.shape)
        expanded = real_tokens(input.get("query_expansion_positions", np.zeros(ids.shape, np.bool_)), ids.shape)
        tokens, offsets, types, real = pack(ids, seen | expanded, input.get("token_type_ids"))
        own = None
        pipeline = self._pipeline_for(kwargs.get("task"), None)
        if expanded.any():
            own = (real & ~expanded).sum(axis=1)
            order = np.where(real, expanded, True)
            if (order[:, 1:] < order[:, :-1]).any():
                raise ValueError("query_expansion_positions must be behind the text's own tokens")
            pipeline.attends = bool(seen[expanded].all())
        found = pipeline.features(TextBatch(np.arange(len(ids)), tokens, types, offsets, 0, own))
        result = dict(input)
        for name in ("token_embeddings", "attention_mask"):
            out: NDArray[Any] = np.zeros((*ids.shape, *found[name].shape[1:]), found[name].dtype)
            out[real] = found[name]
            result[name] = as_tensors(out) if is_tensor(input["input_ids"]) else out
        return result

    __call__ = forward
