"""Reads the tensors of a model folder's weight files: floats as float32 arrays, integers as int64."""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import operator
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError, confined, own_file, read_json, whole_file
from fastattn.checkpoint.pickles import PickledTensor, load_pickle
from fastattn.runtime.rounding import rounding

__all__ = [
    "ADAPTER_FILES", "SINGLE", "Entry", "Headers", "Tensors", "checkpoint_files", "headers_only", "pickles", "reads_numbers",
    "remove_other_weights", "weight_files",
]  # fmt: skip

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
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


class Entry(NamedTuple):
    """A tensor in a file; `load` returns its numbers as they are stored, bfloat16 as 16 bits."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], NDArray[Any]]


class Tensors:
    """The tensors of a model folder, or of `files` in it, by name: of safetensors, or of pickles such as ``pytorch_model.bin``.

    Copy a tensor to keep it: it is a memory map of the file. If the file is overwritten the values change; if it is truncated,
    reading it kills the process (SIGBUS).
    """

    def __init__(self, folder: Path, files: list[Path] | None = None) -> None:
        if files is None:
            files = [path for path in weight_files(folder) if path.suffix != ".json"]
        self.where = str(files[0] if len(files) == 1 else files[0].parent)
        self._entries: dict[str, Entry] = {}
        self._arrays: dict[str, Array] = {}
        for path in files:
            self._entries.update(_map(path) if path.suffix == ".safetensors" else _unpickle(path))

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
        entry = self._checked(name, shape, _DTYPES)
        if name not in self._arrays:
            self._arrays[name] = _float32(entry.load(), entry.dtype)
        return self._arrays[name]

    def read_numbers(self, name: str) -> Array:
        """Return a tensor of any shape, of floats or whole numbers, as float32."""
        entry = self._checked(name, self.shape(name), {**_DTYPES, **_INTEGERS})
        return _float32(entry.load(), entry.dtype)

    def read_integers(self, name: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Return a tensor of whole numbers and of this shape, as int64."""
        return self._checked(name, shape, _INTEGERS).load().astype(np.int64)

    def _checked(self, name: str, shape: tuple[int, ...], dtypes: Iterable[str]) -> Entry:
        """Return a tensor of this shape, of one of these dtypes."""
        entry = self._entries[name]
        if entry.shape != shape:
            raise CheckpointError(f"{entry.path}: tensor {name!r} has shape {entry.shape}, expected {shape}")
        if entry.dtype not in dtypes:
            raise CheckpointError(f"{entry.path}: tensor {name!r} has dtype {entry.dtype}, supported: {', '.join(dtypes)}")
        return entry

    def change(self, name: str, shape: tuple[int, ...], load: Callable[[], Array]) -> None:
        """Let a tensor be what `load` returns, of float32."""
        self._entries[name] = self._entries[name]._replace(shape=shape, dtype="F32", load=load)
        self._arrays.pop(name, None)

    def replace(self, name: str, new: str, change: Callable[[Array], Array] | None = None) -> None:
        """Give a tensor another name, under which it is what `change` makes of it."""
        entry = self._entries.pop(name)
        self._arrays.pop(name, None)
        load = entry.load
        self._entries[new] = entry if change is None else entry._replace(load=lambda: change(load()))

    def drop(self, *names: str) -> None:
        """Forget tensors, of which some may not be there."""
        for name in names:
            self._entries.pop(name, None)
            self._arrays.pop(name, None)


class Headers(Tensors):
    """The tensors of a model folder by name, of which only shapes and dtypes are read: their numbers are zeros."""

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return zeros of this shape, which take no memory."""
        self._checked(name, shape, _DTYPES)
        return np.broadcast_to(np.float32(0), shape)


_READS_NUMBERS = ContextVar("reads_numbers", default=True)


@contextlib.contextmanager
def headers_only() -> Iterator[None]:
    """Let models be loaded to see whether they load: the numbers of an encoder are not read, and it cannot compute."""
    token = _READS_NUMBERS.set(False)
    try:
        yield
    finally:
        _READS_NUMBERS.reset(token)


def reads_numbers() -> bool:
    """Tell whether the caller is outside of `headers_only`."""
    return _READS_NUMBERS.get()


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


def _map(path: Path) -> dict[str, Entry]:
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


def _entry(path: Path, entry: Any, mapped: mmap.mmap, start: int) -> Entry:
    """Return a tensor by its entry in the header; a ValueError if its bytes are not inside the file."""
    shape, dtype = tuple(map(operator.index, entry["shape"])), str(entry["dtype"])
    first, last = map(operator.index, entry["data_offsets"])
    kinds = {**_DTYPES, **_INTEGERS}
    size = math.prod(shape) * np.dtype(kinds[dtype]).itemsize if dtype in kinds else last - first
    if min(first, *shape, 0) < 0 or last - first != size or start + last > len(mapped):
        raise ValueError(f"a tensor of shape {shape} at {first} .. {last} of {len(mapped) - start} bytes")
    return Entry(path, shape, dtype, partial(np.ndarray, shape, kinds.get(dtype, "u1"), mapped, start + first))


@rounding()
def _float32(raw: NDArray[Any], dtype: str) -> Array:
    """Return stored numbers as contiguous float32: the array itself where it is that already."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return np.require(raw, np.float32, ("C_CONTIGUOUS", "ALIGNED"))


def _unpickle(path: Path) -> dict[str, Entry]:
    """Return the tensors of a pickled file."""
    found = load_pickle(path)
    if not isinstance(found, dict) or not all(isinstance(tensor, PickledTensor) for tensor in found.values()):
        raise CheckpointError(
            f"{path}: expected a dict of tensors by name, found a {type(found).__name__} with other values; "
            f"`fastattn convert {path.parent}` takes the tensors out of it"
        )
    return {str(name): Entry(path, tensor.shape, tensor.dtype, partial(_array, tensor)) for name, tensor in found.items()}


def _array(tensor: PickledTensor) -> NDArray[Any]:
    return tensor.array
