"""Prefix of a long text whose tokens are the first tokens of the whole text, so that the rest need not be tokenised."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any

from fastattn.tokenizer.limits import flat

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

__all__ = ["beginning", "is_long", "reads_word_by_word"]

# Characters to read per wanted token (English has four or five); a text with more than twice as many is long.
_A_TOKEN = 8
# Growth factor of a prefix that gave too few tokens.
_MORE = 4
# Normalizers that change a character alone or with its combining marks, so never across a space.
_BY_CHARACTER = {
    "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend", "Strip", "StripAccents"
}  # fmt: skip
# Regular expressions that match spaces only.
_SPACES = (" {2,}", r"\s+")
_HALF = re.compile("[\ud800-\udfff]")
# Letters that StripAccents removes: in its older Unicode table they are marks.
_ONCE_MARKS = "\u1cf2\u1cf3"


def is_long(text: str, tokens: int) -> bool:
    """Tell whether a text is so long that its prefix is likely to have more than `tokens` tokens."""
    return len(text) > 2 * _A_TOKEN * max(1, tokens)


def beginning(text: str, tokens: int, before: str = "") -> str:
    """Return the first words of a long text, about four times as long as `before` if given; a short text is returned whole.

    The prefix ends with a letter or digit before a space.  If the tokenizer `reads_word_by_word`, the tokens of the prefix are
    the first tokens of the whole text.  Errors in the rest of the text go unnoticed, except half a surrogate pair.
    """
    size = _MORE * len(before) if before else _A_TOKEN * max(1, tokens)
    while 2 * size < len(text):
        end = text.rfind(" ", 0, size)
        while end > 0 and not _is_firm(text[end - 1]):
            end = text.rfind(" ", 0, end)
        if end > len(before):
            # Half a surrogate pair anywhere is an error, which the whole text raises.
            return text if not text.isascii() and _HALF.search(text, end) else text[:end]
        size *= _MORE
    return text


def _is_firm(character: str) -> bool:
    """Tell whether a character is a letter or digit, also after NFKD, which turns some into a space and a mark."""
    return character.isalnum() and unicodedata.normalize("NFKD", character)[0].isalnum() and character not in _ONCE_MARKS


def reads_word_by_word(backend: Backend) -> bool:
    """Tell whether the tokens of the words before a space do not depend on the words after the space."""
    try:
        normalizers, steps = (
            [] if part is None else flat(json.loads(part.__getstate__())) for part in (backend.normalizer, backend.pre_tokenizer)
        )
    except Exception:  # a step written in Python has no readable state; the library raises plain Exception
        return False
    if not steps or not _splits_at_spaces(steps[0]):
        return False
    gaps = (" ", steps[0].get("replacement", " "))
    if not all(_is_local(step, gaps) for step in normalizers):
        return False
    # If a space belongs to the following word, the word before the space must not get a space of its own or lose its last letter.
    if steps[0]["type"] in ("ByteLevel", "Metaspace") and not all(map(_keeps_letters, normalizers)):
        return False
    normalize = str if backend.normalizer is None else backend.normalizer.normalize_str
    # An added token with a gap, a space or its replacement, may span two words.
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
    """Tell whether a normalizer changes each word independently of the following words, and keeps them apart."""
    if step["type"] != "Replace":
        return step["type"] in _BY_CHARACTER
    pattern = step["pattern"]
    if "Regex" in pattern:
        return pattern["Regex"] in _SPACES and step["content"] in gaps
    return not _has_gap(pattern["String"], gaps)


def _keeps_letters(step: dict[str, Any]) -> bool:
    """Tell whether a normalizer removes no letter and puts no space behind a letter; a character map is assumed not to."""
    if step["type"] == "BertNormalizer":
        return not step.get("handle_chinese_chars", True)
    pattern = step["pattern"].get("String", "") if step["type"] == "Replace" else ""
    return not any(map(str.isalnum, pattern))


def _has_gap(text: str, gaps: tuple[str, ...]) -> bool:
    return any(character.isspace() or character in gaps for character in text)
