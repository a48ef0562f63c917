"""Loads tokenizer.json, and rejects one that could blow a short text up to a huge one (an "expansion bomb").

The tokenizers library has no limit of its own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastattn.checkpoint.folder import CheckpointError
from fastattn.tokenizer.faults import sound

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

# Limits of all steps together: growth factor of a text in bytes, and bytes or ids that are added to a text.
GROWTH, ADDED = 100, 1000
# Limits of the number of steps, and of the characters of a WordPiece word, which takes cubic time.
STEPS, WORD = 100, 1000

# Largest growth factor of Unicode's forms in UTF-8: https://unicode.org/faq/normalization.html.
# BertNormalizer: NFD, and a space on both sides of a Chinese character of three bytes.
_UNICODE = {"NFC": 3, "NFD": 3, "NFKC": 11, "NFKD": 11, "Lowercase": 1.5, "BertNormalizer": 5}
_COMPATIBILITY = 11
_SHRINKING = ("StripAccents", "Strip", "Nmt")
# A character or a character class of a regular expression, with its quantifier.
_ATOM = re.compile(r"(?:\\[dDsSwW]|\[\^?[^\[\]\\&^]+\]|[^\\.^$|?*+(){}\[\]])([?*+]|\{[0-9]{1,6}(?:,[0-9]{0,6})?\})?")


def read_backend(path: Path) -> Backend:
    """Read a ``tokenizer.json``; CheckpointError unless its work and its output are bounded by the length of the text.

    A text of n bytes becomes at most 100 n bytes (1,100 n with a Unicode compatibility form or a character map), plus 1,000 bytes
    and 1,000 ids, in at most 100 steps; ids and token types fit int32.  An added token that the normalizer turns into an empty text
    is rejected too: the library's search for an empty token may never end.
    """
    from tokenizers import Tokenizer as Backend

    raw = path.read_bytes()
    try:
        text = raw.decode()
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
        check_backend(path, backend)
    return backend


def check_backend(path: Path, backend: Backend) -> None:
    """Check a tokenizer after a change of its steps or added tokens: a CheckpointError as in `read_backend`."""
    parts = {"normalizer": backend.normalizer, "pre_tokenizer": backend.pre_tokenizer}
    _check_steps(path, {name: None if part is None else json.loads(part.__getstate__()) for name, part in parts.items()})
    empty = [token.content for token in backend.get_added_tokens_decoder().values() if _vanishes(backend, token)]
    if empty:
        raise CheckpointError(f"{path}: its normalizer turns the added token {empty[0]!r:.50} into an empty text")


def _vanishes(backend: Backend, token: AddedToken) -> bool:
    return token.normalized and backend.normalizer is not None and not backend.normalizer.normalize_str(token.content)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; ValueError for a duplicate key, of which Python and the library may take different values."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r:.50} is a duplicate")
    return found


def _as_understood(content: dict[str, Any]) -> dict[str, Any]:
    """Return the steps in the library's normal form; the library also reads steps without a type, and lists."""
    from tokenizers import Tokenizer as Backend

    parts = {name: content.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor")}
    # Without added tokens: while reading them, the library runs them through the steps, which are not checked yet.
    empty = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""}}
    found: dict[str, Any] = json.loads(Backend.from_str(json.dumps({**empty, **parts})).to_str())
    return found


def flat(step: Any) -> list[dict[str, Any]]:
    """Flatten nested sequences of steps into one list, in order."""
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
    # TypeError: an id is not a number, which the library rejects later.
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
            # Consecutive Unicode forms together grow a character no more than the largest of them alone.
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
    # Most tokenizers have one Unicode form or character map, whose factor of up to 11 no real text reaches: it is left out.
    growth = math.prod(growth for _, growth in growths) / min(bounded, _COMPATIBILITY)
    if growth > GROWTH or added > ADDED:
        seen = ", ".join(f"{kind} {growth:,.3g}" for kind, growth in growths if growth > 1 or kind == "Prepend")
        raise CheckpointError(
            f"{path}: its normalizer and pre-tokenizer may lengthen a text {growth:,.0f} times, and add {added:,.0f} bytes "
            f"({seen:.200}); supported: {GROWTH} times and {ADDED} bytes"
        )


def _growth(step: dict[str, Any]) -> float:
    """Return the growth factor of a step in bytes, without the text that it prepends."""
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
        # The replacement takes the place of a space, and is put before a piece, of a single byte in the worst case.
        return 1.0 + len(step["replacement"].encode())
    if kind == "ByteLevel":
        # A byte becomes up to two bytes; with a prefix space, a piece of a single byte gets two more.
        return 4.0 if step.get("add_prefix_space") else 2.0
    return _UNICODE.get(kind, 1.0)


def _shortest(pattern: str) -> int:
    """Return the minimum length of a match of a regular expression; 0 for all but the simplest expressions."""
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
    """Return the growth factor of SentencePiece's character map: trie size, trie of 32-bit units, null-terminated texts."""
    end = 4 + int.from_bytes(raw[:4], "little")
    texts = raw[end:]

    def unit(index: int) -> int:
        return int.from_bytes(raw[4 + 4 * index : 8 + 4 * index], "little") if 8 + 4 * index <= end else 0

    def child(node: int) -> int:
        value = unit(node)
        return node ^ value >> 10 << (value >> 6 & 8)

    # A key of two bytes or more becomes at most the longest text; keys of one byte are looked up in the trie.
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
                    raise CheckpointError(f"{path}: its post-processor inserts a text {times} times; supported: once")
                # A name without a token counts as 0 ids: the library raises when the template is used.
                names = [piece["SpecialToken"]["id"] for piece in template if "SpecialToken" in piece]
                most = max(most, sum(len(tokens.get(name, ())) for name in names))
        if max(ids, default=0) >= 2**31:
            raise CheckpointError(f"{path}: token id {max(ids)} is not in 0 .. {2**31 - 1}")
        added += most
    if added > ADDED:
        raise CheckpointError(f"{path}: its post-processor adds {added:,} ids to a text; supported: at most {ADDED:,}")
