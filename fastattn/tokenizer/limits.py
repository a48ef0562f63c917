"""Loads tokenizer.json, and rejects one that could blow a short text up to a huge one (an "expansion bomb").

The tokenizers library has no limit of its own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastattn.checkpoint.folder import CheckpointError

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

# Most bytes that the steps may make of one byte, and most ids or bytes that they may add to a text.
GROWTH, ADDED = 100, 1000
# Steps that a text may go through, and characters of a word that WordPiece may take: its time is the cube of them.
STEPS, WORD = 100, 1000

# Most bytes that one byte of UTF-8 becomes, where a standard says so: https://unicode.org/faq/normalization.html.
# BertNormalizer is NFD, and spaces around a character of three bytes.
_UNICODE = {"NFC": 3, "NFD": 3, "NFKC": 11, "NFKD": 11, "Lowercase": 1.5, "BertNormalizer": 5}
_COMPATIBILITY = 11
_SHRINKING = ("StripAccents", "Strip", "Nmt")
# A regular expression of characters and sets of them: it matches so many characters at least.
_ATOM = re.compile(r"(?:\\[dDsSwW]|\[\^?[^\[\]\\&^]+\]|[^\\.^$|?*+(){}\[\]])([?*+]|\{[0-9]{1,6}(?:,[0-9]{0,6})?\})?")


@contextlib.contextmanager
def sound(source: str | os.PathLike[str]) -> Iterator[None]:
    """Make a CheckpointError of what the library raises where a tokenizer does not hold together."""
    try:
        yield
    except BaseException as error:
        # The library raises plain Exception, and a BaseException where its Rust code panics.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{source}: not a tokenizer: {error}") from error


def read_backend(path: Path) -> Backend:
    """Read a tokenizer whose work and result are bounded by its text.

    Parameters
    ----------
    path : Path
        A ``tokenizer.json``.

    Returns
    -------
    tokenizers.Tokenizer
        It makes of a text of n bytes at most 100 n bytes, or 1,100 n where a step is one of Unicode's compatibility forms or a
        table of characters, and at most 1,000 bytes and 1,000 ids besides.

    Raises
    ------
    CheckpointError
        It is not a tokenizer, makes more of a text, goes through more than 100 steps, has an id or type that int32 does not
        hold, or an added token of which its normalizer leaves nothing: the library's search for such a one may not end.
    """
    from tokenizers import Tokenizer as Backend

    try:
        text = path.read_text("utf-8")
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from error
    if isinstance(content, dict):
        _check_ids(path, content)
        with sound(path):
            steps = _as_understood(content)
        _check_steps(path, steps)
        _check_added(path, steps)
    with sound(path):
        backend = Backend.from_str(text)
        empty = [token.content for token in backend.get_added_tokens_decoder().values() if _vanishes(backend, token)]
    if empty:
        raise CheckpointError(f"{path}: its normalizer leaves nothing of the added token {empty[0]!r:.50}")
    return backend


def _vanishes(backend: Backend, token: AddedToken) -> bool:
    return token.normalized and backend.normalizer is not None and not backend.normalizer.normalize_str(token.content)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; ValueError for a repeated key, of which the library may take the other value."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r:.50} is there twice")
    return found


def _as_understood(content: dict[str, Any]) -> dict[str, Any]:
    """Return the steps as the library writes them: it reads other forms too, without types and as lists."""
    from tokenizers import Tokenizer as Backend

    parts = {name: content.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor")}
    # Without added tokens: these go through the steps when they are read.
    empty = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""}}
    found: dict[str, Any] = json.loads(Backend.from_str(json.dumps({**empty, **parts})).to_str())
    return found


def flat(step: Any) -> list[dict[str, Any]]:
    """Return the steps of a step, in order, without the sequences around them."""
    found, rest = [], [step]
    while rest:
        step = rest.pop()
        if step is None:
            continue
        inner = next((step[name] for name in ("normalizers", "pretokenizers", "processors") if name in step), None)
        if inner is None:
            found.append(step)
        else:
            rest += reversed(inner)
    return found


def _check_ids(path: Path, content: dict[str, Any]) -> None:
    model, added = content.get("model"), content.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocab.values()) if isinstance(vocab, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    # The library refuses ids that are not numbers.
    with contextlib.suppress(TypeError):
        if max(ids, default=0) >= 2**31:
            raise CheckpointError(f"{path}: token id {max(ids)} is not in 0 .. {2**31 - 1}")
    most = model.get("max_input_chars_per_word") if isinstance(model, dict) else None
    if isinstance(most, int) and most > WORD:
        raise CheckpointError(f"{path}: max_input_chars_per_word is {most}; supported: at most {WORD}")


def _check_steps(path: Path, content: dict[str, Any]) -> None:
    steps = [*flat(content.get("normalizer")), *flat(content.get("pre_tokenizer"))]
    if len(steps) > STEPS:
        raise CheckpointError(f"{path}: its normalizer and pre-tokenizer have {len(steps)} steps; supported: at most {STEPS}")
    growths: list[tuple[str, float]] = []
    added, bounded, group = 0.0, 1.0, set[str]()
    for step in steps:
        kind = step["type"]
        if kind in _SHRINKING:
            continue
        if kind in _UNICODE and kind not in group and group:
            # Different forms one after the other make of a character no more than the greatest of them.
            before = growths.pop()[1]
            growths.append((kind, max(before, _UNICODE[kind])))
            added *= max(1.0, _UNICODE[kind] / before)
            group.add(kind)
        else:
            growths.append((kind, _growth(step)))
            added = added * growths[-1][1] + (len(step["prepend"].encode()) if kind == "Prepend" else 0)
            group = {kind} if kind in _UNICODE else set()
        if kind in _UNICODE or kind == "Precompiled":
            bounded = max(bounded, growths[-1][1])
    # One of Unicode's forms, or a table of characters as long as those, is in most tokenizers, and never at its greatest.
    growth = math.prod(growth for _, growth in growths) / min(bounded, _COMPATIBILITY)
    if growth > GROWTH or added > ADDED:
        seen = ", ".join(f"{kind} {growth:,.3g}" for kind, growth in growths if growth > 1 or kind == "Prepend")
        raise CheckpointError(
            f"{path}: its normalizer and pre-tokenizer may make a byte {growth:,.0f} bytes long, and add {added:,.0f} to a text "
            f"({seen:.200}); supported: {GROWTH} and {ADDED}"
        )


def _growth(step: dict[str, Any]) -> float:
    """Return the most bytes that a step makes of one; in the text, not before it."""
    kind = step["type"]
    if kind == "Replace":
        size = len(step["content"].encode())
        pattern = step["pattern"]
        shortest = _shortest(pattern["Regex"]) if "Regex" in pattern else len(pattern["String"].encode())
        # An empty match occurs before every character.
        return max(1.0, size / shortest) if shortest else 1.0 + size
    if kind == "Precompiled":
        return _table_growth(base64.b64decode(step["precompiled_charsmap"]))
    if kind == "Metaspace":
        # A space becomes it, and a piece of one byte gets it before it.
        return 1.0 + len(step["replacement"].encode())
    if kind == "ByteLevel":
        # A byte becomes a character of up to two, and a piece of one byte gets such a one before it.
        return 4.0 if step.get("add_prefix_space") else 2.0
    return _UNICODE.get(kind, 1.0)


def _shortest(pattern: str) -> int:
    """Return how many characters a regular expression matches at least; 0 where it is not one of the plainest."""
    total, at = 0, 0
    while at < len(pattern):
        atom = _ATOM.match(pattern, at)
        if atom is None:
            return 0
        times = atom[1] or "+"
        total += {"?": 0, "*": 0, "+": 1}[times] if len(times) == 1 else min(map(int, re.findall(r"\d+", times)))
        at = atom.end()
    return total


def _table_growth(raw: bytes) -> float:
    """Return the growth of SentencePiece's table: the size of a trie, the trie in units of 32 bits, and texts that end with 0."""
    end = 4 + int.from_bytes(raw[:4], "little")
    texts = raw[end:]

    def unit(index: int) -> int:
        return int.from_bytes(raw[4 + 4 * index : 8 + 4 * index], "little") if 8 + 4 * index <= end else 0

    def child(node: int) -> int:
        value = unit(node)
        return node ^ value >> 10 << (value >> 6 & 8)

    # Two bytes or more become the longest text at most; for each single one the trie is asked.
    growth = max(map(len, texts.split(b"\0"))) / 2
    for byte in range(1, 128):
        node = child(0) ^ byte
        value = unit(node)
        if value & 0x800000FF == byte and value >> 8 & 1:
            start = unit(child(node)) & 0x7FFFFFFF
            growth = max(growth, len(texts[start:].partition(b"\0")[0]))
    return max(1.0, growth)


def _check_added(path: Path, content: dict[str, Any]) -> None:
    added = 0
    for step in flat(content.get("post_processor")):
        ids = [step[name][1] for name in ("cls", "sep") if name in step]
        most = 2 * len(ids)
        if step["type"] == "TemplateProcessing":
            tokens = {name: token["ids"] for name, token in step["special_tokens"].items()}
            ids = [number for numbers in tokens.values() for number in numbers]
            most = 0
            parts = [part for piece in (*step["single"], *step["pair"]) for part in piece.values()]
            kinds = [part["type_id"] for part in parts]
            if max(kinds, default=0) >= 2**31:
                raise CheckpointError(f"{path}: token type {max(kinds)} is not in 0 .. {2**31 - 1}")
            for template in (step["single"], step["pair"]):
                texts = [piece["Sequence"]["id"] for piece in template if "Sequence" in piece]
                times = max(map(texts.count, texts), default=0)
                if times > 1:
                    raise CheckpointError(f"{path}: its post-processor takes a text {times} times; supported: once")
                # Of a name without a token the library says so when it is used.
                names = [piece["SpecialToken"]["id"] for piece in template if "SpecialToken" in piece]
                most = max(most, sum(len(tokens.get(name, ())) for name in names))
        if max(ids, default=0) >= 2**31:
            raise CheckpointError(f"{path}: token id {max(ids)} is not in 0 .. {2**31 - 1}")
        added += most
    if added > ADDED:
        raise CheckpointError(f"{path}: its post-processor adds {added:,} ids to a text; supported: at most {ADDED:,}")
