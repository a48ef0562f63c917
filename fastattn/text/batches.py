"""Groups token ids of many texts into batches: texts of similar length end to end, a bounded number of tokens per batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.tokenizer.chat import Chat
from fastattn.tokenizer.inputs import check_unicode
from fastattn.tokenizer.tokenizer import TokenIds, Tokenizer

__all__ = [
    "LONG",
    "TextBatch",
    "TokenRow",
    "characters",
    "end_to_end",
    "gathered",
    "groups",
    "joined",
    "pack",
    "padded",
    "rows_of",
    "tokenize",
]

# Tokens per forward: enough work for many threads, with hidden states of a few tens of megabytes.
_TOKENS_PER_FORWARD = 16_384
# Limits of one call of the tokenizers library, in texts and in characters: a call cannot be interrupted, and until it returns it
# holds ninety times the memory of the ids that are kept.
_AT_A_TIME = 64
LONG = 200_000


class TextBatch(NamedTuple):
    """Input of one forward: the token ids of several texts, end to end.

    Parameters
    ----------
    rows : int64, (B,)
        Indices of the texts in the inputs.
    ids : int32, (N,)
        Token ids of all texts.
    types : int32, (N,), or None
        Token types of all texts; None means all zeros.
    offsets : int64, (B + 1,)
        Text b has the ids at offsets[b] .. offsets[b + 1] - 1.
    truncated : int
        Truncated texts of a whole call of `pack`, counted in its first batch; 0 in the others.
    own : int64, (B,), or None
        The first own[b] tokens of text b are the text's; those behind them expand a query.  None: all are.
    """

    rows: NDArray[np.int64]
    ids: NDArray[np.int32]
    types: NDArray[np.int32] | None
    offsets: NDArray[np.int64]
    truncated: int
    own: NDArray[np.int64] | None = None


def characters(item: str | Sequence[str]) -> int:
    """Return the number of characters of a text, or of a pair of texts."""
    return len(item) if isinstance(item, str) else len(item[0]) + len(item[1])


def groups(inputs: Sequence[Any], prompt: str = "") -> Iterator[slice]:
    """Split inputs into groups of at most 64 texts and 200,000 characters, prompts included; a longer text is its own group."""
    start, room = 0, LONG
    for i, item in enumerate(inputs):
        size = len(prompt) + characters(item)
        if i > start and (i - start == _AT_A_TIME or size > room):
            yield slice(start, i)
            start, room = i, LONG
        room -= size
    if start < len(inputs):
        yield slice(start, len(inputs))


def tokenize(
    tokenizer: Tokenizer, inputs: Sequence[Any], prompt: str, max_length: int, start: int = 0, chat: Chat | None = None
) -> TokenIds:
    """Tokenise a group of texts or pairs, each after the prompt, or by a chat template; `start` is the first's index in errors."""
    pairs = len(inputs) > 0 and not isinstance(inputs[0], str)
    if prompt and chat is None:
        inputs = [(prompt + first, second) for first, second in inputs] if pairs else [prompt + text for text in inputs]
    rows: Callable[[Sequence[Any], int], TokenIds] = tokenizer.pair_rows if pairs else tokenizer.rows
    try:
        return rows(inputs, max_length) if chat is None else chat.rows(inputs, prompt, max_length)
    except TypeError:
        for i, text in enumerate(inputs):
            for part in (text,) if isinstance(text, str) else text:
                check_unicode(part, f"inputs[{start + i}]")
        raise


def modality(chat: Chat | None) -> str:
    """Return sentence-transformers' name for what a model reads: texts, or messages of a chat template."""
    return "text" if chat is None else "message"


def joined(parts: Sequence[TokenIds]) -> TokenIds:
    """Concatenate the token ids of several groups; a group without token types gets zeros."""
    ids = [row for part in parts for row in part.ids]
    types = None
    if any(part.types is not None for part in parts):
        types = [row for part in parts for row in part.types or [np.zeros(len(row), np.int32) for row in part.ids]]
    return TokenIds(ids, types, sum(part.truncated for part in parts))


class TokenRow(NamedTuple):
    """Token ids of one text or pair, int32 (T,), and their types, None for all zeros; how many of them are a prompt's."""

    ids: NDArray[np.int32]
    types: NDArray[np.int32] | None
    prompt_tokens: int = 0


def rows_of(found: TokenIds) -> list[TokenRow]:
    """Return the token ids of several texts one by one."""
    types: Sequence[NDArray[np.int32] | None] = found.types or [None] * len(found.ids)
    return list(map(TokenRow, found.ids, types))


def gathered(rows: Sequence[TokenRow]) -> TokenIds:
    """Return the token ids of texts that come one by one."""
    return joined([TokenIds([row.ids], None if row.types is None else [row.types], 0) for row in rows])


def end_to_end(rows: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return token ids of several texts end to end, and their offsets."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return np.concatenate(rows), offsets


def pack(
    found: TokenIds, vocab_size: int, tokenizer: Tokenizer, start: int = 0, batch_tokens: int | None = None
) -> list[TextBatch]:
    """Pack token ids, longest first, into batches of a bounded number of tokens; ValueError for an id outside the vocabulary."""
    truncated, most_tokens = found.truncated, batch_tokens or _TOKENS_PER_FORWARD
    order = sorted(range(len(found.ids)), key=lambda i: -len(found.ids[i]))
    groups: list[list[int]] = []
    room = 0
    for i in order:
        room -= len(found.ids[i])
        if not groups or room < 0:
            groups.append([])
            room = most_tokens - len(found.ids[i])
        groups[-1].append(i)
    packed = []
    for group in groups:
        ids, offsets = end_to_end([found.ids[i] for i in group])
        types = None if found.types is None else np.concatenate([found.types[i] for i in group])
        if ids.size and (most := int(ids.max())) >= vocab_size:
            raise ValueError(
                f"the tokenizer gives token id {most} ({tokenizer.backend_tokenizer.id_to_token(most)!r}), and the model has "
                f"{vocab_size} words, ids 0 .. {vocab_size - 1}: the tokenizer ({len(tokenizer)} words) is not this model's"
            )
        packed.append(TextBatch(np.array(group, np.int64) + start, ids, types, offsets, truncated))
        truncated = 0
    return packed


def padded(rows: Sequence[NDArray[np.int32]], width: int, value: int) -> NDArray[np.int64]:
    """Return rows of token ids or types as (B, T), with `value` behind each row."""
    out = np.full((len(rows), width), value, np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out
