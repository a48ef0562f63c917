"""Cache of answers: exact, because the bits of a text do not depend on what it is computed with."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fastattn.serve.requests import Answer, Input, Settings

__all__ = ["Cache", "keys_of"]

# Bytes of an entry beside its array: key, tuple, array header and the place in the table.
_ENTRY = 400


def keys_of(model: str, settings: Settings, inputs: Sequence[Input]) -> Iterator[bytes]:
    """Yield the key of each input: the hash of model, settings and text, 256 bits, so that no two have the same."""
    common = hashlib.blake2b(repr((model, settings)).encode(), digest_size=32)
    for item in inputs:
        found = common.copy()
        # The lengths keep parts apart: the pairs ("ab", "c") and ("a", "bc") are two.
        parts = item if isinstance(item, tuple) else (item,)
        for part in parts:
            raw = (part if isinstance(part, str) else repr(part)).encode()
            found.update(f"{type(part).__name__}{len(raw)} ".encode())
            found.update(raw)
        yield found.digest()


class Cache:
    """Answers by key, a bounded number of bytes: the one that was not used for the longest time goes first."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of answers."""
        return len(self._answers)

    def get(self, key: bytes) -> Answer | None:
        """Return the answer of a key, or None."""
        with self._lock:
            found = self._answers.get(key)
            if found is not None:
                self._answers.move_to_end(key)
            return found

    def put(self, key: bytes, answer: Answer) -> None:
        """Keep an answer; one that is larger than the whole cache is not kept."""
        size = _size(answer)
        if size > self.most_bytes:
            return
        with self._lock:
            if key in self._answers:
                return
            self._answers[key] = answer
            self.bytes += size
            while self.bytes > self.most_bytes:
                self.bytes -= _size(self._answers.popitem(last=False)[1])


def _size(answer: Answer) -> int:
    parts = answer.value if isinstance(answer.value, tuple) else (answer.value,)
    return _ENTRY + sum(int(np.asarray(part).nbytes) for part in parts)
