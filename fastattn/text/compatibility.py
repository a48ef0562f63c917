"""Arguments of sentence-transformers that mean something else here, or nothing: checked, renamed or refused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

_DTYPES = ("float32", "auto", "None")
# What changes nothing here: how transformers loads, and where from.
_LOADING = ("cache_dir", "local_files_only", "revision", "token", "trust_remote_code")
_MODEL_KWARGS = (*_LOADING, "attn_implementation", "device_map", "low_cpu_mem_usage", "use_safetensors")
_PROCESSOR_KWARGS = (*_LOADING, "clean_up_tokenization_spaces", "padding_side", "use_fast")


def renamed(*dropped: str, **names: str) -> Callable[[F], F]:
    """Make a decorator that accepts old names of keyword arguments.

    Parameters
    ----------
    *dropped
        Old names that say nothing any more.
    **names
        The new name of each old one; the new one wins where both are given.

    Returns
    -------
    callable
        The decorator.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for old in dropped:
                kwargs.pop(old, None)
            for old, new in names.items():
                if old in kwargs:
                    value = kwargs.pop(old)
                    kwargs.setdefault(new, value)
            return function(*args, **kwargs)

        return cast("F", wrapper)

    return decorate


class Device(str):
    """A device's name, with the ``type`` that ``torch.device`` has."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """The name itself."""
        return str(self)


class CardData:
    """Where evaluators of sentence-transformers leave their metrics."""

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}

    def set_evaluation_metrics(self, evaluator: Any, metrics: dict[str, Any], epoch: int = 0, step: int = 0) -> None:
        """Keep the metrics.

        Parameters
        ----------
        evaluator : object
            Not read.
        metrics : dict of str to float
            Added to `metrics`.
        epoch, step : int
            Not read.
        """
        self.metrics.update(metrics)


def check_device(device: Any) -> None:
    """Raise a ValueError unless this is the CPU.

    Parameters
    ----------
    device : None, str or torch.device
        What was given.

    Raises
    ------
    ValueError
        It is another device.
    """
    if device is not None and str(device) not in ("cpu", "cpu:0"):
        raise ValueError(f'device must be None or "cpu", got {str(device)!r}')


def check_mappings(**given: Any) -> None:
    """Raise a TypeError unless each is a mapping or None."""
    for name, value in given.items():
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a mapping or None, got {type(value).__name__}")


def given_prompts(prompts: Mapping[str, str | None] | None) -> dict[str, str]:
    """Return the prompts that are not None, a TypeError where one or its name is not a str."""
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


def check_loading(model_kwargs: Mapping[str, Any] | None, config_kwargs: Mapping[str, Any] | None) -> None:
    """Raise for a loading argument that would change what is computed here."""
    for name, value in (model_kwargs or {}).items():
        if name in ("dtype", "torch_dtype"):
            if str(value).removeprefix("torch.") not in _DTYPES:
                raise ValueError(f'model_kwargs: {name} must be float32 or "auto", got {value!r}')
        elif name not in _MODEL_KWARGS:
            raise ValueError(f"model_kwargs: {name} is not supported; supported: dtype, {', '.join(_MODEL_KWARGS)}")
    for name in config_kwargs or {}:
        if name not in _LOADING:
            raise ValueError(f"config_kwargs: {name} is not supported; supported: {', '.join(_LOADING)}")


def processing_arguments(processor_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of a tokenizer that change something here."""
    used = ("do_lower_case", "model_max_length", "truncation_side")
    given = dict(processor_kwargs or {})
    for name in given:
        if name not in (*used, *_PROCESSOR_KWARGS):
            raise ValueError(f"processor_kwargs: {name} is not supported; supported: {', '.join((*used, *_PROCESSOR_KWARGS))}")
    if given.get("truncation_side", "right") not in ("left", "right"):
        raise ValueError(f'processor_kwargs: truncation_side must be "left" or "right", got {given["truncation_side"]!r}')
    return {name: given[name] for name in used if name in given}
