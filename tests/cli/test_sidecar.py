"""Sidecar of embeddings: `search` takes those that were made of its texts by its model, and no others."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastattn import SentenceTransformer
from tests.support.command_line import LINES, run
from tests.support.models import write_sentence_model

pytestmark = pytest.mark.jit


@pytest.fixture
def prompted(tmp_path: Path) -> str:
    """Return a model whose prompts change every score."""
    folder = write_sentence_model(tmp_path / "prompted", normalize=True)
    settings = {"prompts": {"query": "the dog ", "document": "a mat "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.mark.parametrize("name", ["x.npy", "x.jsonl"])
def test_a_text_has_one_score(name: str, prompted: str, lines: str, tmp_path: Path) -> None:
    out = str(tmp_path / name)
    run("embed", lines, "-o", out, "-m", prompted)
    more = ("--texts", lines) if name == "x.npy" else ()
    found = run("search", out, "sat", "-m", prompted, *more)
    plain = run("search", lines, "sat", "-m", prompted)
    assert [line.split("\t")[::2] for line in found.stdout.splitlines()] == [
        line.split("\t")[::2] for line in plain.stdout.splitlines()
    ]
    encoder = SentenceTransformer(prompted)
    scores = encoder.similarity(encoder.encode_query("sat"), encoder.encode_document(LINES))[0]
    assert {line.partition("\t")[0] for line in found.stdout.splitlines()} == {f"{score:.4f}" for score in scores}
    # The prompt matters.
    assert np.abs(scores - encoder.similarity(encoder.encode("sat"), encoder.encode(LINES))[0]).max() > 0.001


def test_what_does_not_fit(model: str, lines: str, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    run("embed", lines, "-o", str(out), "-m", model)
    shuffled = tmp_path / "shuffled.txt"
    shuffled.write_text("\n".join(LINES[::-1]))
    said = run("search", str(out), "sat", "--texts", str(shuffled), "-m", model, code=2).stderr
    assert f"{out}: does not fit: it was made of other texts than {shuffled} has, or of these in another order: of {lines}" in said
    other = write_sentence_model(tmp_path / "other", normalize=False)
    said = run("search", str(out), "sat", "--texts", lines, "-m", str(other), code=2).stderr
    assert "does not fit: it was made with another model than other: with " in said
    np.save(out, np.load(out)[::-1])
    said = run("search", str(out), "sat", "--texts", lines, "-m", model, code=2).stderr
    assert "does not fit: its embeddings have changed since embed wrote them" in said
    (tmp_path / "x.npy.json").unlink()
    found = run("search", str(out), "sat", "--texts", lines, "-m", model)
    assert len(found.stdout.splitlines()) == 3
    assert found.stderr.startswith(f"warning: there is no {out}.json: ")


def test_a_file_that_the_model_does_not_read_changes_nothing(model: str, lines: str, tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "m")
    out = str(tmp_path / "x.npy")
    run("embed", lines, "-o", out, "-m", str(folder))
    (folder / "README.md").write_text("new")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    run("search", out, "sat", "--texts", lines, "-m", str(folder))
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    said = run("search", out, "sat", "--texts", lines, "-m", str(folder), code=2).stderr
    assert "with another model than m: with another version of it" in said


def test_stored_embeddings_of_json_lines(model: str, lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.jsonl"
    run("embed", lines, "-o", str(out), "-m", model)
    expected = run("search", str(out), "sat", "-m", model).stdout
    with monkeypatch.context() as patched:
        # Embedding the texts again would fail.
        patched.delattr(SentenceTransformer, "encode_document")
        assert run("search", str(out), "sat", "-m", model).stdout == expected
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    out.write_text("\n".join(json.dumps({**row, "embedding": [0.0] * len(row["embedding"])}) for row in rows))
    found = run("search", str(out), "sat", "-m", model)
    assert found.stdout == expected
    assert "its embeddings are not used, the texts are embedded anew: its embeddings have changed" in found.stderr


def test_truncated_embeddings(model: str, lines: str, tmp_path: Path) -> None:
    out = str(tmp_path / "x.npy")
    run("embed", lines, "-o", out, "-m", model, "--truncate-dim", "8", "--normalize")
    found = run("search", out, "sat", "--texts", lines, "-m", model).stdout
    encoder = SentenceTransformer(model)
    options = {"truncate_dim": 8, "normalize_embeddings": True}
    scores = encoder.similarity(encoder.encode("sat", **options), encoder.encode(LINES, **options))[0]
    assert [line.partition("\t")[0] for line in found.splitlines()] == [f"{score:.4f}" for score in sorted(scores, reverse=True)]
    run("embed", lines, "-o", out, "-m", model, "--output-precision", "ubinary", "--overwrite")
    assert len(run("search", out, "sat", "--texts", lines, "-m", model).stdout.splitlines()) == len(LINES)
    Path(f"{out}.json").unlink()
    found = run("search", out, "sat", "--texts", lines, "-m", model, code=2)
    assert "embeddings of uint8: without the .json that embed wrote nothing says what they stand for" in found.stderr


def test_several_queries_and_json(model: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 5, "text": "the cat"}\n\n{"id": 6, "text": "a dog"}\n')
    found = run("search", str(path), "cat", "dog", "-k", "2", "--json", "-m", model).stdout
    hits = [json.loads(line) for line in found.splitlines()]
    assert [(hit["query"], hit["rank"]) for hit in hits] == [("cat", 1), ("cat", 2), ("dog", 1), ("dog", 2)]
    assert {(hit["line"], hit["text"], hit["row"]["id"]) for hit in hits} == {(1, "the cat", 5), (3, "a dog", 6)}
    assert all(list(hit) == ["query", "rank", "score", "line", "text", "row"] for hit in hits)
    plain = run("search", str(path), "cat", "dog", "-k", "2", "-m", model).stdout.splitlines()
    assert (plain[0], plain[3], plain[4], len(plain)) == ("? cat", "", "? dog", 7)
    assert [f"{hit['score']:.4f}\t{hit['line']}\t{hit['text']}" for hit in hits] == [*plain[1:3], *plain[5:]]


def test_json_keeps_the_row_of_a_line(model: str, lines: str, tmp_path: Path) -> None:
    out = str(tmp_path / "x.jsonl")
    run("embed", lines, "-o", out, "-m", model)
    hits = [json.loads(line) for line in run("search", out, "dog", "--json", "-m", model).stdout.splitlines()]
    # Line of the .jsonl file, and line of the text file from which it was made.
    assert {(hit["line"], hit["row"]["line"]) for hit in hits} == {(1, 1), (2, 4), (3, 5)}
    assert "row" not in json.loads(run("search", lines, "dog", "-k", "1", "--json", "-m", model).stdout)


def test_quantised_rows_are_named(model: str, lines: str, tmp_path: Path) -> None:
    out = str(tmp_path / "x.jsonl")
    run("embed", lines, "-o", out, "-m", model, "--output-precision", "ubinary")
    found = run("search", out, "dog", "-m", model)
    assert found.stderr.endswith("the texts are embedded anew: embed wrote them as uint8, and they are read as float32\n")
    assert found.stdout == run("search", lines, "dog", "-m", model).stdout.replace("\t4\t", "\t2\t").replace("\t5\t", "\t3\t")
    out = tmp_path / "x.npy"
    run("embed", lines, "-o", str(out), "-m", model)
    np.save(out, np.load(out).astype(np.float16))
    said = run("search", str(out), "dog", "--texts", lines, "-m", model, code=2).stderr
    assert said.startswith(f"error: {out}: does not fit: embed wrote them as float32, and they are read as float16; without ")


@pytest.mark.parametrize("option", [(), ("--prompt",)])
def test_arguments_of_another_encoding(option: tuple[str, ...], lines: str) -> None:
    name = "--prompt" if option else "QUERY"
    said = run("search", lines, *(("dog", *option) if option else ()), "caf\udce9", code=2).stderr
    assert said == f"error: {name}: not UTF-8, the encoding of the command line: at character 4\n"
    if option:
        assert run("embed", lines, "-o", "-", *option, "caf\udce9", code=2).stderr == said
