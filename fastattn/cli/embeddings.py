"""Writes and reads embeddings, and the sidecar that says from which texts and by which model they were made.

``x.npy`` has the sidecar ``x.npy.json``, and ``x.jsonl`` has ``x.jsonl.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.hub import DEFAULT_MODEL, find_model
from fastattn.cli.files import EMBEDDING, Texts
from fastattn.config import PRECISIONS
from fastattn.runtime.files import write_file

__all__ = [
    "model_facts",
    "precision_of_model",
    "read_embeddings",
    "read_sidecar",
    "setting",
    "sidecar_path",
    "what_differs",
    "write_embeddings",
    "write_sidecar",
]

_KIND = "fastattn embeddings"
# Files of a model folder that decide an embedding; a README or an ONNX export beside them does not.
_MODEL_FILES = (".json", ".safetensors", ".bin", ".txt", ".model")
_OTHER_FORMATS = (".", "onnx/", "openvino/")
_BLOCK = 2**20


def read_embeddings(path: Path, count: int) -> NDArray[np.float32]:
    """Read an ``.npy`` file of `count` embeddings, float32 (count, C); ValueError if it is damaged or has another shape."""
    try:
        # A memory map refuses a shape larger than the file before memory is allocated for it.
        with np.errstate(over="raise"):
            array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, MemoryError):
        raise
    # NumPy evaluates the header as Python, so a damaged header may raise any exception.
    except Exception as error:
        raise ValueError(f"{path}: not a complete .npy file: {error}") from error
    if array.ndim == 2 and array.dtype.kind in "iu":
        raise ValueError(f"{path}: quantised embeddings ({array.dtype}): search needs float32")
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(f"{path}: expected rows of floats, found {array.dtype} of shape {array.shape}")
    if len(array) != count:
        raise ValueError(f"{path}: {len(array)} embeddings, but there are {count} texts")
    return np.array(array, np.float32)


def write_embeddings(file: BinaryIO, suffix: str, texts: Texts, embeddings: NDArray[Any]) -> None:
    """Write an array, or the texts' records, each with its embedding in the fewest digits that round to the same float32."""
    if suffix == ".npy":
        # `np.save` of an array writes past the file object, and its error on a full disk does not say so.
        rows = np.ascontiguousarray(embeddings)
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(rows))
        file.write(rows.reshape(-1).view(np.uint8).data)
        return
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        line = texts.lines[int(np.argmin(finite))]
        raise ValueError(
            f"{texts.name}, line {line}: its embedding has numbers that are not finite, which JSON cannot hold; .npy can"
        )
    for record, row in zip(texts.records or [], embeddings, strict=True):
        numbers = ", ".join(map(str, row))
        # Half a surrogate pair in another column has no bytes: it becomes its JSON escape.
        file.write(f'{record[:-1].rstrip()}, "{EMBEDDING}": [{numbers}]}}\n'.encode(errors="backslashreplace"))


def sidecar_path(path: Path) -> Path:
    """Return the name of the sidecar of a file of embeddings."""
    return path.with_name(f"{path.name}.json")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Read the sidecar of a file of embeddings; None if it has none."""
    try:
        found = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("kind") == _KIND else None


def write_sidecar(path: Path, texts: Texts, embeddings: NDArray[Any], model: dict[str, str], settings: dict[str, Any]) -> None:
    """Write the sidecar of a file of embeddings; `settings` are the arguments of `encode`."""
    content = {
        "kind": _KIND,
        "fastattn": version("fastattn"),
        "model": model,
        "settings": settings,
        "texts": {"file": texts.name, "count": len(texts.texts), "blank_lines": texts.blank, "hash": _hash_of_texts(texts.texts)},
        "embeddings": {"shape": list(embeddings.shape), "dtype": str(embeddings.dtype), "hash": _hash_of_array(embeddings)},
        # None: text i is on line i + 1.
        "lines": None if texts.lines == list(range(1, len(texts.lines) + 1)) else texts.lines,
    }
    write_file(sidecar_path(path), f"{json.dumps(content)}\n".encode())


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


def what_differs(sidecar: dict[str, Any], texts: Texts, embeddings: NDArray[Any], model: dict[str, str]) -> str | None:
    """Say which of embeddings, texts and model are not those of the sidecar; None if all are."""
    made, named, written = (_part(sidecar, name) for name in ("model", "texts", "embeddings"))
    if written.get("dtype") != "float32":
        return f"they are quantised ({written.get('dtype')})"
    if written.get("hash") != _hash_of_array(embeddings):
        return "its embeddings have changed since embed wrote them"
    if named.get("hash") != _hash_of_texts(texts.texts):
        return f"it was made of other texts than {texts.name} has, or of these in another order: of {named.get('file')}"
    if made.get("hash") != model["hash"]:
        other = "another version of it" if made.get("name") == model["name"] else made.get("name")
        return f"it was made with another model than {model['name']}: with {other}"
    return None


def setting(sidecar: dict[str, Any] | None, name: str) -> Any:
    """Return an argument of `encode` from a sidecar; None if it says nothing."""
    return _part(sidecar or {}, "settings").get(name)


def precision_of_model(sidecar: dict[str, Any] | None) -> str:
    """Return the precision in which embeddings were computed; float32 if a sidecar does not say it, as earlier ones do not."""
    found = _part(sidecar or {}, "model").get("precision")
    return found if found in PRECISIONS else "float32"


def _part(sidecar: dict[str, Any], name: str) -> dict[str, Any]:
    found = sidecar.get(name)
    return found if isinstance(found, dict) else {}


def _hash_of_texts(texts: Sequence[str]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for text in texts:
        raw = text.encode()
        # With the lengths, ["ab", "c"] and ["a", "bc"] differ.
        found.update(len(raw).to_bytes(8, "little"))
        found.update(raw)
    return found.hexdigest()


def _hash_of_array(array: NDArray[Any]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, digest_size=16).hexdigest()
