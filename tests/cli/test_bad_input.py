"""Bad inputs: one red line, exit code 2, and no output file."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command_line import run
from tests.support.models import C, write_sentence_model

pytestmark = pytest.mark.jit


def spoil(name: str, content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        path = folder / name
        path.write_bytes(content)
        return str(path)

    return write


def embedded(content: Any) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        np.save(folder / "x.npy", content)
        return str(folder / "x.npy")

    return write


def headed(header: str) -> Callable[[Path], str]:
    """Return a writer of an .npy file with this header and 32 zero bytes of data."""
    return spoil("x.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + bytes(32))


def zipped(folder: Path) -> str:
    with (folder / "x.npy").open("wb") as file:
        np.savez(file, a=np.zeros((2, C), np.float32))
    return str(folder / "x.npy")


GOOD = spoil("good.txt", b"the cat\na dog\n")
HEADER = "{'descr': %s, 'fortran_order': False, 'shape': %s}"
# (arguments, writer of the bad file, message); {} is the bad file, {out} the output, {model} and {good} a good model and input.
BAD: dict[str, tuple[str, Callable[[Path], str], str]] = {
    "input missing": ("embed {}.txt -o {out}.npy", GOOD, r"good\.txt\.txt: No such file"),
    "input is a folder": (
        "embed {}.d.txt -o {out}.npy",
        lambda p: (p / "x.d.txt").mkdir() or str(p / "x"),
        "s a directory",
    ),
    "input of another kind": (
        "embed {} -o {out}.npy",
        spoil("x.pdf", b"a"),
        r"x\.pdf: cannot read \.pdf; supported: \.txt, .*--format",
    ),
    "input not UTF-8": (
        "embed {} -o {out}.npy",
        spoil("x.txt", b"\xff\xfe"),
        r"x\.txt, line 1: not UTF-8: byte 0xff at character 1; --encoding names another, such as utf-16",
    ),
    "line not JSON": ("embed {} -o {out}.npy", spoil("x.jsonl", b'{"text": "a"}\n{'), r"x\.jsonl, line 2: not JSON"),
    "line not an object": ("embed {} -o {out}.npy", spoil("x.jsonl", b"[1]"), r"x\.jsonl, line 1: expected an object, found list"),
    "no such column": (
        "embed {} -o {out}.npy --column body",
        spoil("x.jsonl", b'{"text": "a"}'),
        "line 1: no column 'body', found columns text",
    ),
    "text not str": ("embed {} -o {out}.npy", spoil("x.jsonl", b'{"text": 3}'), "line 1: 'text' must be text, got int"),
    "JSON not UTF-8": (
        "embed {} -o {out}.npy",
        spoil("x.jsonl", b'{"text": "\xff"}'),
        r"x\.jsonl, line 1: not UTF-8: byte 0xff at character 11; --encoding names another, such as latin-1",
    ),
    "half a surrogate pair": (
        "embed {} -o {out}.npy -m {model}",
        spoil("x.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}'),
        r"x\.jsonl, line 2: 'text' is not valid Unicode: half a surrogate pair, \\ud800",
    ),
    "paragraphs of JSON": (
        "embed {} -o {out}.npy --paragraphs",
        spoil("x.jsonl", b""),
        r"jsonl has a text a row, not --paragraphs",
    ),
    "output of another kind": (
        "embed {} -o {out}.csv",
        GOOD,
        r"cannot write \.csv; supported: \.npy, \.jsonl, \.ndjson, \.parquet, or -",
    ),
    "output folder missing": (
        "embed {} -o {out}/no/such/x.npy",
        GOOD,
        r"no/such/x\.npy: cannot be written: No such file or directory",
    ),
    "output is a folder": (
        "embed {good} -o {} -m {model}",
        lambda p: (p / "x.npy").mkdir() or str(p / "x.npy"),
        r"x\.npy: cannot be written: it is a folder",
    ),
    "model missing": ("embed {good} -o {out}.npy -m {}/nowhere/x", str, "nowhere/x: no such folder"),
    "model damaged": (
        "embed {good} -o {out}.npy -m {}",
        lambda p: (write_sentence_model(p / "m") / "model.safetensors").write_bytes(b"x") and str(p / "m"),
        r"model\.safetensors: not a complete safetensors file",
    ),
    "embeddings without texts": ("search {} query", embedded(np.zeros((2, C))), r"x\.npy: --texts must name the file"),
    "texts with texts": ("search {good} query --texts {}", GOOD, r"good\.txt: --texts goes with an \.npy file"),
    "embeddings of other texts": (
        "search {} query --texts {good}",
        embedded(np.zeros((3, C))),
        "3 embeddings, but there are 2 texts",
    ),
    "embeddings of another model": (
        "search {} query --texts {good} -m {model}",
        embedded(np.zeros((2, C + 1))),
        "embeddings of width 33, but the model's have 32",
    ),
    "embeddings of one axis": (
        "search {} query --texts {good}",
        embedded(np.zeros(2)),
        r"found float64 of shape \(2,\)",
    ),
    "embeddings of objects": (
        "search {} query --texts {good}",
        embedded(np.array([[None]])),
        "not a complete .npy file",
    ),
    "embeddings cut": ("search {} query --texts {good}", spoil("x.npy", b"\x93NUMPY"), "not a complete .npy file"),
    **{
        f"embeddings, {name}": ("search {} query --texts {good}", make, r"x\.npy: not a complete \.npy file: ")
        for name, make in (
            ("empty", spoil("x.npy", b"")),
            ("zipped", zipped),
            ("zip cut", spoil("x.npy", b"PK\3\4garbage")),
            ("pickled", spoil("x.npy", b"\x80\4N.")),
            ("header open", headed("{")),
            ("header too deep", headed("1+" * 4000 + "1")),
            *((f"descr {descr}", headed(HEADER % (descr, "(2, 4)"))) for descr in ("'<04'", "'O'", "None")),
            *(
                (f"shape {shape}", headed(HEADER % ("'<f4'", shape)))
                for shape in (
                    "(True, 4)",
                    "(2, 5)",
                    "(-2, -4)",
                    f"(2, {10**9})",
                    f"(2, {10**13})",
                    f"(4, {2**62})",
                    f"(2, {10**20})",
                )
            ),
        )
    },
    "embeddings missing": ("search {}.npy query --texts {good}", GOOD, r"good\.txt\.npy: No such file"),
    "heads do not divide": (
        "walkthrough hello --heads 7",
        str,
        "--heads must divide --dim: 30 channels cannot be split among 7 heads",
    ),
    "dropout out of range": ("walkthrough hello --dropout 1", str, r"--dropout must be in \[0, 1\), got 1"),
    "dim too large": ("walkthrough hello --dim 4000", str, "--dim must be at most 256, got 4000"),
    "too many heads": ("walkthrough hello --dim 120 --heads 120", str, "--heads must be at most 16, got 120"),
    "ff too large": ("walkthrough hello --ff 1025", str, "--ff must be at most 1024, got 1025"),
    "too many layers": ("walkthrough hello --layers 5000", str, "--layers must be at most 6, got 5000"),
    "text too long": (f"walkthrough {'x' * 3000}", str, "text must have at most 256 characters, got 3000"),
    "no text": ("walkthrough |", str, "the text is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, model: str, tmp_path: Path) -> None:
    arguments, make, message = BAD[name]
    good = GOOD(tmp_path)
    made = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    filled = arguments.format(made, out=tmp_path / "out", model=model, good=good)
    result = run(*(word.replace("|", "") for word in filled.split(" ")), code=2)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line), line
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before
