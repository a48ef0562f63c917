"""The beginning of a long text, where its tokens are the first ones of the whole: the rest need not be read."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any

from fastattn.tokenizer.limits import flat

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

__all__ = ["beginning", "is_long", "reads_word_by_word"]

# Characters to read for each token wanted; a text with more than twice as many is long. English has four or five a token.
_A_TOKEN = 8
# Factor by which the characters grow if they gave too few tokens.
_MORE = 4
# Normalizers that change characters by themselves, or with the marks that follow them, which a space ends.
_BY_CHARACTER = {
    "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend", "Strip", "StripAccents"
}  # fmt: skip
# Regular expressions that match spaces only.
_SPACES = (" {2,}", r"\s+")
_HALF = re.compile("[\ud800-\udfff]")
# Letters that were marks once, which StripAccents removes: its table is an older one.
_ONCE_MARKS = "\u1cf2\u1cf3"


def is_long(text: str, tokens: int) -> bool:
    """Whether a text is so long that its beginning is likely to have more than `tokens` tokens."""
    return len(text) > 2 * _A_TOKEN * max(1, tokens)


def beginning(text: str, tokens: int, before: str = "") -> str:
    """Return the first words of a text, some four times more than `before` if that is given; the whole text if it is not long.

    It ends with a letter or digit before a space.  Where a tokenizer reads word by word, its tokens are those that the whole
    text begins with; an error that the rest would raise is not found, but for half of a surrogate pair.
    """
    size = _MORE * len(before) if before else _A_TOKEN * max(1, tokens)
    while 2 * size < len(text):
        end = text.rfind(" ", 0, size)
        while end > 0 and not _is_firm(text[end - 1]):
            end = text.rfind(" ", 0, end)
        if end > len(before):
            # Half a surrogate pair is an error wherever it is.
            return text if not text.isascii() and _HALF.search(text, end) else text[:end]
        size *= _MORE
    return text


def _is_firm(character: str) -> bool:
    """Whether it stays a letter or digit that ends before a space: compatibility forms make a space and a mark of some."""
    return character.isalnum() and unicodedata.normalize("NFKD", character)[0].isalnum() and character not in _ONCE_MARKS


def reads_word_by_word(backend: Backend) -> bool:
    """Whether a tokenizer makes of the words before a space what it makes of them alone."""
    try:
        normalizers, steps = (
            [] if part is None else flat(json.loads(part.__getstate__())) for part in (backend.normalizer, backend.pre_tokenizer)
        )
    except Exception:  # what is written in Python cannot be looked at, and the library has no exception class of its own
        return False
    if not steps or not _splits_at_spaces(steps[0]):
        return False
    gaps = (" ", steps[0].get("replacement", " "))
    if not all(_is_local(step, gaps) for step in normalizers):
        return False
    # Where a space belongs to the word behind it, the word before it must not end with one of its own, or lose its end.
    if steps[0]["type"] in ("ByteLevel", "Metaspace") and not all(map(_keeps_letters, normalizers)):
        return False
    normalize = str if backend.normalizer is None else backend.normalizer.normalize_str
    # An added token with a gap in it may begin in one word and end in the next.
    tokens = backend.get_added_tokens_decoder().values()
    added = [token.content for token in tokens] + [normalize(token.content) for token in tokens if token.normalized]
    return normalize("ab cd").endswith(tuple(f"ab{gap}cd" for gap in gaps)) and not any(_has_gap(token, gaps) for token in added)


def _splits_at_spaces(step: dict[str, Any]) -> bool:
    kind = step["type"]
    if kind == "Metaspace":
        return bool(step.get("split", True))
    if kind == "ByteLevel":
        return bool(step.get("use_regex", True))
    return kind in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")


def _is_local(step: dict[str, Any], gaps: tuple[str, ...]) -> bool:
    """Whether what a normalizer makes of a word does not depend on the words behind it, and stays apart from them."""
    if step["type"] != "Replace":
        return step["type"] in _BY_CHARACTER
    pattern = step["pattern"]
    if "Regex" in pattern:
        return pattern["Regex"] in _SPACES and step["content"] in gaps
    return not _has_gap(pattern["String"], gaps)


def _keeps_letters(step: dict[str, Any]) -> bool:
    """Whether a normalizer removes no letter and puts no space behind one; of a table of characters that is taken for granted."""
    if step["type"] == "BertNormalizer":
        return not step.get("handle_chinese_chars", True)
    pattern = step["pattern"].get("String", "") if step["type"] == "Replace" else ""
    return not any(map(str.isalnum, pattern))


def _has_gap(text: str, gaps: tuple[str, ...]) -> bool:
    return any(character.isspace() or character in gaps for character in text)
