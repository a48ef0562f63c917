"""Reads the files beside tokenizer.json, with transformers' precedence: tokenizer class, special and added tokens, limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastattn.checkpoint.folder import CheckpointError, read_object
from fastattn.tokenizer.calls import ROLES
from fastattn.tokenizer.classes import TokenizerClass, class_of

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

__all__ = ["NO_LIMIT", "SPECIAL_TOKENS", "STEPS", "TokenizerSettings", "read_settings", "special_tokens"]

SPECIAL_TOKENS = tuple(f"{role}_token" for role in ROLES)

# Settings that change the steps of a tokenizer, and may be given to `load_tokenizer`.
STEPS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space")

# model_max_length of models without a limit, as in transformers.
NO_LIMIT = int(1e30)

# Padding tokens to look for in a folder that names none.
_PADDING = ("[PAD]", "<pad>")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class TokenizerSettings(NamedTuple):
    """What a folder's files say about its tokenizer, besides tokenizer.json."""

    kind: TokenizerClass
    # By the keys of tokenizer_config.json.
    values: dict[str, Any]
    # Special tokens by role; None for a role that a file sets to null.
    special: dict[str, AddedToken | None]
    # Other special tokens.
    extra: list[AddedToken]
    # Added tokens by id.
    added: dict[int, AddedToken]
    # Whether the added tokens of tokenizer.json belong to `added`: tokenizer_config.json does not list them.
    with_file: bool
    model_max_length: int
    # None: as in tokenizer.json.
    truncation_side: str | None
    model_input_names: list[str]

    def flag(self, name: str, default: Any) -> Any:
        """Return a setting that is true or false, and may be null if that is the default."""
        value = self.values.get(name, default)
        if isinstance(value, bool) or (value is None and default is None):
            return value
        raise CheckpointError(f"tokenizer_config.json: {name} must be true or false, found {value!r:.50}")


def read_settings(folder: Path, given: Mapping[str, Any] | None = None) -> TokenizerSettings:
    """Read tokenizer_config.json, special_tokens_map.json and added_tokens.json; `given` takes the place of their values."""
    path = folder / "tokenizer_config.json"
    file, config = read_object(path), read_object(folder / "config.json")
    kind = class_of(file, config)
    # transformers reads the two older files only if tokenizer_config.json does not list the added tokens.
    older = "added_tokens_decoder" not in file
    map_path = folder / "special_tokens_map.json"
    special_map = read_object(map_path) if older else {}
    values = {**file, **special_map, **(given or {})}
    special = {name: _special(path, name, values[name], kind) for name in SPECIAL_TOKENS if name in values}
    names = values.get("model_input_names")
    if not isinstance(names, list):
        names = ["input_ids", *(["token_type_ids"] if kind.has_token_types else []), "attention_mask"]
    side = values.get("truncation_side")
    if side not in (None, "left", "right"):
        raise CheckpointError(f'{path}: truncation_side must be "left" or "right", found {side!r:.50}')
    extra = _extra(path, [file, special_map])
    if older:
        strings = {token.content for token in [*special.values(), *extra] if token is not None}
        added = _added_tokens_file(folder / "added_tokens.json", strings)
    else:
        added = _added_tokens(path, file["added_tokens_decoder"])
    return TokenizerSettings(kind, values, special, extra, added, older, _limit(path, values), side, names)


def special_tokens(backend: Backend, settings: TokenizerSettings) -> dict[str, str]:
    """Return the special tokens of a vocabulary by role."""
    wanted = {name: token.content for name, token in settings.special.items() if token is not None}
    for name, content in settings.kind.special_tokens.items():
        if name not in settings.special:
            wanted[name] = content
    found = {name: wanted[name] for name in SPECIAL_TOKENS if name in wanted and backend.token_to_id(wanted[name]) is not None}
    for content in _PADDING:
        if "pad_token" not in found and "pad_token" not in settings.special and backend.token_to_id(content) is not None:
            found["pad_token"] = content
    return found


def _limit(path: Path, values: Mapping[str, Any]) -> int:
    # max_len: the key of transformers before version 3.
    name = "model_max_length" if "model_max_length" in values else "max_len"
    limit = values.get(name)
    if limit is None:
        return NO_LIMIT
    if not isinstance(limit, (int, float)) or not 1 <= limit < float("inf"):
        raise CheckpointError(f"{path}: {name} must be a positive number, found {limit!r}")
    return int(limit)


def _token(path: Path, name: str, value: Any, **flags: bool) -> AddedToken:
    """Return an added token, of its text or of an object with its text and flags."""
    from tokenizers import AddedToken

    content = value.get("content") if isinstance(value, dict) else value
    if not isinstance(content, str):
        raise CheckpointError(f"{path}: {name} must be a token, found {value!r:.100}")
    found = {flag: value[flag] for flag in _FLAGS if flag in value} if isinstance(value, dict) else {}
    try:
        content.encode()
        return AddedToken(content, **{**found, **flags})
    except (TypeError, UnicodeEncodeError) as error:
        raise CheckpointError(f"{path}: {name} {content!r:.50} is not a token: {error}") from error


def _special(path: Path, name: str, value: Any, kind: TokenizerClass) -> AddedToken | None:
    content = value.get("content") if isinstance(value, dict) else value
    try:
        # JSON can hold half a surrogate pair, which UTF-8, and so the vocabulary, cannot.
        if content is None or content.encode() is None:
            return None
    except (AttributeError, UnicodeEncodeError):
        return None
    space = {"lstrip": True} if isinstance(value, str) and name == "mask_token" and kind.mask_takes_space else {}
    return _token(path, name, value, special=True, **space)


def _extra(path: Path, files: list[dict[str, Any]]) -> list[AddedToken]:
    """Return the special tokens without a standard role: additional_special_tokens, extra_special_tokens in transformers 5."""
    found: dict[str, AddedToken] = {}
    for file in files:
        for name in ("extra_special_tokens", "additional_special_tokens"):
            value = file.get(name) or []
            for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
                token = _token(path, name, one, special=True)
                found.setdefault(token.content, token)
    return list(found.values())


def _added_tokens(path: Path, value: Any) -> dict[int, AddedToken]:
    if not isinstance(value, dict) or not all(number.isdecimal() and number.isascii() for number in value):
        raise CheckpointError(f"{path}: added_tokens_decoder must map ids to tokens, found {value!r:.100}")
    return {int(number): _token(path, "added_tokens_decoder", token) for number, token in value.items()}


def _added_tokens_file(path: Path, special: set[str]) -> dict[int, AddedToken]:
    if not os.path.lexists(path):
        return {}
    content = read_object(path)
    if not all(type(number) is int for number in content.values()):
        raise CheckpointError(f"{path}: must map tokens to ids, found {content!r:.100}")
    return {
        number: _token(path, "token", token, normalized=token not in special, special=token in special)
        for token, number in content.items()
    }
