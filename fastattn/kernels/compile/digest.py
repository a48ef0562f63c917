"""Hash of the kernel modules as they were loaded: kernels on disk belong to one such hash."""

from __future__ import annotations

import hashlib
import sys
from types import CodeType, ModuleType
from typing import Any

import llvmlite
import numba

from fastattn.runtime.version import __version__

__all__ = ["content_tag", "depends_on", "source_tag"]

_KERNELS = "fastattn.kernels"
# By module: the hash of its content when it was imported.
_hashes: dict[str, str] = {}
# What else decides a kernel's code, and is not in a module, the versions or the name of the CPU.
_choices: list[str] = []


def depends_on(choice: str) -> None:
    """Make the kernels that are declared from now on depend on a choice."""
    _choices.append(choice)


def source_tag() -> str | None:
    """Hash of the kernel modules imported so far and of the versions, 12 hex digits; None if a module's content is unknown.

    A kernel is built from its own module and from those that were imported before it.  Each module is read when the first kernel
    behind it is declared: read later, the file could be that of another release, installed while the process runs.
    """
    kernels = _hashes_below(_KERNELS)
    if kernels is None:
        return None
    key = (__version__, numba.__version__, llvmlite.__version__, kernels, _choices)
    return hashlib.sha256(repr(key).encode()).hexdigest()[:12]


def content_tag(*packages: str) -> str | None:
    """Hash of the modules of some packages imported so far, 12 hex digits; None if a module's content is unknown."""
    found = [_hashes_below(package) for package in packages]
    return None if None in found else hashlib.sha256(repr(found).encode()).hexdigest()[:12]


def _hashes_below(package: str) -> list[tuple[str, str]] | None:
    """Return the name and the hash of each module of a package imported so far; None if a module's content is unknown."""
    names = [name for name in list(sys.modules) if name == package or name.startswith(f"{package}.")]
    for name in names:
        if name not in _hashes:
            content = _content(sys.modules[name])
            if content is None:
                return None
            _hashes[name] = hashlib.sha256(content).hexdigest()
    return sorted((name, _hashes[name]) for name in names)


def _content(module: ModuleType) -> bytes | None:
    """Return what the module was loaded from: the bytes of its file, else its source, else its byte code."""
    loader: Any = module.__loader__
    # Files, also in zips, of source or byte code; frozen modules have no file, and compiled ones may have nothing.
    for read in (
        lambda: loader.get_data(module.__file__),
        lambda: loader.get_source(module.__name__).encode(),
        lambda: repr(_parts(loader.get_code(module.__name__))).encode(),
    ):
        try:
            return read()
        except (OSError, ImportError, AttributeError, TypeError):
            continue
    return None


def _parts(code: CodeType) -> tuple[Any, ...]:
    """Return what a code object does, without the names of files, in an order that does not depend on the process."""
    constants = [
        _parts(value) if isinstance(value, CodeType) else sorted(map(repr, value)) if isinstance(value, frozenset) else value
        for value in code.co_consts
    ]
    return (code.co_name, code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
