"""Rows of text files, JSON Lines and CSV, each with the line on which it begins; a bad row says what is wrong with it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import NamedTuple, TextIO

__all__ = ["Row", "csv_rows", "jsonl_rows", "text_rows"]


class Row(NamedTuple):
    """A row of a file.

    Parameters
    ----------
    number : int
        The line, from 1, on which the row begins.
    columns : dict of str to object, or None
        The values by their columns; None for a blank line and a bad row.
    raw : str
        The row as a JSON object, where the file has it so.
    fault : str, or None
        What is wrong with a bad row.
    """

    number: int
    columns: dict[str, object] | None
    raw: str = ""
    fault: str | None = None


class _Line(NamedTuple):
    """A line with its end, its number from 1, and what is wrong with its bytes."""

    number: int
    text: str
    fault: str | None


def text_rows(name: str, file: TextIO, paragraphs: bool) -> Iterator[Row]:
    """Yield the lines, or what stands between blank lines, in the column "text"."""
    lines: list[str] = []
    start, fault = 0, None
    for line in _lines(name, file):
        text = line.text.rstrip("\r\n")
        blank = line.fault is None and not text.strip()
        if lines and (blank or not paragraphs):
            yield _paragraph(start, lines, fault)
            lines, fault = [], None
        if blank:
            if not paragraphs:
                # Blank lines are what separates paragraphs: none of them is a text that is missed.
                yield Row(line.number, None)
            continue
        start = start if lines else line.number
        lines.append(text)
        fault = fault or line.fault
    if lines:
        yield _paragraph(start, lines, fault)


def _paragraph(number: int, lines: list[str], fault: str | None) -> Row:
    return Row(number, None, fault=fault) if fault else Row(number, {"line": number, "text": "\n".join(lines)})


def jsonl_rows(name: str, file: TextIO) -> Iterator[Row]:
    """Yield the objects of JSON Lines."""
    for number, line, broken in _lines(name, file):
        raw = line.strip()
        if broken is not None:
            yield Row(number, None, fault=broken)
            continue
        if not raw:
            yield Row(number, None)
            continue
        fault = None
        try:
            row = json.loads(raw)
        except json.JSONDecodeError as error:
            fault = f"not JSON: {error.msg} at character {error.pos + 1}"
        except (ValueError, RecursionError) as error:
            fault = f"not JSON: {error}"
        else:
            if not isinstance(row, dict):
                fault = f"expected an object, found {type(row).__name__}"
        yield Row(number, None, fault=fault) if fault else Row(number, row, raw)


def csv_rows(name: str, file: TextIO, delimiter: str) -> Iterator[Row]:
    """Yield the rows below a header; ValueError if that is none."""
    # The module's own limit of a field, 128 KiB, is less than a long text.
    csv.field_size_limit(2**31 - 1)
    faults: list[str] = []

    def texts() -> Iterator[str]:
        for line in _lines(name, file):
            if line.fault is not None:
                faults.append(line.fault)
            yield line.text

    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    number = 1
    while True:
        fields: list[str] = []
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.append(f"not CSV: {error}")
        if faults:
            if header is None:
                raise ValueError(f"{name}, line {number}: {faults[0]}")
            yield Row(number, None, fault=faults[0])
        elif not fields:
            yield Row(number, None)
        elif header is None:
            header = fields
            if len(set(header)) < len(header):
                twice = next(field for field in header if header.count(field) > 1)
                raise ValueError(f"{name}, line {number}: two columns are named {twice!r}")
        elif len(fields) != len(header):
            yield Row(number, None, fault=f"{len(fields)} fields, but the header has {len(header)} columns")
        else:
            yield Row(number, dict(zip(header, fields, strict=True)))
        faults.clear()
        number = reader.line_num + 1


def _lines(name: str, file: TextIO) -> Iterator[_Line]:
    """Yield the lines; bytes that are not of the encoding are surrogates in `file`."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            yield _Line(number, line, None if line.isascii() else _fault(name, number, line, file.encoding))
    except UnicodeError as error:
        raise ValueError(f"{name}, line {number + 1}: not {file.encoding}: {error}") from error


def _fault(name: str, number: int, line: str, encoding: str) -> str | None:
    """Say which byte of a line is not of its encoding; None if all are."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        if number == 1 and line.startswith("\x1f\udc8b"):
            raise ValueError(f"{name}: is a gzip file: zcat unpacks it for stdin, and the name of a file must end in .gz") from None
        escaped = ord(line[error.start]) - 0xDC00
        kind = "UTF-8" if encoding.startswith("utf-8") else encoding
        hint = "utf-16" if number == 1 and line[:2] in ("\udcff\udcfe", "\udcfe\udcff") else "latin-1"
        return f"not {kind}: byte 0x{escaped:02x} at character {error.start + 1}; --encoding names another, such as {hint}"
    return None
