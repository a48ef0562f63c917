"""Merges a LoRA adapter that lies beside a model's weights: ``W + scale B A`` (Hu et al. 2021, arXiv:2106.09685, section 4.1)."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.lora_config import by_pattern, scale_of
from fastattn.checkpoint.weights import ADAPTER_FILES, Tensors
from fastattn.kernels.ops.linear import linear
from fastattn.runtime.rounding import rounding

__all__ = ["PREFIX", "Adapter", "low_rank", "merge_adapter", "own_names", "read_adapter"]

Array = NDArray[np.float32]

# What stands before the model's names in those of peft's tensors.
PREFIX = "base_model.model."
# Keys of adapter_config.json that say how the adapter was made, or which modules it has, as its tensors do.  A linear map ignores
# fan_in_fan_out.
_IRRELEVANT = {
    "alora_invocation_tokens", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
}  # fmt: skip
_READ = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"}
# Ways to begin that leave the base weights as they are.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
# Arrays of a module: (A, B) of a linear map, and of a table, whose B A is transposed.
_PAIRS = {"lora_A.weight": "lora_B.weight", "lora_embedding_A": "lora_embedding_B"}


def merge_adapter(folder: Path, tensors: Tensors) -> None:
    """Change the tensors to those with the folder's adapter, if it has one; CheckpointError for an adapter of another kind.

    The products are computed in float32 whatever the dtype of the base weights.
    """
    if not os.path.lexists(folder / ADAPTER_FILES[0]):
        return
    adapter = read_adapter(folder)
    for name, array in adapter.whole.items():
        _replace(tensors, name, array, adapter.where)
    for (module, is_table), (a, b) in adapter.pairs.items():
        _add(tensors, module, a, b, adapter.settings, transposed=is_table)


class Adapter(NamedTuple):
    """An adapter's settings, its file, its pairs A and B by module and whether that is a table, and tensors to put in whole."""

    settings: Settings
    where: str
    pairs: dict[tuple[str, bool], tuple[Array, Array]]
    whole: dict[str, Array]


def read_adapter(folder: Path) -> Adapter:
    """Return the adapter of a folder; CheckpointError for one of another kind."""
    settings = Settings(folder / ADAPTER_FILES[0])
    _check(settings)
    safe, pickled = map(folder.joinpath, ADAPTER_FILES[1:])
    stored = Tensors(folder, [pickled if pickled.exists() and not safe.exists() else safe])
    found = {_plain(name): stored.read(name, stored.shape(name)) for name in stored.names()}
    adapter = Adapter(settings, stored.where, {}, {})
    while found:
        name = next(iter(found))
        module, part = next(((name.removesuffix(f".{part}"), part) for part in _PAIRS if name.endswith(f".{part}")), (name, ""))
        if not part and any(name.endswith(f".{other}") for other in _PAIRS.values()):
            other = next(first for first, second in _PAIRS.items() if name.endswith(second))
            module, part = name.removesuffix(f".{_PAIRS[other]}"), other
        if not part:
            if "lora_" in name:
                raise CheckpointError(f"{stored.where}: tensor {name!r} is not supported; supported: {', '.join(_PAIRS)}")
            adapter.whole[name] = found.pop(name)
            continue
        a, b = (found.pop(f"{module}.{key}", None) for key in (part, _PAIRS[part]))
        if a is None or b is None:
            raise CheckpointError(f"{stored.where}: of {module!r} one of {part} and {_PAIRS[part]} is missing")
        adapter.pairs[module, part == "lora_embedding_A"] = a, b
    return adapter


def _check(settings: Settings) -> None:
    """Raise for a kind of adapter, or an option that changes the result, which is not supported."""
    settings.choice("peft_type", "", ("LORA",))
    values = settings.values
    if not any(values.get("init_lora_weights") is start or values.get("init_lora_weights") == start for start in _STARTS):
        raise settings.error(f"init_lora_weights {values['init_lora_weights']!r} is not supported: it changes the base weights")
    for key, value in values.items():
        if value and key not in _IRRELEVANT | _READ:
            raise settings.error(f"{key} {value!r} is not supported; merge the adapter with peft (merge_and_unload)")


def _plain(name: str) -> str:
    """Return the name of an adapter's tensor without what peft wraps it in."""
    for wrapper in (".base_layer", ".modules_to_save"):
        name = name.replace(f"{wrapper}.", ".")
    return re.sub(r"(lora_(?:embedding_)?[AB])\.default", r"\1", name.removeprefix(PREFIX))


def _target(tensors: Tensors, name: str, where: str) -> str:
    """Return the model's tensor of that name."""
    found = own_names(name, tensors.names())
    if len(found) != 1:
        raise CheckpointError(f"{where}: adapts {name!r}, and {tensors.where} has {', '.join(found) or 'no such tensor'}")
    return found[0]


def own_names(name: str, names: Collection[str]) -> list[str]:
    """Return the model's names for one of an adapter: of the two, either may have a prefix."""
    return [name] if name in names else [own for own in names if own.endswith(f".{name}") or name.endswith(f".{own}")]


def low_rank(a: Array, b: Array, scale: float) -> Array:
    """Return ``scale b a``: the product of a kernel, whose bits do not depend on the number of threads."""
    change: Array = np.float32(scale) * linear(b, np.ascontiguousarray(a.T))
    return change


def _replace(tensors: Tensors, name: str, array: Array, where: str) -> None:
    """Put a tensor that was trained as a whole (modules_to_save, bias) in the place of the model's."""
    tensors.change(_target(tensors, name, where), array.shape, lambda: array)


def _add(tensors: Tensors, module: str, a: Array, b: Array, settings: Settings, *, transposed: bool) -> None:
    """Add ``scale B A`` to the weight of a module."""
    rank = _by_pattern(settings, "rank_pattern", module, settings.size("r", 8))
    alpha = _by_pattern(settings, "alpha_pattern", module, settings.number("lora_alpha", 8))
    name = _target(tensors, f"{module}.weight", str(settings.path))
    shape = tensors.shape(name)
    outputs, inputs = shape[::-1] if transposed else shape
    if a.shape != (rank, inputs) or b.shape != (outputs, rank):
        raise settings.error(f"{module}: A has shape {a.shape} and B {b.shape} for a rank of {rank} and a weight of shape {shape}")
    scale = scale_of(alpha, rank, settings.flag("use_rslora", False))
    before = tensors.read(name, shape)

    @rounding()
    def merged() -> Array:
        change = low_rank(a, b, scale)
        return np.ascontiguousarray(before + (change.T if transposed else change))

    tensors.change(name, shape, merged)


def _by_pattern(settings: Settings, key: str, module: str, usual: Any) -> Any:
    """Return the number that the first fitting pattern has for a module."""
    patterns = settings.values.get(key) or {}
    try:
        return by_pattern(patterns, module, usual)
    except (AttributeError, re.error) as error:
        raise settings.error(f"{key} must map patterns to numbers, found {patterns!r}") from error
