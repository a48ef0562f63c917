"""Bad rows: an error, or, up to a number, left out and listed; everything that is wrong is known before the work begins."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastattn import SentenceTransformer
from fastattn.corpus import embed_file
from fastattn.corpus.source import Source
from tests.support.command_line import run

pytestmark = pytest.mark.jit

JSONL = b"""{"id": 1, "text": "the cat"}
{"id": 2, "text": null}
{"id": 3, "text": 5}

{"id": 4, "text": "a dog"
{"id": 5, "text": "\xff"}
[1]
{"id": 6}
{"id": 7, "text": "\\ud800"}
{"id": 8, "text": "on"}
"""
CSV = b'id,text\n1,the cat\n2\n3,"a" dog\n4,\xff\n5,on\n6,"open\n'
GOOD = {"x.jsonl": ["the cat", "on"], "x.csv": ["the cat", "on"], "x.txt": ["the cat", "on"], "x.parquet": ["the cat", "on"]}
REASONS = {
    "x.jsonl": [
        (2, "'text' must be text, got NoneType", 2),
        (3, "'text' must be text, got int", 3),
        (5, "not JSON: Expecting ',' delimiter at character 26", None),
        (6, "not UTF-8: byte 0xff at character 20", None),
        (7, "expected an object, found list", None),
        (8, "no column 'text', found columns id", 6),
        (9, "'text' is not valid Unicode: half a surrogate pair", 7),
    ],
    "x.csv": [
        (3, "1 fields, but the header has 2 columns", None),
        (4, "not CSV: ',' expected after '\"'", None),
        (5, "not UTF-8: byte 0xff at character 3", None),
        (7, "not CSV: unexpected end of data", None),
    ],
    "x.txt": [(2, "not UTF-8: byte 0xff at character 1", None)],
    "x.parquet": [(2, "'text' must be text, got null", 20), (3, "'text' is not UTF-8: b'a\\xff'", 30)],
}


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    (tmp_path / "x.jsonl").write_bytes(JSONL)
    (tmp_path / "x.csv").write_bytes(CSV)
    (tmp_path / "x.txt").write_bytes(b"the cat\n\xff\non\n")
    raw = pa.array([b"the cat", None, b"a\xff", b"on"], pa.binary())
    text = pa.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    pq.write_table(pa.table({"text": text, "id": [10, 20, 30, 40]}), tmp_path / "x.parquet", use_dictionary=False)
    return tmp_path


@pytest.mark.parametrize("name", GOOD)
def test_left_out_and_listed(name: str, bad: Path, model: SentenceTransformer, tmp_path: Path) -> None:
    out, count = tmp_path / "out.npy", len(REASONS[name])
    more: dict[str, Any] = {} if name == "x.txt" else {"id_column": "id"}
    report = embed_file(bad / name, out, model, max_bad=count, **more)
    assert (report.texts, report.bad) == (2, count)
    assert np.array_equal(np.load(out), model.encode(GOOD[name]))
    listed = [json.loads(line) for line in Path(f"{out}.rejects.jsonl").read_text().splitlines()]
    unit = "row" if name == "x.parquet" else "line"
    assert [(row[unit], row.get("id")) for row in listed] == [(number, identity) for number, _, identity in REASONS[name]]
    assert {row["file"] for row in listed} == {str(bad / name)}
    for row, (_, reason, _) in zip(listed, REASONS[name], strict=True):
        assert row["reason"].startswith(reason)
    # One more than is allowed: the list stays, for who mends the input.
    out = tmp_path / "other.npy"
    with pytest.raises(ValueError, match=rf"it is bad row {count:,}, and --max-bad is {count - 1}" if count > 1 else "not UTF-8"):
        embed_file(bad / name, out, model, max_bad=count - 1)
    assert not out.exists() and Path(f"{out}.rejects.jsonl").exists() == (count > 1)


@pytest.mark.parametrize("name", GOOD)
def test_the_first_one_is_an_error(name: str, bad: Path, tmp_path: Path) -> None:
    """Without a model that could be loaded: it is found before."""
    number, reason, _ = REASONS[name][0]
    unit = "row" if name == "x.parquet" else "line"
    with pytest.raises(ValueError, match=re.escape(f"{bad / name}, {unit} {number}: {reason}")):
        embed_file(bad / name, tmp_path / "out.npy", tmp_path / "no-such-model")
    assert not list(tmp_path.glob("out*"))


def test_lists_of_earlier_runs_go(bad: Path, model: SentenceTransformer, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    embed_file(bad / "x.txt", out, model, max_bad=1)
    assert Path(f"{out}.rejects.jsonl").exists()
    (bad / "x.txt").write_text("on\n")
    embed_file(bad / "x.txt", out, model, max_bad=1, overwrite=True)
    assert not Path(f"{out}.rejects.jsonl").exists()


FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no such column": ({"a": ["x"], "b": ["y"]}, {}, "x.parquet: no column 'text', found columns a, b; --column names"),
    "no such id": ({"text": ["x"]}, {"id_column": "key"}, "x.parquet: no column 'key', found columns text"),
    "no text": ({"text": [1, 2]}, {}, "x.parquet: column 'text' must be text, and is int64"),
    "lists of texts": ({"text": [["a"], ["b"]]}, {}, "column 'text' must be text, and is list<"),
    "an embedding is there": ({"text": ["a"], "embedding": [1.0]}, {}, "has the column 'embedding' already: --overwrite"),
    "columns without a template": (
        {"a": ["x"], "b": ["y"]},
        {"column": ["a", "b"]},
        "--template says how they are joined, such as",
    ),
    "template without columns": ({"text": ["x"]}, {"template": "text"}, "--template: has no column in braces, got 'text'"),
    "template of code": ({"text": ["x"]}, {"template": "{text.__class__}"}, "no column 'text.__class__'"),
    "template with a format": ({"text": ["x"]}, {"template": "{text:>9}"}, "{text:>9} must be the name of a column in braces"),
    "open brace": ({"text": ["x"]}, {"template": "{text"}, "--template: expected '}' before end of string"),
    "column that is left": (
        {"a": ["x"]},
        {"column": ["a", "b"], "template": "{a}"},
        "--template: has no {b}, which --column names",
    ),
    "other column": ({"a": ["x"]}, {"column": ["a"], "template": "{a}{b}"}, "{b} must be the name of a column in braces; --column"),
    "paragraphs of rows": ({"text": ["x"]}, {"paragraphs": True}, "parquet has a text a row, not --paragraphs"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_a_table(name: str, model: SentenceTransformer, tmp_path: Path) -> None:
    """Not of a row: no `max_bad` helps."""
    columns, options, message = FAULTS[name]
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=re.escape(message)):
        embed_file(tmp_path / "x.parquet", tmp_path / "out.parquet", model, max_bad=99, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_damaged_parquet(model: SentenceTransformer, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": ["a"] * 50}), path)
    raw = path.read_bytes()
    for bad in (b"", raw[:-10], raw[:40] + bytes(40) + raw[80:], b"PAR1"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"x\.parquet: not a complete Parquet file|'text'"):
            embed_file(path, tmp_path / "out.npy", model)


def test_inputs_that_are_none(model: SentenceTransformer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    for name in ("a.txt", "b.csv"):
        (tmp_path / "mixed" / name).write_text("text\na\n")
    for given, kind, message in (
        (tmp_path / "empty", ValueError, "is a directory without a file that can be read: .txt"),
        (tmp_path / "*.parquet", FileNotFoundError, "no file has such a name"),
        (tmp_path / "mixed", ValueError, "has files of several kinds, csv and text: name one"),
        ("nowhere://x.txt", ValueError, "nowhere://x.txt: Protocol not known: nowhere"),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            embed_file(given, tmp_path / "out.npy", model)
    with pytest.raises(ValueError, match="is in the input folder"):
        embed_file(tmp_path / "mixed", tmp_path / "mixed" / "out.npy", model)
    with pytest.raises(ValueError, match="the output must be a local file"):
        embed_file(tmp_path / "mixed" / "a.txt", "s3://bucket/out.npy", model)
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "mixed"}


@pytest.mark.parametrize(("name", "package"), [("x.parquet", "pyarrow"), ("memory://x.txt", "fsspec"), ("x.txt.zst", "zstandard")])
def test_packages_that_are_not_installed(name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastattn.corpus import files, tables

    inner = files.importlib.import_module

    def absent(wanted: str) -> Any:
        if wanted.partition(".")[0] in (package, "compression"):
            raise ImportError(f"No module named {wanted!r}")
        return inner(wanted)

    (tmp_path / "x.parquet").write_bytes(b"")
    (tmp_path / "x.txt.zst").write_bytes(b"")
    for module in (files, tables):
        monkeypatch.setattr(module.importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"pip install 'fastattn\[io\]'"):
        list(Source(name if "://" in name else str(tmp_path / name)).blocks())


def test_the_command(bad: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    said = run("embed", str(bad / "x.jsonl"), "-o", str(out), "-m", str(folder), "--max-bad", "9", "--json")
    closing = json.loads(said.stdout)
    assert (closing["texts"], closing["bad"], closing["blank"], closing["out"]) == (2, 7, 1, str(out))
    assert said.stderr == f"warning: 7 bad rows left out: {out}.rejects.jsonl\n"
    said = run("embed", str(bad / "x.jsonl"), "-o", "-", "-m", str(folder), "--json", code=2)
    assert said.stderr == "error: --json: stdout has the embeddings: give another --out\n"
    said = run("embed", str(bad / "x.txt"), "-o", str(tmp_path / "y.npy"), "-m", str(folder), "--template", "{a}", code=2)
    assert "--template goes with rows of jsonl, csv, tsv or parquet" in said.stderr
