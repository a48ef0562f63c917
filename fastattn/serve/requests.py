"""Requests: the JSON body with its checks, the settings that it makes, and the refusal of one."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Literal, NamedTuple, TypeAlias

__all__ = ["Answer", "Body", "Input", "Reason", "Refused", "Settings"]

Reason: TypeAlias = Literal[
    "json", "field", "empty", "many", "long", "large", "encoded", "slow", "model", "task", "key", "path", "method", "full",
    "stopping", "failed",
]  # fmt: skip
# A text, the token ids of a text, or a pair of texts.
Input: TypeAlias = str | list[int] | tuple[str, str]


class Refused(Exception):
    """Request that gets no result: a reason, which each interface turns into its status, and what to do."""

    def __init__(self, reason: Reason, message: str, field: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.field, self.retry_after = reason, message, field, retry_after


class Answer(NamedTuple):
    """Result of an input, an array or a score, and the number of its tokens."""

    value: Any
    tokens: int


class Settings(NamedTuple):
    """What beside the text decides a result; texts of the same settings are computed together."""

    prompt: str = ""
    truncate: bool = True
    width: int | None = None
    normalize: bool = True
    activation: str = "Sigmoid"
    task: str | None = None


class Body:
    """JSON object of a request; a field that is null counts as absent.  Each method raises `Refused` for another type."""

    def __init__(self, raw: bytes) -> None:
        try:
            content = json.loads(raw)
        except (ValueError, RecursionError) as error:
            said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise Refused("json", f"the body must be JSON: {said}") from None
        if not isinstance(content, dict):
            raise Refused("field", f"the body must be a JSON object, got {_kind(content)}")
        self._content = {name: value for name, value in content.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        """Tell whether a field is there."""
        return name in self._content

    def _required(self, name: str) -> Any:
        if name not in self._content:
            raise Refused("field", f"{name} is missing", name)
        return self._content[name]

    def text(self, name: str) -> str:
        """Return a text that must be there."""
        return _text(self._required(name), name)

    def optional_text(self, name: str) -> str | None:
        """Return a text, or None."""
        return self.text(name) if name in self else None

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self._content.get(name, default)
        if not isinstance(value, bool):
            raise Refused("field", f"{name} must be true or false, got {_kind(value)}", name)
        return value

    def count(self, name: str, most: int | None = None) -> int | None:
        """Return a positive number, at most `most`, or None."""
        value = self._content.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
            wanted = "a positive integer" if most is None else f"an integer from 1 to {most:,}"
            raise Refused("field", f"{name} must be {wanted}, got {_shown(value)}", name)
        return value

    def choice(self, name: str, choices: Collection[str]) -> str:
        """Return one of some texts, the first by default."""
        value = self._content.get(name, next(iter(choices)))
        if value not in list(choices):
            raise Refused("field", f"{name} must be one of {', '.join(choices)}, got {_shown(value)}", name)
        return str(value)

    def texts(self, name: str, most: int, *, key: str | None = None) -> list[str]:
        """Return a list of texts; with `key`, an item may be an object that has the text under it."""
        items = _listed(self._required(name), name, most, "texts")
        if key is not None:
            items = [item.get(key) if isinstance(item, dict) else item for item in items]
        return [_text(item, f"{name}[{i}]", name) for i, item in enumerate(items)]

    def inputs(self, name: str, most: int) -> list[Input]:
        """Return a text, several texts, the token ids of one text, or those of several, as a list."""
        value = self._required(name)
        if isinstance(value, str):
            value = [value]
        items = _listed(value, name, most, "texts or of token ids")
        if all(_is_id(item) for item in items):
            return [items]
        if len(items) > most:
            raise _too_many(name, len(items), most)
        if not isinstance(items[0], list):
            return [_text(item, f"{name}[{i}]", name) for i, item in enumerate(items)]
        for i, item in enumerate(items):
            if not isinstance(item, list) or not item:
                found = "an empty list" if item == [] else _kind(item)
                raise Refused("field", f"{name}[{i}] must be a list of token ids, got {found}", name)
            if (wrong := next((j for j, number in enumerate(item) if not _is_id(number)), None)) is not None:
                raise Refused("field", f"{name}[{i}][{wrong}] must be a token id, got {_kind(item[wrong])}", name)
        return list(items)


def _text(value: Any, place: str, field: str | None = None) -> str:
    """Return a value that is a text of valid Unicode."""
    field = field or place
    if not isinstance(value, str):
        raise Refused("field", f"{place} must be a text, got {_kind(value)}", field)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Refused("field", f"{place} is no valid Unicode: half a surrogate pair at character {error.start}", field) from None
    return value


def _listed(value: Any, name: str, most: int, content: str) -> list[Any]:
    """Return a value that is a list with items; of token ids there may be more than `most`."""
    if not isinstance(value, list):
        raise Refused("field", f"{name} must be a text or a list of {content}, got {_kind(value)}", name)
    if not value:
        raise Refused("empty", f"{name} is an empty list", name)
    if len(value) > most and not _is_id(value[0]):
        raise _too_many(name, len(value), most)
    return value


def _too_many(name: str, count: int, most: int) -> Refused:
    return Refused("many", f"{name} has {count:,} items, and a request may have {most:,}: send several requests", name)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _shown(value: Any) -> str:
    """Return a value as JSON has it, cut."""
    if isinstance(value, (dict, list)):
        return _kind(value)
    return f"{json.dumps(value[:50] if isinstance(value, str) else value, ensure_ascii=False):.50}"
