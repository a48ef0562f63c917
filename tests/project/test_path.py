"""The path of a text through the package: how often one `encode` changes the folder."""

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
    """The folder or module at the top of the package that a file belongs to; None for a file outside the package."""
    path = Path(filename)
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py") if path.is_relative_to(PACKAGE) else None


def traced(call: Callable[[], Any]) -> list[str]:
    """The entries of the package's Python calls during `call`, in order."""
    found: list[str] = []

    def record(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (name := entry(frame.f_code.co_filename)) is not None:
            found.append(name)

    sys.setprofile(record)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


def changes(entries: list[str]) -> int:
    """How many entries differ from the one before."""
    return sum(a != b for a, b in itertools.pairwise(entries))


@pytest.mark.jit
def test_encode_changes_the_folder_seldom() -> None:
    """In a second call: the first loads kernels and makes tables."""
    model = fastattn.SentenceTransformer(local_files_only=True)
    model.encode("How do I tie a bow?")
    found = traced(lambda: model.encode("How do I tie a bow?"))
    assert {"text", "tokenizer", "encoder", "kernels"} <= set(found)
    assert changes(found) <= MOST, f"{changes(found)} changes: {' '.join(found)}"


def test_the_trace_counts_changes() -> None:
    """Of the package's own calls: those of the test and of NumPy are left out."""
    config = fastattn.EncoderConfig(1, 1, 4, 4)
    found = traced(lambda: (config.reference_options(), fastattn.reference.sinusoidal_positions(3, 4), config.reference_options()))
    assert set(found) == {"config", "reference"} and changes(found) == 2
    assert changes(["a", "a", "b", "a", "a", "c"]) == 3
