"""How every kernel is compiled, cached and launched: the only place with Numba options.

A kernel is compiled for the CPU that it runs on and kept in Numba's disk cache.  Numba's cache does not see an edit in
another file, so a hash of all kernel sources is part of each kernel's name.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import multiprocessing
import os
import pathlib
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import llvmlite
import numba
import numpy as np
from llvmlite.binding.ffi import lib as llvm
from numba import config, prange, types
from numba.core.compiler_lock import global_compiler_lock

from fastattn.kernels._cache import KernelCache

__all__ = [
    "JIT",
    "OPTIONS",
    "ParallelKernel",
    "cache_directory",
    "compile_cached",
    "inline",
    "kernel",
    "prange",
    "thread_count",
    "threading_layer",
]

F = TypeVar("F", bound=Callable[..., Any])

JIT = not config.DISABLE_JIT

# No fast-math flag at all: the vectors are explicit, so nothing needs one, and what the flags allow (another order of
# summation, a contraction here and not there, no infinities) would break batch invariance and -inf masks.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

_MAIN = threading.main_thread().ident
_HERE = pathlib.Path(__file__).parent


def _source_tag() -> str:
    """Hash of all kernel sources and of the compiler versions: 12 hex digits."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(_HERE.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


_TAG = _source_tag()


def compile_cached(fn: F, **options: Any) -> Any:
    """Apply ``numba.njit`` and keep what it compiles on disk."""
    fn.__qualname__ = f"{fn.__qualname__}-{_TAG}"
    dispatcher = numba.njit(**OPTIONS, **options)(fn)
    dispatcher._cache = KernelCache(fn)
    return dispatcher


def _serial(fn: F, **options: Any) -> Any:
    """Apply ``numba.njit`` to a function that only kernels call; it is kept on disk as a part of them."""
    dispatcher = numba.njit(**OPTIONS, _nrt=False, **options)(fn)
    template = dispatcher.get_call_template

    def one_for_all_numbers(args: Any, kws: Any) -> Any:
        # Numba would compile the function anew for each literal number that it is called with.
        return template(tuple(types.unliteral(arg) for arg in args), kws)

    dispatcher.get_call_template = one_for_all_numbers
    return dispatcher


def kernel(fn: F) -> F:
    """Compile a serial kernel: what the parallel ones are made of."""
    return _serial(fn) if JIT else fn


def inline(fn: F) -> F:
    """Compile a helper that disappears into its callers: vector arithmetic of a few instructions."""
    return _serial(fn, forceinline=True) if JIT else fn


class ParallelKernel:
    """A kernel with ``prange`` loops, launched under what the threading layer needs.

    Numba makes a ``prange`` index unsigned: bodies convert it, or each function they call is compiled twice.

    ``workqueue`` aborts the process when two threads enter it at once: a lock is held around the call.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.py_func = fn
        self.__name__ = fn.__name__
        self.__doc__ = fn.__doc__
        self.dispatcher: Any = compile_cached(fn, parallel=True) if JIT else fn

    def is_compiled(self) -> bool:
        """Whether there is code for some signature."""
        return not JIT or bool(self.dispatcher.signatures)

    def __call__(self, *args: Any) -> Any:
        """Run the kernel."""
        if (_layer or threading_layer()) == "workqueue":
            with _workqueue_lock:
                return self.dispatcher(*args)
        return self.dispatcher(*args)


_layer: str | None = None
_layer_lock = threading.RLock()
_workqueue_lock = threading.RLock()
# Whether a thread other than the main one may have run a kernel in parallel.
_threaded = False
# In a forked child: the layer that its parent had started, and whether its parent had other threads of any kind.
_forked = False
_inherited: str | None = None
_of_many = False


def _locks() -> list[Any]:
    """What a thread may hold while it compiles or starts the layer, in the order in which they are taken."""
    return [global_compiler_lock, _layer_lock, *([llvm._lock] if hasattr(llvm, "_lock") else [])]


def _before_fork() -> None:
    """Wait for what is being compiled: the child has no thread that would finish it."""
    global _of_many, _threaded
    _of_many = _has_threads()
    _threaded = _threaded or threading.current_thread() is not threading.main_thread()
    for lock in _locks():
        lock.__enter__()


def _after_fork() -> None:
    for lock in reversed(_locks()):
        lock.__exit__(None, None, None)


def _after_fork_in_child() -> None:
    global _forked, _inherited, _workqueue_lock
    _forked = True
    with contextlib.suppress(ValueError):
        _inherited = numba.threading_layer()
    _workqueue_lock = threading.RLock()
    _after_fork()


def _has_threads() -> bool:
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/task")) > 1
    return True


def _survives() -> bool:
    """Whether the layer of this forked child may start threads.

    Numba ends a child that enters a parallel region of the omp that its parent started, and GNU's omp hangs in a child whose
    parent ran any region, of torch say.  tbb stops its threads for a fork from the main thread, unless others use them.
    """
    if _layer == "omp":
        return _inherited is None and not _of_many
    return _inherited is None or (_layer == "tbb" and not _threaded)


if JIT and hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def _load_tbb() -> None:
    """Load ``libtbb`` from its wheel: inside a virtual environment it is not on the loader's path."""
    if sys.platform != "linux":
        return
    for root in dict.fromkeys((sys.prefix, sys.base_prefix)):
        path = pathlib.Path(root) / "lib" / "libtbb.so.12"
        if path.exists():
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
                return


def _keep_freed_arrays() -> None:
    """Free 8 MiB once, untouched: from then on glibc keeps arrays up to that size for reuse.

    By its starting thresholds it gives a result of 512 KiB back to the system in every call, and all its pages are faulted in
    again by the next one: 0.3 of the 1.1 ms of an attention.
    """
    np.empty(8 << 20, np.uint8)


def threading_layer() -> str:
    """Start Numba's threads if they are not running, and name their layer: tbb, omp or workqueue."""
    global _layer, _threaded
    if _layer is None:
        with _layer_lock:
            if _layer is None:
                if not JIT:
                    _layer = "none"
                    return _layer
                _load_tbb()
                _keep_freed_arrays()
                from numba.np.ufunc.parallel import _launch_threads

                # Numba looks up how processes are started, which settles it: set_start_method would then fail.
                chosen = multiprocessing.get_start_method(allow_none=True)
                _launch_threads()
                if chosen is None:
                    multiprocessing.set_start_method(None, force=True)
                # tbb's main thread is the one that started it.
                _threaded = _threaded or threading.get_ident() != _MAIN
                _layer = numba.threading_layer()
    return _layer


def _cpu_quota(
    groups: pathlib.Path = pathlib.Path("/sys/fs/cgroup"), own: pathlib.Path = pathlib.Path("/proc/self/cgroup")
) -> float:
    """CPUs that the control group grants (version 2, then 1); infinite without a limit."""
    quota = float("inf")
    with contextlib.suppress(OSError, ValueError, IndexError):
        for _, controllers, path in (line.split(":", 2) for line in own.read_text().splitlines()):
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = groups / "cpu" if controllers else groups
            relative = pathlib.PurePosixPath(path.lstrip("/"))
            for folder in (root, *(root / p for p in (relative, *relative.parents))):
                quota = min(quota, _quota_of(folder))
    return quota


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


_quota: float | None = None


def thread_count() -> int:
    """Threads that a call may use now: Numba's setting, the affinity mask and the CPU quota, whichever is least.

    One in a child forked after the kernels ran, where the layer's threads do not survive that.
    """
    global _quota, _threaded
    # First of all: Numba starts its threads when it is asked for their number, and libtbb must be loaded by then.
    threading_layer()
    if not JIT:
        return 1
    if _forked and not _survives():
        return 1
    if not _threaded and threading.get_ident() != _MAIN:
        _threaded = True
    if _quota is None:
        _quota = _cpu_quota()
    count = int(numba.get_num_threads())
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    if _quota != float("inf"):
        count = min(count, max(1, int(_quota + 0.5)))
    return max(1, count)


def cache_directory() -> pathlib.Path | None:
    """Return the folder in which compiled kernels are kept; None where no folder is writable."""
    path = KernelCache(cache_directory).cache_path
    return None if path is None else pathlib.Path(path)
