"""Packs of int8 on disk, beside the compiled kernels: the second load of a model is not calibrated again.

A file's name is a hash of all that the pack depends on, the parameters' bytes among them; its digest shows damage.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.weights import reads_numbers
from fastattn.config import EncoderConfig, Precision
from fastattn.encoder.packing import Packed, pack
from fastattn.kernels.compile.cache import opened, sealed
from fastattn.kernels.compile.digest import content_tag
from fastattn.kernels.compile.jit import cache_directory, cache_folders
from fastattn.kernels.products.kinds import BFLOAT16, INT8
from fastattn.kernels.vector.target import TARGET
from fastattn.parameters import check_parameters
from fastattn.runtime.files import write_file
from fastattn.runtime.memory import aligned_empty

__all__ = ["pack_or_load"]

Array = NDArray[Any]

# Smaller models are packed in no time.
_LEAST_BYTES = 2**24
# Files that are kept: those used last.
_MOST_FILES = 8


def pack_or_load(config: EncoderConfig, parameters: Mapping[str, Array], precision: Precision) -> Packed:
    """Return `pack` of the parameters, of int8 from the disk where it is there; whatever fails there, it is packed."""
    if not reads_numbers():
        check_parameters(config, parameters)
        return Packed(*(np.empty(0, np.float32) for _ in Packed._fields))
    if precision != "int8":
        return pack(config, parameters, precision)
    check_parameters(config, parameters)
    is_small = sum({id(array): array.nbytes for array in parameters.values()}.values()) < _LEAST_BYTES
    packages = ("fastattn.config", "fastattn.encoder", "fastattn.reference", "fastattn.kernels")
    tag = None if is_small else content_tag(*packages)
    if tag is None:
        return pack(config, parameters, precision)
    name = f"int8-{_digest(config, parameters, tag)}.pack"
    # As of kernels, those in a folder that is not writable are read: an image's, say.
    for folder in cache_folders():
        if (packed := _read(folder / name)) is not None:
            return packed
    packed = pack(config, parameters, precision)
    if (own := cache_directory()) is not None:
        with contextlib.suppress(OSError):
            _write(own / name, packed)
    return packed


def _digest(config: EncoderConfig, parameters: Mapping[str, Array], tag: str) -> str:
    """Return the hash of all that a pack depends on; layers that share an array hash it once."""
    digest = hashlib.sha256(repr((tag, config, INT8, BFLOAT16, TARGET.tile, TARGET.vector_bytes)).encode())
    first: dict[int, str] = {}
    for name, array in sorted(parameters.items()):
        digest.update(repr((name, first.setdefault(id(array), name), array.dtype.str, array.shape)).encode())
        if first[id(array)] == name:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:20]


def _read(path: Path) -> Packed | None:
    """Return the pack in a file; None where there is none, or a damaged one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(opened(path.read_bytes()))
        with contextlib.suppress(OSError):  # of another user's file
            os.utime(path)
        return Packed(**{name: _aligned(arrays[name]) for name in Packed._fields})
    except (OSError, ValueError, KeyError, SafetensorError):
        return None


def _aligned(array: Array) -> Array:
    out = aligned_empty(array.size, array.dtype).reshape(array.shape)
    out[...] = array
    return out


def _write(path: Path, packed: Packed) -> None:
    """Write a pack, and remove those that were used least recently."""
    from safetensors.numpy import save

    write_file(path, sealed(save(packed._asdict())))
    files = sorted(path.parent.glob("int8-*.pack"), key=lambda other: other.stat().st_mtime)
    for old in files[:-_MOST_FILES]:
        old.unlink(missing_ok=True)
