"""Checks of the texts, pairs and ids that a tokenizer is called with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["check_inputs", "check_pair", "check_unicode", "kind_of", "longest_first"]


# Largest id that the tokenizers library accepts, and largest length to which a text is padded.
_MOST_ID = 2**32 - 1
LONGEST = 2**31 - 1
# Types of pandas' missing values beside None and NaN.
_MISSING = ("NAType", "NaTType")


def check_inputs(inputs: Sequence[Any], name: str, start: int = 0) -> bool:
    """Tell whether any input is a pair of texts; TypeError for an input that is neither a str nor a pair of str.

    `start` is the index of the first input in error messages.
    """
    if all(isinstance(item, str) for item in inputs):
        return False
    for i, item in enumerate(inputs, start):
        if not isinstance(item, str):
            check_pair(item, f"{name}[{i}]", "a str or a pair of str")
    return True


def check_pair(item: Any, name: str, wanted: str = "a pair of str") -> None:
    """Raise a TypeError unless `item` is a pair of str."""
    if not isinstance(item, (list, tuple, np.ndarray)) or getattr(item, "ndim", 1) == 0 or len(item) != 2:
        raise TypeError(f"{name} must be {wanted}, got {kind_of(item)}")
    for side, text in enumerate(item):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{side}] must be a str, got {kind_of(text)}")


def kind_of(item: Any) -> str:
    """Return what an error message calls an input: its type, and its length, or that it may be a missing value."""
    kind = type(item).__name__
    if item is None or kind in _MISSING or (isinstance(item, float) and item != item):
        return f"{kind}, perhaps a missing value"
    if isinstance(item, np.ndarray) and item.ndim == 0:
        return f"{kind} of 0 dimensions"
    return f"{kind} of {len(item)}" if isinstance(item, (list, tuple, np.ndarray)) else kind


def check_unicode(text: str, name: str) -> None:
    """Raise a ValueError unless a text is valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not valid Unicode: it holds half a surrogate pair") from None


def check_ids(name: str, ids: Sequence[int]) -> None:
    """Raise a ValueError if an id is out of range."""
    for token_id in ids:
        if not 0 <= token_id <= _MOST_ID:
            raise ValueError(f"{name} must be from 0 to {_MOST_ID}, got {token_id}")


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the tokens to keep of each text of a pair: the longer text is cut to the other's length, then both."""
    short, long = sorted((first, second))
    if short + long <= room:
        return first, second
    kept = room - short
    if kept < short:
        short, kept = room // 2, room - room // 2
    return (kept, short) if first > second else (short, kept)
