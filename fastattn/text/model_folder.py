"""Reads and writes a sentence-transformers folder: modules, prompts, similarity, width."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fastattn.checkpoint.folder import CheckpointError, own_file, read_modules, read_object, transformer_folder
from fastattn.runtime.files import write_file, write_json
from fastattn.text.modules import (
    Dense,
    Dropout,
    HierarchicalTokenPooling,
    LayerNorm,
    LogitScore,
    Module,
    MultiVectorMask,
    Normalize,
    Pooling,
    Router,
    SparseAutoEncoder,
    SparseStaticEmbedding,
    SpladePooling,
    StaticEmbedding,
    Transformer,
)
from fastattn.text.modules.module import token_names

__all__ = [
    "PYLATE_KEYS",
    "ModelSettings",
    "check_modules",
    "load_modules",
    "named_kind",
    "read_dense_modules",
    "read_model_settings",
    "read_modules_of",
    "read_sparse_modules",
    "write_model_folder",
]

logger = logging.getLogger(__name__)

_KINDS = {
    kind.kind: kind
    for kind in (Pooling, Dense, Normalize, LayerNorm, Dropout, LogitScore, MultiVectorMask, HierarchicalTokenPooling)
}
_SPARSE_KINDS = {kind.kind: kind for kind in (SpladePooling, SparseAutoEncoder)}
# The older name of a Transformer for "fill-mask".
_MASKED = "MLMTransformer"

# Keys by which PyLate's ``config_sentence_transformers.json`` is known; its older versions write no model_type.
PYLATE_KEYS = (
    "query_prefix", "document_prefix", "query_length", "document_length", "query_expansion", "do_query_expansion",
    "attend_to_expansion_tokens", "attend_to_mask_tokens", "skiplist_words",
)  # fmt: skip

_First = Callable[[Path, tuple[Path, ...]], Module]
_FIRST = (Transformer.kind, StaticEmbedding.kind)

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


def named_kind(settings: dict[str, Any], default: Any = None) -> Any:
    """Return the type of model that the settings of a folder name, PyLate's among them."""
    kind = settings.get("model_type", default)
    is_pylate = kind == "ColBERT" or ("model_type" not in settings and any(key in settings for key in PYLATE_KEYS))
    return "MultiVectorEncoder" if is_pylate else kind


def read_model_settings(folder: Path, model_type: str) -> ModelSettings | None:
    """Read ``config_sentence_transformers.json``; None, with a warning, for another type of model."""
    transformer_folder(folder)
    path = folder / "config_sentence_transformers.json"
    settings = read_object(path)
    # A folder without modules.json comes from transformers, and fits either type of model.
    found = named_kind(settings, "SentenceTransformer" if os.path.lexists(folder / "modules.json") else model_type)
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


def _module_entries(folder: Path) -> list[tuple[str, Path]]:
    """Return the kind and the folder of each module: those of ``modules.json`` if there is one, else a Transformer."""
    entries = read_modules(folder) or [("Transformer", transformer_folder(folder))]
    # An older module, which sentence-transformers replaced by its Transformer.
    entries = [("Transformer" if kind == "CLIPModel" else kind, where) for kind, where in entries]
    path = folder / "modules.json"
    for kind, _ in entries:
        if kind not in (*_FIRST, *_KINDS):
            supported = ", ".join((*_FIRST, *_KINDS))
            raise CheckpointError(f"{path}: module {kind!r} is not supported; supported: {supported}")
    if len(entries) > _MOST_MODULES:
        raise CheckpointError(f"{path}: {len(entries)} modules; supported: at most {_MOST_MODULES}")
    kinds = [kind for kind, _ in entries]
    if kinds[0] not in _FIRST or any(kind in _FIRST for kind in kinds[1:]):
        first = " or ".join(_FIRST)
        raise CheckpointError(f"{path}: modules {', '.join(kinds)}; expected exactly one {first}, as the first module")
    return entries


def load_modules(folder: Path, **options: Any) -> list[Module]:
    """Read the modules of a folder, which may not fit each other."""
    entries = _module_entries(folder)
    read: Callable[..., Module] = StaticEmbedding._load if entries[0][0] == StaticEmbedding.kind else Transformer
    return [read(entries[0][1], **options), *(_KINDS[kind]._load(where) for kind, where in entries[1:])]


def read_modules_of(folder: Path, **options: Any) -> list[Module]:
    """Read the modules of a folder."""
    return _checked(folder, load_modules(folder, **options))


def read_sparse_modules(folder: Path, **options: Any) -> list[Module]:
    """Read the modules of a sparse model's folder; the first may be a SparseStaticEmbedding too."""
    masked = {**options, "transformer_task": "fill-mask"}
    first: dict[str, _First] = {
        "Transformer": lambda where, _: Transformer(where, **options),
        _MASKED: lambda where, _: Transformer(where, **masked),
        SparseStaticEmbedding.kind: lambda where, places: SparseStaticEmbedding._load(where, (*places, folder)),
    }
    return _read_routed(folder, first, {**_KINDS, **_SPARSE_KINDS})


def read_dense_modules(folder: Path, **options: Any) -> list[Module]:
    """Read the modules of a folder, Routers among them."""
    if Router.kind not in (kind for kind, _ in read_modules(folder)):
        return read_modules_of(folder, **options)
    first: dict[str, _First] = {
        "Transformer": lambda where, _: Transformer(where, **options),
        StaticEmbedding.kind: lambda where, _: StaticEmbedding._load(where, **options),
    }
    return _checked(folder, _read_routed(folder, first, _KINDS))


def _read_routed(folder: Path, first: Mapping[str, _First], later: Mapping[str, Any]) -> list[Module]:
    """Read the modules of a folder by their kinds; `first` read texts, and get the folders that lie around their own."""
    path, entries = folder / "modules.json", read_modules(folder)
    if not 0 < len(entries) <= _MOST_MODULES:
        raise CheckpointError(f"{path}: {len(entries)} modules; supported: 1 to {_MOST_MODULES}")
    count = 0

    def read(kind: str, where: Path, source: Path, places: tuple[Path, ...] = ()) -> Module:
        nonlocal count
        count += 1
        if count > _MOST_MODULES:
            raise CheckpointError(f"{source}: more than {_MOST_MODULES} modules")
        if kind in first:
            return first[kind](where, places)
        if kind not in later:
            supported = ", ".join((*first, Router.kind, *later))
            raise CheckpointError(f"{source}: module {kind!r} is not supported; supported: {supported}")
        module: Module = later[kind]._load(where)
        return module

    modules: list[Module] = []
    for kind, where in entries:
        if kind == Router.kind:
            modules.append(Router._load(where, partial(read, places=(where,))))
        else:
            modules.append(read(kind, where, path))
    return modules


def _checked(folder: Path, modules: list[Module]) -> list[Module]:
    """Return the modules of a folder; CheckpointError if two do not fit."""
    try:
        check_modules(modules)
    except ValueError as error:
        raise CheckpointError(f"{folder / 'modules.json'}: {error}") from error
    return modules


def check_modules(modules: Sequence[Module]) -> dict[str, int]:
    """Return the width of each array that the modules write, by name; ValueError if two modules do not fit."""
    token_names(modules)
    widths: dict[str, int] = {}
    for module in modules:
        module._width(widths)
    return widths


def write_model_folder(target: Path, modules: Sequence[Module], settings: dict[str, Any], readme: Path | None) -> None:
    """Write modules, their list and ``config_sentence_transformers.json`` into a folder; copy the model card if there is one."""
    entries = []
    for i, module in enumerate(modules):
        name = "" if i == 0 or module.library is None else f"{i}_{module.kind}"
        module.save(target / name)
        entries.append({"idx": i, "name": str(i), "path": name, "type": f"{module.library}.{module.kind}"})
    if all(module.library is not None for module in modules):
        write_json(target / "modules.json", entries)
    else:
        (target / "modules.json").unlink(missing_ok=True)
    write_json(target / "config_sentence_transformers.json", settings)
    if readme is not None and readme.is_file():
        write_file(target / "README.md", own_file(readme).read_bytes())
