"""How every kernel is compiled, cached and launched: the only place with Numba options.

A kernel is compiled for the CPU that it runs on and kept in Numba's disk cache.  Numba's cache does not see an edit in
another file, so a hash of all kernel sources is part of each kernel's name.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import pathlib
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import llvmlite
import numba
import numpy as np
from numba import config, prange, types

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

_HERE = pathlib.Path(__file__).parent


def _source_tag() -> str:
    """Hash of all kernel sources and of the compiler versions: 12 hex digits."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(_HERE.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


_TAG = _source_tag()


def _private_temporary_directory() -> str:
    """A cache directory in the system's temporary folder that only this user can write."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    path = pathlib.Path(tempfile.gettempdir()) / f"fastattn-cache-{user}"
    with contextlib.suppress(OSError):
        path.mkdir(mode=0o700, exist_ok=True)
        info = path.lstat()
        if not path.is_symlink() and (not hasattr(os, "getuid") or (info.st_uid == user and not info.st_mode & 0o022)):
            return str(path)
    return tempfile.mkdtemp(prefix="fastattn-cache-")


def compile_cached(fn: F, **options: Any) -> Any:
    """Apply ``numba.njit`` with the disk cache on, in a temporary directory where nothing else is writable."""
    fn.__qualname__ = f"{fn.__qualname__}-{_TAG}"
    jit = numba.njit(cache=True, **OPTIONS, **options)
    try:
        return jit(fn)
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
        before, config.CACHE_DIR = config.CACHE_DIR, _private_temporary_directory()
        try:
            return jit(fn)
        finally:
            config.CACHE_DIR = before


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


_kernels: list[ParallelKernel] = []


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
        _kernels.append(self)

    def __call__(self, *args: Any) -> Any:
        """Run the kernel."""
        if (_layer or threading_layer()) == "workqueue":
            with _workqueue_lock:
                return self.dispatcher(*args)
        return self.dispatcher(*args)


_layer: str | None = None
_layer_lock = threading.Lock()
_workqueue_lock = threading.RLock()
_forked = False


def _after_fork_in_child() -> None:
    global _forked, _layer_lock, _workqueue_lock
    _forked = _layer is not None
    _layer_lock, _workqueue_lock = threading.Lock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


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
    global _layer
    if _layer is None:
        with _layer_lock:
            if _layer is None:
                if not JIT:
                    _layer = "none"
                    return _layer
                _load_tbb()
                _keep_freed_arrays()
                from numba.np.ufunc.parallel import _launch_threads

                _launch_threads()
                _layer = numba.threading_layer()
    return _layer


def _cpu_quota() -> float:
    """CPUs that the control group grants (version 2, then 1); infinite without a limit."""
    quota = float("inf")
    with contextlib.suppress(OSError, ValueError, IndexError):
        own = [line.split(":", 2) for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines()]
        for _, controllers, path in own:
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = pathlib.Path("/sys/fs/cgroup" if not controllers else "/sys/fs/cgroup/cpu")
            relative = pathlib.PurePosixPath(path.lstrip("/"))
            for folder in (root, *(root / p for p in (relative, *relative.parents))):
                quota = min(quota, _quota_of(folder))
    return quota


def _quota_of(folder: pathlib.Path) -> float:
    with contextlib.suppress(OSError, ValueError):
        allowed, period = (folder / "cpu.max").read_text().split()
        if allowed != "max":
            return int(allowed) / int(period)
    with contextlib.suppress(OSError, ValueError):
        allowed_us = int((folder / "cpu.cfs_quota_us").read_text())
        if allowed_us > 0:
            return allowed_us / int((folder / "cpu.cfs_period_us").read_text())
    return float("inf")


_quota: float | None = None


def thread_count() -> int:
    """Threads that a call may use now: Numba's setting, the affinity mask and the CPU quota, whichever is least.

    One in a child forked after the kernels ran, unless the layer is tbb: the threads of omp and workqueue do not survive.
    """
    global _quota
    # First of all: Numba starts its threads when it is asked for their number, and libtbb must be loaded by then.
    threading_layer()
    if not JIT:
        return 1
    if _forked and _layer != "tbb":
        return 1
    if _quota is None:
        _quota = _cpu_quota()
    count = int(numba.get_num_threads())
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    if _quota != float("inf"):
        count = min(count, max(1, int(_quota + 0.5)))
    return max(1, count)


def cache_directory() -> pathlib.Path:
    """Return the directory in which compiled kernels are kept."""
    paths = [stats.cache_path for stats in (getattr(k.dispatcher, "stats", None) for k in _kernels) if stats is not None]
    return pathlib.Path(paths[0]) if paths else _HERE / "__pycache__"
