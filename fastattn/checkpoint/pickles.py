"""Reads files of pickled tensors, as torch.save writes them, without torch, and without running what a pickle may call."""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fastattn.checkpoint.folder import CheckpointError, whole_file
from fastattn.checkpoint.unpickler import STORAGES, NotTensors, PickledTensor, unpickle

__all__ = ["PickledTensor", "load_pickle"]

# Signature and fixed size of the header before each record of a zip file; the lengths of name and extra field end it.
_ZIP = b"PK\x03\x04"
_HEADER = 30
# What begins a file of torch before 1.6: magic number and version.
_OLDER = [0x1950A86A20F9469CFC6C, 1001]
_DAMAGE = (
    ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError, RecursionError, struct.error, zipfile.BadZipFile,
    NotImplementedError,
)  # fmt: skip
_ADVICE = "take the model's safetensors, or a file with its tensors alone, from its source"


def load_pickle(path: Path) -> Any:
    """Return what a file of pickled tensors holds: a `PickledTensor` for each tensor, in dicts, lists and tuples.

    CheckpointError for a damaged file, and for one that holds anything but tensors, numbers and strings.
    """
    whole_file(path)
    with path.open("rb") as file:
        # A file of no bytes cannot be mapped.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if file.read(1) else None
    try:
        if mapped is None:
            raise ValueError("it is empty")
        return _read_zip(path, mapped) if mapped[:4] == _ZIP else _read_older(mapped)
    except NotTensors as found:
        raise CheckpointError(
            f"{path}: refused: it holds {found}, which is no tensor; supported: a pickle of tensors in dicts, lists and tuples; "
            f"{_ADVICE}"
        ) from None
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path}: not a whole file of pickled tensors as torch.save writes it ({str(error) or type(error).__name__}); {_ADVICE}"
        ) from error


def _read_zip(path: Path, mapped: mmap.mmap) -> Any:
    """Read the format of torch from 1.6 on: a zip file of the pickle and of a record for each storage, none compressed."""
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: record for record in archive.infolist()}
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"it has {len(pickles)} records data.pkl")
    folder = pickles[0].removesuffix("data.pkl")

    def record(name: str) -> tuple[int, int]:
        """Return where a record begins, and its size."""
        found = records.get(name)
        if found is None:
            raise ValueError(f"it has no record {name!r:.100}")
        if found.compress_type != zipfile.ZIP_STORED or found.flag_bits & 1:
            raise ValueError(f"its record {name!r:.100} is compressed or encrypted")
        header = mapped[found.header_offset : found.header_offset + _HEADER]
        if header[:4] != _ZIP or len(header) < _HEADER:
            raise ValueError(f"its record {name!r:.100} is not where the directory says")
        start = found.header_offset + _HEADER + sum(struct.unpack("<HH", header[-4:]))
        if start + found.file_size > len(mapped):
            raise ValueError(f"its record {name!r:.100} is cut off")
        return start, found.file_size

    start, size = record(f"{folder}data.pkl")
    tensors: list[PickledTensor] = []
    content = unpickle(io.BytesIO(mapped[start : start + size]), tensors)
    order = "<"
    if f"{folder}byteorder" in records:
        start, size = record(f"{folder}byteorder")
        order = ">" if mapped[start : start + min(size, 3)] == b"big" else "<"
    for tensor in tensors:
        _find(tensor, mapped, *record(f"{folder}data/{tensor.storage.key}"), order)
    return content


def _read_older(mapped: mmap.mmap) -> Any:
    """Read the format of torch before 1.6: pickles of what it is, of the content and of the keys, then the storages by key."""
    tensors: list[PickledTensor] = []
    if mapped[:1] != b"\x80" or [unpickle(mapped, []) for _ in _OLDER] != _OLDER:
        raise ValueError("it is no zip file, nor does it begin as those of torch before 1.6 do")
    about, content, keys = unpickle(mapped, []), unpickle(mapped, tensors), unpickle(mapped, [])
    order = ">" if isinstance(about, dict) and about.get("little_endian") is False else "<"
    storages = {tensor.storage.key: tensor.storage for tensor in tensors}
    places, at = {}, mapped.tell()
    for key in keys:
        if key not in storages:
            raise ValueError(f"no tensor lies in its storage {key!r:.50}")
        size = storages[key].numel * np.dtype(STORAGES[storages[key].kind][1]).itemsize
        numel = int.from_bytes(mapped[at : at + 8], "little" if order == "<" else "big")
        if numel != storages[key].numel or at + 8 + size > len(mapped):
            raise ValueError(f"its storage {key!r:.50} of {storages[key].numel} elements is cut off")
        places[key] = at + 8, size
        at += 8 + size
    for tensor in tensors:
        _find(tensor, mapped, *places[tensor.storage.key], order)
    return content


def _find(tensor: PickledTensor, mapped: mmap.mmap, start: int, size: int, order: str) -> None:
    """Let a tensor be a view of its storage, `size` bytes of the mapped file from `start` on."""
    dtype = np.dtype(f"{order}{STORAGES[tensor.storage.kind][1]}")
    if tensor.storage.numel * dtype.itemsize > size:
        raise ValueError(f"its storage {tensor.storage.key!r:.50} has {size} bytes for {tensor.storage.numel} elements of {dtype}")
    if 0 in tensor.shape:
        tensor.array = np.empty(tensor.shape, dtype)
    else:
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        tensor.array = np.ndarray(tensor.shape, dtype, mapped, start + tensor.offset * dtype.itemsize, strides)
