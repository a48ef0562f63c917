"""Prompts: texts that are put before an input, chosen by name or by the kind of input."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from fastattn.text.compatibility import check_mappings, renamed

__all__ = ["DOCUMENT_PROMPTS", "first_prompt", "given_prompts", "prompted", "resolve_prompt"]

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

# Names of the prompt for documents: the first that a model has.
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


def given_prompts(prompts: Mapping[str, str | None] | None) -> dict[str, str]:
    """Return the prompts that are not None; TypeError if a name or a prompt is not a str."""
    check_mappings(prompts=prompts)
    given = {}
    for name, text in (prompts or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"prompts: a name must be a str, got {name!r}")
        if not isinstance(text, str | None):
            raise TypeError(f"prompts[{name!r}] must be a str or None, got {type(text).__name__}")
        if text is not None:
            given[name] = text
    return given


def resolve_prompt(prompts: Mapping[str, str], default_name: str | None, prompt: str | None, name: str | None) -> str:
    """Return the prompt to use, or "" for no prompt."""
    if prompt is not None:
        if name is not None:
            logger.warning("prompt and prompt_name are both given: prompt is used")
        return prompt
    name = default_name if name is None else name
    if name is None:
        return ""
    if name not in prompts:
        raise ValueError(f"there is no prompt {name!r}; prompts: {', '.join(prompts) or 'none'}")
    return prompts[name]


def first_prompt(prompts: Mapping[str, str], names: Sequence[str]) -> str | None:
    """Return the first of the names that a model has a prompt for."""
    return next((name for name in names if name in prompts), None)


def prompted(encode: F, task: str, names: Sequence[str], summary: str) -> F:
    """Make the method ``encode_<task>``: `encode` with the first prompt of `names` that the model has, unless a prompt is given.

    Signature and docstring are those of `encode`, with another summary.
    """
    signature = inspect.signature(encode)

    def method(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        model = given.pop("self")
        if given.get("prompt_name") is None and given.get("prompt") is None:
            given["prompt_name"] = first_prompt(model.prompts, names)
        # `model.encode` by keyword, because a subclass may have overridden it, with other positions.
        return model.encode(task=task, **given)

    choice = " or ".join(f'"{name}"' for name in names)
    described = inspect.cleandoc(encode.__doc__ or "").partition("\n")[2]
    functools.update_wrapper(method, encode)
    # Python's own TypeErrors name the inner function.
    method.__name__ += f"_{task}"
    method.__qualname__ += f"_{task}"
    method.__doc__ = (
        f"{summary}\n\n`encode` with the prompt {choice}, the first that the model has, unless another is given.\n{described}"
    )
    return cast("F", renamed(sentences="inputs")(method))
