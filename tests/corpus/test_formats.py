"""Formats of a corpus: what is read, and what is written, has the texts, the columns and the bits that it should have."""

import datetime
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastattn import SentenceTransformer
from fastattn.corpus import embed_file
from fastattn.corpus.source import Source, texts_of

pytestmark = pytest.mark.jit


def zstd(raw: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    return bytes(zstandard.ZstdCompressor().compress(raw))


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    return [json.loads(line) for line in path.read_text().splitlines()]


def vectors_of(path: Path) -> np.ndarray:
    table = pq.read_table(path)
    kind = table.schema.field("embedding").type
    assert pa.types.is_fixed_size_list(kind)
    return np.asarray(table["embedding"].combine_chunks().flatten()).reshape(-1, kind.list_size)


def write_parquet(path: Path, texts: list[str], **columns: Any) -> Path:
    pq.write_table(pa.table({"text": texts, **columns}), path, row_group_size=37)
    return path


def test_parquet_to_parquet(model: SentenceTransformer, texts: list[str], tmp_path: Path) -> None:
    when = [datetime.datetime(2026, 1, 1) + datetime.timedelta(hours=i) for i in range(len(texts))]
    given = write_parquet(tmp_path / "in.parquet", texts, id=range(len(texts)), tags=[["a", "b"]] * len(texts), when=when)
    out = tmp_path / "out.parquet"
    report = embed_file(given, out, model)
    found = pq.read_table(out)
    assert found.column_names == ["text", "id", "tags", "when", "embedding"]
    assert found.drop(["embedding"]).equals(pq.read_table(given))
    assert np.array_equal(vectors_of(out), model.encode(texts))
    assert (report.texts, report.bad, report.done_before) == (200, 0, 0)
    assert json.loads(Path(f"{out}.json").read_text())["lines"] is None


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".jsonl"])
def test_numbers_that_are_written(
    suffix: str, precision: str, model: SentenceTransformer, texts: list[str], tmp_path: Path
) -> None:
    given = write_parquet(tmp_path / "in.parquet", texts)
    out = tmp_path / f"out{suffix}"
    embed_file(given, out, model, output_precision=precision)
    expected = model.encode(texts).astype(np.float16) if precision == "float16" else model.encode(texts, precision=precision)  # type: ignore[call-overload]
    found = {
        ".parquet": lambda: vectors_of(out),
        ".npy": lambda: np.load(out),
        ".jsonl": lambda: np.array([json.loads(line)["embedding"] for line in out.read_text().splitlines()], expected.dtype),
    }[suffix]()
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_npy_is_that_of_numpy(model: SentenceTransformer, texts: list[str], tmp_path: Path) -> None:
    embed_file(write_parquet(tmp_path / "in.parquet", texts), tmp_path / "x.npy", model)
    expected = io.BytesIO()
    np.save(expected, model.encode(texts))
    assert (tmp_path / "x.npy").read_bytes() == expected.getvalue()


CONTENT: dict[str, Callable[[list[str]], str]] = {
    ".txt": lambda texts: "\n".join(texts),
    ".jsonl": lambda texts: "".join(json.dumps({"text": text}) + "\n" for text in texts),
    ".csv": lambda texts: "text,n\n" + "".join(f'"{text}",{i}\n' for i, text in enumerate(texts)),
    ".tsv": lambda texts: "n\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)),
}


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", CONTENT)
def test_text_formats(suffix: str, packed: str, texts: list[str], tmp_path: Path) -> None:
    raw = CONTENT[suffix](texts).encode()
    path = tmp_path / f"x{suffix}{packed}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstd}[packed](raw))
    source = Source(str(path))
    for _ in range(2):
        assert list(texts_of(source.blocks())) == texts


@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gz", "zst"])
def test_packed_files_of_parts_and_cut_ones(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / ("x.txt.gz" if pack is gzip.compress else "x.txt.zst")
    raw = "".join(f"line {i} of many\n" for i in range(30_000)).encode()
    path.write_bytes(pack(raw) + pack(b"the last\n"))
    found = list(texts_of(Source(str(path)).blocks()))
    assert (len(found), found[-1]) == (30_001, "the last")
    for bad in (pack(raw)[:-3], b"no such thing", b""):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"not a complete (gzip|zstd) file"):
            list(texts_of(Source(str(path)).blocks()))


def test_quotes_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'id,text\r\n1,"a ""cat"", the\r\ndog"\r\n\r\n2,plain\r\n')
    (block,) = Source(str(path)).blocks()
    assert block.texts == ['a "cat", the\r\ndog', "plain"] and (block.numbers, block.blank) == ([2, 5], 1)


def test_folders_patterns_and_urls(model: SentenceTransformer, texts: list[str], tmp_path: Path) -> None:
    data = tmp_path / "data" / "deeper"
    data.mkdir(parents=True)
    write_parquet(data.parent / "a.parquet", texts[:50])
    write_parquet(data / "b.parquet", texts[50:120])
    write_parquet(data.parent / "z.parquet", texts[120:], extra=[1.5] * 80)
    for ignored in ("_SUCCESS", ".part.crc", "_meta.parquet", "notes.pdf"):
        (data / ignored).write_bytes(b"x")
    pytest.importorskip("fsspec")
    names = [str(data.parent), f"{data.parent}/**/*.parquet", f"file://{data.parent}", f"file://{data.parent}/**/*.parquet"]
    wanted = [*texts[:50], *texts[50:120], *texts[120:]]
    for name in [names[0], names[2]]:
        assert list(texts_of(Source(name).blocks())) == wanted
    for name in names:
        found = {file.name.rpartition("/")[2] for file in Source(name).files}
        assert found - {"_meta.parquet"} == {"a.parquet", "b.parquet", "z.parquet"}
        assert ("_meta.parquet" in found) == ("*" in name)
    out = tmp_path / "out.parquet"
    embed_file(names[0], out, model)
    table = pq.read_table(out)
    assert table["text"].to_pylist() == wanted
    assert table["extra"].to_pylist() == [None] * 120 + [1.5] * 80
    lines = json.loads(Path(f"{out}.json").read_text())["lines"]
    assert lines == [*range(1, 51), *range(1, 71), *range(1, 81)]


def test_templates_ids_and_dropped_columns(model: SentenceTransformer, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "title": "the cat", "body": f"sat {{on}} {i}", "n": i} for i in range(3)]
    wanted = [f"the cat: sat {{on}} {i} {{}}" for i in range(3)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    for given in ("in.jsonl", "in.parquet"):
        options: dict[str, Any] = {"template": "{title}: {body} {{}}"}
        assert list(texts_of(Source(str(tmp_path / given), **options).blocks())) == wanted
        for suffix in (".jsonl", ".parquet"):
            out = tmp_path / f"{given}{suffix}"
            for more, names in (
                ({}, ["id", "title", "body", "n"]),
                ({"id_column": "id", "keep_columns": False}, ["id"]),
                ({"keep_columns": False}, []),
            ):
                embed_file(tmp_path / given, out, model, column=["title", "body"], **options, **more, overwrite=True)
                found = rows_of(out)
                vectors = np.array([row.pop("embedding") for row in found], np.float32)
                assert found == [{name: row[name] for name in names} for row in rows]
                assert np.array_equal(vectors, model.encode(wanted))


def test_types_of_columns_that_change(model: SentenceTransformer, tmp_path: Path) -> None:
    """Columns of JSON Lines have one type in Parquet, which all their rows decide."""
    rows: list[dict[str, Any]] = [{"text": "a", "n": 1, "x": None} for _ in range(1500)]
    rows += [{"text": "b", "n": 2.5, "x": {"k": [1]}, "late": "é"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    embed_file(tmp_path / "in.jsonl", tmp_path / "out.parquet", model)
    table = pq.read_table(tmp_path / "out.parquet").drop(["embedding"])
    assert table.schema.field("n").type == pa.float64()
    assert table.to_pylist()[-1] == {"text": "b", "n": 2.5, "x": {"k": [1]}, "late": "é"}
    assert table.to_pylist()[0] == {"text": "a", "n": 1.0, "x": None, "late": None}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "c", "n": "three"}]))
    with pytest.raises(ValueError, match=r"in\.jsonl, line 1025 to 1502: the values of column 'n' fit no type.*--drop-columns"):
        embed_file(tmp_path / "in.jsonl", tmp_path / "y.parquet", model)
    embed_file(tmp_path / "in.jsonl", tmp_path / "y.parquet", model, keep_columns=False)


def test_parquet_rows_as_json(model: SentenceTransformer, tmp_path: Path) -> None:
    given = write_parquet(
        tmp_path / "in.parquet",
        ["a", "b"],
        when=[datetime.date(2026, 1, 2), None],
        raw=[b"\x01\xff", None],
        x=[float("nan"), 0.5],
        kind=pa.array(["p", "q"]).dictionary_encode(),
    )
    embed_file(given, tmp_path / "out.jsonl", model)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert np.array_equal(np.array([row.pop("embedding") for row in rows], np.float32), model.encode(["a", "b"]))
    assert rows[0] == {"text": "a", "when": "2026-01-02", "raw": "01ff", "x": None, "kind": "p"}
    assert rows[1] == {"text": "b", "when": None, "raw": None, "x": 0.5, "kind": "q"}


def test_kinds_of_text_columns(tmp_path: Path) -> None:
    for column in (pa.array(["a", "b"], pa.large_string()), pa.array(["a", "b"]).dictionary_encode(), pa.array(["a", "b"])):
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"text": column}), path)
        assert list(texts_of(Source(str(path)).blocks())) == ["a", "b"]


def test_row_groups(model: SentenceTransformer, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastattn.corpus.tables._ROW_GROUP", 64)
    monkeypatch.setattr("fastattn.corpus.source._BLOCK", 50)
    given = write_parquet(tmp_path / "in.parquet", texts)
    embed_file(given, tmp_path / "out.parquet", model)
    meta = pq.ParquetFile(tmp_path / "out.parquet").metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [64, 64, 64, 8]
    assert np.array_equal(vectors_of(tmp_path / "out.parquet"), model.encode(texts))
    monkeypatch.setattr("fastattn.corpus.source._BLOCK", 33)
    embed_file(given, tmp_path / "other.parquet", model)
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_no_texts(model: SentenceTransformer, tmp_path: Path) -> None:
    given = write_parquet(tmp_path / "in.parquet", [])
    for name in ("out.npy", "out.jsonl", "out.parquet"):
        assert embed_file(given, tmp_path / name, model).texts == 0
    assert np.load(tmp_path / "out.npy").shape == (0, 32)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0
