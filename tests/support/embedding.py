"""Texts for the small sentence model of `tests.support.models`, and their hidden states by the reference."""

from pathlib import Path
from typing import Any

import numpy as np

from fastattn import reference
from fastattn.checkpoint.reader import read_encoder
from tests.support.models import WORDS

TEXTS = ["the cat sat on the mat", "a dog", "", "the the the", "nothing known here", "a cat sat on a dog"]


LEGACY = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def close(found: Any, expected: Any) -> None:
    """Compare embeddings to 1e-5 of the largest element, for an encoder of two layers of width 32."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def ids_of(text: str, limit: int = 12) -> list[int]:
    ids = [WORDS.index(word) if word in WORDS else 1 for word in text.replace(":", " : ").split()]
    return [2, *ids[: limit - 2], 3]


def hidden_of(folder: Path, text: str) -> Any:
    """Return the reference's hidden states (T, C) in float64."""
    config, parameters = read_encoder(folder)
    return reference.encoder(
        {name: array.astype(np.float64) for name, array in parameters.items()},
        np.array([ids_of(text)]),
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        positions="learned",
    )[0]
