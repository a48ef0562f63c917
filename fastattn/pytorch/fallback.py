"""When an accelerated module runs its original forward: the reason, told once."""

from __future__ import annotations

import sys
import threading
import warnings

from fastattn.checkpoint.torch_errors import Unfit

# Packages between a user's call and the forward.
_BETWEEN = ("fastattn", "torch", "transformers", "sentence_transformers")


class FallbackWarning(UserWarning):
    """An accelerated module ran its original forward; the message says why.  Told once for each reason."""


class Notices:
    """The reasons that were told; shared by the modules that were accelerated together."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def tell(self, name: str, reason: Unfit) -> None:
        """Warn, unless a module was in the same case before."""
        with self._lock:
            if str(reason) in self._told:
                return
            self._told.add(str(reason))
        message = f"{name} ran its original forward instead of fastattn's kernels, because {reason}"
        warnings.warn(message, FallbackWarning, stacklevel=_depth())


def _depth() -> int:
    """Return the stack level of the first caller outside this package and those that call it."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    return level
