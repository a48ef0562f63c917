"""Runs of the command line, in this process and in a child process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from fastattn.cli.app import app

ROOT = Path(__file__).parents[2]
LINES = ["the cat sat on the mat", "a dog", "the dog sat on a mat"]


def run(*arguments: str, stdin: str | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments, input=stdin)
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def python(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fastattn", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)
