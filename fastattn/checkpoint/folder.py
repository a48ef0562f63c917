"""Reads the JSON files of a model folder.  Names and symbolic links that lead out of the folder are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fastattn.runtime.files import lfs_pointer

__all__ = [
    "CheckpointError",
    "confined",
    "own_file",
    "read_json",
    "read_modules",
    "read_object",
    "transformer_folder",
    "whole_file",
]


class CheckpointError(ValueError):
    """A model folder that cannot be used; the message names the file or tensor, and the value found."""


def own_file(path: Path) -> Path:
    """Return the path; a CheckpointError if the file is a symbolic link out of its folder.

    In the Hugging Face Hub's cache each file of ``models--NAME/snapshots/REVISION`` is a link; ``models--NAME/blobs`` is inside.
    """
    if not path.is_symlink():
        return path
    try:
        folder, found = path.parent.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:  # A symbolic link to itself.
        raise CheckpointError(f"{path}: a link that leads nowhere: {error}") from error
    snapshots = (place for place in (folder, *folder.parents) if place.parent.name == "snapshots")
    allowed = [folder, *(place.parent.parent / "blobs" for place in snapshots)]
    if not any(found.is_relative_to(place) for place in allowed):
        raise CheckpointError(f"{path}: refused, because it is a link out of the model's folder, to {found}")
    return path


def whole_file(path: Path) -> Path:
    """Return the path of a file that is there; CheckpointError for the pointer of a file that Git LFS has not fetched."""
    if not own_file(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if lfs_pointer(path):
        raise CheckpointError(f"{path}: is a Git LFS pointer, not the file: run `git lfs pull` in its folder")
    return path


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    whole_file(path)
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a JSON file: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty object if there is no file."""
    content = read_json(path) if os.path.lexists(path) else {}
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def confined(folder: Path, name: object, source: Path) -> Path:
    """Return the path of a file or folder that the file `source` names; a CheckpointError unless it is inside `folder`."""
    if not isinstance(name, str) or "\\" in name or ":" in name or "\0" in name or name.startswith("/"):
        raise CheckpointError(f"{source}: {name!r} is not the name of something inside {folder}")
    if ".." in name.split("/"):
        raise CheckpointError(f"{source}: {name!r} leads out of {folder}")
    path = folder / name
    # A file may be a link in the Hub's cache, which `own_file` checks before the file is read.
    inside = path if path.is_dir() else path.parent
    try:
        if inside.resolve().is_relative_to(folder.resolve()):
            return path
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{source}: {name!r} leads nowhere: {error}") from error
    raise CheckpointError(f"{source}: {name!r} is a link out of {folder}")


def read_modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the class name and folder of each module in ``modules.json``; [] if there is none."""
    path = folder / "modules.json"
    if not os.path.lexists(path):
        return []
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CheckpointError(f"{path}: expected a JSON list of objects")
    modules = []
    for entry in entries:
        kind = entry.get("type")
        if not isinstance(kind, str):
            raise CheckpointError(f"{path}: a module has type {kind!r}")
        modules.append((kind.rpartition(".")[2], confined(folder, entry.get("path", ""), path)))
    return modules


def transformer_folder(folder: Path) -> Path:
    """Return the folder with ``config.json``: `folder`, or that of its Transformer module."""
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: not a folder")
    if not (folder / "config.json").exists():
        for kind, path in read_modules(folder):
            if kind in ("Transformer", "CLIPModel"):
                return path
    return folder
