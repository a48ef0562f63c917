"""`fastattn embed`: the output file and the printed line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.text.pipeline import Pipeline
from tests.support import late_interaction, sparse_cases
from tests.support.command_line import LINES, ROOT, python, run
from tests.support.models import C, write_json, write_sentence_model

pytestmark = pytest.mark.jit


def test_embed_lines(model: str, lines: str, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    result = run("embed", lines, "-o", str(out), "--model", model)
    assert np.array_equal(np.load(out), SentenceTransformer(model).encode(LINES))
    assert result.stdout == ""
    closing = result.stderr.splitlines()[-1]
    assert re.fullmatch(rf"3 texts, 20 tokens, [\d,]+ tokens/s, 2 blank lines skipped: {re.escape(str(out))}", closing)
    assert "warning" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines.txt", "out.npy", "out.npy.json"]
    assert json.loads((tmp_path / "out.npy.json").read_text())["lines"] == [1, 4, 5]


def test_embed_to_json_lines(model: str, lines: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run("embed", lines, "-o", str(out), "--model", model)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [list(row) for row in rows] == [["line", "text", "embedding"]] * 3
    assert [(row["line"], row["text"]) for row in rows] == list(zip([1, 4, 5], LINES, strict=True))
    found = np.array([row["embedding"] for row in rows], np.float32)
    assert np.array_equal(found, SentenceTransformer(model).encode(LINES))


def test_embed_paragraphs(model: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n\nthe cat\nsat\n\n \na dog\n", encoding="utf-8")
    run("embed", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.jsonl"), "--paragraphs", "-m", model)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["the cat\nsat", "a dog"]


def test_embed_a_column(model: str, tmp_path: Path) -> None:
    rows = [{"id": i, "body": text} for i, text in enumerate([*LINES, ""])]
    (tmp_path / "in.jsonl").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    run("embed", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.npy"), "--column", "body", "-m", model)
    assert np.array_equal(np.load(tmp_path / "out.npy"), SentenceTransformer(model).encode([*LINES, ""]))


def test_embed_stdin(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    found = python("embed", "-", "-o", str(out), "-m", model, input="the cat sat\n\nnaïve dog\n", encoding="utf-8")
    assert found.returncode == 0, found.stderr
    assert np.array_equal(np.load(out), SentenceTransformer(model).encode(["the cat sat", "naïve dog"]))


def test_embed_stdin_with_a_byte_order_mark(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    found = python("embed", "-", "-o", str(out), "-m", model, input="the cat\na dog\n", encoding="utf-8-sig")
    assert found.returncode == 0, found.stderr
    assert [json.loads(line)["text"] for line in out.read_text(encoding="utf-8").splitlines()] == ["the cat", "a dog"]


def test_embed_nothing(model: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n")
    result = run("embed", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"), "-m", model)
    assert np.load(tmp_path / "out.npy").shape == (0, C)
    assert result.stderr.splitlines()[-1] == f"0 texts, 1 blank line skipped: {tmp_path / 'out.npy'}"


def test_embed_counts_truncated_texts(model: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("the cat\n" + "dog " * 40 + "\n")
    result = run("embed", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"), "-m", model)
    assert "2 texts, 16 tokens, " in result.stderr
    assert "warning: 1 text cut to 12 tokens: the rest is not in the embedding\n" in result.stderr


def test_progress_without_a_terminal(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastattn.text.streaming._SLICE", 2)
    monkeypatch.setattr("fastattn.cli.progress._EVERY", 0.0)
    (tmp_path / "in.txt").write_text("the cat\na dog\nsat\n" + "dog " * 40 + "\nmat\n")
    result = run("embed", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"), "-m", model)
    *progress, warning, closing = result.stderr.splitlines()
    assert [re.fullmatch(r"(\d) of 5 texts, [\d,]+ tokens/s, \d+ s left", line).group(1) for line in progress] == ["2", "4"]  # type: ignore[union-attr]
    assert warning.startswith("warning: 1 text cut")
    assert closing.startswith("5 texts, 26 tokens, ")
    texts = (tmp_path / "in.txt").read_text().splitlines()
    assert np.array_equal(np.load(tmp_path / "out.npy"), SentenceTransformer(model).encode(texts))
    quiet = run("embed", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"), "-m", model, "--quiet", "--overwrite")
    assert quiet.stderr.splitlines() == [warning]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_json_has_not(number: float, model: str, lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = np.zeros((3, C), np.float32)
    embeddings[1, 2] = number
    monkeypatch.setattr(Pipeline, "embeddings", lambda self, batch, *rest: embeddings[batch.rows])
    for more, why in ((("out.jsonl",), "which JSON cannot hold"), (("out.npy", "--output-precision", "int8"), "which no integer")):
        result = run("embed", lines, "-o", str(tmp_path / more[0]), "-m", model, *more[1:], code=2)
        assert f"error: {lines}, line 4: its embedding has numbers that are not finite, {why}" in result.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["lines.txt"]
    run("embed", lines, "-o", str(tmp_path / "out.npy"), "-m", model)
    assert np.array_equal(np.load(tmp_path / "out.npy"), embeddings, equal_nan=True)


def test_compiling_is_announced_once(model: str, lines: str, tmp_path: Path) -> None:
    # TMPDIR as well: kernels may also be cached in the temporary folder.
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    embed = ("embed", lines, "-o", str(tmp_path / "x.npy"), "-m", model, "--overwrite")
    search = ("search", str(tmp_path / "x.npy"), "dog", "--texts", lines, "-m", model)
    errors = []
    for arguments in (embed, embed, search, search):
        command = [sys.executable, "-m", "fastattn", *arguments]
        found = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        errors.append(found.stderr.splitlines())
    # The compilation may take long enough for a line of progress.
    assert errors[0][0].startswith("compiling kernels for this CPU, once")
    counts = [sum(line.startswith("compiling") for line in said) for said in errors]
    # The first search may compile its product; neither command compiles anything again.
    assert counts[:2] == [1, 0] and counts[2] <= 1 and errors[3] == []
    assert [line.partition(",")[0] for line in errors[1]] == ["3 texts"]


def test_bar_on_a_terminal(model: str, lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastattn.cli.progress.is_watched", lambda: True)
    said = run("embed", lines, "-o", str(tmp_path / "out.npy"), "-m", model).stderr
    assert re.search(r"Embedding: 100%.*3/3 \[.*, [\d,]+ tokens/s\]", said)
    said = run("embed", lines, "-o", str(tmp_path / "out.npy"), "-m", model, "--overwrite", "--quiet").stderr
    assert said == ""


@pytest.mark.parametrize("command", [("embed", "-o", "out.npy"), ("search", "a cat")])
def test_models_of_another_kind(command: tuple[str, ...], lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean of the tokens of a sparse or late-interaction model would be an embedding that nobody trained."""
    monkeypatch.chdir(tmp_path)
    models = {
        "SparseEncoder": sparse_cases.MODELS["max"](tmp_path / "sparse"),
        "MultiVectorEncoder": tmp_path / "late",
        "CrossEncoder": write_sentence_model(tmp_path / "scores"),
    }
    late_interaction.CASES["stanford"].write(models["MultiVectorEncoder"])
    write_json(models["CrossEncoder"] / "config_sentence_transformers.json", {"model_type": "CrossEncoder"})
    name, *rest = command
    for kind, folder in models.items():
        shown = " ".join(run(name, lines, *rest, "--model", str(folder), code=2).stderr.split())
        assert f"is a {kind}, and this needs a SentenceTransformer" in shown and f"its class is fastattn.{kind}" in shown
    assert not (tmp_path / "out.npy").exists()
