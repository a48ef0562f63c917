"""A model's computation that waits until it is told to go on."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastattn.serve.requests import Settings
from fastattn.text.batches import TokenRow

__all__ = ["WAIT", "Gate", "until"]

# Seconds after which a test that hangs fails.
WAIT = 30.0


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Gate:
    """`compute` of a model behind a gate; `sizes` has the number of texts of each forward."""

    def __init__(self, compute: Callable[..., list[Any]]) -> None:
        self._compute, self.opened, self.sizes = compute, threading.Event(), list[int]()

    def __call__(self, texts: Sequence[TokenRow], settings: Settings) -> list[Any]:
        self.sizes.append(len(texts))
        assert self.opened.wait(WAIT)
        return self._compute(texts, settings)

    def begun(self, count: int) -> None:
        """Wait until so many forwards have begun."""
        until(lambda: len(self.sizes) >= count)
