"""Reads texts from text files, JSON Lines and CSV, each with the line on which it stands."""

from __future__ import annotations

import contextlib
import csv
import gzip
import itertools
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["EMBEDDING", "FORMATS", "Texts", "read_texts"]

# The key under which `embed` writes a vector into a JSON line.
EMBEDDING = "embedding"
FORMATS = ("text", "jsonl", "csv", "tsv")
_SUFFIXES = {
    **dict.fromkeys((".txt", ".md", ".rst", ".log"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".csv": "csv",
    ".tsv": "tsv",
}


class Texts(NamedTuple):
    """The texts of a file.

    Parameters
    ----------
    name : str
        The file's name.
    texts : list of str
        The texts.
    lines : list of int
        The line, from 1, on which each text, or the row that it is part of, begins.
    blank : int
        Number of blank lines, which are skipped.
    records : list of str, or None
        Each text's row as a JSON object without its embedding, for a JSON line the line itself; None unless they are asked for.
    embeddings : float32, (B, C), or None
        The embeddings in the rows, if every row has one and they are asked for.
    in_rows : bool
        Whether each text is part of a row that the file has, of JSON or CSV.
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

    A blank line is no text and no row; a row whose text is empty is one.  `kind` is one of `FORMATS`, by default that of the name's
    suffix, and text for stdin; `column` is the key of the text in a row, "text" by default.  `keep` fills `records`: a row that has
    an embedding already is then an error, unless `replace`.  `embedded` fills `embeddings`.
    """
    if kind is not None and kind not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {kind!r}")
    is_stdin = name == "-"
    shown = "stdin" if is_stdin else name
    sniffed = is_stdin and kind is None
    kind = kind or ("text" if is_stdin else _kind(Path(name)))
    if column is not None and kind == "text" and not sniffed:
        raise ValueError(f"{shown}: --column goes with rows of jsonl, csv or tsv, and this is text: --format says otherwise")
    if paragraphs and kind != "text":
        raise ValueError(f"{shown}: {kind} has a text a row, not --paragraphs")
    with contextlib.ExitStack() as stack:
        file = _open(stack, name, encoding)
        numbered = _numbered(shown, file)
        if sniffed:
            numbered = _sniffed(numbered, column)
        if kind == "text":
            return _read_text(shown, numbered, paragraphs, keep)
        rows = _jsonl_rows(shown, numbered) if kind == "jsonl" else _csv_rows(shown, numbered, "\t" if kind == "tsv" else ",")
        return _read_rows(shown, rows, column or "text", keep, replace, embedded)


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    kind = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if kind is None:
        what = path.suffix or "a file without a suffix"
        raise ValueError(
            f"{path}: cannot read {what}; supported: {', '.join(_SUFFIXES)}, each also with .gz, or - for stdin; "
            f"--format ({', '.join(FORMATS)}) says what another name holds"
        )
    return kind


def _open(stack: contextlib.ExitStack, name: str, encoding: str) -> TextIO:
    """Open a file for reading; bytes that are not of the encoding become surrogates, which `_numbered` finds."""
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        "".encode(encoding)
    except LookupError:
        raise ValueError(f"--encoding: there is no encoding {encoding!r}") from None
    # Line ends stay for the csv module, which keeps those inside quotes.
    if name == "-":
        if sys.stdin is None:
            raise ValueError("stdin: cannot be read: it is closed")
        sys.stdin.reconfigure(encoding=encoding, errors="surrogateescape", newline="")  # type: ignore[union-attr]
        return sys.stdin
    if name.lower().endswith(".gz"):
        return stack.enter_context(gzip.open(name, "rt", encoding=encoding, errors="surrogateescape", newline=""))
    return stack.enter_context(Path(name).open(encoding=encoding, errors="surrogateescape", newline=""))


def _numbered(name: str, file: TextIO) -> Iterator[tuple[int, str]]:
    """Yield each line's number and the line with its end; ValueError if it is not of the file's encoding."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            if not line.isascii():
                _check_bytes(f"{name}, line {number}", line, file.encoding)
            yield number, line
    except UnicodeError as error:
        raise ValueError(f"{name}, line {number + 1}: not {file.encoding}: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{name}: not a complete gzip file: {error}") from error


def _check_bytes(place: str, line: str, encoding: str) -> None:
    try:
        line.encode()
    except UnicodeEncodeError as error:
        if place.endswith(", line 1") and line.startswith("\x1f\udc8b"):
            name = place.removesuffix(", line 1")
            raise ValueError(f"{name}: is a gzip file: zcat unpacks it for stdin, and the name of a file must end in .gz") from None
        escaped = ord(line[error.start]) - 0xDC00
        kind = "UTF-8" if encoding.startswith("utf-8") else encoding
        hint = "utf-16" if place.endswith(", line 1") and line[:2] in ("\udcff\udcfe", "\udcfe\udcff") else "latin-1"
        raise ValueError(
            f"{place}: not {kind}: byte 0x{escaped:02x} at character {error.start + 1}; --encoding names another, such as {hint}"
        ) from None


def _sniffed(numbered: Iterator[tuple[int, str]], column: str | None) -> Iterator[tuple[int, str]]:
    """Refuse rows on stdin that nobody named: they would be embedded with their braces."""
    for number, line in numbered:
        if line.strip():
            try:
                is_row = isinstance(json.loads(line), dict)
            except (ValueError, RecursionError):
                is_row = False
            if is_row:
                raise ValueError(f"stdin, line {number}: is JSON: say --format jsonl, or --format text to embed the line as it is")
            if column is not None:
                raise ValueError("stdin: --column goes with --format jsonl, csv or tsv")
            return itertools.chain([(number, line)], numbered)
    return iter(())


def _read_text(name: str, numbered: Iterator[tuple[int, str]], paragraphs: bool, keep: bool) -> Texts:
    texts: list[str] = []
    lines: list[int] = []
    blank, inside = 0, False
    for number, ended in numbered:
        line = ended.rstrip("\r\n")
        if not line.strip():
            blank, inside = blank + 1, False
        elif paragraphs and inside:
            texts[-1] += f"\n{line}"
        else:
            texts.append(line)
            lines.append(number)
            inside = True
    if paragraphs:
        # Blank lines are what separates paragraphs: none of them is a text that is missed.
        blank = 0
    records = None
    if keep:
        records = [json.dumps({"line": n, "text": text}, ensure_ascii=False) for n, text in zip(lines, texts, strict=True)]
    return Texts(name, texts, lines, blank, records, None)


class _Row(NamedTuple):
    """A row: its line, its columns (None for a blank line), and its JSON text."""

    number: int
    columns: dict[str, object] | None
    raw: str


def _jsonl_rows(name: str, numbered: Iterator[tuple[int, str]]) -> Iterator[_Row]:
    for number, line in numbered:
        raw = line.strip()
        if not raw:
            yield _Row(number, None, "")
            continue
        try:
            row = json.loads(raw)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name}, line {number}: not JSON: {error.msg} at character {error.pos + 1}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{name}, line {number}: expected an object, found {type(row).__name__}")
        yield _Row(number, row, raw)


def _csv_rows(name: str, numbered: Iterator[tuple[int, str]], delimiter: str) -> Iterator[_Row]:
    # The module's own limit of a field, 128 KiB, is less than a long text.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader((line for _, line in numbered), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    number = 1
    try:
        for fields in reader:
            if not fields:
                yield _Row(number, None, "")
            elif header is None:
                header = fields
                if len(set(header)) < len(header):
                    twice = next(field for field in header if header.count(field) > 1)
                    raise ValueError(f"{name}, line {number}: two columns are named {twice!r}")
            elif len(fields) != len(header):
                raise ValueError(f"{name}, line {number}: {len(fields)} fields, but the header has {len(header)} columns")
            else:
                yield _Row(number, dict(zip(header, fields, strict=True)), "")
            number = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{name}, line {number}: not CSV: {error}") from error


def _read_rows(name: str, rows: Iterator[_Row], column: str, keep: bool, replace: bool, embedded: bool) -> Texts:
    texts: list[str] = []
    lines: list[int] = []
    records: list[str] = []
    vectors: list[NDArray[np.float32] | None] = []
    blank = 0
    for number, row, raw in rows:
        if row is None:
            blank += 1
            continue
        place = f"{name}, line {number}"
        texts.append(_text(place, row, column))
        lines.append(number)
        if embedded:
            vectors.append(_vector(place, row.get(EMBEDDING)))
        if not keep:
            continue
        if not embedded and EMBEDDING in row and not replace:
            raise ValueError(f"{place}: has the key {EMBEDDING!r} already: --overwrite replaces it")
        records.append(raw if raw and EMBEDDING not in row else _without_embedding(raw, row))
    widths = {None if vector is None else len(vector) for vector in vectors}
    embeddings = np.array(vectors, np.float32) if len(widths) == 1 and None not in widths else None
    return Texts(name, texts, lines, blank, records if keep else None, embeddings, True)


def _without_embedding(raw: str, row: dict[str, object]) -> str:
    """Return a row as JSON without its embedding; where `embed` wrote that at the end of a line, the rest of the line as it is."""
    kept = {key: value for key, value in row.items() if key != EMBEDDING}
    head, written, _ = raw.rpartition(f', "{EMBEDDING}": [')
    with contextlib.suppress(ValueError):
        if written and json.loads(f"{head}}}") == kept:
            return f"{head}}}"
    return json.dumps(kept, ensure_ascii=False)


def _text(place: str, row: dict[str, object], column: str) -> str:
    """Return the text of a row; ValueError if it has none."""
    if column not in row:
        raise ValueError(f"{place}: no column {column!r}, found columns {', '.join(row)}; --column names the one with the text")
    text = row[column]
    if not isinstance(text, str):
        raise ValueError(f"{place}: {column!r} must be text, got {type(text).__name__}")
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        raise ValueError(f"{place}: {column!r} is not valid Unicode: half a surrogate pair, \\u{half:04x}") from None
    return text


def _vector(place: str, found: object) -> NDArray[np.float32] | None:
    """Return the embedding of a row, None if there is none."""
    if found is None:
        return None
    try:
        vector = np.array(found, np.float32)
    except (ValueError, TypeError, OverflowError):
        vector = np.empty(0, np.float32)
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"{place}: {EMBEDDING!r} must be a list of numbers")
    return vector
