"""Texts of a corpus: blocks of rows, each with its text, from files of any kind, as often as they are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from string import Formatter
from typing import Any, NamedTuple

from fastattn.corpus import tables
from fastattn.corpus.files import FORMATS, File, find_files, kind_of, text_of
from fastattn.corpus.rows import Row, csv_rows, jsonl_rows, text_rows

__all__ = ["EMBEDDING", "Bad", "Block", "Source", "parts_of", "refused", "texts_of"]

# The key or column of a vector in an output.
EMBEDDING = "embedding"
_BLOCK = 1024


class Bad(NamedTuple):
    """A row without a text that can be embedded: its file and number, what is wrong, and its id if it has one."""

    file: str
    unit: str
    number: int
    reason: str
    id: object = None


def refused(bad: Bad) -> None:
    """Raise a ValueError for a bad row."""
    raise ValueError(f"{bad.file}, {bad.unit} {bad.number}: {bad.reason}")


class Block(NamedTuple):
    """Rows that follow each other in a file.

    Parameters
    ----------
    file : str
        The file's name.
    numbers : list of int
        The line on which each row begins, or its row in Parquet, from 1.
    texts : list of str
        The text of each row.
    rows : list of Row, or table of Arrow
        The rows; of Parquet a table.
    blank : int
        Number of blank lines, which are no rows.
    """

    file: str
    numbers: list[int]
    texts: list[str]
    rows: Any
    blank: int


class Source:
    """Texts of the files that a name stands for.

    Parameters
    ----------
    name : str
        A file, a folder, a pattern, a URL, or ``-`` for stdin.
    kind : str, optional
        One of `FORMATS`; by default that of the suffix, and text for stdin.
    columns : sequence of str
        Columns of the text; several are put together by the template.
    template : str, optional
        Text with names of columns in braces.
    id_column : str, optional
        Column that is kept where the others are dropped.
    keep : bool
        Whether the other columns are kept.
    paragraphs : bool
        Whether the texts of a text file are separated by blank lines, not by line ends.
    encoding : str
        Encoding of text, JSON Lines and CSV.
    """

    def __init__(
        self,
        name: str,
        *,
        kind: str | None = None,
        columns: Sequence[str] = (),
        template: str | None = None,
        id_column: str | None = None,
        keep: bool = True,
        paragraphs: bool = False,
        encoding: str = "utf-8",
    ) -> None:
        if kind is not None and kind not in FORMATS:
            raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {kind!r}")
        self.name = "stdin" if name == "-" else name
        self._parts = parts_of(columns, template)
        # Columns that the text is made of.
        self.columns = list(dict.fromkeys(column for _, column in self._parts if column is not None))
        self.id_column, self.keep, self._paragraphs, self._encoding = id_column, keep, paragraphs, encoding
        self.files = find_files(name)
        sniffed = name == "-" and kind is None
        kinds = {kind} if kind else {"text"} if sniffed else {kind_of(file.name) for file in self.files}
        if len(kinds) > 1:
            raise ValueError(f"{name}: has files of several kinds, {' and '.join(sorted(kinds))}: name one, such as '*.parquet'")
        (self.kind,) = kinds
        self._unit = "row" if self.kind == "parquet" else "line"
        asked = columns or template or id_column
        if sniffed:
            self._sniff(bool(asked))
        elif asked and self.kind == "text":
            option = "--column" if columns else "--template" if template else "--id-column"
            raise ValueError(
                f"{self.name}: {option} goes with rows of jsonl, csv, tsv or parquet, and this is text: --format says otherwise"
            )
        if paragraphs and self.kind != "text":
            raise ValueError(f"{self.name}: {self.kind} has a text a row, not --paragraphs")

    @property
    def needed(self) -> list[str]:
        """Columns that every row must have: those of the text, and the id."""
        return self.columns if self.id_column is None else list(dict.fromkeys([*self.columns, self.id_column]))

    @property
    def in_rows(self) -> bool:
        """Whether each text is part of a row that the file has, of JSON, CSV or Parquet."""
        return self.kind != "text"

    def _sniff(self, asked: bool) -> None:
        """Refuse rows on stdin that nobody named: they would be embedded with their braces."""
        for row in self._rows(self.files[0]):
            if row.columns is not None:
                try:
                    is_row = isinstance(json.loads(str(row.columns["text"])), dict)
                except (ValueError, RecursionError):
                    is_row = False
                if is_row:
                    raise ValueError(
                        f"stdin, line {row.number}: is JSON: say --format jsonl, or --format text to embed the line as it is"
                    )
            if row.columns is not None or row.fault is not None:
                break
        if asked:
            raise ValueError("stdin: --column goes with --format jsonl, csv or tsv")

    def blocks(self, reject: Callable[[Bad], object] = refused, *, kept: bool = False, replace: bool = False) -> Iterator[Block]:
        """Yield the rows, from the first one; each bad row goes to `reject`.

        `kept`: the blocks are written with their columns.  A row that has an embedding already is then an error, unless `replace`.
        """
        for file in self.files:
            if self.kind == "parquet":
                yield from self._of_tables(file, reject, kept, replace)
            else:
                yield from self._of_rows(file, reject, kept and not replace)

    def _rows(self, file: File) -> Iterator[Row]:
        with text_of(file, self._encoding) as lines:
            if self.kind == "text":
                yield from text_rows(file.name, lines, self._paragraphs)
            elif self.kind == "jsonl":
                yield from jsonl_rows(file.name, lines)
            else:
                yield from csv_rows(file.name, lines, "\t" if self.kind == "tsv" else ",")

    def _of_rows(self, file: File, reject: Callable[[Bad], object], bare: bool) -> Iterator[Block]:
        rows: list[Row] = []
        texts: list[str] = []
        blank = 0
        for row in self._rows(file):
            if row.columns is None and row.fault is None:
                blank += 1
                continue
            text: str | None = None
            fault = row.fault
            if row.columns is not None:
                text, fault = self._text(file.name, row)
            if bare and self.keep and row.columns is not None and EMBEDDING in row.columns:
                raise ValueError(f"{file.name}, line {row.number}: has the key {EMBEDDING!r} already: --overwrite replaces it")
            if text is None:
                identity = row.columns.get(self.id_column) if row.columns and self.id_column else None
                reject(Bad(file.name, self._unit, row.number, fault or "no text", identity))
                continue
            rows.append(row)
            texts.append(text)
            if len(rows) == _BLOCK:
                yield Block(file.name, [row.number for row in rows], texts, rows, blank)
                rows, texts, blank = [], [], 0
        yield Block(file.name, [row.number for row in rows], texts, rows, blank)

    def _text(self, file: str, row: Row) -> tuple[str | None, str | None]:
        """Return the text of a row, or what is wrong with it."""
        columns = row.columns or {}
        for needed in self.needed:
            if needed not in columns:
                fault = f"no column {needed!r}, found columns {', '.join(columns)}; --column names the one with the text"
                if self.kind in ("csv", "tsv"):
                    # The same in each row.
                    raise ValueError(f"{file}, line {row.number}: {fault}")
                return None, fault
        parts = []
        for literal, name in self._parts:
            parts.append(literal)
            if name is None:
                continue
            value = columns[name]
            if not isinstance(value, str):
                return None, f"{name!r} must be text, got {type(value).__name__}"
            try:
                value.isascii() or value.encode()
            except UnicodeEncodeError as error:
                half = ord(value[error.start])
                return None, f"{name!r} is not valid Unicode: half a surrogate pair, \\u{half:04x}"
            parts.append(value)
        return "".join(parts), None

    def _of_tables(self, file: File, reject: Callable[[Bad], object], kept: bool, replace: bool) -> Iterator[Block]:
        wanted = self.needed
        if kept and self.keep:
            names = tables.names(file)
            if EMBEDDING in names and not replace:
                raise ValueError(f"{file.name}: has the column {EMBEDDING!r} already: --overwrite replaces it")
            wanted = [name for name in names if name != EMBEDDING]
        start = 1
        for table in tables.read(file, wanted, self.needed, _BLOCK):
            values = [tables.texts(file.name, table, name) for name in self.columns]
            numbers, texts, good = [], [], []
            for i in range(table.num_rows):
                found = {name: column[i] for name, column in zip(self.columns, values, strict=True)}
                fault = next((_fault(name, value) for name, value in found.items() if not isinstance(value, str)), None)
                if fault is not None:
                    identity = table.column(self.id_column)[i].as_py() if self.id_column else None
                    reject(Bad(file.name, self._unit, start + i, fault, identity))
                    continue
                numbers.append(start + i)
                texts.append("".join(literal + ("" if name is None else str(found[name])) for literal, name in self._parts))
                good.append(i)
            start += table.num_rows
            rows = table if len(good) == table.num_rows else table.take(good)
            yield Block(file.name, numbers, texts, rows, 0)


def _fault(name: str, value: bytes | None) -> str:
    """Say what is wrong with a value that is not text."""
    return f"{name!r} must be text, got null" if value is None else f"{name!r} is not UTF-8: {value[:20]!r}"


def parts_of(columns: Sequence[str], template: str | None) -> list[tuple[str, str | None]]:
    """Return what a text is made of: pairs of a literal text and the column that follows it."""
    if template is None:
        if len(columns) > 1:
            braces = ". ".join(f"{{{column}}}" for column in columns)
            raise ValueError(f"--column: there are {len(columns)}: --template says how they are joined, such as '{braces}'")
        return [("", columns[0] if columns else "text")]
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"--template: {error}: a name of a column stands in braces; {{{{ and }}}} are braces") from None
    names = [name for _, name, _, _ in parsed if name is not None]
    for _, name, form, conversion in parsed:
        if name is not None and (not name or form or conversion or (columns and name not in columns)):
            known = f"; --column has {', '.join(columns)}" if columns else ""
            shown = f"{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}"
            raise ValueError(f"--template: {{{shown}}} must be the name of a column in braces{known}")
    if not names:
        raise ValueError(f"--template: has no column in braces, got {template!r}")
    if left := [column for column in columns if column not in names]:
        raise ValueError(f"--template: has no {{{left[0]}}}, which --column names")
    return [(literal, name) for literal, name, _, _ in parsed]


def texts_of(blocks: Iterable[Block]) -> Iterator[str]:
    """Yield the texts of blocks."""
    for block in blocks:
        yield from block.texts
