"""Arguments and tensors of sentence-transformers: checked, renamed, converted, or refused."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

_DTYPES = ("float32", "auto", "None")
# Loading options of transformers: accepted and ignored.
_LOADING = ("cache_dir", "local_files_only", "revision", "token", "trust_remote_code")
_MODEL_KWARGS = (*_LOADING, "attn_implementation", "device_map", "low_cpu_mem_usage", "use_safetensors")
_PROCESSOR_KWARGS = (*_LOADING, "clean_up_tokenization_spaces", "padding_side", "use_fast")


def renamed(*dropped: str, **names: str) -> Callable[[F], F]:
    """Return a decorator that renames old keyword arguments and drops those in `dropped`; a new name wins over its old name."""

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
    """A device name with an attribute ``type``, like ``torch.device``."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """The device name."""
        return str(self)


class CardData:
    """Store for the metrics of sentence-transformers' evaluators."""

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}

    def set_evaluation_metrics(self, evaluator: Any, metrics: dict[str, Any], epoch: int = 0, step: int = 0) -> None:
        """Merge `metrics` into the attribute of that name."""
        self.metrics.update(metrics)


def check_device(device: Any) -> None:
    """Raise a ValueError unless `device` is None or the CPU."""
    if device is not None and str(device) not in ("cpu", "cpu:0"):
        raise ValueError(f'device must be None or "cpu", got {str(device)!r}')


def check_mappings(**given: Any) -> None:
    """Raise a TypeError unless every argument is a mapping or None."""
    for name, value in given.items():
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a mapping or None, got {type(value).__name__}")


def check_loading(model_kwargs: Mapping[str, Any] | None, config_kwargs: Mapping[str, Any] | None) -> None:
    """Raise a ValueError for a loading option that would change the result."""
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
    """Return the tokenizer arguments that have an effect; ValueError for unknown names or values."""
    used = ("do_lower_case", "model_max_length", "truncation_side")
    given = dict(processor_kwargs or {})
    for name in given:
        if name not in (*used, *_PROCESSOR_KWARGS):
            raise ValueError(f"processor_kwargs: {name} is not supported; supported: {', '.join((*used, *_PROCESSOR_KWARGS))}")
    if given.get("truncation_side", "right") not in ("left", "right"):
        raise ValueError(f'processor_kwargs: truncation_side must be "left" or "right", got {given["truncation_side"]!r}')
    return {name: given[name] for name in used if name in given}


def check_call(batch_size: int, device: Any, pool: Any, chunk_size: int | None, unknown: set[str], name: str) -> None:
    """Check the arguments that `encode` and `predict` share."""
    if unknown:
        raise ValueError(f"{name} has no argument {', '.join(sorted(unknown))}")
    if batch_size <= 0:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size}")
    if chunk_size is not None and chunk_size <= 0:
        raise ValueError(f"chunk_size must be a positive integer, got {chunk_size}")
    if pool is not None and not (isinstance(pool, dict) and "processes" in pool):
        raise ValueError(f"pool must be what start_multi_process_pool returned, and not stopped, got {pool!r}")
    for one in device if isinstance(device, (list, tuple)) else [device]:
        check_device(one)


def is_tensor(embeddings: Any) -> bool:
    """Tell whether `embeddings` is a torch tensor, or a list whose first element is a torch tensor."""
    if isinstance(embeddings, (list, tuple)) and len(embeddings):
        embeddings = embeddings[0]
    return type(embeddings).__module__.partition(".")[0] == "torch"


def check_torch() -> None:
    """Raise an ImportError if torch, which a call that returns tensors needs, is not installed."""
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise ImportError("tensors need torch: pip install 'fastattn[torch]'") from error


def as_tensors(result: Any) -> Any:
    """Convert arrays, also inside lists and dicts, to torch tensors that share their memory."""
    if isinstance(result, list):
        return [as_tensors(item) for item in result]
    if isinstance(result, dict):
        return {name: as_tensors(item) for name, item in result.items()}
    if isinstance(result, (np.ndarray, np.generic)):
        return importlib.import_module("torch").from_numpy(np.asarray(result))
    return result
