"""The tensors of a model folder's weight files, as float32 arrays."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.folder import CheckpointError, confined, read_json

__all__ = ["Tensors"]

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class _Entry(NamedTuple):
    """Where a tensor is."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    buffer: mmap.mmap
    offset: int


class Tensors:
    """The tensors of a model folder by their names, mapped into memory.

    Parameters
    ----------
    folder : Path
        Holds ``model.safetensors``, or ``model.safetensors.index.json`` and the files that it names.

    Raises
    ------
    FileNotFoundError
        There are no weights.
    CheckpointError
        A file is damaged, or the only weights are pickled.
    """

    def __init__(self, folder: Path) -> None:
        files = _weight_files(folder)
        self.where = str(files[0] if len(files) == 1 else files[0].parent)
        self._entries: dict[str, _Entry] = {}
        self._arrays: dict[str, NDArray[np.float32]] = {}
        for path in files:
            self._entries.update(_map(path))

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._entries

    def names(self) -> list[str]:
        """Return the names.

        Returns
        -------
        list of str
            All names, as they are ordered in the files.
        """
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        tuple of int
            The shape.
        """
        return self._entries[name].shape

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return a tensor, the same array each time.

        Parameters
        ----------
        name : str
            Its name.
        shape : tuple of int
            What its shape must be.

        Returns
        -------
        float32 array
            A private view of the mapped file where that holds float32, converted otherwise.

        Raises
        ------
        CheckpointError
            The tensor has another shape or is not floating point.
        """
        entry = self._entries[name]
        if entry.shape != shape:
            raise CheckpointError(f"{entry.path}: tensor {name!r} has shape {entry.shape}, expected {shape}")
        if entry.dtype not in _DTYPES:
            raise CheckpointError(f"{entry.path}: tensor {name!r} has dtype {entry.dtype}, supported: {', '.join(_DTYPES)}")
        if name not in self._arrays:
            raw: NDArray[Any] = np.ndarray(shape, _DTYPES[entry.dtype], buffer=entry.buffer, offset=entry.offset)
            if entry.dtype == "BF16":
                self._arrays[name] = (raw.astype(np.uint32) << 16).view(np.float32)
            else:
                self._arrays[name] = np.require(raw, np.float32, ("ALIGNED",))
        return self._arrays[name]


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder."""
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = read_json(index)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index}: has no weight_map")
        return [confined(folder, name, index) for name in dict.fromkeys(weight_map.values())]
    if (folder / "pytorch_model.bin").exists():
        raise CheckpointError(
            f"{folder / 'pytorch_model.bin'}: refused, because a pickle can run any code when it is read; with "
            "transformers installed, AutoModel.from_pretrained(folder).save_pretrained(folder) writes model.safetensors"
        )
    raise FileNotFoundError(f"{folder}: no model.safetensors and no model.safetensors.index.json")


def _map(path: Path) -> dict[str, _Entry]:
    """Map a safetensors file, and return its tensors."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a complete safetensors file: {error}") from error
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    length = int.from_bytes(mapped[:8], "little")
    header: dict[str, Any] = json.loads(mapped[8 : 8 + length])
    header.pop("__metadata__", None)
    return {
        name: _Entry(path, tuple(entry["shape"]), entry["dtype"], mapped, 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }
