"""Texts in every schedule, order and number of threads: each has the same bits."""

from typing import Any

import numpy as np
import pytest

from fastattn import Encoder
from fastattn.encoder import forward


def assert_same_bits(model: Encoder, lengths: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that each of random texts of these lengths gets the bits that it has alone, in one thread."""
    texts = [rng.integers(0, model.config.vocab_size or 0, n) for n in lengths]

    def encode(order: Any) -> list[Any]:
        offsets = np.concatenate([[0], np.cumsum(lengths[order])])
        rows = model.forward_packed(np.concatenate([texts[i] for i in order]), offsets)
        found: list[Any] = [None] * len(texts)
        for place, i in enumerate(order):
            found[i] = rows[offsets[place] : offsets[place + 1]]
        return found

    monkeypatch.setattr(forward, "thread_count", lambda: 1)
    alone = [model.forward_packed(text, [0, len(text)]) for text in texts]
    everything = np.arange(len(texts))
    for threads in (1, 2, 3):
        monkeypatch.setattr(forward, "thread_count", lambda threads=threads: threads)
        monkeypatch.setattr(forward, "_FLOP_PER_US", 1.0)
        for threshold, rows in ((2.0, 24), (0.0, 24), (2.0, 10**6)):
            # Schedules: chunks never; chunks always; columns of the weights shared, whatever the number of rows.
            monkeypatch.setattr(forward, "_BALANCED", threshold)
            monkeypatch.setattr(forward, "_ROWS_PER_THREAD", rows)
            for order in (everything, everything[::-1], rng.permutation(len(texts))):
                assert all(np.array_equal(a, b) for a, b in zip(encode(order), alone, strict=True))
