"""Ctrl-C: KeyboardInterrupt within a second, and the next call gives the same bits."""

import os
import threading
import time
from pathlib import Path

import pytest

from fastattn.runtime import interrupt
from soak._child import LAYERS, missing, run_child

pytestmark = pytest.mark.jit
RAISED = "KeyboardInterrupt"


@pytest.mark.parametrize("layer", LAYERS)
def test_in_a_long_forward(layer: str) -> None:
    if reason := missing(layer):
        pytest.skip(reason)
    found = run_child("_interrupt_child", "encode", "batch", 0.4, NUMBA_THREADING_LAYER=layer)
    assert found["layer"] == layer
    assert found["outcomes"] == [RAISED, RAISED]
    assert found["late"] < 1.0
    assert found["same"] and found["threads"] == 1


def test_in_a_long_sequence() -> None:
    """In the schedule of chunks, a thread that takes a sequence through all layers checks for an interrupt in between."""
    found = run_child("_interrupt_child", "encode", "long", 0.4)
    assert found["outcomes"] == [RAISED, RAISED] and found["same"]
    assert found["late"] < 1.0  # a layer takes four seconds, all layers half a minute


def test_in_one_sequence() -> None:
    """All threads share each step of a single long sequence; a step takes seconds, so they must check within the step."""
    found = run_child("_interrupt_child", "encode", "one", 1.0)
    assert found["outcomes"] == [RAISED, RAISED] and found["same"]
    assert found["late"] < 1.0


@pytest.mark.parametrize("what", ["texts", "tokens"])
def test_in_encode(what: str) -> None:
    found = run_child("_interrupt_child", "encode", what, 0.4)
    assert found["outcomes"] == [RAISED, RAISED] and found["same"]
    assert found["late"] < 1.0
    assert found["tokenised after it"] <= 128, "the part that was begun, and at most one more"


def test_while_kernels_are_compiled(tmp_path: Path) -> None:
    found = run_child("_interrupt_child", "compiling", 0.3, NUMBA_CACHE_DIR=tmp_path)
    assert found["outcomes"] == [RAISED] and found["same"]
    assert found["late"] < 1.0


def test_in_the_first_call() -> None:
    """The first call loads the kernels from disk, or compiles them, before it computes."""
    found = run_child("_interrupt_child", "first", 1.5)
    assert found["outcomes"] == [RAISED] and found["same"]
    assert found["late"] < 1.0


def test_beside_other_threads() -> None:
    """Workqueue, since its threads wait for each other's calls."""
    found = run_child("_interrupt_child", "beside", 1.0, NUMBA_THREADING_LAYER="workqueue")
    assert found["outcomes"] == [RAISED] and found["same"]
    assert found["late"] < 1.0


@pytest.mark.skipif(os.name != "posix", reason="there is no such signal")
def test_a_call_in_the_handler_of_a_signal() -> None:
    """Re-entrant calls: a call in a signal handler must not share the workspace of the interrupted call."""
    found = run_child("_interrupt_child", "handler")
    assert found["same"] and found["inside"] == [True, True]


class Alarm(Exception):
    pass


def test_the_call_has_ended_when_the_handlers_exception_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler's exception is raised only after the call has ended and its memory is free; the call's own is raised too."""
    stopped, ended = threading.Event(), []

    def call() -> None:
        stopped.wait(20)
        time.sleep(0.05)
        ended.append(True)

    class Lock:
        """Lock that the main thread waits for; `acquire` raises the handler's exception."""

        first = True

        def __init__(self) -> None:
            self.lock = threading.Lock()

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            if timeout == interrupt._CHECK_INTERVAL and self.lock.locked():
                time.sleep(0.1)
                raise Alarm
            return self.lock.acquire(blocking, timeout)

        def release(self) -> None:
            self.lock.release()

    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "_new_lock", Lock)
        with pytest.raises(Alarm):
            interrupt.interruptible(call, stopped.set)
    assert ended == [True]

    def fail() -> None:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        interrupt.interruptible(fail, lambda: None)


def test_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    made: list[bool] = []
    interrupt.interruptible(lambda: made.append(True), lambda: None)
    assert made == [True]


def test_where_the_thread_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlock otherwise: a thread that dies before the call, by a raising hook for example, never signals the end."""
    monkeypatch.setattr(interrupt, "_CHECK_INTERVAL", 0.01)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)

    def fail() -> None:
        raise ValueError("a hook")

    monkeypatch.setattr(threading.Thread, "run", lambda self: fail())
    with pytest.raises(RuntimeError, match="ended before"):
        interrupt.interruptible(lambda: None, lambda: None)
