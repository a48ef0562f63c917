"""Rounding of results that NumPy computes."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

__all__ = ["rounding"]


class rounding(contextlib.ContextDecorator):
    """Round what is too small to zero or a denormal, and what is too large to infinity, whatever `np.seterr` says: as kernels do.

    A decorator too.  A class, because a generator's context costs small ops several microseconds more.
    """

    def __enter__(self) -> None:
        """Ignore overflow and underflow."""
        self._state = np.errstate(over="ignore", under="ignore")
        self._state.__enter__()

    def __exit__(self, *error: Any) -> None:
        """Restore what `np.seterr` says."""
        self._state.__exit__(*error)

    def _recreate_cm(self) -> rounding:
        return type(self)()
