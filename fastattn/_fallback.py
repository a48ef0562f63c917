"""When an accelerated module runs its original forward: the reason, told once."""

from __future__ import annotations

import os
import sys
import threading
import warnings


class FallbackWarning(UserWarning):
    """An accelerated module ran its original forward; the message says why.  Told once for each reason."""


class Unfit(Exception):
    """This call is not one for the kernels; the text completes "because"."""


class Unsupported(Unfit):
    """This module is not one for the kernels, whatever it is called with."""


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
    """Return the stack level of the first caller outside this package and torch."""
    inside = tuple(os.path.dirname(path) + os.sep for path in (__file__, getattr(sys.modules.get("torch"), "__file__", __file__)))
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    return level
