"""Arguments of an encoder as the kernels take them: ids, token types, offsets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

IDS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
# For a read-only array, which is another type, the kernels would be compiled anew.
PLAIN: Any = ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE")
_INT64 = np.dtype(np.int64)


def row_numbers(name: str, values: Any, shape: tuple[int, ...], rows: int) -> NDArray[np.int32]:
    """Return the numbers of rows of an embedding table as the kernels take them, checked."""
    array = np.asarray(values)
    if array.dtype.type not in IDS:
        raise TypeError(f"{name} must be whole numbers, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if array.size and (int(array.min()) < 0 or int(array.max()) >= rows):
        wrong = array[(array < 0) | (array >= rows)][0]
        raise ValueError(f"{name} must be in 0 .. {rows - 1}, got {wrong}")
    return np.require(array, np.int32, PLAIN)


def checked_offsets(offsets: NDArray[Any], rows: int) -> NDArray[np.int64]:
    """Return where sequences of `rows` packed tokens begin, and the end of the last; ValueError for other offsets."""
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets):
        raise ValueError(f"offsets must be whole numbers of shape (B + 1,), got {offsets.dtype} of shape {offsets.shape}")
    if offsets.dtype is not _INT64 or not offsets.flags.carray:
        offsets = np.require(offsets, np.int64, PLAIN)
    if offsets[0] != 0 or offsets[-1] != rows or np.any(offsets[1:] < offsets[:-1]):
        raise ValueError(f"offsets must rise from 0 to N = {rows}, got {offsets[0]} .. {offsets[-1]}")
    return offsets
