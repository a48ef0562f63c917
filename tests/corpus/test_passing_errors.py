"""Errors that pass, of a disk, of a network or of a node: nothing that was computed before them is lost."""

import errno
import gzip
import io
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastattn import SentenceTransformer
from fastattn.corpus import embed_file, files, source, unfinished
from fastattn.corpus.source import Source
from fastattn.text.pipeline import Pipeline

pytestmark = pytest.mark.jit

ERRORS = {
    "of a disk": OSError(errno.EIO, "Input/output error"),
    "of a network": ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    "without a number": OSError("the store closed the connection"),
}


class Failing(io.BytesIO):
    """A file of a store whose middle cannot be read while `error` is set."""

    error: OSError | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        self._check()
        return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        self._check()
        return super().readinto(buffer)

    def _check(self) -> None:
        whole = len(self.getbuffer())
        if Failing.error is not None and 0.5 * whole < self.tell() < 0.75 * whole:
            raise Failing.error


@pytest.fixture
def rows(texts: list[str]) -> list[str]:
    """Return texts that no format makes short."""
    rng = random.Random(0)
    return [f"{text} {rng.randbytes(200).hex()}" for text in texts]


@pytest.fixture
def given(suffix: str, rows: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a file that is read in small pieces."""
    memory = pytest.importorskip("fsspec.implementations.memory").MemoryFileSystem
    packed = io.BytesIO()
    lines = [f"{json.dumps({'text': row})}\n".encode() for row in rows]
    if suffix == "parquet":
        pq.write_table(pa.table({"text": rows}), packed, row_group_size=16, compression="none", use_dictionary=False)
    else:
        pack: dict[str, Callable[[bytes], bytes]] = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstd}
        # In parts: a packed part may have to be read whole before a line of it is there.
        for start in range(0, len(lines), 10):
            packed.write(pack[suffix](b"".join(lines[start : start + 10])))
    monkeypatch.setattr(memory, "open", lambda *args, **options: Failing(packed.getvalue()))
    monkeypatch.setattr(memory, "isdir", lambda *args: False)
    monkeypatch.setattr(memory, "checksum", lambda *args: 0)
    monkeypatch.setattr(files, "_BLOCK", 16_000)
    monkeypatch.setattr(source, "_BLOCK", 8)
    monkeypatch.setattr("fastattn.text.streaming._SLICE", 8)
    return f"memory://x.{suffix}"


def zstd(content: bytes) -> bytes:
    found: bytes = pytest.importorskip("zstandard").ZstdCompressor().compress(content)
    return found


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("kind", ERRORS)
def test_reads_that_fail(
    kind: str, given: str, rows: list[str], model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was computed before is continued, and the message names the input."""
    out, error = tmp_path / "x.npy", ERRORS[kind]
    begin = unfinished.Unfinished.begin

    def begun(*args: Any) -> None:
        begin(*args)
        monkeypatch.setattr(Failing, "error", error)

    with monkeypatch.context() as patched:
        patched.setattr(unfinished.Unfinished, "begin", begun)
        with pytest.raises(OSError, match=error.strerror or "the store closed") as raised:
            embed_file(given, out, model)
    assert raised.value.filename.endswith(given.partition("//")[2])
    monkeypatch.setattr(Failing, "error", None)
    report = embed_file(given, out, model, resume=True)
    assert 0 < report.done_before < 200
    assert np.array_equal(np.load(out), model.encode(rows))
    assert {path.name for path in tmp_path.iterdir()} == {"x.npy", "x.npy.json"}


@pytest.mark.parametrize("suffix", ["parquet"])
def test_damage_that_is_found_late(given: str, model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends a run: what it computed stays."""
    embeddings = Pipeline.embeddings
    calls = [0]

    def broken(self: Any, *args: Any) -> Any:
        calls[0] += 1
        time.sleep(0.01)
        if calls[0] > 12:
            raise ValueError("no passing error")
        return embeddings(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "embeddings", broken)
        with pytest.raises(ValueError, match="no passing error"):
            embed_file(given, tmp_path / "x.npy", model)
    assert embed_file(given, tmp_path / "x.npy", model, resume=True).done_before > 0


def test_digests_and_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local file whose read fails is named too, in each of the readings."""
    path = tmp_path / "x.txt"
    path.write_text("a\n" * 50_000)
    found = Source(str(path))
    read = path.read_bytes()
    monkeypatch.setattr(Path, "open", lambda self, mode: Failing(read))
    monkeypatch.setattr(files, "_BLOCK", 4000)
    monkeypatch.setattr(Failing, "error", ERRORS["of a disk"])
    for use in (found.files[0].digest, lambda: list(found.blocks())):
        with pytest.raises(OSError, match=r"\[Errno 5\] Input/output error: '.*x\.txt'"):
            use()


def test_models_that_a_node_cannot_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastattn.ray import worker

    monkeypatch.setattr(worker, "limit_threads", lambda count: None)
    with pytest.raises(OSError, match=r"model: .*gone cannot be loaded on node .*: .*gone: no such folder; a folder must be on"):
        _ = worker.Worker(str(tmp_path / "gone"), "float32", 1.0).encoder
    with pytest.raises(ValueError, match=r"model: .* cannot be loaded on node .*: precision must be"):
        _ = worker.Worker(str(tmp_path), "float8", 1.0).encoder  # type: ignore[arg-type]
