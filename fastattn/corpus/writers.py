"""Writers of embeddings: .npy, and rows of JSON Lines or Parquet, each with its embedding.

The bytes of a file depend on the rows and the embeddings alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from fastattn.corpus import tables
from fastattn.corpus.rows import Row
from fastattn.corpus.source import EMBEDDING, Block, Source
from fastattn.runtime.rounding import rounding
from fastattn.text.quantization import quantize_embeddings

__all__ = [
    "NUMBER_BYTES",
    "OUTPUTS",
    "OUTPUT_PRECISIONS",
    "Writer",
    "converter",
    "holds_infinity",
    "records",
    "schema_of",
    "suffix_of",
    "writer",
]

# Formats of an output by its suffix.
OUTPUTS = {".npy": "npy", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
# Bytes of a number, by the precision of the output; in JSON it takes more.
NUMBER_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "binary": 1 / 8, "ubinary": 1 / 8}
OUTPUT_PRECISIONS = tuple(NUMBER_BYTES)

Array = NDArray[Any]


class Writer(Protocol):
    """Writes the rows of blocks with their embeddings."""

    def write(self, block: Block, embeddings: Array) -> None:
        """Write the rows of a block."""

    def close(self) -> None:
        """Write the end of the file."""

    def abandon(self) -> None:
        """Leave a file that is thrown away."""


def suffix_of(out: Path) -> str:
    """Return the suffix of an output; ValueError if there is no writer for it."""
    suffix = ".jsonl" if str(out) == "-" else out.suffix.lower()
    if suffix not in OUTPUTS:
        kinds, what = ", ".join(OUTPUTS), out.suffix or "a file without a suffix"
        raise ValueError(f"{out}: cannot write {what}; supported: {kinds}, or - for JSON Lines on stdout")
    return suffix


def holds_infinity(suffix: str, precision: str) -> bool:
    """Tell whether an output can hold numbers that are not finite."""
    return OUTPUTS[suffix] != "jsonl" and precision not in ("int8", "uint8")


def converter(precision: str, ranges: NDArray[np.float32] | None) -> Callable[[NDArray[np.float32]], Array]:
    """Return a function from embeddings to what is written of them; `ranges` (2, C) for the two integer types."""
    if precision == "float32":
        return lambda rows: rows
    if precision == "float16":
        return rounding()(lambda rows: rows.astype(np.float16))
    return lambda rows: np.asarray(quantize_embeddings(rows, precision, ranges))  # type: ignore[arg-type]


def writer(suffix: str, file: BinaryIO, source: Source, schema: Any, shape: tuple[int, int], dtype: Any) -> Writer:
    """Return the writer of a file; `schema` is that of the columns in Parquet, `shape` that of all embeddings."""
    kind = OUTPUTS[suffix]
    if kind == "npy":
        return _Npy(file, shape, dtype)
    return _Jsonl(file, source) if kind == "jsonl" else _Parquet(file, source, schema, shape[1], dtype)


class _Npy:
    def __init__(self, file: BinaryIO, shape: tuple[int, int], dtype: Any) -> None:
        self._file = file
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

    def write(self, block: Block, embeddings: Array) -> None:
        # `np.save` of an array writes past the file object, and its error on a full disk does not say so.
        self._file.write(np.ascontiguousarray(embeddings).reshape(-1).view(np.uint8).data)

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class _Jsonl:
    def __init__(self, file: BinaryIO, source: Source) -> None:
        self._file, self._source = file, source

    def write(self, block: Block, embeddings: Array) -> None:
        for record, row in zip(records(self._source, block), embeddings, strict=True):
            head = record[:-1].rstrip()
            # The fewest digits that round to the same number.
            numbers = ", ".join(map(str, row))
            line = f'{head}{"" if head == "{" else ", "}"{EMBEDDING}": [{numbers}]}}\n'
            # Half a surrogate pair in another column has no bytes: it becomes its JSON escape.
            self._file.write(line.encode(errors="backslashreplace"))

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class _Parquet:
    def __init__(self, file: BinaryIO, source: Source, schema: Any, width: int, dtype: Any) -> None:
        self._source, self._schema = source, schema
        self._writer = tables.Writer(file, schema, dtype, width, EMBEDDING)

    def write(self, block: Block, embeddings: Array) -> None:
        if len(embeddings):
            self._writer.write(None if self._schema is None else _table(self._source, block, self._schema), embeddings)

    def close(self) -> None:
        self._writer.close()

    def abandon(self) -> None:
        self._writer.abandon()


def schema_of(source: Source, block: Block, before: Any) -> Any:
    """Return the schema that holds the columns of a block, and of those before it; None if no column is kept."""
    if not block.texts:
        return before
    found = _table(source, block, None)
    return before if found is None else tables.united(_place(source, block), before, found.schema)


def _place(source: Source, block: Block) -> str:
    unit = "row" if source.kind == "parquet" else "line"
    return f"{block.file}, {unit} {block.numbers[0]} to {block.numbers[-1]}"


def _table(source: Source, block: Block, schema: Any) -> Any:
    """Return the columns of a block that are kept; None if there are none."""
    if not source.keep and source.id_column is None:
        return None
    if source.kind == "parquet":
        table = block.rows if source.keep else block.rows.select([source.id_column])
        return table if schema is None else tables.fitted(table, schema)
    rows = [_kept(source, row) for row in block.rows]
    return tables.of_dicts(_place(source, block), rows, schema)


def _kept(source: Source, row: Row) -> dict[str, Any]:
    columns = row.columns or {}
    if not source.keep:
        return {} if source.id_column is None else {source.id_column: columns[source.id_column]}
    return {name: value for name, value in columns.items() if name != EMBEDDING}


def records(source: Source, block: Block) -> list[str]:
    """Return the rows of a block as JSON objects, of a JSON line the line itself, without an embedding and what is dropped."""
    if source.kind == "parquet":
        table = _table(source, block, None)
        return ["{}"] * len(block.texts) if table is None else [tables.as_json(row) for row in tables.dicts(block.file, table)]
    return [_record(source, row) for row in block.rows]


def _record(source: Source, row: Row) -> str:
    kept = _kept(source, row)
    if row.raw and source.keep:
        if len(kept) == len(row.columns or {}):
            return row.raw
        # Where `embed` wrote the embedding at the end of the line, the rest of the line stays as it is.
        head, written, _ = row.raw.rpartition(f', "{EMBEDDING}": [')
        with contextlib.suppress(ValueError):
            if written and json.loads(f"{head}}}") == kept:
                return f"{head}}}"
    return json.dumps(kept, ensure_ascii=False)
