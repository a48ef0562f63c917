"""Permission to use Intel AMX: Linux grants the tile registers to a process that asks for them."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

__all__ = ["amx_permitted"]

_ARCH_PRCTL = 158
_REQUEST_PERMISSION = 0x1023
_TILE_DATA = 18


@functools.cache
def amx_permitted() -> bool:
    """Ask Linux for the tile registers, once in a process; False where they are refused or this is another system.

    Ask before threads start: Linux refuses where the stack for signals of any thread is too small for the registers.
    Without permission the first instruction on tiles ends the process.
    """
    if not _is_linux_on_x86_64():
        return False
    try:
        return _arch_prctl(_REQUEST_PERMISSION, _TILE_DATA) == 0
    except (OSError, AttributeError, ValueError):
        return False


def _is_linux_on_x86_64() -> bool:
    # A Python of 32 bits has other numbers of system calls.
    return sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 2**32


def _arch_prctl(code: int, value: int) -> int:
    call = ctypes.CDLL(None).syscall
    call.restype = ctypes.c_long
    return int(call(*map(ctypes.c_long, (_ARCH_PRCTL, code, value))))
