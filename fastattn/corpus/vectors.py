"""Vectors of an output, read in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastattn.corpus import tables
from fastattn.corpus.files import find_files
from fastattn.corpus.source import EMBEDDING
from fastattn.corpus.writers import OUTPUTS, suffix_of

__all__ = ["map_vectors", "read_vectors"]


def read_vectors(path: Path, dtype: DTypeLike = np.float32, rows: int = 4096) -> Iterator[NDArray[Any]]:
    """Yield the vectors of a file, at most `rows` (B, C) at a time; `dtype` is that of numbers in JSON Lines."""
    kind = OUTPUTS[suffix_of(path)]
    if kind == "npy":
        array = map_vectors(path)
        for start in range(0, len(array), rows):
            yield np.array(array[start : start + rows])
    elif kind == "parquet":
        (file,) = find_files(str(path))
        for table in tables.read(file, [EMBEDDING], [EMBEDDING], rows):
            yield tables.vectors(str(path), table, EMBEDDING)
    else:
        yield from _of_json(path, np.dtype(dtype), rows)


def map_vectors(path: Path) -> NDArray[Any]:
    """Map an ``.npy`` file of vectors (B, C); ValueError if it is damaged or has another shape."""
    try:
        # A memory map refuses a shape larger than the file before memory is allocated for it.
        with np.errstate(over="raise"):
            array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, MemoryError):
        raise
    # NumPy evaluates the header as Python, so a damaged header may raise any exception.
    except Exception as error:
        raise ValueError(f"{path}: not a complete .npy file: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected rows of floats, found {array.dtype} of shape {array.shape}")
    return array


def _of_json(path: Path, dtype: np.dtype[Any], rows: int) -> Iterator[NDArray[Any]]:
    found: list[NDArray[Any]] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                found.append(np.array(json.loads(line)[EMBEDDING], dtype))
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise ValueError(f"{path}, line {number}: {EMBEDDING!r} must be a list of numbers") from error
            if found[-1].shape != found[0].shape or found[-1].ndim != 1:
                raise ValueError(f"{path}, line {number}: {EMBEDDING!r} has another width than before")
            if len(found) == rows:
                yield np.stack(found)
                found = []
    if found:
        yield np.stack(found)
