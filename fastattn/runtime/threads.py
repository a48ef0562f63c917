"""Numba's threads: the threading layer, the number of threads of a call, and forked children, which lose the threads."""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import functools
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
from llvmlite.binding.ffi import lib as llvm
from numba import config
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel

from fastattn.runtime.control_groups import control_groups

__all__ = [
    "JIT",
    "limit_threads",
    "same_threads",
    "starts_greenlets",
    "thread_count",
    "thread_limits",
    "threading_layer",
    "workqueue_lock",
]

JIT = not config.DISABLE_JIT

layer: str | None = None
_layer_lock = threading.RLock()
workqueue_lock = threading.RLock()
_MAIN = threading.main_thread().ident
# Whether a thread other than the main one may have run a kernel in parallel.
_threaded = False
# In a forked child: the layer that the parent had started, and whether the parent had any other threads.
_forked = False
_inherited: str | None = None
_of_many = False
# Whether the system refuses the threads that the layer would start.
_alone = False
# Threads that a call may start beside the layer's own: one waits for signals, one tokenises.
_HELPERS = 2


class _Fork(threading.local):
    """A thread's fork in progress: the locks that it holds, and the exceptions of signal handlers meanwhile."""

    def __init__(self) -> None:
        self.held: list[Any] = []
        self.raised: list[BaseException] = []


_fork = _Fork()


def _locks() -> list[Any]:
    """Return the locks that a thread may hold while it compiles or starts the layer, in the order of acquisition."""
    found = [global_compiler_lock._lock, _layer_lock, getattr(getattr(llvm, "_lock", None), "_lock", None)]
    return [lock for lock in found if lock is not None]


def _take_locks() -> None:
    for lock in _locks():
        if lock not in _fork.held and not lock._is_owned():
            _fork.held.append(lock)
        if not lock._is_owned():
            lock.acquire()


def _release_locks() -> None:
    while _fork.held:
        if _fork.held[-1]._is_owned():
            _fork.held[-1].release()
        _fork.held.pop()


def _uninterrupted(step: Callable[[], None]) -> None:
    """Retry `step` until it finishes.

    An exception from a signal handler would otherwise abort it half-way inside `os.fork`, where Python discards it.
    """
    while True:
        try:
            step()
            return
        except BaseException as error:
            _fork.raised.append(error)


def _before_fork() -> None:
    """Take the locks: a lock of a compiling thread would never be released in the child, which lacks that thread."""
    global _of_many, _threaded
    _of_many = _has_threads()
    _threaded = _threaded or threading.current_thread() is not threading.main_thread()
    _fork.raised.clear()
    _uninterrupted(_take_locks)


def _after_fork_in_parent() -> None:
    _uninterrupted(_release_locks)
    if any(isinstance(error, KeyboardInterrupt) for error in _fork.raised):
        # Send SIGINT again after the fork: Python discards exceptions that are raised in here.
        again = threading.Timer(0.01, os.kill, [os.getpid(), signal.SIGINT])
        again.daemon = True
        again.start()


def _after_fork_in_child() -> None:
    global _forked, _inherited, workqueue_lock
    _forked = True
    with contextlib.suppress(ValueError):
        _inherited = numba.threading_layer()
    workqueue_lock = threading.RLock()
    # New locks prevent a deadlock: a thread of the parent may hold Numba's first, and another, killed process the second.
    parallel._backend_init_thread_lock = threading.RLock()
    if parallel._backend_init_process_lock is not None:
        parallel._backend_init_process_lock = threading.RLock()
    # With this set, the tokenizers library would wait for its threads, which only the parent has.
    if os.environ.get("TOKENIZERS_PARALLELISM"):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _uninterrupted(_release_locks)


def _has_threads() -> bool:
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/task")) > 1
    return True


def _survives() -> bool:
    """Tell whether the layer may start threads in this forked child.

    With omp, Numba kills a child that enters a parallel region after the parent started omp, and GNU's omp hangs in a child
    whose parent ran any parallel region, of torch for example.  tbb stops its threads before a fork of the main thread, unless
    other threads use them.
    """
    if layer == "omp":
        return _inherited is None and not _of_many
    return _inherited is None or (layer == "tbb" and not _threaded)


if JIT and hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _load_tbb() -> None:
    """Load ``libtbb`` from its wheel: in a virtual environment it is not on the loader's path."""
    if sys.platform != "linux":
        return
    for root in dict.fromkeys((sys.prefix, sys.base_prefix)):
        path = pathlib.Path(root) / "lib" / "libtbb.so.12"
        if path.exists():
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
                return


def _keep_freed_arrays() -> None:
    """Allocate and free 8 MiB once: glibc then keeps freed arrays up to that size for reuse.

    By default glibc returns a result of 512 KiB to the system in every call, and the next call has a page fault for each of its
    pages: 0.3 of the 1.1 ms of an attention.
    """
    np.empty(8 << 20, np.uint8)


def starts_greenlets() -> bool:
    """Tell whether `threading` starts greenlets: gevent and eventlet put functions of Python in the place of the system's."""
    return not isinstance(_thread.start_new_thread, types.BuiltinFunctionType)


def _can_start(count: int) -> bool:
    """Tell whether the system lets this process start so many threads, by starting them.

    tbb aborts the process and workqueue waits for ever where a thread is refused.
    """
    if starts_greenlets():
        return True
    end = threading.Event()
    threads = [threading.Thread(target=end.wait, daemon=True) for _ in range(count)]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    except RuntimeError:
        return False
    finally:
        end.set()
        for thread in started:
            thread.join()
    return True


@contextlib.contextmanager
def _without_threads() -> Iterator[None]:
    """Choose the layer workqueue, which starts without threads; tbb aborts the process where it is refused one."""
    chosen, config.THREADING_LAYER = config.THREADING_LAYER, "workqueue"
    try:
        yield
    finally:
        config.THREADING_LAYER = chosen


def threading_layer() -> str:
    """Start Numba's threads if they are not running, and return the name of their layer: tbb, omp or workqueue."""
    global _alone, layer, _threaded
    if layer is None:
        with _layer_lock:
            if layer is None:
                if not JIT:
                    layer = "none"
                    return layer
                _alone = not _can_start(config.NUMBA_NUM_THREADS + _HELPERS)
                if _alone:
                    warnings.warn(
                        "fastattn: the system refuses new threads: kernels run in one thread", RuntimeWarning, stacklevel=2
                    )
                _load_tbb()
                _keep_freed_arrays()
                # Numba reads the start method of processes, which fixes it: set_start_method would fail from then on.
                chosen = multiprocessing.get_start_method(allow_none=True)
                with _without_threads() if _alone else contextlib.nullcontext():
                    parallel._launch_threads()
                if chosen is None:
                    multiprocessing.set_start_method(None, force=True)
                # To tbb, the thread that started it is the main thread.
                _threaded = _threaded or threading.get_ident() != _MAIN
                layer = numba.threading_layer()
    return layer


def same_threads() -> Callable[[], None]:
    """Return a function that gives the thread which calls it what this thread passed to ``numba.set_num_threads``."""
    threading_layer()
    if not JIT:
        return lambda: None
    # Not numba.set_num_threads, which takes the same lock as `numba.get_num_threads`.
    return functools.partial(parallel._set_num_threads, int(parallel._get_num_threads()))


def _cpu_quota(*places: pathlib.Path) -> float:
    """Return the number of CPUs that the control groups grant; infinite without a limit."""
    return min(map(_quota_of, control_groups("cpu", *places)), default=float("inf"))


def _quota_of(folder: pathlib.Path) -> float:
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        allowed, period = (folder / "cpu.max").read_text().split()
        if allowed != "max":
            return int(allowed) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        allowed_us = int((folder / "cpu.cfs_quota_us").read_text())
        if allowed_us > 0:
            return allowed_us / int((folder / "cpu.cfs_period_us").read_text())
    return float("inf")


_settings: dict[str, int] | None = None


def _read_settings() -> dict[str, int]:
    """Return the limits that last as long as the process."""
    found = {}
    # OpenMP's list has a number for each depth of nesting; what is no number, OpenMP ignores.
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if first.isdecimal() and int(first) > 0:
        found["OMP_NUM_THREADS"] = int(first)
    if (quota := _cpu_quota()) != float("inf"):
        found["the control group"] = max(1, int(quota + 0.5))
    if _alone:
        found["the limit on processes"] = 1
    return found


def limit_threads(count: int) -> None:
    """Set ``OMP_NUM_THREADS`` of this process, also where a call has read it already."""
    global _settings
    os.environ["OMP_NUM_THREADS"] = str(count)
    _settings = None


def thread_limits() -> dict[str, int]:
    """Return each limit on the threads of a call, by what sets it; the least applies."""
    global _settings, _threaded
    threading_layer()
    if not JIT:
        return {"NUMBA_DISABLE_JIT": 1}
    if _forked and not _survives():
        return {"the fork": 1}
    if not _threaded and threading.get_ident() != _MAIN:
        _threaded = True
    if _settings is None:
        _settings = _read_settings()
    # Not numba.get_num_threads, which takes a lock shared with all forked children: if one is killed, nobody releases it.
    found = {"NUMBA_NUM_THREADS": int(parallel._get_num_threads()), **_settings}
    if hasattr(os, "sched_getaffinity"):
        found["the affinity mask"] = len(os.sched_getaffinity(0))
    return found


def thread_count() -> int:
    """Return the number of threads that a call may use: the least of `thread_limits`.

    1 in a child that was forked after the kernels ran, if the layer cannot start threads there.
    """
    return max(1, min(thread_limits().values()))
