"""Reads the files beside tokenizer.json: special tokens, sides, token types, limits."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastattn.checkpoint.families import FAMILIES
from fastattn.checkpoint.folder import CheckpointError, read_object
from fastattn.tokenizer.calls import ROLES

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


# Padding tokens to look for in a folder that names none.
_PADDING = ("[PAD]", "<pad>")


# transformers' classes that return token types, for folders without model_input_names.
_WITH_TOKEN_TYPES = ("BertTokenizer", "BertTokenizerFast", "ElectraTokenizer", "ElectraTokenizerFast")


# Model types with such a tokenizer class, for folders that name no class.
_MODELS_WITH_TOKEN_TYPES = {name for name, family in FAMILIES.items() if family.has_token_types}


SPECIAL_TOKENS = tuple(f"{role}_token" for role in ROLES)


# model_max_length of models without a limit, as in transformers.
NO_LIMIT = int(1e30)


def read_tokenizer_settings(folder: Path, backend: Backend) -> dict[str, Any]:
    """Return the settings in the files beside ``tokenizer.json``, by the keys of ``tokenizer_config.json``."""
    settings = read_object(folder / "tokenizer_config.json")
    names = settings.get("model_input_names")
    if not isinstance(names, list):
        config = {} if settings.get("tokenizer_class") else read_object(folder / "config.json")
        kind = settings.get("tokenizer_class") or config.get("tokenizer_class")
        typed = kind in _WITH_TOKEN_TYPES if kind else config.get("model_type") in _MODELS_WITH_TOKEN_TYPES
        names = ["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"]
    limit = settings.get("model_max_length")
    if limit is not None and (not isinstance(limit, (int, float)) or not 1 <= limit < float("inf")):
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: model_max_length must be a positive number, found {limit!r}")
    special = _special_tokens(backend, {**read_object(folder / "special_tokens_map.json"), **settings})
    return {
        "model_max_length": NO_LIMIT if limit is None else int(limit),
        "truncation_side": "left" if settings.get("truncation_side") == "left" else "right",
        "model_input_names": names,
        **{name: special.get(name) for name in SPECIAL_TOKENS},
    }


def _special_tokens(backend: Backend, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens by role."""
    found = {}
    for name in SPECIAL_TOKENS:
        token = settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and _has(backend, token):
            found[name] = token
    for token in _PADDING:
        if "pad_token" not in found and _has(backend, token):
            found["pad_token"] = token
    return found


def _has(backend: Backend, token: str) -> bool:
    # JSON can hold half a surrogate pair, which UTF-8, and so the vocabulary, cannot.
    with contextlib.suppress(UnicodeEncodeError):
        return backend.token_to_id(token) is not None
    return False
