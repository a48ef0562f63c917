"""Tables of Arrow: read from Parquet in pieces, made of rows, written with their vectors; pyarrow is imported on first use."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastattn.corpus.files import File

__all__ = [
    "Writer",
    "arrow",
    "as_json",
    "count",
    "dicts",
    "fitted",
    "groups",
    "lists",
    "names",
    "of_dicts",
    "read",
    "texts",
    "united",
    "vectors",
]

# Rows of a row group: neighbours of the columns are read together, and one group of vectors of 1,024 channels takes 64 MB.
_ROW_GROUP = 16_384
# Bytes of a column that are read at a time.
_BUFFER = 2**20
_HINT = "--drop-columns leaves the other columns out"


def arrow(name: str = "pyarrow") -> Any:
    """Return a module of pyarrow; ImportError that says what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"Parquet needs pyarrow ({error}): pip install 'fastattn[io]'") from error


@contextlib.contextmanager
def _checked(file: File) -> Iterator[None]:
    """Turn the errors of damage into a ValueError."""
    pa = arrow()
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.filename:
            # The file could not be read, which may pass: `File` names it, while pyarrow's own errors of damage have no name.
            raise
        raise ValueError(f"{file.name}: not a complete Parquet file: {error}") from error


def _opened(file: File, raw: BinaryIO) -> Any:
    pq = arrow("pyarrow.parquet")
    with _checked(file):
        return pq.ParquetFile(raw, buffer_size=_BUFFER, pre_buffer=False)


def names(file: File) -> list[str]:
    """Return the names of the columns of a Parquet file."""
    with file.open() as raw:
        return list(_opened(file, raw).schema_arrow.names)


def count(file: File) -> int:
    """Return the number of rows of a Parquet file, from its metadata."""
    with file.open() as raw:
        return int(_opened(file, raw).metadata.num_rows)


def read(file: File, columns: Sequence[str], needed: Sequence[str], rows: int) -> Iterator[Any]:
    """Yield tables of at most `rows` rows of a Parquet file; ValueError if it lacks a needed column or is damaged."""
    pa = arrow()
    with file.open() as raw:
        parquet = _opened(file, raw)
        found = parquet.schema_arrow.names
        for name in needed:
            if name not in found:
                known = ", ".join(found)
                raise ValueError(f"{file.name}: no column {name!r}, found columns {known}; --column names the one with the text")
        with _checked(file):
            for batch in parquet.iter_batches(batch_size=rows, columns=list(dict.fromkeys(columns))):
                yield pa.Table.from_batches([batch]).replace_schema_metadata()


def groups(file: File, wanted: Callable[[int, int], bool], dropped: str) -> Iterator[Any]:
    """Yield each row group without a column; of one that is not wanted, by its first row and number of rows, that number."""
    with file.open() as raw:
        parquet = _opened(file, raw)
        columns = [name for name in parquet.schema_arrow.names if name != dropped]
        start = 0
        for i in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(i).num_rows
            yield parquet.read_row_group(i, columns=columns) if wanted(start, count) else count
            start += count


def texts(file: str, table: Any, name: str) -> list[str | bytes | None]:
    """Return the texts of a column: None for a null, bytes for what is not UTF-8; ValueError if the column is not of text."""
    pa = arrow()
    column = table.column(name)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind) or str(kind) == "string_view"):
        raise ValueError(f"{file}: column {name!r} must be text, and is {column.type}")
    if kind is not column.type:
        column = column.cast(kind)
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]


def vectors(file: str, table: Any, name: str) -> NDArray[Any]:
    """Return the vectors (B, C) of a column of fixed-size lists; ValueError if it is another kind of column, or lacks some."""
    pa = arrow()
    column = table.column(name).combine_chunks()
    kind = column.type
    if not pa.types.is_fixed_size_list(kind) or column.null_count or column.flatten().null_count:
        raise ValueError(f"{file}: column {name!r} must be fixed-size lists of numbers, and is {kind}, or has nulls")
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(-1, kind.list_size)


def lists(vectors: NDArray[Any]) -> Any:
    """Return an array of fixed-size lists, of vectors (B, C)."""
    pa = arrow()
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(flat.type, vectors.shape[1]))


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return value if value is None else value.decode()
    except UnicodeDecodeError:
        return value


def dicts(file: str, table: Any) -> list[dict[str, Any]]:
    """Return the rows of a table; ValueError if a text among them is not UTF-8."""
    try:
        return list(table.to_pylist())
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: a column beside the text is not UTF-8: {error}; --drop-columns leaves it out") from error


def of_dicts(place: str, rows: Sequence[dict[str, Any]], schema: Any = None) -> Any:
    """Return a table of rows, with the columns of a schema or those of the rows; ValueError if values are of several types."""
    pa = arrow()
    columns = list(schema.names) if schema is not None else list(dict.fromkeys(name for row in rows for name in row))
    arrays = []
    for name in columns:
        kind = None if schema is None else schema.field(name).type
        try:
            arrays.append(pa.array([row.get(name) for row in rows], kind))
        except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
            raise ValueError(f"{place}: the values of column {name!r} fit no type: {error}; {_HINT}") from error
    return pa.Table.from_arrays(arrays, names=columns)


def united(place: str, first: Any, second: Any) -> Any:
    """Return the schema that holds rows of both schemas; ValueError if a column has two types that no type holds."""
    pa = arrow()
    if first is None or first.equals(second):
        return second
    try:
        return pa.unify_schemas([first, second], promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"{place}: a column has another type than in rows before: {error}; {_HINT}") from error


def fitted(table: Any, schema: Any) -> Any:
    """Return a table with the columns and types of a schema; what it lacks is null."""
    pa = arrow()
    if table.schema.equals(schema):
        return table
    return pa.concat_tables([schema.empty_table(), table], promote_options="permissive").select(schema.names).combine_chunks()


class Writer:
    """Writes tables with a vector for each row into a Parquet file; its bytes depend on the rows alone, not on their pieces.

    Parameters
    ----------
    file : binary file
        The file.
    schema : schema of Arrow, or None
        The columns beside the vectors; None without any.
    dtype : dtype
        Of the vectors.
    width : int
        Of the vectors.
    name : str
        Column of the vectors.
    """

    def __init__(self, file: BinaryIO, schema: Any, dtype: Any, width: int, name: str) -> None:
        pa, pq = arrow(), arrow("pyarrow.parquet")
        kind = pa.list_(pa.from_numpy_dtype(dtype), width)
        self._columns = pa.schema([]) if schema is None else schema
        self._schema = self._columns.append(pa.field(name, kind))
        # Neither dictionary nor compression shortens vectors.
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression={name: "zstd" for name in self._columns.names} | {f"{name}.list.element": "none"},
            use_dictionary=list(self._columns.names),
            write_statistics=list(self._columns.names),
        )
        self._tables: list[Any] = []
        # The vectors of a row group, which Arrow writes from here: pieces that it puts together take the same memory again.
        self._rows = np.empty((_ROW_GROUP, width), dtype)
        self._count = 0

    def write(self, table: Any, vectors: NDArray[Any]) -> None:
        """Write rows; `table` is None without other columns."""
        start = 0
        while start < len(vectors):
            piece = vectors[start : start + len(self._rows) - self._count]
            self._rows[self._count : self._count + len(piece)] = piece
            if table is not None:
                self._tables.append(table.slice(start, len(piece)))
            start, self._count = start + len(piece), self._count + len(piece)
            if self._count == len(self._rows):
                self._group()

    def _group(self) -> None:
        pa = arrow()
        columns = pa.concat_tables(self._tables).combine_chunks().columns if self._tables else []
        whole = pa.Table.from_arrays([*columns, lists(self._rows[: self._count])], schema=self._schema)
        self._writer.write_table(whole, row_group_size=len(self._rows))
        self._tables, self._count = [], 0

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        if self._count:
            self._group()
        self._writer.close()

    def abandon(self) -> None:
        """Leave a file that is thrown away: pyarrow would write its end when the object goes, into a file that is closed."""
        with contextlib.suppress(Exception):
            self._writer.close()
        self._writer.is_open = False


def as_json(row: dict[str, Any]) -> str:
    """Return a row as JSON: dates in ISO 8601, bytes in hexadecimal, numbers that are not finite as null."""
    try:
        return json.dumps(row, ensure_ascii=False, default=_plain, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(row), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value.hex() if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
