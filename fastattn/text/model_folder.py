"""Reads and writes a sentence-transformers folder: modules, prompts, similarity, width."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastattn.checkpoint.folder import CheckpointError, own_file, read_modules, read_object, transformer_folder
from fastattn.runtime.files import write_file, write_json
from fastattn.text.modules import Dense, Dropout, LayerNorm, Module, Normalize, Pooling, Transformer
from fastattn.text.modules.module import token_names

__all__ = ["ModelSettings", "check_modules", "read_model_settings", "read_modules_of", "write_model_folder"]

logger = logging.getLogger(__name__)

_KINDS = {kind.kind: kind for kind in (Pooling, Dense, Normalize, LayerNorm, Dropout)}

# Limits the memory that a small modules.json can allocate: each entry loads its own weights, even from the same folder.
_MOST_MODULES = 100


class ModelSettings(NamedTuple):
    """Content of ``config_sentence_transformers.json``.

    Parameters
    ----------
    prompts : dict of str to str
        Prompts by name: texts that are put before each input.
    default_prompt_name : str or None
        Name of the prompt for calls that name none.
    similarity : object
        Name of the similarity function.
    truncate_dim : int or None
        Number of channels of an embedding to keep.
    activation : object
        Name of the activation of the scores.
    versions : dict of str to object
        Versions of the libraries that wrote the folder.
    """

    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity: Any
    truncate_dim: int | None
    activation: Any
    versions: dict[str, Any]


def read_model_settings(folder: Path, model_type: str) -> ModelSettings | None:
    """Read ``config_sentence_transformers.json``; None, with a warning, for another type of model."""
    transformer_folder(folder)
    path = folder / "config_sentence_transformers.json"
    settings = read_object(path)
    # A folder without modules.json comes from transformers, and fits either type of model.
    found = settings.get("model_type", "SentenceTransformer" if os.path.lexists(folder / "modules.json") else model_type)
    if found != model_type:
        logger.warning("%s is a %s: only its encoder is used, as a %s", folder, found, model_type)
        return None
    prompts = settings.get("prompts")
    prompts = {} if prompts is None else prompts
    if not isinstance(prompts, dict) or not all(isinstance(text, (str, type(None))) for text in prompts.values()):
        raise CheckpointError(f"{path}: prompts must map names to texts, found {prompts!r:.200}")
    name = settings.get("default_prompt_name")
    if name is not None and not isinstance(name, str):
        raise CheckpointError(f"{path}: default_prompt_name must be the name of a prompt, found {name!r:.200}")
    truncate_dim = settings.get("truncate_dim")
    if truncate_dim is not None and (type(truncate_dim) is not int or truncate_dim < 1):
        raise CheckpointError(f"{path}: truncate_dim must be a positive integer, found {truncate_dim!r:.200}")
    return ModelSettings(
        prompts={name: text or "" for name, text in prompts.items()},
        default_prompt_name=name,
        similarity=settings.get("similarity_fn_name"),
        truncate_dim=truncate_dim,
        activation=settings.get("activation_fn"),
        versions=versions if isinstance(versions := settings.get("__version__"), dict) else {},
    )


def read_modules_of(folder: Path, **options: Any) -> list[Module]:
    """Read the modules of a folder: a Transformer, and those of ``modules.json`` if there is one."""
    entries = read_modules(folder) or [("Transformer", transformer_folder(folder))]
    path = folder / "modules.json"
    for kind, _ in entries:
        if kind != "Transformer" and kind not in _KINDS:
            supported = ", ".join(("Transformer", *_KINDS))
            raise CheckpointError(f"{path}: module {kind!r} is not supported; supported: {supported}")
    if len(entries) > _MOST_MODULES:
        raise CheckpointError(f"{path}: {len(entries)} modules; supported: at most {_MOST_MODULES}")
    kinds = [kind for kind, _ in entries]
    if kinds[0] != "Transformer" or "Transformer" in kinds[1:]:
        raise CheckpointError(f"{path}: modules {', '.join(kinds)}; expected exactly one Transformer, as the first module")
    modules: list[Module] = [Transformer(entries[0][1], **options)]
    modules += [_KINDS[kind]._load(where) for kind, where in entries[1:]]
    try:
        check_modules(modules)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return modules


def check_modules(modules: Sequence[Module]) -> dict[str, int]:
    """Return the width of each array that the modules write, by name; ValueError if two modules do not fit."""
    token_names(modules)
    widths: dict[str, int] = {}
    for module in modules:
        module._width(widths)
    return widths


def write_model_folder(target: Path, modules: Iterable[Module], settings: dict[str, Any], readme: Path | None) -> None:
    """Write modules, their list and ``config_sentence_transformers.json`` into a folder; copy the model card if there is one."""
    entries = []
    for i, module in enumerate(modules):
        name = "" if i == 0 else f"{i}_{module.kind}"
        module.save(target / name)
        entries.append({"idx": i, "name": str(i), "path": name, "type": f"sentence_transformers.models.{module.kind}"})
    write_json(target / "modules.json", entries)
    write_json(target / "config_sentence_transformers.json", settings)
    if readme is not None and readme.is_file():
        write_file(target / "README.md", own_file(readme).read_bytes())
