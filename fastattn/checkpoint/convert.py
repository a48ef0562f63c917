"""Writes model.safetensors from a folder's pickled weights: every tensor, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fastattn.checkpoint.families import FAMILIES
from fastattn.checkpoint.folder import CheckpointError, read_object, transformer_folder
from fastattn.checkpoint.missing import faults
from fastattn.checkpoint.pickles import PickledTensor, load_pickle
from fastattn.checkpoint.tensor_file import StoredTensor, write_tensors
from fastattn.checkpoint.weights import pickles, weight_files

__all__ = ["Converted", "convert"]

_TARGET = "model.safetensors"
# Where trainers keep the tensors beside their own state.
_INNER = ("state_dict", "model_state_dict", "model")


class Converted(NamedTuple):
    """What was written, and what still keeps the folder from being a model."""

    path: Path
    tensors: int
    # In front of the names, and removed from them.
    prefix: str
    # Entries of the pickle that hold no tensor of the model.
    left: list[str]
    faults: list[Exception]


def convert(folder: Path) -> Converted:
    """Write the tensors of a folder's pickles, read without running code, into a file beside them, which must not exist."""
    folder = transformer_folder(folder)
    for name in (_TARGET, f"{_TARGET}.index.json"):
        if os.path.lexists(folder / name):
            raise FileExistsError(f"{folder / name}: is there already; it is read before any pickle, and is not replaced")
    tensors: dict[str, PickledTensor] = {}
    left: list[str] = []
    for path in _sources(folder):
        found, others = _tensors_of(path)
        if twice := sorted(found.keys() & tensors.keys()):
            raise CheckpointError(f"{path}: tensor {twice[0]!r} is in another file too")
        tensors.update(found)
        left += others
    prefix = _foreign_prefix(tensors, _prefixes(folder))
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if len(named) != len(tensors):
        raise CheckpointError(f"{folder}: without the prefix {prefix!r}, two tensors have one name")
    write_tensors(folder / _TARGET, {name: StoredTensor(tensor.array, tensor.dtype) for name, tensor in named.items()})
    return Converted(folder / _TARGET, len(named), prefix, left, faults(folder))


def _sources(folder: Path) -> list[Path]:
    """Return the pickles to read: ``pytorch_model.bin`` or its parts, else the only file of another name."""
    try:
        return [path for path in weight_files(folder) if path.suffix != ".json"]
    except FileNotFoundError:
        found = pickles(folder)
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise CheckpointError(f"{folder}: {names}: rename the one that holds the model to pytorch_model.bin") from None
        if not found:
            raise
        return found


def _tensors_of(path: Path) -> tuple[dict[str, PickledTensor], list[str]]:
    """Return the tensors of a pickle by name, and the names of its other entries."""
    content, left = load_pickle(path), []
    if isinstance(content, dict):
        for key in _INNER:
            if isinstance(content.get(key), dict):
                left, content = [str(name) for name in content if name != key], content[key]
                break
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dict of tensors by name, found a {type(content).__name__}")
    tensors = {name: tensor for name, tensor in content.items() if isinstance(name, str) and isinstance(tensor, PickledTensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors by name")
    return tensors, left + [str(name) for name in content if name not in tensors]


def _prefixes(folder: Path) -> tuple[str, ...]:
    """Return the prefixes that the folder's family has: those of all families where the configuration does not say."""
    settings = read_object(folder / "config.json") if os.path.lexists(folder / "config.json") else {}
    named = settings.get("model_type")
    families = [FAMILIES[named]] if isinstance(named, str) and named in FAMILIES else list(FAMILIES.values())
    return tuple(dict.fromkeys(prefix for family in families for prefix in family.prefixes if prefix))


def _foreign_prefix(names: Iterable[str], known: tuple[str, ...]) -> str:
    """Return what a trainer's wrapper put in front of the encoder's names: ``model.model.`` of a LightningModule's."""
    stem = next((name for name in names if ".embeddings." in f".{name}" and name.endswith("embeddings.weight")), "")
    prefix = f".{stem}".partition(".embeddings.")[0].removeprefix(".")
    prefix = f"{prefix}." if prefix else ""
    # The family's own prefix stays.
    own = max((own for own in known if prefix.endswith(own)), key=len, default="")
    return prefix.removesuffix(own)
