"""BatchEncoding: the result of a tokenizer call, as transformers' tokenizers return it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["BatchEncoding"]


class BatchEncoding(dict[str, Any]):
    """Result of a tokenizer call: a dict whose keys are attributes too.

    Parameters
    ----------
    columns : mapping of str to arrays or lists
        The content.
    words : sequence of lists of int or None
        For each text the number of the word that each token belongs to; None for special tokens, also for padding.
    """

    def __init__(self, columns: Any = (), words: Sequence[list[int | None]] = ()) -> None:
        super().__init__(columns)
        self._words = words

    def __getattr__(self, name: str) -> Any:
        """Return the value of a key."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return the number of the word that each token of a text belongs to.

        Parameters
        ----------
        batch_index : int
            Number of the text.

        Returns
        -------
        list of int or None
            None for special tokens and padding.
        """
        return list(self._words[batch_index])

    def to(self, device: Any = None, **kwargs: Any) -> BatchEncoding:
        """Return the same object, for compatibility: only the CPU is supported.

        Parameters
        ----------
        device : {None, "cpu"}
            The device.
        **kwargs
            ``non_blocking``, for compatibility.

        Returns
        -------
        BatchEncoding
            The object itself.

        Raises
        ------
        ValueError
            `device` is another device.
        """
        if str(device) not in ("None", "cpu"):
            raise ValueError(f'device must be None or "cpu", got {device!r}')
        return self
