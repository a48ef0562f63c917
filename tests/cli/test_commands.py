"""The command line: what it writes and prints, and one red line and exit code 2 for every bad input."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import fastattn
from fastattn import SentenceTransformer
from fastattn.cli import terminal
from fastattn.cli.app import app
from fastattn.cli.cases import cases, ops
from fastattn.cli.files import write_embeddings
from fastattn.runtime.files import replacing, write_file
from tests.support.models import C, write_sentence_model

pytestmark = pytest.mark.jit

ROOT = Path(__file__).parents[2]
LINES = ["the cat sat on the mat", "a dog", "the dog sat on a mat"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_sentence_model(tmp_path_factory.mktemp("model"), normalize=True))


@pytest.fixture
def lines(tmp_path: Path) -> str:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join([LINES[0], "", "  ", *LINES[1:]]) + "\n", encoding="utf-8")
    return str(path)


def run(*arguments: str, stdin: str | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments, input=stdin)
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def python(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fastattn", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)


def test_embed_lines(model: str, lines: str, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    result = run("embed", lines, "-o", str(out), "--model", model)
    assert np.array_equal(np.load(out), SentenceTransformer(model).encode(LINES))
    assert result.stdout == ""
    closing = result.stderr.splitlines()[-1]
    assert re.fullmatch(rf"3 texts, 20 tokens, [\d,]+ tokens/s, 0 truncated to 12 tokens: {re.escape(str(out))}", closing)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines.txt", "out.npy"]


def test_embed_to_json_lines(model: str, lines: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run("embed", lines, "-o", str(out), "--model", model)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == LINES
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
    assert result.stderr.splitlines()[-1].startswith("0 texts, 0 tokens, ")


def test_embed_counts_truncated_texts(model: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("the cat\n" + "dog " * 40 + "\n")
    result = run("embed", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"), "-m", model)
    assert "2 texts, 16 tokens, " in result.stderr
    assert ", 1 truncated to 12 tokens" in result.stderr


def test_output_is_replaced_with_the_usual_permissions(model: str, lines: str, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    out.write_bytes(b"old")
    before = os.umask(0o027)
    try:
        run("embed", lines, "-o", str(out), "-m", model)
    finally:
        os.umask(before)
    assert np.load(out).shape == (3, C)
    if os.name == "posix":
        assert out.stat().st_mode & 0o777 == 0o640


def test_the_end_of_a_link_is_replaced(model: str, lines: str, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "old.npy").write_bytes(b"old")
    for name in ("old.npy", "new.npy"):
        target, link = tmp_path / "far" / name, tmp_path / name
        link.symlink_to(Path("far") / name)
        run("embed", lines, "-o", str(link), "-m", model)
        assert link.is_symlink()
        assert np.load(target).shape == (3, C)
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["new.npy", "old.npy"]


def test_a_link_in_a_models_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"old")
    (tmp_path / "config.json").symlink_to("secret")
    write_file(tmp_path / "config.json", b"new")
    assert not (tmp_path / "config.json").is_symlink()
    assert (tmp_path / "secret").read_bytes() == b"old"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_neither_a_pipe_nor_a_device_is_replaced(lines: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "null.npy").symlink_to(os.devnull)
    for name in ("pipe.npy", "null.npy"):
        result = run("embed", lines, "-o", str(tmp_path / name), code=2)
        assert result.stderr == f"error: {tmp_path / name}: cannot be written: it is not a plain file\n"
        with pytest.raises(OSError, match="not a plain file"):
            write_file(tmp_path / name, b"")
    assert (tmp_path / "pipe.npy").is_fifo()


@pytest.mark.parametrize("letter", ["a", "\N{CAT FACE}"])
def test_long_name_of_an_output(letter: str, tmp_path: Path) -> None:
    path = tmp_path / f"{letter * (248 // len(letter.encode()))}.npy"
    with replacing(path) as file:
        (temporary,) = tmp_path.iterdir()
        file.write(b"new")
    # One that was left of an earlier run.
    temporary.write_bytes(b"half")
    os.utime(temporary, (1e9, 1e9))
    write_file(path, b"newer")
    assert [left.read_bytes() for left in tmp_path.iterdir()] == [b"newer"]


# A command line of sh around the program, the arguments, the exit code and what is said.
CLOSED = {
    "no stdin": ("<&-", "embed - -o {out}", 2, "error: stdin: cannot be read: it is closed\n"),
    "no stdin to search": ("<&-", "search - query", 2, "error: stdin: cannot be read: it is closed\n"),
    "no stderr": ("2>&-", "embed {lines} -o {out} -m {model}", 0, ""),
    "no stderr of search": ("2>&-", "search {lines} query -m {model}", 0, ""),
    "no stderr for an error": ("2>&-", "embed {lines}.txt -o {out}", 2, ""),
    "stderr full": ("2>/dev/full", "embed {lines} -o {out} -m {model}", 0, ""),
    "stderr full for an error": ("2>/dev/full", "embed {lines}.txt -o {out}", 2, ""),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a shell and /dev/full")
@pytest.mark.parametrize("name", CLOSED)
def test_closed_streams(name: str, model: str, lines: str, tmp_path: Path) -> None:
    redirected, arguments, code, message = CLOSED[name]
    out = tmp_path / "out.npy"
    words = arguments.format(lines=lines, out=out, model=model).split(" ")
    command = ["sh", "-c", f'exec "$0" "$@" {redirected}', sys.executable, "-m", "fastattn", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (code, message)
    assert out.exists() == (words[0] == "embed" and code == 0)
    assert len(found.stdout.splitlines()) == (len(LINES) if words[0] == "search" and code == 0 else 0)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_json_has_not(number: float, model: str, lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = np.zeros((3, C), np.float32)
    embeddings[1, 2] = number
    monkeypatch.setattr(SentenceTransformer, "encode", lambda *args, **kwargs: embeddings)
    result = run("embed", lines, "-o", str(tmp_path / "out.jsonl"), "-m", model, code=2)
    assert result.stderr.startswith("error: inputs[1]: its embedding has numbers that are not finite")
    assert [path.name for path in tmp_path.iterdir()] == ["lines.txt"]
    with (tmp_path / "out.npy").open("wb") as file:
        write_embeddings(file, ".npy", LINES, embeddings)
    assert np.array_equal(np.load(tmp_path / "out.npy"), embeddings, equal_nan=True)


def test_search_texts(model: str, lines: str) -> None:
    result = run("search", lines, "the dog sat", "-k", "2", "-m", model)
    encoder = SentenceTransformer(model)
    scores = encoder.similarity(encoder.encode("the dog sat"), encoder.encode(LINES))[0]
    best = np.argsort(-scores)[:2]
    assert result.stdout.splitlines() == [f"{scores[i]:.4f}\t{LINES[i]}" for i in best]


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
    search.show_hits(["dog " * 100, "cat"], np.array([0.5, 0.75], np.float32), 2)
    assert capsys.readouterr().out.splitlines() == [
        "0.750   cat",
        "0.500   dog dog dog dog dog dog dog dog",
        "        dog dog dog dog dog dog dog dog",
        "        dog dog dog dog dog dog dog ...",
    ]


def test_info() -> None:
    result = run("info")
    for word in ("CPU", "bits", "threads", "threading layer", "kernel cache", "numba", "default model"):
        assert word in result.stdout


def test_compare() -> None:
    result = run("compare")
    rows = re.findall(r"^(\S.*?) +(\S+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)x$", result.stdout, re.M)
    assert {row[0].split(",")[0] for row in rows} == {
        "softmax", "layer_norm", "gelu", "linear", "attention", "attention weights", "rotary embedding", "encoder",
    }  # fmt: skip
    for label, _, error, reference_error, ours, theirs, ratio in rows:
        # What is right to the last few bits, and what is not, lie five orders of magnitude apart; the tests of the ops
        # have the tolerance.
        assert 0 < float(error) < 100, label
        assert 0 < float(reference_error) < 100, label
        assert float(ratio) == pytest.approx(float(theirs) / float(ours), rel=0.2, abs=0.1), label
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_every_op_has_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    public = {name for name in fastattn.__all__ if inspect.isfunction(getattr(fastattn, name))} - {"accelerate", "restore"}
    assert set(ops()) == public == {case.op for case in cases()}
    monkeypatch.setattr("fastattn.cli.cases.ops", lambda: {"softmax": fastattn.softmax, "rms_norm": print})
    with pytest.raises(NotImplementedError, match="no inputs for rms_norm"):
        cases()


def test_warmup() -> None:
    result = run("warmup")
    assert "encoder, one text" in result.stdout
    assert set(ops()) <= set(re.findall(r"^ +[\d.]+ s  (\w+)$", result.stdout, re.M))
    assert re.search(r"\d\.\d s  in total", result.stdout)


@pytest.mark.parametrize("text", ["hello world", "a", "aaaa", "a line\nof two", "naïve 漢字 🎉", "x " * 60])
def test_walkthrough(text: str) -> None:
    result = run("walkthrough", text)
    titles = ["Text to tokens", "Embeddings", "Positions", "Self-attention", "Add and layer norm"]
    titles += ["Feed-forward network", "The encoder", "Dropout", "Bidirectional and causal"]
    assert re.findall(r"^(\d)  (.*)$", result.stdout, re.M) == [(str(i), title) for i, title in enumerate(titles, 1)]
    errors = [float(error) for error in re.findall(r"against the reference ([\d.]+) eps", result.stdout)]
    assert len(errors) >= 8
    assert max(errors) < 30
    assert "\x1b" not in result.stdout
    assert "same bits" in result.stdout
    from rich.cells import cell_len

    assert max(map(cell_len, result.stdout.splitlines())) <= 80


def test_walkthrough_keeps_the_order_of_the_characters() -> None:
    out = run("walkthrough", "banana").stdout
    assert "0:a  1:b  2:n" in out
    assert "b:1  a:0  n:2  a:0  n:2  a:0" in out
    assert "ids (6,) int32: the text has T = 6 tokens of V = 3 kinds" in out
    assert "bidirectional: another last character changes 6 of 6 hidden states" in out
    assert "causal: another last character changes 1 of 6 hidden states" in out


def test_walkthrough_options() -> None:
    out = run("walkthrough", "abc", *"--dim 8 --heads 2 --ff 16 --layers 1 --dropout 0".split()).stdout
    assert "table (3, 8)" in out
    assert "H = 2 heads of D = C/H = 4 channels" in out
    assert "(3, 16)" in out
    assert "on average training is 0.000 away from inference" in out


def test_heat_map_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "output", Console(force_terminal=True, color_system="256"))
    (line,) = terminal.heat_map(np.array([[0, 0.5, 1]]), ["x"])
    assert line.plain == "x " + " " * 6
    assert len({str(span.style) for span in line.spans}) == 3
    monkeypatch.setattr(terminal, "output", Console(force_terminal=True, color_system=None))
    (line,) = terminal.heat_map(np.array([[0, 0.5, 1]]), ["x"])
    assert line.plain == "x   ▒▒██"


def test_help_names_every_command() -> None:
    text = run("--help").stdout
    for command in ("embed", "search", "compare", "info", "warmup", "walkthrough", "attention"):
        assert command in text
        assert "Usage" in run(command, "--help").stdout


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
    """An .npy file of 32 zero bytes whose header says something else."""
    return spoil("x.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + bytes(32))


def zipped(folder: Path) -> str:
    with (folder / "x.npy").open("wb") as file:
        np.savez(file, a=np.zeros((2, C), np.float32))
    return str(folder / "x.npy")


GOOD = spoil("good.txt", b"the cat\na dog\n")
HEADER = "{'descr': %s, 'fortran_order': False, 'shape': %s}"
# Arguments ({} the file made, {out} the output, {model} and {good} a good model and input), the file, what is said.
BAD: dict[str, tuple[str, Callable[[Path], str], str]] = {
    "input missing": ("embed {}.txt -o {out}.npy", GOOD, r"good\.txt\.txt: No such file"),
    "input is a folder": (
        "embed {}.d.txt -o {out}.npy",
        lambda p: (p / "x.d.txt").mkdir() or str(p / "x"),
        "s a directory",
    ),
    "input of another kind": (
        "embed {} -o {out}.npy",
        spoil("x.csv", b"a"),
        r"x\.csv: cannot read \.csv; supported: \.txt",
    ),
    "input not UTF-8": ("embed {} -o {out}.npy", spoil("x.txt", b"\xff\xfe"), r"x\.txt: not UTF-8"),
    "line not JSON": ("embed {} -o {out}.npy", spoil("x.jsonl", b'{"text": "a"}\n{'), r"x\.jsonl, line 2: not JSON"),
    "line not an object": ("embed {} -o {out}.npy", spoil("x.jsonl", b"[1]"), r"line 1: no column 'text', found list"),
    "no such column": (
        "embed {} -o {out}.npy --column body",
        spoil("x.jsonl", b'{"text": "a"}'),
        "line 1: no column 'body', found columns text",
    ),
    "text not str": ("embed {} -o {out}.npy", spoil("x.jsonl", b'{"text": 3}'), "line 1: 'text' must be text, got int"),
    "JSON not UTF-8": ("embed {} -o {out}.npy", spoil("x.jsonl", b'{"text": "\xff"}'), r"x\.jsonl: not UTF-8"),
    "half a surrogate pair": (
        "embed {} -o {out}.npy -m {model}",
        spoil("x.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}'),
        r"inputs\[1\] is not valid Unicode",
    ),
    "paragraphs of JSON": ("embed {} -o {out}.npy --paragraphs", spoil("x.jsonl", b""), "not paragraphs"),
    "output of another kind": ("embed {} -o {out}.csv", GOOD, r"cannot write \.csv; supported: \.npy, \.jsonl"),
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
    "heads do not divide": ("walkthrough hello --heads 7", str, "num_heads must divide hidden_dim"),
    "dropout out of range": ("walkthrough hello --dropout 1", str, r"dropout must be in \[0, 1\)"),
    "dim too large": ("walkthrough hello --dim 4000", str, "dim must be at most 256, got 4000"),
    "too many heads": ("walkthrough hello --dim 120 --heads 120", str, "heads must be at most 16, got 120"),
    "ff too large": ("walkthrough hello --ff 1025", str, "ff must be at most 1024, got 1025"),
    "too many layers": ("walkthrough hello --layers 5000", str, "layers must be at most 6, got 5000"),
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


def test_error_line_is_red_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(stderr=True, force_terminal=True, color_system="standard", soft_wrap=True)
    monkeypatch.setattr(terminal, "_errors", console)
    assert run("walkthrough", "", code=2).stderr == "\x1b[31merror: the text is empty: give at least one character\x1b[0m\n"


def test_no_traceback_from_the_real_program(tmp_path: Path) -> None:
    found = python("embed", str(tmp_path / "nowhere.txt"), "-o", str(tmp_path / "x.npy"))
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr == f"error: {tmp_path / 'nowhere.txt'}: No such file or directory\n"


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_temporary_file_is_removed(tmp_path: Path, kind: type[BaseException]) -> None:
    (tmp_path / "x.npy").write_bytes(b"old")
    with pytest.raises(kind), replacing(tmp_path / "x.npy") as file:
        file.write(b"new")
        assert len(list(tmp_path.iterdir())) == 2
        raise kind
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_what_a_killed_process_left(tmp_path: Path) -> None:
    """Whatever its name is, it is in nobody's way, and goes once it is old; what belongs to another file stays."""
    names = [f".x[1].npy.{stem}.tmp" for stem in ("0123456789ab", str(os.getpid()), "ba9876543210")] + [".x1.npy.0123456789ab.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    for name in (names[0], names[3]):
        os.utime(tmp_path / name, (1e9, 1e9))
    with replacing(tmp_path / "x[1].npy") as file:
        file.write(b"whole")
    assert (tmp_path / "x[1].npy").read_bytes() == b"whole"
    assert {path.name for path in tmp_path.iterdir()} == {"x[1].npy", *names[1:]}


def test_two_writers_of_a_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "x.npy") as first:
        first.write(b"first")
        with replacing(tmp_path / "x.npy") as second:
            second.write(b"second")
        assert (tmp_path / "x.npy").read_bytes() == b"second"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_interrupt_leaves_nothing_behind(model: str, name: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("the cat sat on the mat\n" * 300_000)
    # Started in the background, or by nohup, a child would ignore the signal.
    start = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += f"signal.{name} == signal.SIGINT or signal.signal(signal.{name}, signal.SIG_DFL); "
    command = [
        sys.executable,
        "-c",
        start + "runpy.run_module('fastattn', run_name='__main__')",
        "embed",
        str(tmp_path / "in.txt"),
        "-o",
        str(tmp_path / "x.npy"),
        "-m",
        model,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".x.npy.*.tmp")) and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
    time.sleep(0.2)
    child.send_signal(getattr(signal, name))
    _, errors = child.communicate(timeout=60)
    assert child.returncode == code
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_compiling_is_announced_once(model: str, lines: str, tmp_path: Path) -> None:
    # Kernels may be in the folder for temporary files too.
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "fastattn", "embed", lines, "-o", str(tmp_path / "x.npy"), "-m", model]
    errors = []
    for _ in range(2):
        found = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        errors.append(found.stderr.splitlines())
    assert len(errors[0]) == 2
    assert errors[0][0].startswith("compiling kernels for this CPU, once")
    assert len(errors[1]) == 1
