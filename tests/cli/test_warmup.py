"""`fastattn warmup`: every op and both schedules of the encoder are compiled."""

import re

import pytest

from fastattn.cli.cases import ops
from tests.support.command_line import run

pytestmark = pytest.mark.jit


def test_warmup() -> None:
    result = run("warmup")
    assert "encoder, one text" in result.stdout
    assert set(ops()) <= set(re.findall(r"^ +[\d.]+ s  (\w+)$", result.stdout, re.M))
    assert re.search(r"\d\.\d s  in total", result.stdout)
