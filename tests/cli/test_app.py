"""Commands of the command line."""

import pytest

from tests.support.command_line import run

pytestmark = pytest.mark.jit


def test_help_names_every_command() -> None:
    text = run("--help").stdout
    for command in ("embed", "search", "compare", "info", "warmup", "walkthrough", "attention"):
        assert command in text
        assert "Usage" in run(command, "--help").stdout
