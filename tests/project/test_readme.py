"""What README.md shows is true: its code runs and prints what it says; its commands, targets and paths exist."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_code_runs_and_prints_what_it_says() -> None:
    code = "".join(blocks("python"))
    said = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert len(said) > 3
    assert printed.getvalue().splitlines() == said


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    commands = [*re.findall(r"`make ([a-z -]+)`", README), *re.findall(r"^make ([a-z]+)", README, re.MULTILINE)]
    shown = {target for command in commands for target in command.split()}
    assert {"demo", "test", "bench"} <= shown <= targets


def test_commands_are_those_of_the_command_line() -> None:
    from fastattn.cli.app import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    shown = set(re.findall(r"^\| `fastattn ([a-z]+)", README, re.MULTILINE))
    assert shown == commands


@pytest.mark.parametrize("path", sorted(set(re.findall(r"((?:fastattn|tests|benchmarks|examples)/[\w./]*)(?![\w<])", README))))
def test_paths_exist(path: str) -> None:
    assert (ROOT / path).exists()


def test_numbers_have_a_place() -> None:
    assert len(re.findall(r"<!-- numbers:begin -->\n.*?<!-- numbers:end -->", README, re.DOTALL)) == 1
