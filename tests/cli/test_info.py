"""`fastattn info`."""

import pytest

from tests.support.command_line import run

pytestmark = pytest.mark.jit


def test_info() -> None:
    result = run("info")
    for word in ("CPU", "bits", "threads", "threading layer", "kernel cache", "numba", "default model"):
        assert word in result.stdout
