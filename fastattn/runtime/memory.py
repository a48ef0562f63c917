"""Finds out how much memory is free, so that results that would not fit are refused before they are computed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.runtime.control_groups import control_groups

_GIB = 2**30
# Smaller sizes are not checked: reading the free memory takes a tenth of a millisecond.
LARGE = 2**26
# Memory that the system reclaims under pressure (pages of files, its own caches); `MemAvailable` counts it as free too.
_RECLAIMED = ("active_file", "inactive_file", "slab_reclaimable")


def check_large(size: int, what: str, *values: object) -> None:
    """Call `check_fits` for a size of at least LARGE; `what` is formatted with `values`."""
    if size >= LARGE:
        check_fits(size, what.format(*values))


def check_fits(size: int, what: str) -> None:
    """Raise a MemoryError, which names `what`, if `size` bytes are more than this process may still allocate."""
    free = free_bytes()
    if free is not None and size > free:
        raise MemoryError(f"{what} would take {size / _GIB:,.1f} GiB, and {free / _GIB:,.1f} GiB are free")


def free_bytes() -> int | None:
    """Return the free bytes of the system, or of this process's control groups if that is less; None if neither is known."""
    found = [_system_free(), *map(_group_free, _groups())]
    known = [size for size in found if size is not None]
    return min(known) if known else None


def _system_free() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _groups() -> list[Path]:
    return control_groups("memory")


def _group_free(folder: Path) -> int | None:
    """Return the limit of a group minus its use; memory that the system reclaims before it kills a process counts as free."""
    for limit, usage, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        with contextlib.suppress(OSError, ValueError):
            most = int((folder / limit).read_text("ascii"))  # "max" (no limit) raises ValueError
            used = int((folder / usage).read_text("ascii"))
            for line in (folder / "memory.stat").read_text("ascii").splitlines():
                name, _, size = line.partition(" ")
                if name.startswith(prefix) and name.removeprefix(prefix) in _RECLAIMED:
                    used -= int(size)
            return max(0, most - used)
    return None


def aligned_empty(size: int, dtype: Any) -> NDArray[Any]:
    """Return `size` uninitialised elements that start at a cache line: vectors then never straddle two lines."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.empty(size + 64 // itemsize, dtype)
    start = (-raw.ctypes.data % 64) // itemsize
    return raw[start : start + size]
