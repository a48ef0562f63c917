"""Pages of Markdown: their code blocks, run in order, and the commands, targets and paths in their text."""

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a language, without blocks with further marks, such as ``{.python .template}``."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def run(page: str, name: str) -> int:
    """Run the Python blocks of a page, compare their output with the comments behind ``print(...)``, and count these."""
    code = "\n".join(blocks(page, "python"))
    said = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
    assert printed.getvalue().splitlines() == said
    return len(said)


def make_targets(page: str) -> set[str]:
    """Return the make targets named on a page, in blocks and in text."""
    commands = [*re.findall(r"`make ([a-z -]+)`", page), *re.findall(r"^make ([a-z -]+)", page, re.MULTILINE)]
    return {target for command in commands for target in command.split()}


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def commands(page: str) -> set[str]:
    """Return the subcommands of `fastattn` named on a page."""
    return set(re.findall(r"(?:^|`)fastattn ([a-z]+)", page, re.MULTILINE))


def command_line() -> set[str]:
    from fastattn.cli.app import app

    return {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}


def paths(page: str) -> set[str]:
    """Return the project paths named on a page, without patterns such as ``tests/test_<op>.py``."""
    return set(re.findall(r"(?<![\w./])((?:fastattn|tests|benchmarks|examples|soak|docs)/[\w./-]*)(?![\w<*])", page))
