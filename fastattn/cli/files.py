"""Reads all texts of a file at once, each with the line on which it stands."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.corpus.source import EMBEDDING, Block, Source
from fastattn.corpus.writers import records

__all__ = ["Texts", "read_texts"]


class Texts(NamedTuple):
    """The texts of a file.

    Parameters
    ----------
    name : str
        The file's name.
    texts : list of str
        The texts.
    lines : list of int
        The line, from 1, on which each text, or the row that it is part of, begins; of Parquet its row.
    blank : int
        Number of blank lines, which are skipped.
    records : list of str, or None
        Each text's row as a JSON object without its embedding, for a JSON line the line itself; None unless they are asked for.
    embeddings : float32, (B, C), or None
        The embeddings in the rows, if every row has one and they are asked for.
    in_rows : bool
        Whether each text is part of a row that the file has, of JSON, CSV or Parquet.
    """

    name: str
    texts: list[str]
    lines: list[int]
    blank: int
    records: list[str] | None
    embeddings: NDArray[np.float32] | None
    in_rows: bool = False


def read_texts(
    name: str,
    *,
    kind: str | None = None,
    column: str | None = None,
    paragraphs: bool = False,
    encoding: str = "utf-8",
    keep: bool = False,
    replace: bool = False,
    embedded: bool = False,
) -> Texts:
    """Read a text a line, a paragraph or a row; ``-`` reads stdin.

    A blank line is no text and no row; a row whose text is empty is one, and a bad row is an error.  `kind` is by default that of
    the name's suffix, and text for stdin; `column` is the key of the text in a row, "text" by default.  `keep` fills `records`: a
    row that has an embedding already is then an error, unless `replace`.  `embedded` fills `embeddings`.
    """
    source = Source(name, kind=kind, columns=[column] if column else [], paragraphs=paragraphs, encoding=encoding)
    texts: list[str] = []
    lines: list[int] = []
    rows: list[str] = []
    vectors: list[NDArray[np.float32] | None] = []
    blank = 0
    for block in source.blocks(kept=keep, replace=replace or embedded):
        blank += block.blank
        texts += block.texts
        lines += block.numbers
        if embedded:
            vectors += _vectors(block)
        if keep:
            rows += records(source, block)
    widths = {None if vector is None else len(vector) for vector in vectors}
    embeddings = np.array(vectors, np.float32) if len(widths) == 1 and None not in widths else None
    return Texts(source.name, texts, lines, blank, rows if keep else None, embeddings, source.in_rows)


def _vectors(block: Block) -> list[NDArray[np.float32] | None]:
    """Return the embedding in each row, None where there is none."""
    return [_vector(f"{block.file}, line {row.number}", (row.columns or {}).get(EMBEDDING)) for row in block.rows]


def _vector(place: str, found: object) -> NDArray[np.float32] | None:
    if found is None:
        return None
    try:
        vector = np.array(found, np.float32)
    except (ValueError, TypeError, OverflowError):
        vector = np.empty(0, np.float32)
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"{place}: {EMBEDDING!r} must be a list of numbers")
    return vector
