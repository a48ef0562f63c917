"""Applies the settings beside tokenizer.json to its steps and its vocabulary, where transformers 4 and 5 agree.

The other steps stay those of tokenizer.json: transformers 5 builds some of them anew (the post-processor of BERT's and RoBERTa's
classes, all steps of the SentencePiece classes), which transformers 4 does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastattn.checkpoint.folder import CheckpointError
from fastattn.tokenizer.faults import sound
from fastattn.tokenizer.limits import check_backend, flat
from fastattn.tokenizer.settings import SPECIAL_TOKENS, TokenizerSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

__all__ = ["apply_settings", "prefix_space"]

# Settings of BertNormalizer: its argument, and the default of transformers' classes.
_BERT = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}


def apply_settings(backend: Backend, path: Path, settings: TokenizerSettings, given: Mapping[str, Any]) -> None:
    """Change the normalizer, the space before a text, and the added tokens; ValueError for a given setting that cannot act."""
    with sound(path):
        _normalize(backend, settings, given)
        _prefix_space(backend, settings, given)
        _add_tokens(backend, settings)
        backend.encode_special_tokens = settings.flag("split_special_tokens", False)
        check_backend(path, backend)


def prefix_space(backend: Backend) -> bool | None:
    """Tell whether the pre-tokenizer puts a space before a text; None unless it is a ByteLevel."""
    state = _state(backend.pre_tokenizer)
    return bool(state["add_prefix_space"]) if state.get("type") == "ByteLevel" else None


def _state(step: Any) -> dict[str, Any]:
    if step is None:
        return {}
    state: dict[str, Any] = json.loads(step.__getstate__())
    return state


def _normalize(backend: Backend, settings: TokenizerSettings, given: Mapping[str, Any]) -> None:
    from tokenizers import normalizers

    state = _state(backend.normalizer)
    named = [name for name in _BERT if name in given]
    if state.get("type") != "BertNormalizer":
        if named:
            _lower(backend, state, {name: given[name] for name in named})
        return
    if not (settings.kind.is_bert or named):
        return
    for name, (argument, default) in _BERT.items():
        # transformers 4 leaves MPNet's treatment of Chinese characters as it is in tokenizer.json.
        if name not in given and settings.kind.name == "MPNetTokenizer" and name == "tokenize_chinese_chars":
            continue
        if name in given or settings.kind.is_bert:
            state[argument] = settings.flag(name, default)
    del state["type"]
    backend.normalizer = normalizers.BertNormalizer(**state)


def _lower(backend: Backend, state: dict[str, Any], given: dict[str, Any]) -> None:
    """Lowercase texts before a normalizer that is not BERT's; ValueError for what it cannot do."""
    from tokenizers import normalizers

    lowers = any(step["type"] == "Lowercase" for step in flat(state or None))
    if other := [name for name in given if name != "do_lower_case"]:
        raise ValueError(f"processor_kwargs: {other[0]} needs a tokenizer whose normalizer is a BertNormalizer")
    if given["do_lower_case"] and not lowers:
        before = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    elif lowers and not given["do_lower_case"]:
        raise ValueError("processor_kwargs: do_lower_case=False needs a tokenizer whose normalizer is a BertNormalizer")


def _prefix_space(backend: Backend, settings: TokenizerSettings, given: Mapping[str, Any]) -> None:
    from tokenizers import pre_tokenizers, processors

    state = _state(backend.pre_tokenizer)
    if state.get("type") != "ByteLevel":
        if "add_prefix_space" in given:
            raise ValueError("processor_kwargs: add_prefix_space needs a tokenizer whose pre-tokenizer is a ByteLevel")
        return
    if settings.kind.model != "BPE" and "add_prefix_space" not in given:
        return
    space = settings.flag("add_prefix_space", False)
    trim = {"trim_offsets": settings.flag("trim_offsets", True)} if settings.kind.model == "BPE" else {}
    state["add_prefix_space"] = space
    del state["type"]
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(**state)
    after = _state(backend.post_processor)
    kind = after.pop("type", None)
    if kind == "RobertaProcessing":
        ends = tuple(after.pop("sep")), tuple(after.pop("cls"))
        after |= {"add_prefix_space": space, **trim}
        backend.post_processor = processors.RobertaProcessing(*ends, **after)
    elif kind == "ByteLevel":
        backend.post_processor = processors.ByteLevel(**{**after, "add_prefix_space": space, **trim})


def _add_tokens(backend: Backend, settings: TokenizerSettings) -> None:
    """Add the tokens of the files in transformers' order: the library numbers those that the vocabulary lacks in turn."""
    from tokenizers import AddedToken

    there = backend.get_added_tokens_decoder()
    listed = {**settings.added, **(there if settings.with_file else {})}
    tokens = [token for _, token in sorted(listed.items())]
    known = {token.content for token in [*there.values(), *tokens]}
    special = [settings.special[name] for name in SPECIAL_TOKENS if settings.special.get(name) is not None]
    kind = settings.kind
    default = [
        AddedToken(content, special=True, lstrip=kind.mask_takes_space and name == "mask_token")
        for name, content in [*kind.special_tokens.items(), *(("", content) for content in kind.extra_tokens)]
        # The model has no row for a default that its vocabulary lacks.
        if name not in settings.special and backend.token_to_id(content) is not None
    ]
    roles = {token.content for token in [*special, *default] if token is not None}
    for token in [*special, *default, *settings.extra]:
        if token is not None and token.content not in known:
            known.add(token.content)
            tokens.append(token)
    for token in tokens:
        token.special = token.special or token.content in roles
    # Also where no token is new: the library normalizes the added tokens again.
    backend.add_tokens(tokens)
    if max(backend.get_added_tokens_decoder(), default=0) >= 2**31:
        raise CheckpointError("added tokens: an id is not in 0 .. 2147483647")
