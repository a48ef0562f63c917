"""The settings file of a Transformer: which tasks there are, and what each writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from fastattn.checkpoint.folder import CheckpointError, read_object
from fastattn.text.compatibility import check_mappings, loading_dtype, loading_task, processing_arguments
from fastattn.text.modules.module import CAUSAL_LOGITS, LOGITS, SCORES, SENTENCE, TOKENS

__all__ = ["BY_TASK", "NAMES", "OUTPUTS", "TASKS", "read_settings", "stored_limit"]

# The settings file is sentence_<name>_config.json: older versions named it after the architecture.
_ARCHITECTURES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
# Keys of the settings file that would change the result.
_UNSUPPORTED = ("processing_kwargs", "tokenizer_name_or_path")
# Keys for queries and documents of a MultiVectorEncoder.
BY_TASK = ("query_length", "document_length", "query_expansion")
TASKS = ("feature-extraction", "sequence-classification", "text-generation", "fill-mask")
# Older names of keys.
_RENAMED = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}
# The output of transformers' models that the module is, by task.
OUTPUTS = {**dict.fromkeys(TASKS, "logits"), "feature-extraction": "last_hidden_state"}
# The name of the array that the module writes, by task.
NAMES = dict(zip(TASKS, (TOKENS, SCORES, CAUSAL_LOGITS, LOGITS), strict=True))
# As which sentence-transformers uses the text side of CLIP: its projection, without a Pooling behind it.
_PROJECTION: dict[str, str | None] = {"method": "get_text_features", "method_output_name": "pooler_output"}


def read_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the path and content of the module's settings file."""
    paths = [folder / f"sentence_{name}_config.json" for name in _ARCHITECTURES]
    path = next((path for path in paths if path.exists()), paths[0])
    settings = {_RENAMED.get(name, name): value for name, value in read_object(path).items()}
    for key in _UNSUPPORTED:
        if settings.get(key):
            raise CheckpointError(f"{path}: {key} {settings[key]!r} is not supported")
    output = settings.get("module_output_name", TOKENS)
    outputs = (*NAMES.values(), SENTENCE)
    if output not in outputs:
        raise CheckpointError(f"{path}: module_output_name {output!r} is not supported; supported: {', '.join(outputs)}")
    task = settings.get("transformer_task", TASKS[0])
    if task not in TASKS:
        raise CheckpointError(f"{path}: transformer_task {task!r:.200} is not supported; supported: {', '.join(TASKS)}")
    own = OUTPUTS[task]
    wanted = _PROJECTION if output == SENTENCE else {"method": "forward", "method_output_name": own}
    kinds = settings.get("modality_config") or ({"text": wanted} if path.exists() else None)
    if not isinstance(kinds, dict | None):
        raise CheckpointError(f"{path}: modality_config must be an object, found {kinds!r:.200}")
    settings["modality_config"] = kinds
    if kinds and not {"text", "message"} & set(kinds):
        raise CheckpointError(f"{path}: modality_config with text None is not supported; supported: {wanted!r}")
    for kind in ("text", "message"):
        entry = (kinds or {}).get(kind, wanted)
        if not isinstance(entry, dict) or {**entry, "format": None} != {**wanted, "format": None}:
            raise CheckpointError(f"{path}: modality_config with {kind} {entry!r} is not supported; supported: {wanted!r}")
        if entry.get("format", "auto") not in ("auto", "flat", "structured"):
            raise CheckpointError(f"{path}: format {entry['format']!r} is not supported; supported: auto, flat, structured")
    try:
        settings["default_task"] = loading_task(settings.get("model_kwargs"))
        settings["processor_kwargs"] = _arguments(settings)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return path, settings


def stored_limit(path: Path, settings: Mapping[str, Any]) -> float | None:
    """Return the maximum number of tokens in the settings; None without one."""
    limit = settings.get("processor_kwargs", {}).get("model_max_length", settings.get("max_seq_length"))
    if limit is not None and (type(limit) not in (int, float) or not 1 <= limit < float("inf")):
        raise CheckpointError(f"{path}: max_seq_length must be a positive number, found {limit!r:.200}")
    return cast("float | None", limit)


def _arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokenizer arguments in the settings; an error for an argument of transformers that cannot be followed."""
    given = {name: settings.get(name) for name in _RENAMED.values()}
    check_mappings(**given)
    # A type of the weights is not followed: float32 is nearer to the truth, and other precisions are asked for.
    model = {name: value for name, value in (given["model_kwargs"] or {}).items() if name not in ("dtype", "torch_dtype")}
    loading_dtype(model, given["config_kwargs"])
    return processing_arguments(given["processor_kwargs"])
