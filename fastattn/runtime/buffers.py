"""Arrays whose memory is used again as soon as the last view of it is gone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.runtime.memory import aligned_empty

__all__ = ["Buffers"]

Array = NDArray[Any]

# Bytes below which new memory costs nothing: the allocator keeps it.
_SMALL = 2**16
# Kept memory may exceed what was in use at most by this factor: sizes differ from step to step.
_SPARE = 1.5


class Buffers:
    """Hands out float32 arrays of memory that was used before.

    A step of learning allocates the arrays of the step before: the system zeroes the pages of new memory, which took 12 % of a
    step's time.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[Array]] = {}
        self._used = self._kept = self._peak = 0

    def empty(self, *shape: int) -> Array:
        """Return an uninitialised array of this shape."""
        size = math.prod(shape)
        if 4 * size < _SMALL:
            return np.empty(shape, np.float32)
        # Eight classes between two powers of two, so that arrays of almost equal sizes share memory.
        step = 1 << max(0, size.bit_length() - 4)
        size_class = -(-size // step) * step
        waiting = self._free.get(size_class)
        if waiting:
            memory = waiting.pop()
            self._kept -= memory.nbytes
        else:
            memory = aligned_empty(size_class, np.float32)
        self._used += memory.nbytes
        self._peak = max(self._peak, self._used)
        return np.asarray(_Block(self, memory))[:size].reshape(shape)

    def clear(self) -> None:
        """Give back what is kept."""
        self._free.clear()
        self._kept, self._peak = 0, self._used

    def take_back(self, memory: Array) -> None:
        """Keep memory for the next array of its class, unless much is kept already."""
        self._used -= memory.nbytes
        if self._used + self._kept + memory.nbytes <= _SPARE * self._peak:
            self._kept += memory.nbytes
            self._free.setdefault(memory.size, []).append(memory)


class _Block:
    """Memory in use; arrays over it hold it alive."""

    def __init__(self, owner: Buffers, memory: Array) -> None:
        self._owner, self._memory = owner, memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._owner.take_back(self._memory)
