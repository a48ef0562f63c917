"""Runs signal handlers, such as that of Ctrl-C, during a long kernel."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from fastattn.runtime.threads import starts_greenlets

# Seconds between two calls of `stop`.
_STOP_INTERVAL = 0.005
# Seconds between two checks that the worker thread is alive.  In Windows, where a signal does not end a wait, it is shorter.
_CHECK_INTERVAL = 0.05 if os.name == "nt" else 1.0
_new_lock = threading.Lock


def interruptible(call: Callable[[], object], stop: Callable[[], object] | None) -> None:
    """Run `call` while signals are handled; if a handler raises, end the call by `stop`, and raise.

    Python runs signal handlers in its main thread, between two bytecode instructions, and a kernel is a single instruction: a
    worker thread makes the call while the main thread waits.  `stop` is called until the call has ended; with None, the call
    runs on by itself.  A greenlet does not run while its thread waits, so the call is made at once where `threading` starts those.
    """
    if threading.current_thread() is not threading.main_thread() or starts_greenlets():
        call()
        return
    # `begun` decides a race: either the worker thread starts the call, or an exception arrives first and the call never starts.
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
            # No thread can be started: the system's limit is reached, or the interpreter shuts down.
            body()
        while not done:
            if not ended.acquire(timeout=_CHECK_INTERVAL) and not thread.is_alive() and not done:
                raise RuntimeError("the thread of a long call ended before the call")
    except BaseException:
        if not begun.acquire(blocking=False) and stop is not None:
            _wait(done, ended, stop)
        raise
    if done[0] is not None:
        raise done[0]


def _wait(done: list[BaseException | None], ended: threading.Lock, stop: Callable[[], object]) -> None:
    """Call `stop` until the call is done; further exceptions of signal handlers are dropped."""
    while not done:
        try:
            stop()
            ended.acquire(timeout=_STOP_INTERVAL)
        except BaseException:
            continue
