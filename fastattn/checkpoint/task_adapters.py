"""Merges the LoRA adapter of a task whose tensors lie among a model's own, as parametrisations of its weights.

``W + (lora_alpha / lora_rank) B A`` (Hu et al. 2021, arXiv:2106.09685, section 4.1), with an A and a B for each task (Sturua et al.
2024, arXiv:2409.10173, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.weights import Tensors
from fastattn.runtime.rounding import rounding

__all__ = ["adapter_names", "merge_task"]

Array = NDArray[np.float32]

_ORIGINAL, _A, _B = (f".parametrizations.weight.{part}" for part in ("original", "0.lora_A", "0.lora_B"))


def adapter_names(settings: Settings) -> list[str]:
    """Return the tasks for which a model has an adapter, in the order of its tensors."""
    found = settings.values.get("lora_adaptations")
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise settings.error(f"lora_adaptations must be a list of tasks, found {found!r:.200}")
    return found


def merge_task(settings: Settings, tensors: Tensors, adapter: str | None) -> None:
    """Change the parametrised tensors to plain weights: those of the task, or without one those below the adapters."""
    names = adapter_names(settings)
    stems = [name.removesuffix(_ORIGINAL) for name in tensors.names() if name.endswith(_ORIGINAL)]
    if adapter is not None and (adapter not in names or not stems):
        there = ", ".join(names) if stems and names else "none"
        raise CheckpointError(f"{tensors.where}: there is no adapter for the task {adapter!r}; adapters: {there}")
    for stem in stems:
        base, a, b = (f"{stem}{part}" for part in (_ORIGINAL, _A, _B))
        change = None if adapter is None else _change(settings, tensors, base, (a, b), names.index(adapter))
        tensors.replace(base, f"{stem}.weight", change)
        tensors.drop(a, b)


def _change(settings: Settings, tensors: Tensors, base: str, pair: tuple[str, str], index: int) -> Callable[[Array], Array]:
    """Return what makes a weight that of the task of number `index`."""
    if missing := [name for name in pair if name not in tensors]:
        raise CheckpointError(f"{tensors.where}: tensor {missing[0]!r} is missing, of the adapters of {base!r}")
    shape, tasks, rank = tensors.shape(base), len(adapter_names(settings)), settings.size("lora_rank", 4)
    if len(shape) != 2:
        raise CheckpointError(f"{tensors.where}: tensor {base!r} has shape {shape}, and an adapter is of a matrix")
    # The matrices of a table come transposed.
    is_table = tensors.shape(pair[0])[1:] != (rank, shape[1])
    inputs, outputs = shape if is_table else shape[::-1]
    shapes = ((tasks, inputs, rank), (tasks, rank, outputs)) if is_table else ((tasks, rank, inputs), (tasks, outputs, rank))
    first, second = (tensors.read(name, size)[index] for name, size in zip(pair, shapes, strict=True))
    left, right = (first, second) if is_table else (second, first)
    scale = np.float32(settings.number("lora_alpha", 1.0) / rank)

    @rounding()
    def change(weight: Array) -> Array:
        return np.ascontiguousarray(weight + scale * (left @ right))

    return change
