"""Ctrl-C during a long kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable

# How often, in seconds, a call that is to end is told so.
_AGAIN = 0.005
_new_lock = threading.Lock


def interruptible(call: Callable[[], object], stop: Callable[[], object]) -> None:
    """Run `call` so that signals are handled meanwhile; where a handler raises, have `stop` end the call, and raise.

    Python handles signals in its main thread, between two of its own instructions, and a kernel is one: there another thread
    makes the call while the main one waits.  `stop` is called until the call has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        call()
        return
    # Taken by whoever is first, the thread that makes the call or the handler's exception, which may come before it.
    begun, ended = _new_lock(), _new_lock()
    done: list[BaseException | None] = []

    def body() -> None:
        if not begun.acquire(blocking=False):
            return
        try:
            call()
        except BaseException as error:
            done.append(error)
        else:
            done.append(None)
        ended.release()

    ended.acquire()
    try:
        try:
            threading.Thread(target=body, name="fastattn", daemon=True).start()
        except RuntimeError:
            # There is no thread to be had, by a limit of the system or because the interpreter ends.
            body()
        while not done:
            ended.acquire()
    except BaseException:
        if not begun.acquire(blocking=False):
            _wait(done, ended, stop)
        raise
    if done[0] is not None:
        raise done[0]


def _wait(done: list[BaseException | None], ended: threading.Lock, stop: Callable[[], object]) -> None:
    """Call `stop` until the call is done, whatever signals come."""
    while not done:
        try:
            stop()
            ended.acquire(timeout=_AGAIN)
        except BaseException:
            continue
