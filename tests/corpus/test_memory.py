"""Memory of a job: it does not grow with the corpus."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastattn import SentenceTransformer
from fastattn.corpus import embed_file, tables

pytestmark = pytest.mark.jit


def write(path: Path, count: int, kind: str) -> Path:
    if kind == "jsonl":
        path.write_text("".join(f'{{"text": "the cat {i}", "n": {i}}}\n' for i in range(count)))
    else:
        pq.write_table(pa.table({"text": [f"the cat {i}" for i in range(count)], "n": range(count)}), path, row_group_size=500)
    return path


@pytest.mark.parametrize(
    ("kind", "out", "most"), [("parquet", "parquet", 4000), ("jsonl", "jsonl", 2000), ("parquet", "npy", 4000)]
)
def test_peak(kind: str, out: str, most: int, model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many times as many rows take about the same memory, of Python, NumPy and Arrow, and less than their vectors alone."""
    width = 256
    monkeypatch.setattr(type(model._pipeline), "width", width)
    monkeypatch.setattr(model._pipeline, "embeddings", lambda batch, *rest: np.ones((len(batch.rows), width), np.float32))
    monkeypatch.setattr("fastattn.corpus.source._BLOCK", 100)
    monkeypatch.setattr("fastattn.corpus.tables._ROW_GROUP", 200)
    monkeypatch.setattr("fastattn.text.streaming._SLICE", 100)
    peaks = []
    for count in (400, 400, most):
        given = write(tmp_path / f"{count}.{kind}", count, kind)
        pool = pa.default_memory_pool()
        pool.release_unused()
        arrow = pa.proxy_memory_pool(pool)
        pa.set_memory_pool(arrow)
        tracemalloc.start()
        try:
            assert embed_file(given, tmp_path / f"{count}.{out}", model, overwrite=True).texts == count
            peaks.append(tracemalloc.get_traced_memory()[1] + arrow.max_memory())
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(pool)
    assert peaks[2] < 1.5 * peaks[1]
    assert peaks[2] < most * width * 4


def write_rows(path: Path, count: int, width: int) -> None:
    with path.open("wb") as file:
        made = tables.Writer(file, pa.schema([("n", pa.int64())]), np.float32, width, "embedding")
        for start in range(0, count, 1000):
            rows = np.arange(start * width, (start + 1000) * width, dtype=np.float32).reshape(-1, width)
            made.write(pa.table({"n": np.arange(start, start + 1000)}), rows)
        made.close()


def test_a_row_group_is_not_put_together_from_copies(tmp_path: Path) -> None:
    """Beside the vectors themselves, Arrow takes the levels of a nested column, which are as large, and pages."""
    width = 96
    pool = pa.default_memory_pool()
    pool.release_unused()
    arrow = pa.proxy_memory_pool(pool)
    pa.set_memory_pool(arrow)
    try:
        # All that the pool has given is gone before the pool goes.
        write_rows(tmp_path / "x.parquet", 40_000, width)
        peak = arrow.max_memory()
    finally:
        pa.set_memory_pool(pool)
    assert peak < 2.6 * tables._ROW_GROUP * width * 4
    found = pq.ParquetFile(tmp_path / "x.parquet")
    assert [found.metadata.row_group(i).num_rows for i in range(3)] == [16_384, 16_384, 40_000 - 2 * 16_384]
    table = found.read()
    assert table["n"].to_pylist() == list(range(40_000))
    numbers = table["embedding"].combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(numbers, np.arange(40_000 * width, dtype=np.float32))


def test_lines_that_do_not_follow_each_other(model: SentenceTransformer, tmp_path: Path) -> None:
    from fastattn.corpus.manifest import Lines

    lines = Lines()
    lines.add([1, 2])
    assert lines.plain and list(lines) == [1, 2]
    lines.add([3, 7, 8, 1])
    found: Any = list(lines)
    assert not lines.plain and found == [1, 2, 3, 7, 8, 1]
    assert Lines().plain and list(Lines()) == []
