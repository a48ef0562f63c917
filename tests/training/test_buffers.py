"""Memory of a step that the next step uses again."""

import gc

import numpy as np

from fastattn.runtime.buffers import Buffers


def test_memory_is_used_again_when_its_last_view_is_gone() -> None:
    buffers = Buffers()
    first = buffers.empty(100, 1000)
    place, view = first.ctypes.data, first[5:, :3]
    del first
    other = buffers.empty(100, 1000)
    assert other.ctypes.data != place
    view[...] = 1.0
    assert other.shape == (100, 1000) and other.dtype == np.float32 and other.flags.c_contiguous
    del view, other
    gc.collect()
    # The allocator may give the same place again too.
    assert sum(map(len, buffers._free.values())) == 2
    again = [buffers.empty(100, 1000) for _ in range(2)]
    assert place in [each.ctypes.data for each in again]


def test_what_is_kept_is_bounded_and_given_back() -> None:
    buffers = Buffers()
    for size in range(20_000, 200_000, 20_000):
        buffers.empty(size)
    assert 0 < buffers._kept <= 1.5 * buffers._peak and buffers._used == 0
    buffers.clear()
    assert buffers._kept == 0 and not buffers._free
