"""`fastattn search`: the nearest texts, of texts and of embeddings."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fastattn import SentenceTransformer
from fastattn.cli.files import Texts
from tests.support.command_line import LINES, run

pytestmark = pytest.mark.jit


def test_search_texts(model: str, lines: str) -> None:
    result = run("search", lines, "the dog sat", "-k", "2", "-m", model)
    encoder = SentenceTransformer(model)
    scores = encoder.similarity(encoder.encode("the dog sat"), encoder.encode(LINES))[0]
    best = np.argsort(-scores)[:2]
    assert result.stdout.splitlines() == [f"{scores[i]:.4f}\t{[1, 4, 5][i]}\t{LINES[i]}" for i in best]


def test_search_embeddings(model: str, lines: str, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    run("embed", lines, "-o", str(out), "-m", model)
    found = run("search", str(out), "the dog sat", "--texts", lines, "-m", model)
    assert found.stdout == run("search", lines, "the dog sat", "-m", model).stdout
    assert len(found.stdout.splitlines()) == 3


def test_search_cuts_long_texts_on_a_terminal(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastattn.cli import search

    monkeypatch.setattr(search, "output", Console(force_terminal=True, width=40, color_system=None))
    texts = Texts("x.txt", ["cat", "dog " * 100], [10, 9], 0, None, None)
    search.show_hits(texts, np.array([0.75, 0.5], np.float32))
    assert capsys.readouterr().out.splitlines() == [
        "0.750  10   cat",
        "0.500   9   dog dog dog dog dog dog dog",
        "            dog dog dog dog dog dog dog",
        "            dog dog dog dog dog dog ...",
    ]


def test_queries_of_a_file_are_read_as_the_texts_are(model: str, tmp_path: Path) -> None:
    texts, queries = tmp_path / "texts", tmp_path / "queries"
    texts.write_bytes("the caf\xe9\n\na dog\nsat on\n".encode("latin-1"))
    queries.write_bytes("sat at\nthe caf\xe9\n\na cat\n".encode("latin-1"))
    options = ("--queries", str(queries), "--format", "text", "--encoding", "latin-1", "-k", "1", "-m", model)
    found = run("search", str(texts), *options, "--paragraphs", "--json").stdout
    assert [json.loads(line)["query"] for line in found.splitlines()] == ["sat at\nthe caf\xe9", "a cat"]
    found = run("search", str(texts), *options, "--json").stdout
    assert [json.loads(line)["query"] for line in found.splitlines()] == ["sat at", "the caf\xe9", "a cat"]
    said = run("search", str(texts), *options[:4], "-m", model, code=2).stderr
    assert f"{queries}, line 2: not UTF-8" in " ".join(said.split())
