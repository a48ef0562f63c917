"""Computes the attention of a model on one text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import transformer_folder
from fastattn.checkpoint.hub import DEFAULT_MODEL, find_model
from fastattn.config import Precision
from fastattn.text.modules import Transformer

__all__ = ["Reading", "read_attention"]


class Reading(NamedTuple):
    """A text, its tokens, and their attention in a model.

    Parameters
    ----------
    text : str
        The text.
    model : str
        The model's name.
    ids : int64, (T,)
        Token ids of the text.
    labels : list of str, T
        The part of the text of each token, after a dot if the token continues a word; special tokens by their names.
    special : bool, (T,)
        True for the special tokens, which the tokenizer added.
    attention : float32, (layers, H, T, T)
        Weight of token s in the attention of token t, at [layer, head, t, s].
    truncated : bool
        Whether the text was cut to the model's maximum length.
    """

    text: str
    model: str
    ids: NDArray[np.int64]
    labels: list[str]
    special: NDArray[np.bool_]
    attention: NDArray[np.float32]
    truncated: bool


def read_attention(text: str, model: str | os.PathLike[str] | None = None, precision: Precision = "float32") -> Reading:
    """Encode a text, cut at the model's length, and return the attention of every layer and head."""
    if not text:
        raise ValueError("the text is empty: give at least one word")
    transformer = Transformer(transformer_folder(find_model(model)), precision=precision)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the text is not valid Unicode: it holds half a surrogate pair")
    tokenizer = transformer.tokenizer.backend_tokenizer
    room = max(0, transformer.max_seq_length - transformer.tokenizer.num_special)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    truncated = len(encoding.ids) > room
    encoding.truncate(room, direction=transformer.tokenizer.truncation_side)
    encoding = tokenizer.post_process(encoding)
    if not encoding.ids:
        raise ValueError("the text has no tokens: give at least one word")
    ids = np.array(encoding.ids, np.int64)
    typed = "token_type_ids" in transformer.tokenizer.model_input_names
    types = np.array([encoding.type_ids]) if typed else None
    attention = transformer.encoder(ids[None], token_type_ids=types, return_attention=True)[1][:, 0]
    special = np.array(encoding.special_tokens_mask, np.bool_)
    name = Path(DEFAULT_MODEL if model is None else model).name
    return Reading(text, name, ids, _labels(text, encoding), special, attention, truncated)


def _labels(text: str, encoding: Any) -> list[str]:
    """Return the label of each token."""
    labels = []
    words = encoding.word_ids
    for i, (token, special, (start, stop)) in enumerate(
        zip(encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
    ):
        part = " ".join(text[start:stop].split())
        if not special and not part and not token.strip("Ġ▁ĉĊ \t\n"):
            part = "␣"
        elif special or not part or token in ("[UNK]", "<unk>"):
            part = token
        elif i and words[i] is not None and words[i] == words[i - 1]:
            part = f"·{part}"
        labels.append(part)
    return labels
