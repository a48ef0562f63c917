"""Search in Parquet: the exact nearest rows, of numbers of any kind, in pieces, with conditions on columns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastattn import SentenceTransformer
from fastattn.corpus import embed_file
from fastattn.corpus.manifest import read_sidecar, sidecar_path
from fastattn.corpus.search import search_file
from fastattn.text import nearest as nearest_module
from fastattn.text.nearest import Rescoring
from fastattn.text.quantization import quantize_embeddings
from tests.support.command_line import run
from tests.support.models import write_sentence_model

pytestmark = pytest.mark.jit


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastattn.corpus.search._BLOCK", 30)
    monkeypatch.setattr("fastattn.corpus.tables._ROW_GROUP", 64)


@pytest.fixture
def given(texts: list[str], tmp_path: Path) -> Path:
    years = [None if i % 10 == 9 else 1990 + i % 40 for i in range(len(texts))]
    pq.write_table(
        pa.table({"id": range(200), "text": texts, "year": years, "kind": ["ab"[i % 2] for i in range(200)]}),
        tmp_path / "in.parquet",
    )
    return tmp_path / "in.parquet"


def decoded(embeddings: np.ndarray, precision: str) -> np.ndarray:
    """Return what numbers that were quantised stand for, in float64."""
    if precision in ("float32", "float16"):
        return embeddings.astype(precision).astype(np.float64)
    if precision in ("binary", "ubinary"):
        return np.where(embeddings > 0, 1.0, -1.0)
    low, high = embeddings.min(axis=0).astype(np.float64), embeddings.max(axis=0).astype(np.float64)
    level = quantize_embeddings(embeddings, "uint8").astype(np.float64)
    return low + (level + 0.5) * (high - low) / 255


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_nearest(
    suffix: str, precision: str, name: Any, given: Path, model: SentenceTransformer, texts: list[str], tmp_path: Path
) -> None:
    out = tmp_path / f"x.{suffix}"
    embed_file(given, out, model, output_precision=precision)
    rows, queries = decoded(model.encode(texts), precision), model.encode(["the dog", "w3 on"]).astype(np.float64)
    if name == "cosine":
        rows, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries))
    expected = queries @ rows.T if name != "euclidean" else -np.linalg.norm(queries[:, None] - rows, axis=2)
    # All are compared again: the order by bits leaves none out.
    rescoring = Rescoring(200) if "binary" in precision else None
    found = search_file(out, model.encode(["the dog", "w3 on"]), 7, name, read_sidecar(out), (), rescoring)
    scale = np.abs(expected).max()
    for places, values, truth in zip(*found, expected, strict=True):
        # The scores are right, and nothing that was left out is better.
        np.testing.assert_allclose(values, truth[places], atol=3e-6 * scale)
        assert np.array_equal(values, np.sort(values)[::-1])
        assert values[-1] >= np.delete(truth, places).max() - 3e-6 * scale


@pytest.mark.usefixtures("small")
def test_equal_scores_are_in_order(tmp_path: Path) -> None:
    rows = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0)[::-1]
    pq.write_table(pa.table({"embedding": pa.FixedSizeListArray.from_arrays(rows.reshape(-1), 4)}), tmp_path / "x.parquet")
    ((places,), (values,)) = search_file(tmp_path / "x.parquet", np.eye(4, dtype=np.float32)[:1], 60, "cosine", None)
    assert places.tolist() == [*range(150, 200), *range(10)] and set(values.tolist()) == {0.0, 1.0}
    rows = rows.copy()
    rows[3] = np.nan
    pq.write_table(pa.table({"embedding": pa.FixedSizeListArray.from_arrays(rows.reshape(-1), 4)}), tmp_path / "x.parquet")
    ((places,), (values,)) = search_file(tmp_path / "x.parquet", np.eye(4, dtype=np.float32)[:1], 300, "dot", None)
    assert len(places) == 200 and places[-1] == 3 and values[-1] == -np.inf


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_rescored(suffix: str, given: Path, folder: Path, texts: list[str], tmp_path: Path) -> None:
    """The best of quantised rows, compared again with floats, have the scores of floats."""
    full, out = tmp_path / "full.npy", tmp_path / f"x.{suffix}"
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    embed_file(given, full, folder)
    beside = ("--texts", str(tmp_path / "texts.txt")) if suffix == "npy" else ()
    for precision in ("int8", "ubinary"):
        embed_file(given, out, folder, output_precision=precision, overwrite=True)
        if suffix == "npy":
            embed_file(tmp_path / "texts.txt", out, folder, output_precision=precision, overwrite=True)
        more = ("--rescore", str(full), "--rescore-multiplier", "50", "-m", str(folder), *beside)
        expected = run("search", str(tmp_path / "texts.txt"), "the dog", "-m", str(folder)).stdout
        assert run("search", str(out), "the dog", *more).stdout == expected
        assert run("search", str(out), "the dog", "-m", str(folder), *beside).stdout != expected


@pytest.mark.usefixtures("small")
def test_the_command(given: Path, folder: Path, texts: list[str], tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    embed_file(given, out, folder)
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    # A Parquet file, its texts alone, and a text file have the same hits.
    expected = run("search", str(tmp_path / "texts.txt"), "the dog", "a mat", "-m", str(folder)).stdout
    assert run("search", str(out), "the dog", "a mat", "-m", str(folder)).stdout == expected
    assert run("search", str(given), "the dog", "a mat", "-m", str(folder)).stdout == expected
    (tmp_path / "queries.txt").write_text("the dog\na mat\n")
    assert run("search", str(out), "--queries", str(tmp_path / "queries.txt"), "-m", str(folder)).stdout == expected
    more = ("--where", "year>=2000", "--where", "kind=a", "--top-k", "300", "--json", "-m", str(folder))
    hits = [json.loads(line) for line in run("search", str(out), "the dog", *more).stdout.splitlines()]
    chosen = [i for i in range(200) if i % 10 != 9 and 1990 + i % 40 >= 2000 and i % 2 == 0]
    assert sorted(hit["row"]["id"] for hit in hits) == chosen
    for hit in hits:
        assert (hit["line"], hit["text"]) == (hit["row"]["id"] + 1, texts[hit["row"]["id"]])
        assert list(hit["row"]) == ["id", "text", "year", "kind"]
    embed_file(given, out, folder, template="{kind}: {text}", keep_columns=False, id_column="id", overwrite=True)
    assert run("search", str(out), "the", "-k", "1", "-m", str(folder)).stdout.split("\t")[2].startswith('{"id": ')
    assert (
        "column 'year', found columns id, embedding"
        in run("search", str(out), "a", "--where", "year=1", "-m", str(folder), code=2).stderr
    )


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_embeddings_of_others_do_not_rescore(suffix: str, given: Path, folder: Path, texts: list[str], tmp_path: Path) -> None:
    out, full, lines = tmp_path / f"x.{suffix}", tmp_path / "full.npy", tmp_path / "texts.txt"
    lines.write_text("\n".join(texts))
    embed_file(given, out, folder, output_precision="int8")
    beside = ("--texts", str(lines)) if suffix == "npy" else ()

    def search(code: int = 2) -> str:
        return run("search", str(out), "the", "--rescore", str(full), "-m", str(folder), *beside, code=code).stderr

    embed_file(given, full, write_sentence_model(tmp_path / "another", normalize=True))
    assert f"--rescore {full}: was made by another model than {out}" in search()
    lines.write_text("\n".join(texts[::-1]))
    embed_file(lines, full, folder, overwrite=True)
    lines.write_text("\n".join(texts))
    assert f"--rescore {full}: was made of other texts than {out}" in search()
    # Of embeddings without a sidecar only the shape is known.
    sidecar_path(full).unlink()
    search(code=0)


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_a_sidecar_that_does_not_fit(suffix: str, given: Path, model: SentenceTransformer, tmp_path: Path) -> None:
    out, queries = tmp_path / f"x.{suffix}", model.encode(["the dog"])
    embed_file(given, out, model, output_precision="int8")
    sidecar = read_sidecar(out)
    assert sidecar is not None
    low, high = sidecar["embeddings"].pop("ranges")
    for ranges in ({}, {"ranges": [low, high[1:]]}, {"ranges": [low, ["x"] * len(high)]}):
        changed = {**sidecar, "embeddings": {**sidecar["embeddings"], **ranges}}
        with pytest.raises(ValueError, match=r"x\.\w+\.json: embeddings\.ranges must be the least and the greatest number of each"):
            search_file(out, queries, 3, "dot", changed)
    for ranges in ([low[1:], high[1:]], [low], [[*low, 0], [*high, 0]]):
        changed = {**sidecar, "embeddings": {**sidecar["embeddings"], "ranges": ranges}}
        with pytest.raises(ValueError, match=r"ranges must have shape \(2, \d+\), got"):
            search_file(out, queries, 3, "dot", changed)
    changed = {**sidecar, "embeddings": {**sidecar["embeddings"], "ranges": [low, high], "dtype": "uint8"}}
    with pytest.raises(ValueError, match=r"embeddings of int8, but .*\.json says uint8: embed again"):
        search_file(out, queries, 3, "dot", changed)


def test_a_mapped_file_is_read_in_pieces(
    given: Path, model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, queries = tmp_path / "x.npy", model.encode(["the dog", "a mat"])
    embed_file(given, out, model)
    expected = search_file(out, queries, 7, "dot", read_sidecar(out))
    monkeypatch.setattr("fastattn.text.nearest._PIECE", 30 * 4 * queries.shape[1])
    sizes, best = [], nearest_module._best
    monkeypatch.setattr(nearest_module, "_best", lambda asked, rows, *rest: sizes.append(len(rows)) or best(asked, rows, *rest))
    found = search_file(out, queries, 7, "dot", read_sidecar(out))
    assert sizes == [30] * 6 + [20]
    assert np.array_equal(found.rows, expected.rows) and np.array_equal(found.scores, expected.scores)


def test_conditions(given: Path, model: SentenceTransformer, tmp_path: Path) -> None:
    out, queries = tmp_path / "x.parquet", model.encode(["the dog"])
    embed_file(given, out, model)
    for condition in ("kind==a", "kind=a", "kind == a"):
        found = search_file(out, queries, 200, "dot", read_sidecar(out), [condition]).rows[0]
        assert np.array_equal(np.sort(found), np.arange(0, 200, 2))
    for condition in ("year=>2000", "year=<2000", "year"):
        with pytest.raises(ValueError, match=rf"--where: must be a column, one of = == != .*, got '{condition}'"):
            search_file(out, queries, 3, "dot", read_sidecar(out), [condition])


def test_what_does_not_fit(given: Path, folder: Path, model: SentenceTransformer, tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    embed_file(given, out, folder, output_precision="int8")

    def refused(message: str, *more: str) -> None:
        assert message in run("search", str(out), "the", "-m", str(folder), *more, code=2).stderr

    refused("--rescore must name an .npy file of embeddings, got x.txt", "--rescore", "x.txt")
    width = model.get_embedding_dimension()
    assert width
    for shape in ((3, width), (201, width), (200, width + 1)):
        np.save(tmp_path / "other.npy", np.zeros(shape, np.float32))
        message = f"other.npy: must have shape (200, {width}), one row for each of {out}, got {shape}"
        refused(message, "--rescore", str(tmp_path / "other.npy"))
    np.save(tmp_path / "other.npy", np.zeros((200, width), np.int8))
    refused("other.npy: must hold floats, and holds int8", "--rescore", str(tmp_path / "other.npy"))
    refused("--where: must be a column, one of = == != < <= > >= and a value, such as 'year>=2000', got 'year'", "--where", "year")
    refused("cannot compare column 'year', which is int64, with 'x'", "--where", "year=x")
    assert "there is no QUERY: give one, or --queries" in run("search", str(out), code=2).stderr
    assert "--where goes with a .parquet file" in run("search", str(tmp_path / "x.txt"), "a", "--where", "a=1", code=2).stderr
    assert "it was made with another model, " in run("search", str(out), "the", code=2).stderr
    sidecar_path(out).unlink()
    refused("embeddings of int8: without the .json that embed wrote nothing says what they stand for")
    embed_file(given, out, folder, overwrite=True)
    sidecar_path(out).unlink()
    assert "warning: there is no" in run("search", str(out), "the", "-m", str(folder)).stderr
