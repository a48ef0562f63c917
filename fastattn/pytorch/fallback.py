"""Warns when an accelerated module runs its original forward: once for each reason."""

from __future__ import annotations

import sys
import threading
import warnings

from fastattn.checkpoint.torch_errors import NotAccelerated

# Packages between a user's call and the forward.
_BETWEEN = ("fastattn", "torch", "transformers", "sentence_transformers")


class FallbackWarning(UserWarning):
    """An accelerated module ran its original forward; the message says why.  Shown once for each reason."""


class FallbackNotices:
    """The reasons of past warnings, shared by the modules that one call of `accelerate` changed."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()
        self._lock = threading.Lock()

    def warn(self, name: str, reason: NotAccelerated) -> None:
        """Warn, unless this reason was warned of before."""
        with self._lock:
            if str(reason) in self._reasons:
                return
            self._reasons.add(str(reason))
        message = f"{name} ran its original forward instead of fastattn's kernels, because {reason}"
        warnings.warn(message, FallbackWarning, stacklevel=_depth())


def _depth() -> int:
    """Return the stack level of the first caller outside the packages in `_BETWEEN`."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    return level
