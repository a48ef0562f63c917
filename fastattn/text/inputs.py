"""Checks of the inputs of encode, predict, rank and preprocess."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from fastattn.tokenizer.inputs import check_inputs, check_pair, kind_of

__all__ = ["Inputs", "Pairs", "Text", "check_several", "is_single", "items_of", "pairs_of", "texts_of"]

# A Mapping has a key "text".
Text: TypeAlias = str | Mapping[str, str]
Inputs: TypeAlias = Text | Iterable[str | Sequence[str] | Mapping[str, str]]
Pairs: TypeAlias = Sequence[str] | Iterable[Sequence[str]]


def is_single(inputs: Any) -> bool:
    """Tell whether `inputs` is one text, one dict, or a 0-d array, rather than several inputs."""
    return isinstance(inputs, (str, Mapping)) or getattr(inputs, "ndim", None) == 0


def items_of(inputs: Any, start: int = 0) -> list[Any]:
    """Return several texts or pairs as a list, dicts ``{"text": ...}`` replaced by their text; TypeError for other items.

    `start` is the index of the first item in error messages.
    """
    items = _listed(inputs, "inputs", "a str or a list of str")
    texts = all(isinstance(item, str) for item in items)
    found = items if texts else [_without_dict(item, i) for i, item in enumerate(items, start)]
    _check_alike(found, start)
    return found


def texts_of(inputs: Any, name: str) -> list[str]:
    """Return several texts as a list; TypeError if an element is not a str."""
    texts = _listed(inputs, name, "a list of str")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}] must be a str, got {kind_of(text)}")
    return texts


def pairs_of(inputs: Any, start: int = 0) -> list[tuple[str, str]]:
    """Return the pairs as a list; TypeError if an element is not a pair of str.  `start` as in `items_of`."""
    pairs = []
    for i, pair in enumerate(_listed(inputs, "inputs", "pairs of str"), start):
        check_pair(pair, f"inputs[{i}]")
        pairs.append((pair[0], pair[1]))
    return pairs


def _check_alike(inputs: list[Any], start: int) -> None:
    """Raise a TypeError for an item that is neither a text nor a pair, or if texts and pairs are mixed."""
    if check_inputs(inputs, "inputs", start):
        first = isinstance(inputs[0], str)
        for i, item in enumerate(inputs, start):
            if isinstance(item, str) != first:
                kind = "a str" if first else "a pair of str"
                raise TypeError(f"inputs[{i}] must be {kind}, as inputs[{start}] is, got {kind_of(item)}")


def _listed(inputs: Any, name: str, wanted: str) -> list[Any]:
    """Return the elements as a list; TypeError for what gives no texts, or not in their order."""
    check_several(inputs, name, wanted)
    return inputs if isinstance(inputs, list) else list(inputs)


def check_several(inputs: Any, name: str, wanted: str) -> None:
    """Raise a TypeError for what gives no texts, or not in their order."""
    kind = kind_of(inputs)
    if isinstance(inputs, (str, bytes)) or not isinstance(inputs, Iterable) or getattr(inputs, "ndim", None) == 0:
        raise TypeError(f"{name} must be {wanted}, got {kind}")
    # A pandas Series has keys too, and gives its values.
    named = isinstance(inputs, Mapping) or any(hasattr(inputs, names) for names in ("columns", "column_names"))
    if named or (hasattr(inputs, "keys") and getattr(inputs, "ndim", None) != 1):
        raise TypeError(f"{name} must be {wanted}, got {kind}, which has columns or keys: pass the column, such as {name}[name]")
    if isinstance(inputs, (set, frozenset)):
        raise TypeError(f"{name} must be {wanted}, got {kind}, which has no order: pass a list")


def _without_dict(item: Any, i: int) -> Any:
    """Return the text of a dict ``{"text": ...}``, and any other item as it is."""
    if not isinstance(item, Mapping):
        return item
    if set(item) != {"text"}:
        keys = ", ".join(map(repr, list(item)[:4])) or "none"
        raise TypeError(f'inputs[{i}] must be a str, a pair of str or {{"text": ...}}, got {kind_of(item)} with keys {keys}')
    if not isinstance(item["text"], str):
        raise TypeError(f'inputs[{i}]["text"] must be a str, got {kind_of(item["text"])}')
    return item["text"]
