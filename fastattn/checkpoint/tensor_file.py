"""Writes a safetensors file, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.runtime.files import check_space, replacing

__all__ = ["StoredTensor", "write_tensors"]

# Tensors of a safetensors file begin at a multiple of these bytes.
_ALIGNMENT = 8


class StoredTensor(NamedTuple):
    """Numbers and their dtype as safetensors names it; bfloat16 as 16 bits."""

    array: NDArray[Any]
    dtype: str


def write_tensors(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Write tensors by name, whole or not at all; those that share memory are written each by itself."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (array, dtype) in tensors.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    check_space(path, len(encoded) + end)
    with replacing(path, follow=False) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for array, _ in tensors.values():
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            file.write(np.ascontiguousarray(little).data)
