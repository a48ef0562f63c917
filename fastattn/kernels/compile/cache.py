"""Compiled kernels on disk, a file each: its name is a hash of all that the code depends on, its digest shows damage.

Numba's own cache keeps an index beside numbered files.  Two processes that write at once can leave an index that names
another kernel's file, a damaged file is run as it is, and a full disk is an exception of the call.  Here the worst that a file
can cause is that its kernel is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numba import config
from numba.core import compiler
from numba.core.caching import FunctionCache
from numba.core.runtime.nrt import rtsys
from numba.core.serialize import dumps

__all__ = ["KernelCache", "opened", "say_once", "sealed"]

_MAGIC = b"fastattn kernel\n"
# Temporary files of killed processes are removed at this age, in seconds.
_ABANDONED = 3600.0

# Without a handler of the program, logging prints warnings on stderr as they are.
logger = logging.getLogger("fastattn")

_said: set[str] = set()


def say_once(what: str, message: str) -> None:
    """Warn, once a process for each `what`."""
    if what not in _said:
        _said.add(what)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


class KernelCache(FunctionCache):  # type: ignore[misc]
    """The compiled forms of one function: for each signature, CPU and version of Python a file."""

    def __init__(self, py_func: Callable[..., Any]) -> None:
        # Numba's own constructor looks for a folder; here the search waits until there is a kernel to read or write.
        self._py_func = py_func
        self.enable()

    @property
    def cache_path(self) -> str | None:
        """The folder that the next kernel would be written to; None where none is writable."""
        return next((str(folder) for folder in self.folders() if _is_writable(folder)), None)

    def flush(self) -> None:
        """Do nothing: no index is held."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled kernel, or None where no folder has it whole: it is compiled then."""
        if not self._enabled:
            return None
        # Machine code calls these functions.  All else that `refresh` loads, 0.2 s of it, only the compiler needs, which calls it.
        rtsys.initialize(target_context)
        codegen = target_context.codegen()
        for folder in self.folders():
            path = folder / self._file_name(sig, codegen)
            try:
                content = path.read_bytes()
            except OSError:
                continue
            try:
                return compiler.CompileResult._rebuild(target_context, *pickle.loads(opened(content)))
            except Exception as error:
                say_once("damaged", f"fastattn: {path} is damaged ({error}): its kernel is compiled again")
        if "compiling" not in _said:
            _said.add("compiling")
            logger.warning("compiling kernels for this CPU, once (up to a minute)")
        return None

    def save_overload(self, sig: Any, cres: Any) -> None:
        """Write a compiled kernel to the first folder that takes it."""
        if not self._enabled or cres.library.has_dynamic_globals:
            return
        payload = dumps(cres._reduce())
        content = sealed(payload)
        refused = []
        for number, folder in enumerate(self.folders()):
            path = folder / self._file_name(sig, cres.codegen)
            try:
                _write(path, content)
            except OSError as error:
                refused.append(f"{folder}: {error.strerror or error}")
                continue
            if number >= len(_lasting_folders()):
                say_once("temporary", f"fastattn: compiled kernels are kept in {folder} for now: {_advice(refused)}")
            return
        say_once("unkept", f"fastattn: compiled kernels are not kept: {_advice(refused)}")

    def folders(self) -> Iterator[Path]:
        """Folders that may hold a kernel, in the order in which they are tried."""
        yield from _lasting_folders()
        if (folder := _temporary_folder()) is not None:
            yield folder

    def _file_name(self, sig: Any, codegen: Any) -> str:
        """Name of the file; it differs for all that the machine code depends on."""
        key = (self._index_key(sig, codegen), sys.implementation.cache_tag, str(config.OPT), str(config.BOUNDSCHECK))
        return f"{self._py_func.__qualname__}.{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.nbc"


def _advice(refused: list[str]) -> str:
    return f"{'; '.join(refused) or 'no folder is writable'}.  NUMBA_CACHE_DIR may name a folder that is"


def sealed(payload: bytes) -> bytes:
    """Return the content of a file whose payload `opened` returns: a digest comes before it."""
    return _MAGIC + hashlib.sha256(payload).digest() + payload


def opened(content: bytes) -> bytes:
    """Return the payload of a file; ValueError where it was cut or changed."""
    head = len(_MAGIC) + 32
    payload = content[head:]
    if content[: len(_MAGIC)] != _MAGIC or hashlib.sha256(payload).digest() != content[len(_MAGIC) : head]:
        raise ValueError(f"{len(content)} bytes that do not match their digest")
    return payload


def _lasting_folders() -> list[Path]:
    """The user's choice; or else beside the source, where that stays, and the user's folder for caches."""
    if config.CACHE_DIR:
        return [Path(config.CACHE_DIR).absolute() / "fastattn"]
    own = [] if _is_unpacked() else [Path(__file__).parent / "__pycache__"]
    home = Path(os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    # Without a home it would be a folder "~" wherever the process happens to be.
    return [*own, *([home / "fastattn"] if home.is_absolute() else [])]


def _is_unpacked() -> bool:
    """Tell whether this program was unpacked for this run: frozen, or compiled by Nuitka, or below the temporary folder."""
    if getattr(sys, "frozen", False) or "__compiled__" in globals():
        return True
    with contextlib.suppress(OSError):
        return Path(__file__).resolve().is_relative_to(Path(tempfile.gettempdir()).resolve())
    return False


def _temporary_folder() -> Path | None:
    """A folder in the system's temporary one, where it is this user's and nobody else can write to it."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    with contextlib.suppress(OSError):
        path = Path(tempfile.gettempdir()) / f"fastattn-cache-{user}"
        path.mkdir(mode=0o700, exist_ok=True)
        info = path.lstat()
        if not path.is_symlink() and (not hasattr(os, "getuid") or (info.st_uid == user and not info.st_mode & 0o022)):
            return path
    return None


def _is_writable(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        return True
    return False


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step: a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex[:12]}")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    with contextlib.suppress(OSError):
        for left in path.parent.glob("*.nbc.tmp.*"):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()
