"""Progress of a long command: a bar on a terminal, and elsewhere a line from time to time."""

from __future__ import annotations

import time
from typing import Any

from fastattn.cli.terminal import is_watched, note
from fastattn.corpus.work import Progress

__all__ = ["Meter"]

# Seconds between two lines.
_EVERY = 10.0


class Meter:
    """Shows texts, tokens per second and the time that is left."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._said = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        """Show how far a job is."""
        rate = progress.tokens / max(progress.seconds, 1e-9)
        if is_watched():
            if self._bar is None:
                from fastattn.text.pipeline import bar_of

                self._bar = bar_of(progress.total, "Embedding", progress.begun)
            self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
            self._bar.update(progress.texts - self._bar.n)
            return
        now = time.perf_counter()
        if now - self._said >= _EVERY and progress.texts < progress.total:
            self._said = now
            left = progress.seconds * (progress.total - progress.texts) / max(progress.texts - progress.begun, 1)
            note(f"{progress.texts:,} of {progress.total:,} texts, {rate:,.0f} tokens/s, {left:,.0f} s left")

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
