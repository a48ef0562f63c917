"""Arguments and tensors of sentence-transformers: checked, renamed, converted, or refused."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike

from fastattn.config import Precision, check_precision
from fastattn.encoder.torch_names import check_device, dtype_name

F = TypeVar("F", bound=Callable[..., Any])

# Of the results, by the dtype in `model_kwargs`; NumPy has no bfloat16.
_DTYPES = {"float32": np.float32, "auto": np.float32, "None": np.float32, "float16": np.float16, "bfloat16": np.float32}
_DTYPE_KEYS = ("dtype", "torch_dtype")
# Loading options of transformers: accepted and ignored.
_LOADING = ("cache_dir", "local_files_only", "revision", "token", "trust_remote_code")
# Dropout of the hidden states in training, and of the weights of attention, under the names of transformers' families.
_DROPOUT = ("dropout", "hidden_dropout", "hidden_dropout_prob", "resid_pdrop")
_UNDROPPED = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop")
_MODEL_KWARGS = (*_LOADING, "attn_implementation", "default_task", "device_map", "low_cpu_mem_usage", "use_safetensors")
# Options of a tokenizer's call that are so already.
_PROCESSING = (("truncation", True), ("truncation", "longest_first"), ("padding", True), ("padding", "longest"))
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


class CardData:
    """Data of a model card that evaluators and wrappers read: names of the model, and the metrics that they store.

    Parameters
    ----------
    base_model : str, optional
        Name or folder from which the model was loaded.
    """

    def __init__(self, base_model: str | None = None) -> None:
        self.base_model = base_model
        self.base_model_revision: str | None = None
        self.model_id: str | None = None
        self.model_name: str | None = None
        self.language: list[str] = []
        self.license: str | None = None
        self.tags: list[str] = []
        self.train_datasets: list[dict[str, Any]] = []
        self.eval_datasets: list[dict[str, Any]] = []
        self.metrics: dict[str, Any] = {}

    def set_evaluation_metrics(self, evaluator: Any, metrics: dict[str, Any], epoch: int = 0, step: int = 0) -> None:
        """Merge `metrics` into the attribute of that name."""
        self.metrics.update(metrics)

    def set_base_model(self, model_id: str, revision: str | None = None) -> None:
        """Set the base model."""
        self.base_model, self.base_model_revision = model_id, revision

    def set_model_id(self, model_id: str) -> None:
        """Set the model's name on the Hub."""
        self.model_id = model_id


def check_mappings(**given: Any) -> None:
    """Raise a TypeError unless every argument is a mapping or None."""
    for name, value in given.items():
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a mapping or None, got {type(value).__name__}")


def loading_dtype(model_kwargs: Mapping[str, Any] | None, config_kwargs: Mapping[str, Any] | None) -> np.dtype[Any]:
    """Return the dtype of the results; ValueError for a loading option that would change them otherwise."""
    dtype: DTypeLike = np.float32
    for name, value in (model_kwargs or {}).items():
        if name in _DTYPE_KEYS:
            if (key := dtype_name(value)) not in _DTYPES:
                raise ValueError(f'model_kwargs: {name} must be float32, bfloat16, float16 or "auto", got {value!r}')
            dtype = _DTYPES[key]
        elif name not in _MODEL_KWARGS:
            raise ValueError(f"model_kwargs: {name} is not supported; supported: dtype, {', '.join(_MODEL_KWARGS)}")
    for name, value in (config_kwargs or {}).items():
        if name in (*_DROPOUT, *_UNDROPPED):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ValueError(f"config_kwargs: {name} must be a number in [0, 1), got {value!r:.50}")
            if value and name in _UNDROPPED:
                raise ValueError(f"config_kwargs: {name} must be 0: the weights of attention are not dropped, got {value!r}")
        elif name not in _LOADING:
            supported = ", ".join((*_LOADING, *_DROPOUT, *_UNDROPPED))
            raise ValueError(f"config_kwargs: {name} is not supported; supported: {supported}")
    return np.dtype(dtype)


def loading_dropout(config_kwargs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the field of the encoder's configuration that a dropout in `config_kwargs` sets; {} without one."""
    found = [float(value) for name, value in (config_kwargs or {}).items() if name in _DROPOUT]
    return {"dropout": found[-1]} if found else {}


def loading_task(model_kwargs: Mapping[str, Any] | None) -> str | None:
    """Return the task in `model_kwargs` whose adapter is loaded."""
    task = (model_kwargs or {}).get("default_task")
    if task is not None and not isinstance(task, str):
        raise ValueError(f"model_kwargs: default_task must be the name of a task, got {task!r:.50}")
    return task


def loading_precision(precision: Precision | None, model_kwargs: Mapping[str, Any] | None) -> Precision | None:
    """Return the precision that the argument or the dtype in `model_kwargs` asks for, None without either; they may not differ."""
    by_dtype = [name for name in _DTYPE_KEYS if dtype_name((model_kwargs or {}).get(name)) == "bfloat16"]
    if precision is None:
        return "bfloat16" if by_dtype else None
    if by_dtype and check_precision(precision) != "bfloat16":
        raise ValueError(f"precision is {precision!r}, and model_kwargs: {by_dtype[0]} asks for bfloat16: leave one of them out")
    return check_precision(precision)


def processing_arguments(processor_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the tokenizer arguments that have an effect; ValueError for unknown names or values."""
    used = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "model_max_length", "truncation_side")
    given = dict(processor_kwargs or {})
    for name, value in given.items():
        if name not in (*used, *_PROCESSOR_KWARGS):
            raise ValueError(f"processor_kwargs: {name} is not supported; supported: {', '.join((*used, *_PROCESSOR_KWARGS))}")
        if name in used[:4] and not (isinstance(value, bool) or (value is None and name == "strip_accents")):
            raise ValueError(f"processor_kwargs: {name} must be True or False, got {value!r}")
    if given.get("truncation_side", "right") not in ("left", "right"):
        raise ValueError(f'processor_kwargs: truncation_side must be "left" or "right", got {given["truncation_side"]!r}')
    return {name: given[name] for name in used if name in given}


def call_limit(method: Callable[..., Any], given: Mapping[str, Any]) -> int | None:
    """Return the maximum number of tokens in ``processing_kwargs``; ValueError for an argument that a method does not have."""
    known = {"task", "processing_kwargs"}
    for name in given:
        if name not in known:
            raise ValueError(f"{method.__name__} has no argument {name}{_nearest(name, method)}")
    limit = None
    for part, options in (given.get("processing_kwargs") or {}).items():
        for name, value in options.items():
            if part in ("text", "common") and name == "max_length":
                limit = value
            elif part not in ("text", "common") or (name, value) not in _PROCESSING:
                raise ValueError(
                    f"processing_kwargs: {part} with {name}={value!r} is not supported; supported: text with max_length"
                )
    return limit


def _nearest(name: str, method: Callable[..., Any]) -> str:
    """Return the hint to an argument with a name like `name`."""
    names: Iterable[str] = inspect.signature(method).parameters
    near = [other for other in names if len(name) > 3 and other.startswith(name[:-2])] or difflib.get_close_matches(name, names, 1)
    return f"; did you mean {near[0]}?" if near else ""


def check_call(batch_size: int, device: Any, pool: Any, chunk_size: int | None) -> None:
    """Check the arguments that `encode` and `predict` share."""
    for name, size in (("batch_size", batch_size), ("chunk_size", 1 if chunk_size is None else chunk_size)):
        if not isinstance(size, (int, np.integer)):
            raise TypeError(f"{name} must be a positive integer, got {size!r:.50}")
        if size <= 0:
            raise ValueError(f"{name} must be a positive integer, got {size}")
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


def as_dtype(result: Any, dtype: np.dtype[Any]) -> Any:
    """Convert float32 arrays, also inside lists and dicts, to a dtype."""
    if isinstance(result, list):
        return [as_dtype(item, dtype) for item in result]
    if isinstance(result, dict):
        return {name: as_dtype(item, dtype) for name, item in result.items()}
    return result.astype(dtype, copy=False) if getattr(result, "dtype", None) == np.float32 else result
