"""The request for the tile registers of Intel AMX: asked once, refused silently."""

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator

import pytest

from fastattn.runtime import amx

linux = pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="a system call of Linux on x86-64")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """A process on Linux and x86-64 that has not asked yet, and the calls that it makes; they are granted."""
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(amx, "_arch_prctl", lambda *call: made.append(call) or 0)
    amx.amx_permitted.cache_clear()
    yield made
    amx.amx_permitted.cache_clear()


def test_asks_once(calls: list[tuple[int, int]]) -> None:
    assert amx.amx_permitted() is True
    assert amx.amx_permitted() is True
    assert calls == [(0x1023, 18)]


def refuses(*call: int) -> int:
    return -1


def fails(*call: int) -> int:
    raise OSError("no library of C")


def lacks(*call: int) -> int:
    raise AttributeError("no symbol syscall")


@pytest.mark.parametrize("answer", [refuses, fails, lacks])
def test_refused(
    calls: list[tuple[int, int]], answer: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(amx, "_arch_prctl", answer)
    assert amx.amx_permitted() is False
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(sys, "platform", "darwin"), (platform, "machine", lambda: "aarch64"), (sys, "maxsize", 2**31 - 1)],
)
def test_not_asked_elsewhere(
    calls: list[tuple[int, int]], module: object, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, value)
    assert amx.amx_permitted() is False
    assert calls == []


@linux
def test_answer_is_what_the_kernel_says() -> None:
    """ARCH_GET_XCOMP_PERM gives the registers that this process may use; it fails where Linux has no such call."""
    amx.amx_permitted.cache_clear()
    permitted = amx.amx_permitted()
    granted = ctypes.c_uint64(0)
    ctypes.CDLL(None).syscall(ctypes.c_long(158), ctypes.c_long(0x1022), ctypes.byref(granted))
    assert permitted == bool(granted.value >> 18 & 1)
