"""Truncation of a model's embeddings to their first channels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

__all__ = ["ModelTruncation", "check_truncate_dim"]


class ModelTruncation:
    """Number of channels of a model's embeddings."""

    _width: int

    @property
    def truncate_dim(self) -> int | None:
        """Number of channels of an embedding that are kept; None keeps all."""
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        check_truncate_dim(value)
        self._truncate_dim = None if value is None else int(value)

    def get_embedding_dimension(self) -> int:
        """Return the number of channels of an embedding.

        Returns
        -------
        int
            C, or `truncate_dim` if less.
        """
        return self._width if self.truncate_dim is None else min(self._width, self.truncate_dim)

    def _kept_width(self, truncate_dim: int | None, width: int) -> int:
        """Return the number of channels that a call with this `truncate_dim` keeps of `width`."""
        check_truncate_dim(truncate_dim)
        most = self.truncate_dim if truncate_dim is None else truncate_dim
        return width if most is None else min(width, most)

    @contextlib.contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Keep only the first `truncate_dim` channels of embeddings within this context.

        Parameters
        ----------
        truncate_dim : int, optional
            Number of channels; None keeps all.
        """
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before


def check_truncate_dim(truncate_dim: int | None) -> None:
    """Raise a ValueError unless a number of channels is None or a positive integer."""
    if truncate_dim is None:
        return
    if not isinstance(truncate_dim, int | np.integer) or isinstance(truncate_dim, bool) or truncate_dim < 1:
        raise ValueError(f"truncate_dim must be a positive integer or None, got {truncate_dim!r}")
