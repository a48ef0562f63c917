"""Ctrl-C during a long kernel."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

# How often, in seconds, a call that is to end is told so.
_AGAIN = 0.005
# How long to wait before a look at whether the thread of the call is still there.  In Windows no signal ends a wait.
_LOOK = 0.05 if os.name == "nt" else 1.0
_new_lock = threading.Lock


def interruptible(call: Callable[[], object], stop: Callable[[], object] | None) -> None:
    """Run `call` so that signals are handled meanwhile; where a handler raises, have `stop` end the call, and raise.

    Python handles signals in its main thread, between two of its own instructions, and a kernel is one: there another thread
    makes the call while the main one waits.  `stop` is called until the call has ended; with None, the call is left to itself.
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

    thread = threading.Thread(target=body, name="fastattn", daemon=True)
    ended.acquire()
    try:
        try:
            thread.start()
        except RuntimeError:
            if thread.ident is not None:
                raise
            # There is no thread to be had, by a limit of the system or because the interpreter ends.
            body()
        while not done:
            if not ended.acquire(timeout=_LOOK) and not thread.is_alive() and not done:
                raise RuntimeError("the thread of a long call ended before the call")
    except BaseException:
        if not begun.acquire(blocking=False) and stop is not None:
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
