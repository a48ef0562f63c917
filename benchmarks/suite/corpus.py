"""Real text of mixed length that needs no download: docstrings of the standard library."""

from __future__ import annotations

import ast
import random
import sysconfig
from pathlib import Path

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
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                found[text] = None
    return random.Random(0).sample(list(found), DISTINCT + CALIBRATION)
