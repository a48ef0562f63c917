"""Commands of the command line."""

import re
from importlib.metadata import version

import pytest

from tests.support.command_line import run

pytestmark = pytest.mark.jit


def test_help_names_every_command() -> None:
    text = run("--help").stdout
    for command in ("embed", "search", "compare", "info", "warmup", "walkthrough", "attention"):
        assert command in text
        assert "Usage" in run(command, "--help").stdout


def test_version_and_short_help() -> None:
    for flag in ("--version", "-V"):
        assert run(flag).stdout == f"fastattn {version('fastattn')}\n"
    assert run("embed", "-h").stdout == run("embed", "--help").stdout
    assert "--install-completion" in run("-h").stdout


@pytest.mark.parametrize("command", ["embed", "search", "attention"])
def test_help_shows_defaults(command: str) -> None:
    text = re.sub(r"[│\s]+", " ", run(command, "-h").stdout)
    assert "[default: (all-MiniLM-L6-v2)]" in text
    assert command == "attention" or "[default: (text)]" in text
