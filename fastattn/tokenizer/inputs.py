"""Checks of the texts, pairs and ids that a tokenizer is called with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    pass

__all__ = ["check_inputs", "check_pair", "check_unicode", "longest_first"]


# What the library has for an id, and what no text is padded beyond.
_MOST_ID = 2**32 - 1


LONGEST = 2**31 - 1


def check_inputs(inputs: Sequence[Any], name: str) -> bool:
    """Check texts and pairs of texts.

    Parameters
    ----------
    inputs : sequence of str, or of (str, str)
        What is checked.
    name : str
        Its name, for the message.

    Returns
    -------
    bool
        Whether there is a pair.

    Raises
    ------
    TypeError
        One is neither a str nor a pair of str.
    """
    if all(isinstance(item, str) for item in inputs):
        return False
    for i, item in enumerate(inputs):
        if not isinstance(item, str):
            check_pair(item, f"{name}[{i}]", "a str or a pair of str")
    return True


def check_pair(item: Any, name: str, wanted: str = "a pair of str") -> None:
    """Check a pair of texts.

    Parameters
    ----------
    item : object
        What is checked.
    name : str
        Its name, for the message.
    wanted : str
        What it must be, for the message.

    Raises
    ------
    TypeError
        It is not a pair of str.
    """
    if not isinstance(item, (list, tuple, np.ndarray)) or len(item) != 2:
        size = f" of {len(item)}" if isinstance(item, (list, tuple)) else ""
        raise TypeError(f"{name} must be {wanted}, got {type(item).__name__}{size}")
    for side, text in enumerate(item):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{side}] must be a str, got {type(text).__name__}")


def check_unicode(text: str, name: str) -> None:
    """Raise a ValueError unless a text is valid Unicode.

    Parameters
    ----------
    text : str
        The text.
    name : str
        Its name, for the message.

    Raises
    ------
    ValueError
        It holds half a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not valid Unicode: it holds half a surrogate pair") from None


def check_ids(name: str, ids: Sequence[int]) -> None:
    for token_id in ids:
        if not 0 <= token_id <= _MOST_ID:
            raise ValueError(f"{name} must be from 0 to {_MOST_ID}, got {token_id}")


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How long the texts of a pair may be: the longer one is cut to the other's length, then both.

    Parameters
    ----------
    first, second : int
        Tokens of each.
    room : int
        Tokens that both may have together.

    Returns
    -------
    first, second : int
        Tokens to keep.
    """
    short, long = sorted((first, second))
    if short + long <= room:
        return first, second
    kept = room - short
    if kept < short:
        short, kept = room // 2, room - room // 2
    return (kept, short) if first > second else (short, kept)
