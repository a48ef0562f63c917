"""Streams of the command line: closed, full, and a terminal with colours."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fastattn.cli import terminal
from tests.support.command_line import LINES, ROOT, python, run

pytestmark = pytest.mark.jit


# (redirection in sh, arguments, exit code, message)
CLOSED = {
    "no stdin": ("<&-", "embed - -o {out}", 2, "error: stdin: cannot be read: it is closed\n"),
    "no stdin to search": ("<&-", "search - query", 2, "error: stdin: cannot be read: it is closed\n"),
    "no stderr": ("2>&-", "embed {lines} -o {out} -m {model}", 0, ""),
    "no stderr of search": ("2>&-", "search {lines} query -m {model}", 0, ""),
    "no stderr for an error": ("2>&-", "embed {lines}.txt -o {out}", 2, ""),
    "no stdout": (">&-", "search {lines} query -m {model}", 2, "error: stdout: cannot be written: it is closed\n"),
    "no stdout for a file": (">&-", "embed {lines} -o {out} -m {model} -q", 0, ""),
    "stdout full": (">/dev/full", "search {lines} query -m {model}", 2, "error: stdout: No space left on device\n"),
    "stdout full of rows": (">/dev/full", "embed {lines} -o - -m {model}", 2, "error: stdout: No space left on device\n"),
    "stdout full of facts": (">/dev/full", "info", 2, "error: stdout: No space left on device\n"),
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


@pytest.mark.skipif(os.name != "posix", reason="has SIGPIPE")
@pytest.mark.parametrize(
    "words", [["search", "{lines}", "query", "-m", "{model}"], ["embed", "{lines}", "-o", "-", "-m", "{model}"], ["info"]]
)
def test_reader_that_leaves(words: list[str], model: str, lines: str) -> None:
    command = [sys.executable, "-m", "fastattn", *(word.format(lines=lines, model=model) for word in words)]
    read, write = os.pipe()
    os.close(read)
    found = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (found.returncode, found.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_heat_map_without_colour(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True, _environ={"TERM": "xterm-256color", "COLORTERM": "truecolor", **environment})
    monkeypatch.setattr(terminal, "output", console)
    (line,) = terminal.heat_map(np.array([[0, 0.5, 1]]), ["x"])
    assert line.plain == "x   ▒▒██"


def test_heat_map_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "output", Console(force_terminal=True, color_system="256"))
    (line,) = terminal.heat_map(np.array([[0, 0.5, 1]]), ["x"])
    assert line.plain == "x " + " " * 6
    assert len({str(span.style) for span in line.spans}) == 3
    monkeypatch.setattr(terminal, "output", Console(force_terminal=True, color_system=None))
    (line,) = terminal.heat_map(np.array([[0, 0.5, 1]]), ["x"])
    assert line.plain == "x   ▒▒██"


def test_error_line_is_red_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(stderr=True, force_terminal=True, color_system="standard", soft_wrap=True)
    monkeypatch.setattr(terminal, "_errors", console)
    assert run("walkthrough", "", code=2).stderr == "\x1b[31merror: the text is empty: give at least one character\x1b[0m\n"


def test_no_traceback_from_the_real_program(tmp_path: Path) -> None:
    found = python("embed", str(tmp_path / "nowhere.txt"), "-o", str(tmp_path / "x.npy"))
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr == f"error: {tmp_path / 'nowhere.txt'}: No such file or directory\n"
