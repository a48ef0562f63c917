"""How every kernel is compiled, cached and launched: the only place with Numba options.

A kernel is compiled for the CPU that it runs on and kept on disk.  Numba's key does not see an edit in another file, so a hash
of the kernel modules is part of each kernel's name.
"""

from __future__ import annotations

import functools
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numba
from numba import prange, types
from numba.extending import overload
from numba.np.numpy_support import as_dtype

from fastattn.kernels.compile.cache import KernelCache, say_once
from fastattn.kernels.compile.digest import source_tag
from fastattn.runtime import threads
from fastattn.runtime.interrupt import interruptible
from fastattn.runtime.threads import JIT

__all__ = [
    "JIT",
    "OPTIONS",
    "ParallelKernel",
    "by_dtype",
    "cache_directory",
    "cache_folders",
    "compile_cached",
    "inline",
    "kernel",
    "prange",
]

F = TypeVar("F", bound=Callable[..., Any])

# No fast-math flag at all: the vectors are explicit, so nothing needs one, and what the flags allow (another order of
# summation, a contraction here and not there, no infinities) would break batch invariance and -inf masks.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

# Seconds between two polls of the stop flag by a call that waits for the lock.
_POLL_SECONDS = 0.05


def compile_cached(fn: F, **options: Any) -> Any:
    """Apply ``numba.njit`` and keep what it compiles on disk."""
    tag = source_tag()
    fn.__qualname__ = f"{fn.__qualname__}-{tag}"
    dispatcher = numba.njit(**OPTIONS, **options)(fn)
    if tag is None:
        say_once(
            "unknown", "fastattn: compiled kernels are not kept: the loader of fastattn.kernels shows neither source nor byte code"
        )
    else:
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
    """Compile a serial kernel, a part of the parallel ones."""
    return _serial(fn) if JIT else fn


def inline(fn: F) -> F:
    """Compile a helper that disappears into its callers: vector arithmetic of a few instructions."""
    return _serial(fn, forceinline=True) if JIT else fn


def by_dtype(kernels: Mapping[Any, Any], argument: str) -> Callable[[F], F]:
    """Make of a function without a body the kernel that `kernels` has for the dtype of an array.

    `argument`: that array, or a record whose first field it is.  Only the kernels of the dtypes in use are compiled.
    """

    def decorate(stub: F) -> F:
        place = list(inspect.signature(stub).parameters).index(argument)

        @functools.wraps(stub)
        def choose(*args: Any) -> Any:
            given = args[place]
            if not JIT:
                return kernels[(given[0] if isinstance(given, tuple) else given).dtype.type](*args)
            array = given.types[0] if isinstance(given, types.BaseTuple) else given
            return kernels[as_dtype(array.dtype).type].py_func

        if not JIT:
            return choose  # type: ignore[return-value]
        overload(stub, jit_options={**OPTIONS, "_nrt": False})(choose)
        return stub

    return decorate


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
        self._is_loaded = not JIT

    def __call__(self, *args: Any) -> Any:
        """Run the kernel."""
        # The threading layer comes first: the compiler starts Numba's threads, and libtbb must be loaded by then.
        layer = threads.layer or threads.threading_layer()
        if not self._is_loaded:
            self._load(args)
        if layer == "workqueue":
            with threads.workqueue_lock:
                return self.dispatcher(*args)
        return self.dispatcher(*args)

    def unless(self, stopped: Callable[[], bool], *args: Any) -> Any:
        """Run the kernel, unless `stopped` comes true while it waits for another thread's call to end."""
        if (threads.layer or threads.threading_layer()) != "workqueue":
            return self(*args)
        while not threads.workqueue_lock.acquire(timeout=_POLL_SECONDS):
            if stopped():
                return None
        try:
            # This thread may take the lock again.
            return self(*args)
        finally:
            threads.workqueue_lock.release()

    def _load(self, args: tuple[Any, ...]) -> None:
        """Compile, or read the kernel from disk, in another thread, so that handlers of signals run meanwhile.

        An exception that a handler raises inside the compiler can be lost.
        """
        signature = tuple(map(self.dispatcher.typeof_pyval, args))
        interruptible(lambda: self.dispatcher.compile(signature), None)
        self._is_loaded = True


def cache_folders() -> list[pathlib.Path]:
    """Return the folders that may hold compiled kernels, in the order in which they are tried."""
    return list(KernelCache(cache_folders).folders())


def cache_directory() -> pathlib.Path | None:
    """Return the folder in which compiled kernels are kept; None where no folder is writable."""
    path = KernelCache(cache_directory).cache_path
    return None if path is None else pathlib.Path(path)
