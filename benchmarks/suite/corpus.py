"""Real text of mixed length that needs no download: docstrings of the standard library."""

from __future__ import annotations

import random

from fastattn.cli.compare_precision import standard_texts

DISTINCT = 2000
# Docstrings that `corpus` never returns.
CALIBRATION = 300


def corpus(count: int) -> list[str]:
    """Return `count` docstrings in a mixed order, the same in every run; beyond `DISTINCT` they repeat."""
    texts = _docstrings()[:DISTINCT]
    return [texts[i % DISTINCT] for i in range(count)]


def calibration(count: int = CALIBRATION) -> list[str]:
    """Return at most `CALIBRATION` docstrings for the calibration of a quantised model, none of which it is then measured on."""
    return _docstrings()[DISTINCT:][:count]


def _docstrings() -> list[str]:
    found = dict.fromkeys(standard_texts().texts)
    return random.Random(0).sample(list(found), DISTINCT + CALIBRATION)
