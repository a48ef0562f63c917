"""Warns of a precision that is slower than float32 on this CPU."""

from __future__ import annotations

import warnings

from fastattn.config import Precision
from fastattn.kernels.products import kinds
from fastattn.runtime.callers import stack_level

__all__ = ["warn_if_slower"]

_warned: set[str] = set()


def warn_if_slower(precision: Precision) -> None:
    """Warn once a process and precision; the message has the reason."""
    if precision in _warned or (reason := kinds.slower(precision)) is None:
        return
    _warned.add(precision)
    warnings.warn(f"precision {precision!r} is slower than float32 on this CPU: {reason}", stacklevel=stack_level())
