"""Call path of `encode` through the package: the number of changes of folder."""

import gc
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import fastattn

PACKAGE = Path(fastattn.__file__).parent
MOST = 40


def entry(filename: str) -> str | None:
    """Return a file's folder or module at the top of the package; None for a file outside the package."""
    path = Path(filename)
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py") if path.is_relative_to(PACKAGE) else None


def traced(call: Callable[[], Any]) -> list[str]:
    """Return the entries of the package's Python calls during `call`, in order."""
    found: list[str] = []
    # Finalisers of what earlier tests left are calls of the package too.
    gc.collect()

    def record(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (name := entry(frame.f_code.co_filename)) is not None:
            found.append(name)

    gc.disable()
    sys.setprofile(record)
    try:
        call()
    finally:
        sys.setprofile(None)
        gc.enable()
    return found


def changes(entries: list[str]) -> int:
    """Count the entries that differ from the entry before."""
    return sum(a != b for a, b in itertools.pairwise(entries))


@pytest.mark.jit
def test_encode_changes_the_folder_seldom() -> None:
    """A second call is traced: the first also loads kernels and makes tables."""
    model = fastattn.SentenceTransformer(local_files_only=True)
    model.encode("How do I tie a bow?")
    found = traced(lambda: model.encode("How do I tie a bow?"))
    assert {"text", "tokenizer", "encoder", "kernels"} <= set(found)
    assert changes(found) <= MOST, f"{changes(found)} changes: {' '.join(found)}"


def test_the_trace_counts_changes() -> None:
    """The trace holds the package's own calls, not those of the test or of NumPy."""
    config = fastattn.EncoderConfig(1, 1, 4, 4)
    found = traced(lambda: (config.reference_options(), fastattn.reference.sinusoidal_positions(3, 4), config.reference_options()))
    assert set(found) == {"config", "reference"} and changes(found) == 2
    assert changes(["a", "a", "b", "a", "a", "c"]) == 3
