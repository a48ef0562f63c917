"""Kinds of layers that a ``config.json`` names: which see all tokens, and which a window."""

from __future__ import annotations

from collections.abc import Callable

from fastattn.checkpoint.config_json import Settings

__all__ = ["FULL", "SLIDING", "count_layers", "layer_types"]

FULL, SLIDING = "full_attention", "sliding_attention"
# Each layer gets a record of its own before a tensor is looked for, so the size of the file sets no limit to their number.
_MOST_LAYERS = 10_000


def count_layers(settings: Settings, key: str = "num_hidden_layers") -> int:
    """Return the number of layers."""
    count = settings.size(key)
    if count > _MOST_LAYERS:
        raise settings.error(f"{key} {count!r:.50} is not supported; supported: up to {_MOST_LAYERS}")
    return count


def layer_types(settings: Settings, usual: Callable[[int], bool]) -> list[str]:
    """Return the kind of each layer, from ``layer_types``; without the key `usual` tells which numbers see a window."""
    count, found = count_layers(settings), settings.values.get("layer_types")
    if found is None:
        return [SLIDING if usual(i) else FULL for i in range(count)]
    if not isinstance(found, list) or len(found) != count or any(kind not in (FULL, SLIDING) for kind in found):
        raise settings.error(
            f"layer_types {found!r:.200} is not supported; supported: for each of the {count} layers {FULL!r} or {SLIDING!r}"
        )
    return found
