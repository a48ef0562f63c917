"""`fastattn verify`: embeddings that are computed again have the same bits, and one that was changed is found."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastattn import SentenceTransformer
from fastattn.corpus import embed_file, verify_file
from fastattn.corpus.manifest import ArrayHash, sidecar_path
from tests.support.command_line import run

pytestmark = pytest.mark.jit


@pytest.fixture
def given(texts: list[str], tmp_path: Path) -> Path:
    rows: list[str | None] = list(texts)
    rows[7] = None
    pq.write_table(pa.table({"title": rows, "body": texts}), tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "binary"])
@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet"])
def test_the_same_bits(suffix: str, precision: str, given: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / f"x{suffix}"
    embed_file(
        given,
        out,
        folder,
        template="{title} {body}",
        output_precision=precision,
        max_bad=1,
        truncate_dim=16,
        normalize_embeddings=True,
    )
    assert verify_file(out, sample=50) == (199, 50, [], 0.0)
    assert verify_file(out).checked == 199


def test_a_changed_embedding(given: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    embed_file(given, out, folder, column="body")
    rows = np.load(out)
    rows[3, 5] = np.nextafter(rows[3, 5], np.float32(9))
    np.save(out, rows)
    said = run("verify", str(out), code=2).stderr
    assert said == f"error: {out}: its embeddings have changed since embed wrote them\n"
    # Wrong from the start: the manifest says so too.
    array = ArrayHash()
    array.add(rows)
    sidecar = json.loads(sidecar_path(out).read_text())
    sidecar["embeddings"]["hash"] = array.hexdigest()
    sidecar_path(out).write_text(json.dumps(sidecar))
    said = run("verify", str(out), code=1).stdout
    assert said.startswith("1 of 200 embeddings have other bits, by ") and said.endswith(" at most: rows 4\n")
    found = json.loads(run("verify", str(out), "--json", code=1).stdout)
    assert (found["texts"], found["checked"], found["different"]) == (200, 200, [3])
    # A small sample may miss it, and another seed takes others.
    assert {json.loads(run("verify", str(out), "--json", "--sample", "1", "--seed", s).stdout)["checked"] for s in "12"} == {1}


def test_what_cannot_be_verified(given: Path, folder: Path, model: SentenceTransformer, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    embed_file(given, out, folder, column="body")
    assert "200 of 200 embeddings computed again: the same bits" in run("verify", str(out)).stdout

    def refused(message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            verify_file(out, **options)

    shutil.copy(given, tmp_path / "copy.parquet")
    assert verify_file(out, model, input=tmp_path / "copy.parquet").different == []
    pq.write_table(pq.read_table(given).slice(1), tmp_path / "copy.parquet")
    refused(r"copy\.parquet: has other texts than those that were embedded", input=tmp_path / "copy.parquet")
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "sentence_bert_config.json").write_text('{"max_seq_length": 5}')
    refused("other: is another model than that of", model=other)
    refused("sample must be at least 1", sample=0)
    sidecar_path(out).unlink()
    refused(r"x\.npy\.json: is not there")
    run("embed", "-", "-o", str(out), "-m", str(folder), "--overwrite", stdin="the cat\na dog\n")
    refused("the texts came from stdin: --input names a file")
    (tmp_path / "in.txt").write_text("the cat\na dog\n")
    assert verify_file(out, input=tmp_path / "in.txt").checked == 2
