"""Chat templates: how texts and pairs of texts become one text for a language model, as transformers renders them.

A template is rendered in jinja2's sandbox, without the file system and without Python's objects; it is the tokenizer's, and no
code of the folder runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastattn.checkpoint.folder import CheckpointError, own_file, read_object
from fastattn.tokenizer.tokenizer import TokenIds

if TYPE_CHECKING:
    from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["Chat", "chat_template"]

_FILE = "chat_template.jinja"
# The name of the template that is used, where a tokenizer has several.
_USUAL = "default"
# Templates that hold one of these take a message's content as a list of parts, in sentence-transformers' rule.
_PARTS = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")
_LEAST_JINJA = (3, 1, 6)
_ROLES = ("query", "document")
# The pair of texts, and one in which only the query or only the document differs.
_PROBES = (("alpha", "bravo"), ("charlie", "bravo"), ("alpha", "foxtrot"))
# Texts without a common last token: what is common to both renderings is the template's.
_FILLERS = ("0", "1 2 3 4")

Messages = list[dict[str, Any]]


def chat_template(folder: Path) -> str | None:
    """Return the chat template of a tokenizer's folder; None if it has none."""
    file = folder / _FILE
    if os.path.lexists(file):
        try:
            return own_file(file).read_text("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{file}: is not UTF-8: {error}") from error
    path = folder / "tokenizer_config.json"
    found = read_object(path).get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get(_USUAL)
    if not isinstance(found, (str, type(None))):
        raise CheckpointError(f"{path}: chat_template must be a text, or a list of named texts, found {found!r:.100}")
    return found


class Chat:
    """A chat template, for a tokenizer: `structured` gives it each content as a list of parts."""

    def __init__(self, template: str, tokenizer: Tokenizer, structured: bool | None = None) -> None:
        self.template = template
        self.structured = any(part in template for part in _PARTS) if structured is None else structured
        self._tokenizer = tokenizer
        self._where = tokenizer.name_or_path or "the tokenizer"
        self._render = _compiled(template, self._where)
        self._suffixes: dict[str, Any] = {}
        self._carries_pairs = False

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the compiled template, which cannot be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "_render"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the attributes, and compile the template."""
        self.__dict__.update(state)
        self._render = _compiled(self.template, self._where)

    def with_tokenizer(self, tokenizer: Tokenizer) -> Chat:
        """Return the template for another tokenizer."""
        return Chat(self.template, tokenizer, self.structured)

    def render(self, messages: Messages) -> str:
        """Return the text of some messages."""
        from jinja2 import TemplateError

        try:
            return self._render(messages=messages, tools=None, documents=None, add_generation_prompt=False, **self._special())
        except (TemplateError, TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:
            raise CheckpointError(f"{self._where}: its chat template fails: {type(error).__name__}: {error}") from error

    def rows(self, inputs: Sequence[Any], prompt: str, max_length: int) -> TokenIds:
        """Return the ids of texts, or of pairs as a query and a document, with a prompt as the system's message.

        Of a text that is too long the end of the template is kept, which a language model's answer follows.
        """
        if inputs and not isinstance(inputs[0], str) and not self._carries_pairs:
            self._check_pairs()
        conversations = [self._messages(item, prompt) for item in inputs]
        rows, truncated = [], 0
        texts = [self.render(messages) for messages in conversations]
        for messages, row in zip(conversations, self._tokenizer.plain_rows(texts, max_length), strict=True):
            truncated += len(row) > max_length
            cut = np.array(self._tokenizer.cut(row, max_length))
            if len(row) > max_length:
                suffix = self._suffix(messages)[-len(cut) :]
                cut[len(cut) - len(suffix) :] = suffix
            rows.append(cut)
        return TokenIds(rows, None, truncated)

    def _messages(self, item: str | Sequence[str], prompt: str) -> Messages:
        """Return a text as the user's message, or a pair as a query's and a document's."""
        parts = [("user", item)] if isinstance(item, str) else list(zip(_ROLES, item, strict=True))
        if prompt:
            parts.insert(0, ("system", prompt))
        return [{"role": role, "content": self._content(str(text))} for role, text in parts]

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self.structured else text

    def _special(self) -> Mapping[str, str]:
        return self._tokenizer.special_tokens_map

    def _check_pairs(self) -> None:
        """Raise unless a query and a document reach the text."""
        base, *others = (self.render(self._messages(pair, "")) for pair in _PROBES)
        lost = [role for role, text in zip(_ROLES, others, strict=True) if text == base]
        if lost:
            raise CheckpointError(
                f"{self._where}: its chat template leaves out the {' and the '.join(lost)} of a pair: a reranker's template has "
                "messages of the roles query and document"
            )
        self._carries_pairs = True

    def _suffix(self, messages: Messages) -> Any:
        """Return the ids with which the template ends any such messages."""
        key = json.dumps([[m["role"], m["content"] if m["role"] == "system" else ""] for m in messages])
        if key not in self._suffixes:
            texts = [
                self.render([m if m["role"] == "system" else {**m, "content": self._content(filler)} for m in messages])
                for filler in _FILLERS
            ]
            first, second = (row.tolist() for row in self._tokenizer.plain_rows(texts, max(map(len, texts))))
            count = 0
            while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
                count += 1
            # Renderings that never differ hold no text of the messages.
            self._suffixes = {key: np.array(first[len(first) - count :] if count < min(len(first), len(second)) else [], np.int32)}
        return self._suffixes[key]


def _compiled(template: str, where: str) -> Callable[..., str]:
    """Return the function that renders a template."""
    try:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise ImportError(f"{where} has a chat template, which needs jinja2: pip install 'fastattn[chat]'") from error
    if tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdecimal()) < _LEAST_JINJA:
        least = ".".join(map(str, _LEAST_JINJA))
        raise ImportError(f"jinja2 must be at least {least}, whose sandbox is closed, found {jinja2.__version__}: upgrade it")

    def raise_exception(message: object) -> None:
        raise jinja2.TemplateError(str(message))

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = tojson
    environment.globals.update(
        raise_exception=raise_exception, strftime_now=lambda form: datetime.now().astimezone().strftime(form)
    )
    try:
        return environment.from_string(template).render
    except jinja2.TemplateError as error:
        raise CheckpointError(f"{where}: its chat template is not supported: {error}") from error
