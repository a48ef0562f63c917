"""Reads the tensors of a model folder's weight files as float32 arrays."""

from __future__ import annotations

import json
import math
import mmap
import operator
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError, confined, own_file, read_json, whole_file
from fastattn.checkpoint.pickles import load_pickle
from fastattn.runtime.rounding import rounding

__all__ = ["ADAPTER_FILES", "SINGLE", "Tensors", "checkpoint_files", "pickles", "remove_other_weights", "weight_files"]

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_OTHERS = (".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".ckpt", ".pt", ".pth", ".bin", ".safetensors")
_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
# Files with such endings that hold no weights of a model.
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state", "adapter_model", "openvino")
# The most files that an error lists.
_MOST_LISTED = 8
# Files with all weights, in the order of the search; an index of several files may replace each of them.
SINGLE = ("model.safetensors", "pytorch_model.bin")
# A LoRA adapter's settings, and its tensors in one of two files.
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")

Array = NDArray[np.float32]


class _Entry(NamedTuple):
    """A tensor in a file; `load` returns it as float32."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Array]


class Tensors:
    """The tensors of a model folder by name: of safetensors files, or of ``pytorch_model.bin`` through torch.

    Copy a tensor to keep it: it is a memory map of the file. If the file is overwritten the values change; if it is truncated,
    reading it kills the process (SIGBUS).
    """

    def __init__(self, folder: Path, files: list[Path] | None = None) -> None:
        if files is None:
            files = [path for path in weight_files(folder) if path.suffix != ".json"]
        self.where = str(files[0] if len(files) == 1 else files[0].parent)
        self._entries: dict[str, _Entry] = {}
        self._arrays: dict[str, Array] = {}
        for path in files:
            self._entries.update(_unpickle(path) if path.suffix == ".bin" else _map(path))

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._entries

    def names(self) -> list[str]:
        """Return the names of all tensors, in the order of the files."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._entries[name].shape

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return a tensor of this shape, the same array in each call: a private view of the mapped file, or a float32 copy."""
        entry = self._entries[name]
        if entry.shape != shape:
            raise CheckpointError(f"{entry.path}: tensor {name!r} has shape {entry.shape}, expected {shape}")
        if entry.dtype not in _DTYPES:
            raise CheckpointError(f"{entry.path}: tensor {name!r} has dtype {entry.dtype}, supported: {', '.join(_DTYPES)}")
        if name not in self._arrays:
            self._arrays[name] = entry.load()
        return self._arrays[name]

    def change(self, name: str, shape: tuple[int, ...], load: Callable[[], Array]) -> None:
        """Let a tensor be what `load` returns, of float32."""
        self._entries[name] = self._entries[name]._replace(shape=shape, dtype="F32", load=load)
        self._arrays.pop(name, None)


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files, safetensors if there are any; an index of several files comes first."""
    for single in SINGLE:
        index = folder / f"{single}.index.json"
        if (folder / single).is_symlink() and not (folder / single).exists():
            raise FileNotFoundError(f"{folder / single}: links to a file that is missing: download the model again")
        if (folder / single).exists():
            return [own_file(folder / single)]
        if index.exists():
            content = read_json(index)
            weight_map = content.get("weight_map") if isinstance(content, dict) else None
            if not isinstance(weight_map, dict) or not weight_map:
                raise CheckpointError(f"{index}: has no weight_map")
            names = {str(name): name for name in weight_map.values()}
            return [index, *(own_file(confined(folder, name, index)) for name in names.values())]
    raise FileNotFoundError(f"{folder}: no model.safetensors, pytorch_model.bin or index of several{_others(folder)}")


def _others(folder: Path) -> str:
    """Name the weights in a folder, and those one level below, that are not read, and say what to do."""
    paths = [path for path in (*folder.glob("*"), *folder.glob("*/*")) if not path.name.startswith(_NO_WEIGHTS)]
    others = sorted(path.relative_to(folder).as_posix() for path in paths if path.suffix in _OTHERS)
    if not others:
        return ""
    found = f"; not supported: {', '.join(others[:_MOST_LISTED])}{', ...' if len(others) > _MOST_LISTED else ''}"
    if pickles(folder):
        return f"{found}: `fastattn convert {folder}` writes model.safetensors of the tensors in a pickle"
    if all(name.endswith(".onnx") for name in others):
        return f"{found}: ONNX holds a program instead of named weights; take the checkpoint that it was exported from"
    return f"{found}: take safetensors or pytorch_model.bin from the model's source"


def pickles(folder: Path) -> list[Path]:
    """Return the files that may hold pickled weights."""
    return sorted(path for path in folder.iterdir() if path.suffix in _PICKLED and not path.name.startswith(_NO_WEIGHTS))


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the files of which an encoder is read: configuration, weights, and those of an adapter."""
    adapter = [own_file(folder / name) for name in ADAPTER_FILES if (folder / name).exists()]
    return [folder / "config.json", *weight_files(folder), *adapter]


def remove_other_weights(folder: Path, kept: Iterable[str]) -> None:
    """Remove the files, of weights or an adapter, that would be read in place of those to be kept, or beside them."""
    for name in (*(name for single in SINGLE for name in (single, f"{single}.index.json")), *ADAPTER_FILES):
        if name not in kept:
            (folder / name).unlink(missing_ok=True)


def _map(path: Path) -> dict[str, _Entry]:
    """Return the tensors of a safetensors file, mapped into memory."""
    from safetensors import SafetensorError, safe_open

    whole_file(path)
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a complete safetensors file: {error}") from error
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    length = int.from_bytes(mapped[:8], "little")
    # safetensors has checked the header, but may parse JSON differently from Python, for example duplicate keys.
    try:
        header: dict[str, Any] = json.loads(mapped[8 : 8 + length])
        header.pop("__metadata__", None)
        return {name: _entry(path, entry, mapped, 8 + length) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a safetensors header: {error!r}") from error


def _entry(path: Path, entry: Any, mapped: mmap.mmap, start: int) -> _Entry:
    """Return a tensor by its entry in the header; a ValueError if its bytes are not inside the file."""
    shape, dtype = tuple(map(operator.index, entry["shape"])), str(entry["dtype"])
    first, last = map(operator.index, entry["data_offsets"])
    size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize if dtype in _DTYPES else last - first
    if min(first, *shape, 0) < 0 or last - first != size or start + last > len(mapped):
        raise ValueError(f"a tensor of shape {shape} at {first} .. {last} of {len(mapped) - start} bytes")
    return _Entry(path, shape, dtype, partial(_view, mapped, shape, dtype, start + first))


@rounding()
def _view(mapped: mmap.mmap, shape: tuple[int, ...], dtype: str, offset: int) -> Array:
    """Return a tensor of a mapped file: a view of float32, else a copy."""
    raw: NDArray[Any] = np.ndarray(shape, _DTYPES[dtype], buffer=mapped, offset=offset)
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return np.require(raw, np.float32, ("ALIGNED",))


def _unpickle(path: Path) -> dict[str, _Entry]:
    """Return the tensors of a pickled file."""
    found = load_pickle(path)
    import torch

    if not isinstance(found, dict) or not all(torch.is_tensor(tensor) for tensor in found.values()):
        raise CheckpointError(
            f"{path}: expected a dict of tensors by name, found a {type(found).__name__} with other values; "
            f"`fastattn convert {path.parent}` takes the tensors out of it"
        )
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    return {
        name: _Entry(path, tuple(tensor.shape), names.get(tensor.dtype, str(tensor.dtype)), partial(_array, tensor))
        for name, tensor in found.items()
    }


def _array(tensor: Any) -> Array:
    """Return a torch tensor as an array."""
    array: Array = tensor.detach().float().contiguous().numpy()
    return array
