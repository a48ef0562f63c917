"""Arguments of an encoder as the kernels take them: ids, token types."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

IDS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
# For a read-only array, which is another type, the kernels would be compiled anew.
PLAIN: Any = ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE")


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
