"""Reads rows to train on: columns of texts and of labels, or texts alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastattn.cli.files import read_texts
from fastattn.corpus import tables
from fastattn.corpus.files import FORMATS, File, find_files, kind_of, text_of
from fastattn.corpus.rows import csv_rows, jsonl_rows
from fastattn.training.data import LABELS

__all__ = ["read_columns", "read_documents"]

_ROWS = 1024


def read_columns(
    name: str, *, kind: str | None = None, columns: Sequence[str] = (), encoding: str = "utf-8"
) -> dict[str, list[Any]]:
    """Return columns by name, by default all of the first row; those named label, labels, score or scores hold numbers."""
    found: dict[str, list[Any]] = {}
    wanted = list(columns)
    for file in find_files(name):
        of_file = kind or kind_of(file.name)
        if of_file not in FORMATS:
            raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {of_file!r}")
        if of_file == "text":
            raise ValueError(f"{name}: is text, on which --mlm and --causal train; pairs and labels are rows of jsonl or csv")
        unit = "row" if of_file == "parquet" else "line"
        for number, row in _rows(file, of_file, wanted, encoding):
            wanted = wanted or list(row)
            for column in wanted:
                if column not in row:
                    raise ValueError(f"{file.name}, {unit} {number}: no column {column!r}, found columns {', '.join(row)}")
                found.setdefault(column, []).append(_value(f"{file.name}, {unit} {number}", column, row[column], of_file, row))
    if not found:
        raise ValueError(f"{name}: has no rows")
    return found


def _rows(file: File, kind: str, columns: Sequence[str], encoding: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each row, and its values by column."""
    if kind == "parquet":
        names = columns or tables.names(file)
        number = 1
        for table in tables.read(file, names, names, _ROWS):
            yield from enumerate(tables.dicts(file.name, table), number)
            number += table.num_rows
        return
    with text_of(file, encoding) as lines:
        made = jsonl_rows(file.name, lines) if kind == "jsonl" else csv_rows(file.name, lines, "\t" if kind == "tsv" else ",")
        for row in made:
            if row.fault is not None:
                raise ValueError(f"{file.name}, line {row.number}: {row.fault}")
            if row.columns is not None:
                yield row.number, row.columns


def _value(place: str, column: str, value: Any, kind: str, row: dict[str, Any]) -> Any:
    """Return a text, or a label as a number."""
    if column in LABELS:
        if kind in ("csv", "tsv"):
            try:
                return int(value)
            except ValueError:
                pass
            try:
                return float(value)
            except ValueError:
                pass
        elif isinstance(value, (int, float, list)):
            return value
        raise ValueError(f"{place}: {column!r} must be a number, got {value!r:.50}")
    if not isinstance(value, str):
        raise ValueError(
            f"{place}: {column!r} must be text, got {type(value).__name__}; --column names those to train on, "
            f"found columns {', '.join(row)}"
        )
    return value


def read_documents(name: str, *, kind: str | None, column: str | None, paragraphs: bool, encoding: str, whole: bool) -> list[str]:
    """Return texts: of `whole` text files each with its line ends, else a text a line, a paragraph or a row."""
    if whole and not paragraphs and name != "-":
        files = find_files(name)
        if all((kind or kind_of(file.name)) == "text" for file in files):
            return [_read(file, encoding) for file in files]
    texts = read_texts(name, kind=kind, column=column, paragraphs=paragraphs, encoding=encoding).texts
    if not any(texts):
        raise ValueError(f"{name}: has no texts")
    return texts


def _read(file: File, encoding: str) -> str:
    with text_of(file, encoding) as lines:
        text = lines.read().replace("\r\n", "\n")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise ValueError(f"{file.name}, line {line}: not {encoding}; --encoding names another") from None
    if not text.strip():
        raise ValueError(f"{file.name}: has no texts")
    return text
