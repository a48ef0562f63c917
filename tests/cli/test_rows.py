"""Rows of JSON Lines and CSV: what `embed` keeps of them, and the lines on which texts stand."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.cli.files import read_texts
from tests.support.command_line import LINES, run

pytestmark = pytest.mark.jit

# Keys before and after the text, numbers that Python writes otherwise, half a surrogate pair beside the text, spaces, a blank line.
ROWS = ['{"id": 1.10, "body": "the cat" ,"tags":["a", {"b": null}]}', "", '  {"body": "", "id": 1e400, "x": "\\ud800 é"} ']


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_column_stays_as_it_was(model: str, tmp_path: Path) -> None:
    given, out = tmp_path / "in.jsonl", tmp_path / "out.ndjson"
    given.write_text("\n".join(ROWS), encoding="utf-8")
    said = run("embed", str(given), "-o", str(out), "--column", "body", "-m", model).stderr
    assert ", 1 text empty, 1 blank line skipped: " in said
    lines = out.read_text(encoding="utf-8").splitlines()
    expected = SentenceTransformer(model).encode(["the cat", ""])
    for line, row, vector in zip(lines, (ROWS[0], ROWS[2]), expected, strict=True):
        assert line.startswith(row.strip()[:-1].rstrip())
        assert list(json.loads(line)) == [*json.loads(row), "embedding"]
        assert np.array_equal(np.array(json.loads(line)["embedding"], np.float32), vector)


def test_input_is_not_overwritten_by_mistake(model: str, tmp_path: Path) -> None:
    given = tmp_path / "x.jsonl"
    given.write_text('{"id": 7, "text": "the cat"}\n', encoding="utf-8")
    link = tmp_path / "link.jsonl"
    link.symlink_to(given)
    before = given.read_bytes()
    for out in (given, link):
        said = run("embed", str(given), "-o", str(out), "-m", model, code=2).stderr
        assert said == f"error: {out}: is the input too: give another --out, or --overwrite to add the embeddings to it\n"
    assert given.read_bytes() == before
    run("embed", str(given), "-o", str(given), "-m", model, "--overwrite")
    (row,) = rows_of(given)
    assert (list(row), row["id"], row["text"]) == (["id", "text", "embedding"], 7, "the cat")
    # The second time there are embeddings already.
    said = run("embed", str(given), "-o", str(tmp_path / "y.jsonl"), "-m", model, code=2).stderr
    assert said == f"error: {given}, line 1: has the key 'embedding' already: --overwrite replaces it\n"
    run("embed", str(given), "-o", str(given), "-m", model, "--overwrite", "--truncate-dim", "4")
    (again,) = rows_of(given)
    assert list(again) == ["id", "text", "embedding"]
    assert again["embedding"] == row["embedding"][:4]  # type: ignore[index]


def test_a_foreign_file_in_the_place_of_the_sidecar(model: str, lines: str, tmp_path: Path) -> None:
    (tmp_path / "x.npy.json").write_text('{"mine": 1}')
    said = run("embed", lines, "-o", str(tmp_path / "x.npy"), "-m", model, code=2).stderr
    assert "x.npy.json: was not written by embed, and would be replaced" in said
    assert (tmp_path / "x.npy.json").read_text() == '{"mine": 1}'


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".jsonl.gz", ".txt.gz", ".TXT"])
def test_kinds_of_files(suffix: str, tmp_path: Path) -> None:
    separator = "\t" if ".tsv" in suffix else ","
    content = {
        "csv": f'id{separator}text\r\n1{separator}the cat\r\n\r\n2{separator}"a ""dog"",\nhere"\r\n3{separator}\r\n',
        "jsonl": '{"text": "the cat"}\n\n{"text": "a \\"dog\\",\\nhere"}\n{"text": ""}\n',
        "txt": "the cat\n\n\na dog\n",
    }["csv" if suffix[1:4] in ("csv", "tsv") else suffix.lower().split(".")[1]]
    path = tmp_path / f"x{suffix}"
    raw = content.encode()
    path.write_bytes(gzip.compress(raw) if suffix.endswith(".gz") else raw)
    found = read_texts(str(path), keep=True)
    if "sv" in suffix:
        assert found.texts == ["the cat", 'a "dog",\nhere', ""]
        assert (found.lines, found.blank) == ([2, 4, 6], 1)
        assert json.loads(found.records[1]) == {"id": "2", "text": 'a "dog",\nhere'}  # type: ignore[index]
    elif "jsonl" in suffix:
        assert (found.texts, found.lines, found.blank) == (["the cat", 'a "dog",\nhere', ""], [1, 3, 4], 1)
    else:
        assert (found.texts, found.lines, found.blank) == (["the cat", "a dog"], [1, 4], 2)


BAD = {
    "column of a text file": (b"a", ".txt", {"column": "text"}, "--column goes with rows of jsonl, csv, tsv or parquet, and this"),
    "no column": (b"a,b\n1,2\n", ".csv", {}, "line 2: no column 'text', found columns a, b; --column names"),
    "short row": (b"a,text\n1\n", ".csv", {}, "line 2: 1 fields, but the header has 2 columns"),
    "two columns of a name": (b"a,a\n", ".csv", {}, "line 1: two columns are named 'a'"),
    "quote open": (b'text\n"a\n', ".csv", {}, "line 2: not CSV: unexpected end of data"),
    "broken JSON": (
        b'{"text": "a"}\n{"text": "a" "b"}\n',
        ".jsonl",
        {},
        "line 2: not JSON: Expecting ',' delimiter at character 14",
    ),
    "latin-1": ("a\nö\n".encode("latin-1"), ".txt", {}, "line 2: not UTF-8: byte 0xf6 at character 1; --encoding names another"),
    "no such encoding": (b"a", ".txt", {"encoding": "no-such"}, "--encoding: there is no encoding 'no-such'"),
    "no such format": (b"a", ".txt", {"kind": "xml"}, "--format must be one of text, jsonl, csv, tsv, parquet, got 'xml'"),
    "not gzip": (b"a", ".txt.gz", {}, "not a complete gzip file"),
    "gzip cut": (gzip.compress(os.urandom(100))[:-9], ".txt.gz", {"encoding": "latin-1"}, "not a complete gzip file"),
    "another kind": (b"a", ".pdf", {}, "cannot read .pdf; supported: .txt, .md"),
    "half a surrogate pair": (b'{"text": "\\udc01"}', ".jsonl", {}, "line 1: 'text' is not valid Unicode: half a surrogate pair, "),
    "no list of numbers": (b'{"text": "", "embedding": "x"}', ".jsonl", {"embedded": True}, "must be a list of numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name: str, tmp_path: Path) -> None:
    content, suffix, options, message = BAD[name]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_texts(str(path), **options)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_other_encodings(tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-16", "UTF-8"):
        (tmp_path / "x.txt").write_bytes("naïve\n\nöl".encode(encoding))
        assert read_texts(str(tmp_path / "x.txt"), encoding=encoding).texts == ["naïve", "öl"]


def test_rows_on_stdin_are_named(model: str, tmp_path: Path) -> None:
    out = str(tmp_path / "x.npy")
    for more in ((), ("--column", "text")):
        said = run("embed", "-", "-o", out, *more, stdin='\n{"text": "a dog"}\n', code=2).stderr
        assert said == "error: stdin, line 2: is JSON: say --format jsonl, or --format text to embed the line as it is\n"
    said = run("embed", "-", "-o", out, "--column", "text", stdin="a dog\n", code=2).stderr
    assert said == "error: stdin: --column goes with --format jsonl, csv or tsv\n"
    found = run("embed", "-", "-o", "-", "-m", model, "--format", "jsonl", "-q", stdin='{"n": 1, "text": "a dog"}\n')
    row = json.loads(found.stdout)
    assert (list(row), found.stderr) == (["n", "text", "embedding"], "")
    assert np.array_equal(np.array(row["embedding"], np.float32), SentenceTransformer(model).encode("a dog"))
    # Braces alone are no JSON.
    run("embed", "-", "-o", out, "-m", model, stdin="{a dog}\n")
    assert np.array_equal(np.load(out), SentenceTransformer(model).encode(["{a dog}"]))


def test_options_of_encode(model: str, lines: str, tmp_path: Path) -> None:
    out = str(tmp_path / "x.npy")
    encoder = SentenceTransformer(model)
    for words, options in (
        ("--truncate-dim 8 --normalize", {"truncate_dim": 8, "normalize_embeddings": True}),
        ("--prompt cat:", {"prompt": "cat:"}),
        ("--output-precision binary", {"precision": "binary"}),
    ):
        run("embed", lines, "-o", out, "-m", model, "--overwrite", *words.split())
        expected = encoder.encode(LINES, **options)
        assert np.load(out).dtype == expected.dtype
        assert np.array_equal(np.load(out), expected)
    said = run("embed", lines, "-o", out, "--output-precision", "float8", code=2).stderr
    assert said == "error: --output-precision must be one of float32, float16, int8, uint8, binary, ubinary, got 'float8'\n"
    said = run("embed", lines, "-o", out, "-m", model, "--prompt-name", "no", "--overwrite", code=2).stderr
    assert "there is no prompt 'no'" in said


def test_other_columns_stay_as_they_are_written(model: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text":"a dog", "n":1e400,"price":1.10,"digits":0.12345678901234567890123, "z":[", \\"embedding\\": ["]}\n')
    for _ in range(2):
        run("embed", str(path), "-o", str(path), "-m", model, "--overwrite")
        once = path.read_text()
        assert once.startswith('{"text":"a dog", "n":1e400,"price":1.10,"digits":0.12345678901234567890123, "z":[')
        assert once.count('"embedding": [') == 1
    # An embedding that stands elsewhere, or that another program wrote, goes as well.
    path.write_text('{"text": "a dog", "embedding": [1], "id": 1}\n{"embedding":[1],"text": "a dog", "id": 2}\n')
    run("embed", str(path), "-o", str(path), "-m", model, "--overwrite")
    assert [list(json.loads(line)) for line in path.read_text().splitlines()] == [["text", "id", "embedding"]] * 2


def test_gzip_that_no_name_tells(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(gzip.compress(b"a dog\n"))
    with pytest.raises(ValueError, match=r"x\.txt: is a gzip file: zcat"):
        read_texts(str(path))
