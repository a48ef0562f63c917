"""Warns when an accelerated module runs its original forward: once for each reason."""

from __future__ import annotations

import threading
import warnings

from fastattn.checkpoint.torch_errors import NotAccelerated
from fastattn.runtime.callers import stack_level


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
        warnings.warn(message, FallbackWarning, stacklevel=stack_level())
