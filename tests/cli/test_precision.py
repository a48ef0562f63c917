"""Options --precision, of the model's arithmetic, and --output-precision, of the embeddings."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.cli.attention import read_attention
from fastattn.encoder import slower
from fastattn.kernels.products import kinds
from tests.support.command_line import LINES, run
from tests.support.rounded import LOW, assert_rounded

pytestmark = pytest.mark.jit


@pytest.mark.parametrize("precision", LOW)
def test_embed_and_search(model: str, lines: str, tmp_path: Path, precision: Any) -> None:
    out = str(tmp_path / "x.npy")
    run("embed", lines, "-o", out, "-m", model, "--precision", precision)
    encoder = SentenceTransformer(model, precision=precision)
    found = np.load(out)
    np.testing.assert_array_equal(found, encoder.encode_document(LINES))
    assert_rounded(found, SentenceTransformer(model).encode_document(LINES))
    sidecar = json.loads(Path(f"{out}.json").read_text())
    assert (sidecar["model"]["precision"], sidecar["settings"]["precision"]) == (precision, "float32")

    def scores(file: str, *more: str) -> set[str]:
        hits = run("search", file, "a dog", "--json", "-m", model, *more).stdout.splitlines()
        return {f"{json.loads(hit)['line']} {json.loads(hit)['score']}" for hit in hits}

    # A search takes the arithmetic of the embeddings; a text file has none.
    texts = ("--texts", lines)
    assert scores(out, *texts) == scores(out, *texts, "--precision", precision) == scores(lines, "--precision", precision)
    assert scores(out, *texts) != scores(out, *texts, "--precision", "float32")
    assert scores(lines) == scores(lines, "--precision", "float32")


def test_sidecars_that_name_no_precision(model: str, lines: str, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    run("embed", lines, "-o", str(out), "-m", model)
    beside = Path(f"{out}.json")
    expected = run("search", str(out), "a dog", "--texts", lines, "-m", model).stdout
    content = json.loads(beside.read_text())
    assert content["model"].pop("precision") == "float32"
    for other in ({}, {"precision": "float8"}, {"precision": ["int8"]}):
        beside.write_text(json.dumps({**content, "model": {**content["model"], **other}}))
        assert run("search", str(out), "a dog", "--texts", lines, "-m", model).stdout == expected


def test_quantised_embeddings_of_a_low_precision(model: str, lines: str, tmp_path: Path) -> None:
    out = str(tmp_path / "x.npy")
    run("embed", lines, "-o", out, "-m", model, "--precision", "int8", "--output-precision", "ubinary")
    expected = SentenceTransformer(model, precision="int8").encode_document(LINES, precision="ubinary")
    np.testing.assert_array_equal(np.load(out), expected)


def test_attention(model: str) -> None:
    exact, found = (read_attention("the cat sat", model, precision).attention for precision in ("float32", "int8"))
    assert_rounded(found, exact)


@pytest.mark.parametrize("value", ["uint8", "binary", "ubinary"])
def test_precisions_of_embeddings_are_not_those_of_the_model(lines: str, tmp_path: Path, value: str) -> None:
    said = run("embed", lines, "-o", str(tmp_path / "x.npy"), "-m", "/nowhere", "--precision", value, code=2).stderr
    first = f"error: --precision must be one of float32, bfloat16, int8, got '{value}'"
    assert said == f"{first}; to quantise the embeddings: --output-precision {value}\n"


@pytest.mark.parametrize("command", [("embed", "-o", "x.npy"), ("search", "dog"), ("attention", "-o", "x.png")])
def test_unknown_precisions(command: tuple[str, ...], lines: str) -> None:
    name, *more = command
    said = run(name, lines, *more, "-m", "/nowhere", "--precision", "float8", code=2).stderr
    assert said == "error: --precision must be one of float32, bfloat16, int8, got 'float8'\n"


def test_a_slower_precision_is_said_in_a_line(model: str, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slower, "_warned", set())
    monkeypatch.setattr(kinds, "slower", lambda precision: "no instruction")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        said = run("embed", lines, "-o", "-", "-m", model, "--precision", "int8", "-q").stderr
    assert said == "warning: precision 'int8' is slower than float32 on this CPU: no instruction\n"
