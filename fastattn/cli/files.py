"""Texts from files, embeddings to files, and files that are written in one step."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_embeddings", "read_texts", "write_embeddings"]

_TEXT_FILES = (".txt", ".md", ".rst")


def read_texts(name: str, *, column: str = "text", paragraphs: bool = False) -> list[str]:
    """Read texts: one a line or a paragraph, or one column of a JSON Lines file.

    Parameters
    ----------
    name : str
        A ``.txt``, ``.md``, ``.rst`` or ``.jsonl`` file in UTF-8, or ``-`` for lines of text on stdin.
    column : str
        The key of the text in each JSON object.
    paragraphs : bool
        Texts are separated by blank lines, not by line ends.

    Returns
    -------
    list of str
        The texts; blank lines are skipped.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is of another kind or not UTF-8, a line is not a JSON object with that column, or stdin is closed.
    """
    path = Path(name)
    if name == "-":
        if sys.stdin is None:
            raise ValueError("stdin: cannot be read: it is closed")
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")  # type: ignore[union-attr]
        return _read("stdin", sys.stdin, paragraphs)
    if path.suffix not in (*_TEXT_FILES, ".jsonl"):
        kinds = ", ".join((*_TEXT_FILES, ".jsonl"))
        raise ValueError(f"{name}: cannot read {path.suffix or 'a file without a suffix'}; supported: {kinds}, or - for stdin")
    if paragraphs and path.suffix == ".jsonl":
        raise ValueError(f"{name}: a .jsonl file has a text a line, not paragraphs")
    with path.open(encoding="utf-8-sig") as file:
        return _read_column(name, file, column) if path.suffix == ".jsonl" else _read(name, file, paragraphs)


def _read(name: str, file: TextIO, paragraphs: bool) -> list[str]:
    """Return the lines, or the paragraphs, that are not blank."""
    try:
        lines = [line.rstrip("\n") for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8: {error}") from error
    if not paragraphs:
        return [line for line in lines if line.strip()]
    texts: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            texts[-1].append(line)
        elif texts[-1]:
            texts.append([])
    return ["\n".join(text) for text in texts if text]


def _read_column(name: str, file: TextIO, column: str) -> list[str]:
    """Return one column of JSON lines."""
    texts = []
    try:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{name}, line {number}: not JSON: {error}") from error
            if not isinstance(row, dict) or column not in row:
                seen = f"columns {', '.join(row)}" if isinstance(row, dict) else type(row).__name__
                raise ValueError(f"{name}, line {number}: no column {column!r}, found {seen}")
            if not isinstance(row[column], str):
                raise ValueError(f"{name}, line {number}: {column!r} must be text, got {type(row[column]).__name__}")
            texts.append(row[column])
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8: {error}") from error
    return texts


def read_embeddings(path: Path, count: int) -> NDArray[np.float32]:
    """Read embeddings from an ``.npy`` file.

    Parameters
    ----------
    path : Path
        The file.
    count : int
        How many there must be.

    Returns
    -------
    float32, (count, C)
        The embeddings.

    Raises
    ------
    OSError
        It cannot be read; FileNotFoundError where there is no such file.
    MemoryError
        The embeddings do not fit in memory.
    ValueError
        It is damaged, or holds something else.
    """
    try:
        # Mapped, so that a shape larger than the file is refused before memory is taken for it.
        with np.errstate(over="raise"):
            array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, MemoryError):
        raise
    # The header is evaluated as Python, and what it says given to NumPy: of errors there is every kind.
    except Exception as error:
        raise ValueError(f"{path}: not a complete .npy file: {error}") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(f"{path}: expected rows of floats, found {array.dtype} of shape {array.shape}")
    if len(array) != count:
        raise ValueError(f"{path}: {len(array)} embeddings, but there are {count} texts")
    return np.array(array, np.float32)


def write_embeddings(file: BinaryIO, suffix: str, texts: Iterable[str], embeddings: NDArray[np.float32]) -> None:
    """Write embeddings.

    Parameters
    ----------
    file : binary file
        Where to.
    suffix : {".npy", ".jsonl"}
        An array, or lines ``{"text": ..., "embedding": [...]}`` with the fewest digits that give the same float32.
    texts : iterable of str
        The texts.
    embeddings : float32, (B, C)
        Their embeddings.

    Raises
    ------
    ValueError
        A number is not finite, and the file is of JSON, which has no such numbers.
    """
    if suffix == ".npy":
        np.save(file, embeddings)
        return
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        row = np.argmin(finite)
        raise ValueError(f"inputs[{row}]: its embedding has numbers that are not finite, which JSON cannot hold; .npy can")
    for text, row in zip(texts, embeddings, strict=True):
        numbers = ", ".join(map(str, row))
        file.write(f'{{"text": {json.dumps(text, ensure_ascii=False)}, "embedding": [{numbers}]}}\n'.encode())
