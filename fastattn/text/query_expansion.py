"""Query expansion of late interaction: mask tokens behind a short query, which are scored as its own tokens are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["check_lengths", "checked_expansion", "expansion_token"]

_STRATEGIES = ("fixed", "min")
_KEYS = ("strategy", "attend", "token", "length")


def checked_expansion(expansion: Any) -> dict[str, Any] | None:
    """Return a query expansion with all its keys; ValueError for an unknown key or a value that none has."""
    if expansion is None:
        return None
    if not isinstance(expansion, Mapping):
        raise ValueError(f"query_expansion must be a mapping or None, got {expansion!r:.200}")
    if unknown := [key for key in expansion if key not in _KEYS]:
        raise ValueError(f"query_expansion has no key {unknown[0]!r}; keys: {', '.join(_KEYS)}")
    strategy, attend = expansion.get("strategy"), expansion.get("attend", False)
    token, length = expansion.get("token"), expansion.get("length")
    if strategy not in _STRATEGIES:
        raise ValueError(f'query_expansion: strategy must be "fixed" or "min", got {strategy!r:.200}')
    if not isinstance(attend, bool):
        raise ValueError(f"query_expansion: attend must be True or False, got {attend!r:.200}")
    if not isinstance(token, str | None):
        raise ValueError(f"query_expansion: token must be a token or None, got {token!r:.200}")
    check_lengths(**{"query_expansion: length": length})
    if length is None:
        raise ValueError("query_expansion: length is missing: the number of tokens of a query after its expansion")
    return {"strategy": strategy, "attend": attend, "token": token, "length": length}


def check_lengths(**lengths: Any) -> None:
    """Raise a ValueError unless each is a positive integer or None."""
    for name, length in lengths.items():
        if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
            raise ValueError(f"{name} must be a positive integer or None, got {length!r:.200}")


def expansion_token(expansion: Mapping[str, Any], tokenizer: Tokenizer) -> int:
    """Return the id of the token that expands queries: by default the mask token, or where there is none the end of a text."""
    token = expansion["token"]
    if token is None:
        roles = tokenizer.special_tokens_map
        token = roles.get("mask_token", roles.get("eos_token"))
        if token is None:
            raise ValueError("query_expansion has no token, and the tokenizer neither a mask token nor an end of a text: name one")
    found = tokenizer.backend_tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"query_expansion: token {token!r} is not in the tokenizer's vocabulary")
    return int(found)
