"""Checks of the inputs of encode, predict and preprocess."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastattn.tokenizer.inputs import check_inputs, check_pair

__all__ = ["checked", "pairs_of", "texts_of"]


def texts_of(inputs: str | Iterable[str]) -> list[str]:
    """Return the texts as a list; TypeError if an element is not a str."""
    if isinstance(inputs, str):
        return [inputs]
    if isinstance(inputs, (bytes, Mapping)) or not isinstance(inputs, Iterable):
        raise TypeError(f"inputs must be a str or a list of str, got {type(inputs).__name__}")
    texts = inputs if isinstance(inputs, list) else list(inputs)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"inputs[{i}] must be a str, got {type(text).__name__}")
    return texts


def pairs_of(inputs: Any) -> list[tuple[str, str]]:
    """Return the pairs as a list; TypeError if an element is not a pair of str."""
    if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Iterable):
        raise TypeError(f"inputs must be pairs of str, got {type(inputs).__name__}")
    pairs = []
    for i, pair in enumerate(inputs):
        check_pair(pair, f"inputs[{i}]")
        pairs.append((pair[0], pair[1]))
    return pairs


def checked(inputs: Sequence[Any]) -> list[Any]:
    """Return texts, or pairs of texts, as a list; TypeError for any other item, or if texts and pairs are mixed."""
    found = list(inputs)
    if check_inputs(found, "inputs"):
        first = isinstance(found[0], str)
        for i, item in enumerate(found):
            if isinstance(item, str) != first:
                kind = "a str" if first else "a pair of str"
                raise TypeError(f"inputs[{i}] must be {kind}, as inputs[0] is, got {type(item).__name__}")
    return found
