"""Finds the line of a user's program that a warning is about."""

from __future__ import annotations

import sys

__all__ = ["stack_level"]

# Packages between a user's call and a warning of this package.
_BETWEEN = ("fastattn", "torch", "transformers", "sentence_transformers")


def stack_level() -> int:
    """Return the `stacklevel` of a warning that the caller gives: that of the first function outside these packages."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    return level
