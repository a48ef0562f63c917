"""Manifest of embeddings: from which texts, by which model and with which settings they were made.

Beside ``x.npy`` it is ``x.npy.json``; of an unfinished run it is in the folder of that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.hub import DEFAULT_MODEL, find_model
from fastattn.config import PRECISIONS
from fastattn.runtime.files import replacing

__all__ = [
    "ArrayHash",
    "Lines",
    "TextHash",
    "hash_of_texts",
    "is_manifest",
    "model_facts",
    "part",
    "precision_of_model",
    "read_json",
    "read_sidecar",
    "setting",
    "sidecar_path",
    "what_changed",
    "what_differs",
    "write_sidecar",
]

KIND = "fastattn embeddings"
# Files of a model folder that decide an embedding; a README or an ONNX export beside them does not.
_MODEL_FILES = (".json", ".safetensors", ".bin", ".txt", ".model")
_OTHER_FORMATS = (".", "onnx/", "openvino/")
_BLOCK = 2**20
# Names in a manifest that a file or folder may change without changing an embedding.
_NAMES = ("name", "path", "file", "files")


class TextHash:
    """Hash of texts that are added one after the other."""

    def __init__(self) -> None:
        self._found = hashlib.blake2b(digest_size=16)

    def add(self, texts: Iterable[str]) -> None:
        """Add texts."""
        for text in texts:
            raw = text.encode()
            # With the lengths, ["ab", "c"] and ["a", "bc"] differ.
            self._found.update(len(raw).to_bytes(8, "little"))
            self._found.update(raw)

    def hexdigest(self) -> str:
        """Return the hash of the texts so far."""
        return self._found.hexdigest()


def hash_of_texts(texts: Iterable[str]) -> str:
    """Return the hash of texts."""
    found = TextHash()
    found.add(texts)
    return found.hexdigest()


class ArrayHash:
    """Hash of an array whose rows are added one after the other."""

    def __init__(self) -> None:
        self._found = hashlib.blake2b(digest_size=16)

    def add(self, rows: NDArray[Any]) -> None:
        """Add rows."""
        self._found.update(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)

    def hexdigest(self) -> str:
        """Return the hash of the rows so far."""
        return self._found.hexdigest()


class Lines:
    """Line of each text, kept as runs of lines that follow each other."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int]] = []
        self._count = 0
        self._next = 0

    def add(self, numbers: Iterable[int]) -> None:
        """Add the lines of more texts."""
        for number in numbers:
            if number != self._next or not self._count:
                self._runs.append((self._count, number))
            self._count, self._next = self._count + 1, number + 1

    @property
    def plain(self) -> bool:
        """Whether text i is on line i + 1."""
        return self._runs in ([], [(0, 1)])

    def __iter__(self) -> Iterator[int]:
        """Yield the line of each text."""
        ends = [start for start, _ in self._runs] + [self._count]
        for (start, number), end in zip(self._runs, ends[1:], strict=True):
            yield from range(number, number + end - start)


def sidecar_path(path: Path) -> Path:
    """Return the name of the sidecar of a file of embeddings."""
    return path.with_name(f"{path.name}.json")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Read the sidecar of a file of embeddings; None if it has none."""
    found = read_json(sidecar_path(path))
    return found if is_manifest(found) else None


def read_json(path: Path) -> Any:
    """Read a JSON file; None if there is none, or it is another kind of file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def is_manifest(found: Any) -> bool:
    """Tell whether a JSON value is a manifest of embeddings."""
    return isinstance(found, dict) and found.get("kind") == KIND


def write_sidecar(path: Path, manifest: dict[str, Any], lines: Lines) -> None:
    """Write the sidecar of a file of embeddings, with the line of each text, or null where text i is on line i + 1."""
    with replacing(sidecar_path(path), follow=False) as file:
        file.write(f'{json.dumps(manifest)[:-1]}, "lines": '.encode())
        if lines.plain:
            file.write(b"null}\n")
            return
        for i, number in enumerate(lines):
            file.write(f"{', ' if i else '['}{number}".encode())
        file.write(b"]}\n")


def model_facts(name: str | None, folder: Path | None) -> dict[str, str]:
    """Return a model's name, and a hash of the files that decide an embedding: weights, configuration, tokenizer, prompts."""
    found = hashlib.blake2b(digest_size=16)
    folder = find_model(name) if folder is None else folder
    files = [path for path in folder.rglob("*") if path.suffix in _MODEL_FILES and path.is_file()]
    for relative, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        if relative.startswith(_OTHER_FORMATS):
            continue
        found.update(f"{relative}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
    return {"name": Path(DEFAULT_MODEL if name is None else name).name, "hash": found.hexdigest()}


def what_changed(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Say what in a manifest is not as it was, names of files and folders left aside; None if all is."""
    for name, title in (
        ("fastattn", "the version of fastattn"),
        ("model", "the model"),
        ("settings", "a setting"),
        ("input", "an option"),
        ("texts", "the data"),
    ):
        old, new = before.get(name), now.get(name)
        if not isinstance(old, dict) or not isinstance(new, dict):
            old, new = {name: old}, {name: new}
        for key in new:
            if key not in _NAMES and old.get(key) != new[key]:
                return f"{title} is another one ({key}: {old.get(key)!r:.60}, now {new[key]!r:.60})"
    return None


def what_differs(sidecar: dict[str, Any], texts: Any, embeddings: NDArray[Any], model: dict[str, str]) -> str | None:
    """Say which of embeddings, texts and model are not those of the sidecar; None if all are."""
    made, named, written = (part(sidecar, name) for name in ("model", "texts", "embeddings"))
    if written.get("dtype") != str(embeddings.dtype):
        return f"embed wrote them as {written.get('dtype')}, and they are read as {embeddings.dtype}"
    array = ArrayHash()
    array.add(embeddings)
    if written.get("hash") != array.hexdigest():
        return "its embeddings have changed since embed wrote them"
    if named.get("hash") != hash_of_texts(texts.texts):
        return f"it was made of other texts than {texts.name} has, or of these in another order: of {named.get('file')}"
    if made.get("hash") != model["hash"]:
        other = "another version of it" if made.get("name") == model["name"] else made.get("name")
        return f"it was made with another model than {model['name']}: with {other}"
    return None


def setting(sidecar: dict[str, Any] | None, name: str) -> Any:
    """Return an argument of `encode` from a sidecar; None if it says nothing."""
    return part(sidecar or {}, "settings").get(name)


def precision_of_model(sidecar: dict[str, Any] | None) -> str:
    """Return the precision in which embeddings were computed; float32 if a sidecar does not say it, as earlier ones do not."""
    found = part(sidecar or {}, "model").get("precision")
    return found if found in PRECISIONS else "float32"


def part(sidecar: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a part of a sidecar; empty if it has none."""
    found = sidecar.get(name)
    return found if isinstance(found, dict) else {}
