"""Reads texts and embeddings from files, and writes embeddings."""

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
    """Read texts: a line or a paragraph each, or one column of a JSON Lines file; ``-`` reads stdin.  Blank lines are skipped."""
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
    """Read an ``.npy`` file of `count` embeddings, float32 (count, C); ValueError if it is damaged or has another shape."""
    try:
        # A memory map refuses a shape larger than the file before memory is allocated for it.
        with np.errstate(over="raise"):
            array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, MemoryError):
        raise
    # NumPy evaluates the header as Python, so a damaged header may raise any exception.
    except Exception as error:
        raise ValueError(f"{path}: not a complete .npy file: {error}") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(f"{path}: expected rows of floats, found {array.dtype} of shape {array.shape}")
    if len(array) != count:
        raise ValueError(f"{path}: {len(array)} embeddings, but there are {count} texts")
    return np.array(array, np.float32)


def write_embeddings(file: BinaryIO, suffix: str, texts: Iterable[str], embeddings: NDArray[np.float32]) -> None:
    """Write an array, or lines ``{"text": ..., "embedding": [...]}`` with the fewest digits that round to the same float32."""
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
