"""Search in a file of embeddings: the exact nearest rows, in one reading of the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.corpus import tables
from fastattn.corpus.files import File, find_files
from fastattn.corpus.manifest import part, sidecar_path
from fastattn.corpus.source import EMBEDDING, parts_of
from fastattn.corpus.vectors import map_vectors
from fastattn.text.nearest import Hits, Rescoring, nearest, pieces_of

__all__ = ["rows_at", "search_file", "text_of_row"]

Array = NDArray[np.float32]

_BLOCK = 16_384
# "=>" is none: it would be "=" and a value that begins with ">".
_CONDITION = re.compile(r"(.+?)(?<!=)(<=|>=|!=|==|=(?![<>])|<|>)(.*)", re.DOTALL)
_COMPARISONS = {
    "=": "equal",
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}


def search_file(
    path: Path,
    queries: Array,
    top_k: int,
    name: str,
    sidecar: dict[str, Any] | None,
    where: Sequence[str] = (),
    rescoring: Rescoring | None = None,
) -> Hits:
    """Return, for each query, the rows of a Parquet or an ``.npy`` file with the highest similarities, from 0, and these.

    What their numbers stand for says the manifest `sidecar`; each of `where` is a condition such as ``year>=2000``, which a row of
    Parquet must meet.  Signs in bits are always rescored.
    """
    precision = part(sidecar or {}, "settings").get("precision", "float32")
    written = part(sidecar or {}, "embeddings")
    ranges = _ranges(path, written) if precision in ("int8", "uint8") else None
    if precision in ("binary", "ubinary"):
        rescoring = rescoring or Rescoring()
    is_array = path.suffix.lower() == ".npy"
    pieces = pieces_of(map_vectors(path)) if is_array else _of_parquet(path, [_condition(each) for each in where])
    checked = _checked(path, pieces, precision, written.get("dtype"), queries.shape[1])
    return nearest(queries, checked, top_k, name, ranges, rescoring)


def _ranges(path: Path, written: dict[str, Any]) -> Array:
    """Return what a sidecar says of the levels of a file."""
    try:
        return np.array(written["ranges"], np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{sidecar_path(path)}: embeddings.ranges must be the least and the greatest number of each channel: embed again"
        ) from error


def _checked(
    path: Path, pieces: Iterator[tuple[Any, Any]], precision: str, dtype: str | None, width: int
) -> Iterator[tuple[Any, Any]]:
    """Yield the pieces; ValueError if they are of another type than was written or another width than the model's."""
    expected = -(-width // 8) if precision in ("binary", "ubinary") else width
    for numbers, rows in pieces:
        if dtype is not None and str(rows.dtype) != dtype:
            raise ValueError(f"{path}: embeddings of {rows.dtype}, but {sidecar_path(path)} says {dtype}: embed again")
        if rows.dtype.kind != "f" and precision in ("float32", "float16"):
            raise ValueError(
                f"{path}: embeddings of {rows.dtype}: without the .json that embed wrote nothing says what they stand for"
            )
        if rows.shape[1] != expected:
            raise ValueError(f"{path}: embeddings of width {rows.shape[1]}, but the model's have {expected}")
        yield numbers, rows


def _of_parquet(path: Path, conditions: Sequence[tuple[str, str, str]]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Yield the numbers and embeddings of the rows that meet all conditions."""
    (file,) = find_files(str(path))
    columns, start = [EMBEDDING, *(column for column, _, _ in conditions)], 0
    for table in tables.read(file, columns, columns, _BLOCK):
        rows = tables.vectors(str(path), table, EMBEDDING)
        if conditions:
            places = np.flatnonzero(_meeting(str(path), table, conditions))
            yield places + start, rows[places]
        else:
            yield np.arange(start, start + len(rows)), rows
        start += table.num_rows


def _condition(text: str) -> tuple[str, str, str]:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ValueError(
            f"--where: must be a column, one of {' '.join(_COMPARISONS)} and a value, such as 'year>=2000', got {text!r}"
        )
    column, comparison, value = found.groups()
    return column.strip(), _COMPARISONS[comparison], value.strip()


def _meeting(file: str, table: Any, conditions: Sequence[tuple[str, str, str]]) -> NDArray[np.bool_]:
    """Tell for each row of a table whether it meets all conditions; a null meets none."""
    pa, compute = tables.arrow(), tables.arrow("pyarrow.compute")
    found = np.ones(table.num_rows, bool)
    for column, comparison, value in conditions:
        kind = table.schema.field(column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        try:
            met = getattr(compute, comparison)(table.column(column).cast(kind), pa.scalar(value).cast(kind))
        except pa.ArrowException as error:
            raise ValueError(
                f"{file}: --where: cannot compare column {column!r}, which is {kind}, with {value!r}: {error}"
            ) from error
        found &= np.asarray(met.fill_null(False).to_numpy())
    return found


def rows_at(path: Path, places: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return the rows at places, from 0, without their embeddings; only row groups that have one are read."""
    (file,) = find_files(str(path))
    wanted = sorted(set(places))
    return dict(_rows(file, wanted))


def text_of_row(row: dict[str, Any], sidecar: dict[str, Any] | None, column: str | None) -> str:
    """Return the text of a row as it was embedded, or the row as JSON where its columns were dropped."""
    given = part(sidecar or {}, "input")
    pieces = parts_of([column] if column else given.get("column", ()), None if column else given.get("template"))
    values = [row.get(name) for _, name in pieces if name is not None]
    if not all(isinstance(value, str) for value in values):
        return tables.as_json(row)
    return "".join(literal + ("" if name is None else str(row[name])) for literal, name in pieces)


def _rows(file: File, wanted: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    start = 0
    for table in tables.groups(file, lambda first, count: any(first <= place < first + count for place in wanted), EMBEDDING):
        count = table if isinstance(table, int) else table.num_rows
        inside = [place - start for place in wanted if start <= place < start + count]
        if inside:
            yield from zip((place + start for place in inside), tables.dicts(file.name, table.take(inside)), strict=True)
        start += count
