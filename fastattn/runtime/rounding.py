"""Rounding of results that NumPy computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

__all__ = ["rounding"]


@contextlib.contextmanager
def rounding() -> Iterator[None]:
    """Round what is too small to zero or a denormal, and what is too large to infinity, whatever `np.seterr` says: as kernels do.

    A decorator too.
    """
    with np.errstate(over="ignore", under="ignore"):
        yield
