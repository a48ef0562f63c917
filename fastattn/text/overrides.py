"""PackedCalls: warns where an override of a method would have no effect, because texts are packed for the kernels."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

__all__ = ["PackedCalls"]


class PackedCalls:
    """Base class of models and their modules, whose methods for padded batches `encode` and `predict` do not call."""

    _not_called: ClassVar[tuple[str, ...]] = ("__call__", "forward", "preprocess")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Warn if a class outside this package overrides such a method."""
        super().__init_subclass__(**kwargs)
        if cls.__module__.partition(".")[0] != "fastattn":
            for name in cls._not_called:
                if name in vars(cls):
                    _warn(f"{cls.__name__}.{name}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Warn if an attribute replaces such a method."""
        if name in self._not_called:
            _warn(f"{type(self).__name__}.{name}")
        super().__setattr__(name, value)


def _warn(name: str) -> None:
    warnings.warn(
        f"{name} is not called by encode and predict, which pack texts for the kernels: "
        "override encode or predict, or change what it returns",
        stacklevel=3,
    )
